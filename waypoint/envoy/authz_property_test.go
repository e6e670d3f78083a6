package envoy_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"pgregory.net/rapid"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

// Small sets of values, so that policies and requests meet often.
var (
	drawDomain    = rapid.SampledFrom(referenceDomains)
	drawNamespace = rapid.SampledFrom([]string{"default", "sa", "ns", "a-prod", "prod"})
	drawAccount   = rapid.SampledFrom([]string{"client", "sa", "prod"})
	drawIP        = rapid.SampledFrom([]string{"127.0.0.7", "127.0.0.8", "127.0.1.9"})
	drawBlock     = rapid.SampledFrom([]string{"127.0.0.7", "127.0.0.8/32", "127.0.0.0/24", "127.0.0.0/16", "10.0.0.0/8"})
	drawHost      = rapid.SampledFrom([]string{"shop.example", "Shop.Example", "shop.example:8080", "api.shop.example"})
	drawMethod    = rapid.SampledFrom([]string{"GET", "POST", "DELETE"})
	drawPath      = rapid.SampledFrom([]string{"/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/a.b", "/b/c"})
	drawTemplate  = rapid.SampledFrom([]string{"/{*}", "/a/{*}", "/a/{**}", "/{*}/b", "/{**}", "/a/{*}/c", "/{*}/{**}", "/a/{**}/c"})
	drawPort      = rapid.SampledFrom([]uint32{80, 8080})
	drawValue     = rapid.SampledFrom([]string{"one", "two", "one-two", "o.e"})
	drawToken     = rapid.SampledFrom([]map[string]any{
		nil, nil,
		{"iss": "https://i/x", "sub": "bob"},
		{"iss": "https://i", "sub": "x/bob", "aud": "one", "azp": "two"},
		{"iss": "https://i/x", "sub": "alice", "aud": []string{"two", "one"}, "deep": map[string]any{"er": []string{"two"}}},
		{"iss": "https://i", "sub": "bob", "role": "one", "deep": map[string]any{"er": "one-two"}, "groups": []string{"one", "o.e"}},
	})
	drawRequestPrincipal = rapid.SampledFrom([]string{"https://i/x/bob", "https://i/x/alice", "https://i/bob"})
)

// match is a value of the set, or a piece of one.
func match(t *rapid.T, from *rapid.Generator[string], label string) *waypoint.StringMatch {
	v := from.Draw(t, label)
	switch rapid.IntRange(0, 6).Draw(t, "kind") {
	case 0:
		return &waypoint.StringMatch{Kind: &waypoint.StringMatch_Prefix{Prefix: v[:rapid.IntRange(1, len(v)).Draw(t, "cut")]}}
	case 1:
		return &waypoint.StringMatch{Kind: &waypoint.StringMatch_Suffix{Suffix: v[rapid.IntRange(0, len(v)-1).Draw(t, "cut"):]}}
	case 2:
		return present()[0]
	}
	return exact(v)[0]
}

func matches(t *rapid.T, from *rapid.Generator[string], label string) []*waypoint.StringMatch {
	var out []*waypoint.StringMatch
	for range some(t) {
		out = append(out, match(t, from, label))
	}
	return out
}

// some is mostly none.
func some(t *rapid.T) int { return max(0, rapid.IntRange(-4, 2).Draw(t, "n")) }

func several[V any](t *rapid.T, from *rapid.Generator[V], label string) []V {
	var out []V
	for range some(t) {
		out = append(out, from.Draw(t, label))
	}
	return out
}

var drawPrincipal = rapid.Custom(func(t *rapid.T) string {
	return drawDomain.Draw(t, "td") + "/ns/" + drawNamespace.Draw(t, "ns") + "/sa/" + drawAccount.Draw(t, "sa")
})

var drawNamespacedAccount = rapid.Custom(func(t *rapid.T) string {
	return drawNamespace.Draw(t, "ns") + "/" + drawAccount.Draw(t, "sa")
})

var drawSource = rapid.Custom(func(t *rapid.T) *waypoint.Source {
	// Often one field alone: with many, most requests fail all the same.
	switch rapid.IntRange(0, 7).Draw(t, "only") {
	case 0, 1:
		return &waypoint.Source{Namespaces: []*waypoint.StringMatch{match(t, drawNamespace, "ns")}}
	case 2:
		return &waypoint.Source{NotNamespaces: []*waypoint.StringMatch{match(t, drawNamespace, "ns")}}
	case 3:
		return &waypoint.Source{Principals: []*waypoint.StringMatch{match(t, drawPrincipal, "principal")}}
	case 4:
		return &waypoint.Source{RequestPrincipals: []*waypoint.StringMatch{match(t, drawRequestPrincipal, "request")}}
	}
	return &waypoint.Source{
		Principals: matches(t, drawPrincipal, "principal"), NotPrincipals: matches(t, drawPrincipal, "principal"),
		RequestPrincipals: matches(t, drawRequestPrincipal, "request"), NotRequestPrincipals: matches(t, drawRequestPrincipal, "request"),
		Namespaces: matches(t, drawNamespace, "ns"), NotNamespaces: matches(t, drawNamespace, "ns"),
		ServiceAccounts: several(t, drawNamespacedAccount, "sa"), NotServiceAccounts: several(t, drawNamespacedAccount, "sa"),
		TrustDomains: matches(t, drawDomain, "td"), NotTrustDomains: matches(t, drawDomain, "td"),
		IpBlocks: several(t, drawBlock, "ip"), NotIpBlocks: several(t, drawBlock, "ip"),
		RemoteIpBlocks: several(t, drawBlock, "ip"), NotRemoteIpBlocks: several(t, drawBlock, "ip"),
	}
})

var drawOperation = rapid.Custom(func(t *rapid.T) *waypoint.Operation {
	switch rapid.IntRange(0, 5).Draw(t, "only") {
	case 0:
		return &waypoint.Operation{Hosts: []*waypoint.StringMatch{match(t, drawHost, "host")}}
	case 1:
		return &waypoint.Operation{PathTemplates: []string{drawTemplate.Draw(t, "template")}}
	case 2:
		return &waypoint.Operation{Paths: []*waypoint.StringMatch{match(t, drawPath, "path")}}
	}
	return &waypoint.Operation{
		Hosts: matches(t, drawHost, "host"), NotHosts: matches(t, drawHost, "host"),
		Ports: several(t, drawPort, "port"), NotPorts: several(t, drawPort, "port"),
		Methods: matches(t, drawMethod, "method"), NotMethods: matches(t, drawMethod, "method"),
		Paths: matches(t, drawPath, "path"), NotPaths: matches(t, drawPath, "path"),
		PathTemplates: several(t, drawTemplate, "template"), NotPathTemplates: several(t, drawTemplate, "template"),
	}
})

var drawCondition = rapid.Custom(func(t *rapid.T) *waypoint.Condition {
	keys := map[string]*rapid.Generator[string]{
		"source.ip": drawBlock, "remote.ip": drawBlock, "source.namespace": drawNamespace, "source.principal": drawPrincipal,
		"source.serviceAccount": drawNamespacedAccount, "destination.ip": rapid.SampledFrom([]string{"10.0.0.0/8", "10.96.0.0/16", "10.99.0.1"}),
		"destination.port": rapid.SampledFrom([]string{"80", "81"}), "request.headers[x-a]": drawValue, "request.headers[x-b]": drawValue,
		"request.auth.principal": drawRequestPrincipal, "request.auth.audiences": drawValue, "request.auth.presenter": drawValue,
		"request.auth.claims[role]": drawValue, "request.auth.claims[deep][er]": drawValue, "request.auth.claims[groups]": drawValue,
	}
	names := make([]string, 0, len(keys))
	for k := range keys {
		names = append(names, k)
	}
	key := rapid.SampledFrom(slices.Sorted(slices.Values(names))).Draw(t, "key")
	one := func() *waypoint.StringMatch {
		switch key {
		case "source.ip", "remote.ip", "destination.ip", "destination.port", "source.serviceAccount":
			return exact(keys[key].Draw(t, "value"))[0]
		}
		return match(t, keys[key], "value")
	}
	c := &waypoint.Condition{Key: key}
	if rapid.Bool().Draw(t, "not") {
		c.NotValues = append(c.NotValues, one())
	} else {
		c.Values = append(c.Values, one(), one())
	}
	return c
})

var drawPolicy = rapid.Custom(func(t *rapid.T) *waypoint.Authorization {
	p := &waypoint.Authorization{
		Namespace: "default", DryRun: rapid.IntRange(0, 9).Draw(t, "dry") == 0,
		Action: rapid.SampledFrom([]waypoint.Authorization_Action{
			waypoint.Authorization_ALLOW, waypoint.Authorization_ALLOW, waypoint.Authorization_DENY, waypoint.Authorization_AUDIT,
		}).Draw(t, "action"),
	}
	for range rapid.IntRange(0, 3).Draw(t, "rules") {
		p.Rules = append(p.Rules, &waypoint.AuthorizationRule{
			From: several(t, drawSource, "from"), To: several(t, drawOperation, "to"), When: several(t, drawCondition, "when"),
		})
	}
	return p
})

var drawVisit = rapid.Custom(func(t *rapid.T) visit {
	v := visit{
		trustDomain: drawDomain.Draw(t, "td"), namespace: drawNamespace.Draw(t, "ns"), account: drawAccount.Draw(t, "sa"),
		ip: drawIP.Draw(t, "ip"), host: drawHost.Draw(t, "host"), method: drawMethod.Draw(t, "method"), path: drawPath.Draw(t, "path"),
		headers: map[string]string{}, token: drawToken.Draw(t, "token"), port: 80,
	}
	if rapid.IntRange(0, 3).Draw(t, "xff") == 0 {
		v.xff = drawIP.Draw(t, "xff")
	}
	for _, h := range []string{"x-a", "x-b"} {
		if rapid.Bool().Draw(t, "there") {
			v.headers[h] = drawValue.Draw(t, h)
		}
	}
	return v
})

// TestAuthorizationAgrees sends requests that were made up, under policies that were made up, through a real Envoy, and
// compares with the second opinion.
func TestAuthorizationAgrees(t *testing.T) {
	const ip, hosts, visits = "127.0.36.1", 160, 12
	keys := newIssuer(t, "EdDSA")
	port := envoytest.App(t, "echo", ip)
	pod := envoytest.Pod("echo", ip, "echo")
	w := &envoytest.World{Gateway: &waypoint.Gateway{Namespace: "default", Name: "waypoint", Services: true, TrustDomains: referenceDomains}}
	for i := range hosts {
		svc := w.Add(fmt.Sprintf("s%d.default.svc.cluster.local", i), vip(i), []envoytest.Port{{Number: 80, Target: port, Protocol: waypoint.Protocol_HTTP1}}, pod)
		svc.Policies = &waypoint.Policies{Authentication: authentication(
			&waypoint.JWTRule{Issuer: "https://i", Jwks: jwks(t, keys.jwk())}, &waypoint.JWTRule{Issuer: "https://i/x", Jwks: jwks(t, keys.jwk())})}
		for j := range 1 + i%3 {
			p := drawPolicy.Example(1000*i + j)
			p.Name = fmt.Sprintf("p%d", j)
			svc.Policies.Authorization = append(svc.Policies.Authorization, p)
		}
	}
	p := envoytest.Start(t, w)
	p.Node(ip, idEcho)
	peers := map[string]*envoytest.Peer{}
	asked, let := 0, 0
	for i, svc := range w.Services {
		for j := range visits {
			v := drawVisit.Example(100*i + j)
			v.vip = vip(i)
			id := "spiffe://" + v.principal()
			if peers[id+v.ip] == nil {
				peers[id+v.ip] = p.Peer(id).From(v.ip)
			}
			status := v.send(t, keys, peers[id+v.ip].Client(v.vip+":80"))
			want := permitted(v, svc.GetPolicies().GetAuthorization())
			if status != http.StatusOK && status != http.StatusForbidden || (status == http.StatusOK) != want {
				t.Errorf("status %d, permitted %v:\n%+v\n%s", status, want, v, protojson.Format(svc.GetPolicies()))
				return
			}
			if asked++; want {
				let++
			}
		}
	}
	t.Logf("%d requests, %d let through", asked, let)
	if let < asked/10 || let > asked*9/10 {
		t.Errorf("%d of %d requests were let through: the generators are one-sided", let, asked)
	}
}

func vip(i int) string { return fmt.Sprintf("10.96.%d.%d", 1+i/200, 1+i%200) }

func (v visit) send(t *testing.T, keys issuer, c *http.Client) int {
	t.Helper()
	header := []string{"Host", v.host}
	for _, k := range []string{"x-a", "x-b"} {
		if value, ok := v.headers[k]; ok {
			header = append(header, k, value)
		}
	}
	if v.xff != "" {
		header = append(header, "X-Forwarded-For", v.xff)
	}
	if v.token != nil {
		all := claims()
		for k, value := range v.token {
			all[k] = value
		}
		header = append(header, bearer(keys.token(t, all))...)
	}
	defer c.CloseIdleConnections()
	status, _, _ := ask(t, c, v.method, v.path, header...)
	return status
}

// TestNamespaceParts goes through all pieces of some namespaces that look like other parts of a SPIFFE id.
func TestNamespaceParts(t *testing.T) {
	const ip = "127.0.36.2"
	names := []string{"sa", "ns", "sans", "a", "prod"}
	port := envoytest.App(t, "echo", ip)
	pod := envoytest.Pod("echo", ip, "echo")
	w := &envoytest.World{Gateway: &waypoint.Gateway{Namespace: "default", Name: "waypoint", Services: true, TrustDomains: referenceDomains}}
	var rules []*waypoint.StringMatch
	for _, n := range names {
		rules = append(rules, exact(n)...)
		for i := 1; i <= len(n); i++ {
			rules = append(rules, prefix(n[:i])[0],
				&waypoint.StringMatch{Kind: &waypoint.StringMatch_Suffix{Suffix: n[i-1:]}})
		}
	}
	for _, odd := range []string{"a/sa/x", "sa/sa", "ns/sa", ".", "[^/]", ".*"} { // CVE-2026-39350: nothing of this is an expression
		rules = append(rules, exact(odd)[0], prefix(odd)[0], &waypoint.StringMatch{Kind: &waypoint.StringMatch_Suffix{Suffix: odd}})
	}
	for i, m := range rules {
		svc := w.Add(fmt.Sprintf("s%d.default.svc.cluster.local", i), vip(i), []envoytest.Port{{Number: 80, Target: port, Protocol: waypoint.Protocol_HTTP1}}, pod)
		svc.Policies = authorization(policy(waypoint.Authorization_ALLOW, "p", from(&waypoint.Source{Namespaces: []*waypoint.StringMatch{m}})))
	}
	p := envoytest.Start(t, w)
	p.Node(ip, idEcho)
	for _, ns := range names {
		v := visit{trustDomain: "old.example", namespace: ns, account: "sa", ip: "127.0.0.1", method: "GET", path: "/", host: "x", port: 80}
		peer := p.Peer("spiffe://" + v.principal())
		for i, svc := range w.Services {
			status := v.send(t, issuer{}, peer.Client(vip(i)+":80"))
			if want := permitted(v, svc.GetPolicies().GetAuthorization()); (status == http.StatusOK) != want {
				t.Errorf("namespace %s, rule %v: status %d, permitted %v", ns, rules[i], status, want)
			}
		}
	}
}
