package stories

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// tokenIssuer signs tokens.
type tokenIssuer struct {
	signer jose.Signer
	jwks   string
}

const issuerURL = "https://issuer.example"

func newTokenIssuer(t *testing.T) *tokenIssuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "k"))
	if err != nil {
		t.Fatal(err)
	}
	jwks, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	return &tokenIssuer{signer, string(jwks)}
}

// bearer is a header with a token that lasts so long, of subject alice for audience shop unless claims say otherwise.
func (i *tokenIssuer) bearer(lasts time.Duration, claims map[string]any) string {
	all := map[string]any{"iss": issuerURL, "sub": "alice", "aud": []string{"shop"}, "exp": time.Now().Add(lasts).Unix(), "iat": time.Now().Add(-time.Hour).Unix()}
	for k, v := range claims {
		all[k] = v
	}
	token, err := jwt.Signed(i.signer).Claims(all).Serialize()
	if err != nil {
		panic(err) // claims of our own
	}
	return "Authorization: Bearer " + token
}

// authentication is a RequestAuthentication bound to a service of shop.
func (i *tokenIssuer) authentication(service string) string {
	return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: %[1]s, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: %[1]s}]
  jwtRules: [{issuer: %q, audiences: [shop], jwks: '%s'}]
---
`, service, issuerURL, i.jwks)
}

// l7Fields are all fields of a rule: each alone in a policy that allows, and in one that denies, with a request that it
// matches and one that it does not.
func l7Fields(token *tokenIssuer) []explainCase {
	type field struct {
		rule    string
		yes, no *inquiry
	}
	from := func(pod string) *inquiry { return &inquiry{from: pod} }
	client, other, stranger := from("shop/client"), from("shop/other"), from("far/stranger")
	bearer := func(claims map[string]any) *inquiry {
		return &inquiry{headers: []string{token.bearer(time.Hour, claims)}}
	}
	source := func(s string) string { return "from: [{source: {" + s + "}}]" }
	operation := func(s string) string { return "to: [{operation: {" + s + "}}]" }
	when := func(key, values string) string { return fmt.Sprintf("when: [{key: %q, %s}]", key, values) }
	alice, bob := bearer(nil), bearer(map[string]any{"sub": "bob", "azp": "app", "groups": []string{"a", "b"}, "scope": "read write", "deep": map[string]any{"er": "x"}})
	method := func(m string) *inquiry { return &inquiry{method: m} }
	path := func(p string) *inquiry { return &inquiry{path: p} }
	header := func(h ...string) *inquiry { return &inquiry{headers: h} }
	none := &inquiry{}
	fields := map[string]field{
		"principals":             {source(`principals: ["cluster.local/ns/shop/sa/client"]`), client, other},
		"principals-suffix":      {source(`principals: ["*/sa/client"]`), client, other},
		"principals-any":         {source(`principals: ["*"]`), client, nil},
		"notprincipals":          {source(`notPrincipals: ["cluster.local/ns/shop/sa/client"]`), other, client},
		"namespaces":             {source(`namespaces: [far]`), stranger, client},
		"namespaces-prefix":      {source(`namespaces: ["f*"]`), stranger, client},
		"notnamespaces":          {source(`notNamespaces: [far]`), client, stranger},
		"serviceaccounts":        {source(`serviceAccounts: [client]`), client, other},
		"notserviceaccounts":     {source(`notServiceAccounts: [shop/client]`), other, client},
		"ipblocks":               {source(`ipBlocks: [10.244.1.0/24]`), client, other},
		"notipblocks":            {source(`notIpBlocks: [10.244.1.0/24]`), other, client},
		"remoteipblocks":         {source(`remoteIpBlocks: [10.244.1.0/24]`), client, other},
		"remoteipblocks-xff":     {source(`remoteIpBlocks: [192.0.2.0/24]`), header("X-Forwarded-For: 192.0.2.7"), client},
		"notremoteipblocks":      {source(`notRemoteIpBlocks: [10.244.1.0/24]`), other, client},
		"requestprincipals":      {source(`requestPrincipals: ["` + issuerURL + `/alice"]`), alice, bob},
		"requestprincipals-any":  {source(`requestPrincipals: ["*"]`), alice, none},
		"notrequestprincipals":   {source(`notRequestPrincipals: ["` + issuerURL + `/alice"]`), bob, alice},
		"hosts":                  {operation(`hosts: [special.example]`), header("Host: Special.Example"), none},
		"hosts-suffix":           {operation(`hosts: ["*.example"]`), header("Host: special.example"), none},
		"nothosts":               {operation(`notHosts: [special.example]`), none, header("Host: special.example")},
		"ports":                  {operation(`ports: ["81"]`), &inquiry{port: 81}, none},
		"notports":               {operation(`notPorts: ["81"]`), none, &inquiry{port: 81}},
		"methods":                {operation(`methods: [PUT]`), method("PUT"), none},
		"notmethods":             {operation(`notMethods: [PUT]`), none, method("PUT")},
		"paths":                  {operation(`paths: ["@/a"]`), path("/a?x=y"), path("/a/b")},
		"paths-prefix":           {operation(`paths: ["@/a/*"]`), path("/a/b"), path("/a")},
		"paths-suffix":           {operation(`paths: ["*.html"]`), path("/a/b.html"), path("/a/b.htm")},
		"paths-template":         {operation(`paths: ["@/a/{*}/c", "@/x/{**}"]`), path("/a/b/c"), path("/a/b/b/c")},
		"paths-template-deep":    {operation(`paths: ["@/x/{**}"]`), path("/x/y/z"), path("/y/x/z")},
		"paths-dots":             {operation(`paths: ["@/a/*"]`), path("/b/../a/c"), path("/a/../b")},
		"notpaths":               {operation(`notPaths: ["@/a*"]`), path("/b"), path("/a/b")},
		"when-header":            {when("request.headers[x-team]", `values: ["blue*"]`), header("X-Team: blueish"), header("X-Team: red")},
		"when-header-not":        {when("request.headers[x-team]", `notValues: [red]`), none, header("X-Team: red")},
		"when-header-any":        {when("request.headers[x-team]", `values: ["*"]`), header("X-Team: red"), none},
		"when-source-ip":         {when("source.ip", `values: [10.244.1.0/24]`), client, other},
		"when-source-ip-not":     {when("source.ip", `notValues: [10.244.1.0/24]`), other, client},
		"when-remote-ip":         {when("remote.ip", `values: [10.244.1.0/24]`), client, other},
		"when-source-namespace":  {when("source.namespace", `values: [far]`), stranger, client},
		"when-source-principal":  {when("source.principal", `values: ["*/client"]`), client, other},
		"when-destination-ip":    {when("destination.ip", `values: [10.96.0.0/12]`), none, nil},
		"when-destination-not":   {when("destination.ip", `notValues: [10.96.0.0/12]`), nil, none},
		"when-destination-port":  {when("destination.port", `values: ["81"]`), &inquiry{port: 81}, none},
		"when-auth-principal":    {when("request.auth.principal", `values: ["`+issuerURL+`/bob"]`), bob, alice},
		"when-auth-audiences":    {when("request.auth.audiences", `values: [shop]`), alice, none},
		"when-auth-presenter":    {when("request.auth.presenter", `values: [app]`), bob, alice},
		"when-claim-list":        {when("request.auth.claims[groups]", `values: [b]`), bob, alice},
		"when-claim-words":       {when("request.auth.claims[scope]", `values: [write]`), bob, alice},
		"when-claim-deep":        {when("request.auth.claims[deep][er]", `values: [x]`), bob, alice},
		"when-claim-not":         {when("request.auth.claims[sub]", `notValues: [bob]`), alice, bob},
		"from-and-to":            {source(`namespaces: [shop]`) + ", " + operation(`methods: [GET]`), client, stranger},
		"two-fields-of-a-source": {source(`namespaces: [shop], notPrincipals: ["*/other"]`), client, other},
	}
	var out []explainCase
	for action, statuses := range map[string][2]int{"ALLOW": {http.StatusOK, http.StatusForbidden}, "DENY": {http.StatusForbidden, http.StatusOK}} {
		service := "fields-" + strings.ToLower(action)
		shared := explainCase{name: service, objects: explainService(service, "web") + token.authentication(service)}
		for name, f := range fields {
			policy := strings.ToLower(action) + "-" + name
			shared.objects += servicePolicy(policy, service, fmt.Sprintf("action: %s\n  rules: [{%s}]", action, below(f.rule, "/"+name)))
			c := explainCase{name: policy}
			for i, q := range []*inquiry{f.yes, f.no} {
				if q == nil {
					continue
				}
				asked := *q
				asked.to, asked.status, asked.path = "shop/"+service, statuses[i], "/"+name+cmp.Or(q.path, "/")
				if (action == "ALLOW") == (asked.status == http.StatusOK) {
					asked.by = "AuthorizationPolicy shop/" + policy
				}
				c.asked = append(c.asked, asked)
			}
			out = append(out, c)
		}
		out = append(out, shared)
	}
	return out
}

// below narrows a rule to paths below one, so that policies for many cases fit on a service.
func below(rule, path string) string {
	only := fmt.Sprintf("paths: [%q]", path+"/*")
	switch {
	case strings.Contains(rule, " paths:"), strings.Contains(rule, "{paths:"):
		return strings.ReplaceAll(rule, "@", path)
	case strings.Contains(rule, "operation: {"):
		return strings.ReplaceAll(strings.Replace(rule, "operation: {", "operation: {"+only+", ", 1), "@", path)
	}
	return rule + ", to: [{operation: {" + only + "}}]"
}

// l7Policies are policies as a whole, and tokens.
func l7Policies(token *tokenIssuer) []explainCase {
	const dry = `istio.io/dry-run: "true"`
	ok, forbidden, unauthorized := http.StatusOK, http.StatusForbidden, http.StatusUnauthorized
	one := func(name string, status int, by string) explainCase {
		return explainCase{name: name, objects: explainService(name, "web"), asked: []inquiry{{to: "shop/" + name, status: status, by: by}}}
	}
	with := func(c explainCase, objects ...string) explainCase {
		c.objects += strings.Join(objects, "")
		return c
	}
	const get, everybody = "rules: [{to: [{operation: {methods: [GET]}}]}]", "rules: [{}]"
	policy := func(name, service, action, rules string, annotations ...string) string {
		return servicePolicy(name, service, "action: "+action+"\n  "+rules, annotations...)
	}
	tokens := with(one("tokens", ok, "no token"), token.authentication("tokens"))
	for _, t := range []struct {
		header string
		status int
		by     string
	}{
		{token.bearer(time.Hour, nil), ok, "its subject is alice"},
		{token.bearer(-time.Hour, nil), unauthorized, "RequestAuthentication shop/tokens"},
		{token.bearer(time.Hour, map[string]any{"iss": "https://other.example"}), unauthorized, "RequestAuthentication shop/tokens"},
		{token.bearer(time.Hour, map[string]any{"aud": "elsewhere"}), forbidden, "RequestAuthentication shop/tokens"},
		{token.bearer(time.Hour, map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}), unauthorized, "RequestAuthentication shop/tokens"},
		{"Authorization: Bearer nonsense", unauthorized, "RequestAuthentication shop/tokens"},
		{"Authorization: Basic YTpi", ok, "no token"},
	} {
		tokens.asked = append(tokens.asked, inquiry{to: "shop/tokens", headers: []string{t.header}, status: t.status, by: t.by})
	}
	spoofed := one("spoofed", forbidden, "shop/spoofed")
	spoofed.asked[0].headers = []string{
		"X-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/shop/sa/other", "Forwarded: for=10.0.0.1", "Baggage: k8s.namespace.name=shop",
		"X-Ambit-Client-Identity: spiffe://cluster.local/ns/shop/sa/other",
	}
	return []explainCase{
		tokens,
		one("no-policy", ok, "to the service itself"),
		with(one("allow-nothing", forbidden, "shop/allow-nothing"), policy("allow-nothing", "allow-nothing", "ALLOW", "rules: []")),
		with(one("allow-everybody", ok, "allow-everybody rule 0"), policy("allow-everybody", "allow-everybody", "ALLOW", everybody)),
		with(one("deny-everybody", forbidden, "deny-everybody rule 0"), policy("deny-everybody", "deny-everybody", "DENY", everybody)),
		with(one("deny-before-allow", forbidden, "shop/deny-it"), policy("allow-it", "deny-before-allow", "ALLOW", get), policy("deny-it", "deny-before-allow", "DENY", get)),
		with(one("second-allows", ok, "second-allows-b rule 0"), policy("second-allows-a", "second-allows", "ALLOW", "rules: []"), policy("second-allows-b", "second-allows", "ALLOW", get)),
		with(one("third-rule", forbidden, "third-rule rule 2"), policy("third-rule", "third-rule", "DENY",
			"rules: [{to: [{operation: {methods: [PUT]}}]}, {to: [{operation: {methods: [POST]}}]}, {to: [{operation: {methods: [GET]}}]}]")),
		with(one("dry-deny", ok, "would deny"), policy("dry-deny", "dry-deny", "DENY", everybody, dry)),
		with(one("dry-allow", ok, "is a dry run"), policy("dry-allow", "dry-allow", "ALLOW", "rules: []", dry)),
		with(one("audit", ok, "is audited"), policy("audit", "audit", "AUDIT", everybody)),
		with(one("custom-nobody", forbidden, "shop/custom-nobody"), policy("custom-nobody", "custom-nobody", "CUSTOM", "provider: {name: nobody}\n  "+get)),
		with(spoofed, policy("spoofed", "spoofed", "ALLOW", `rules: [{from: [{source: {principals: ["*/sa/other"]}}]}]`)),
	}
}
