package envoy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// filterJWT verifies tokens. There is one configuration of it for the whole gateway, delivered by name, and a virtual
// host says which of its requirements is its own. Every target has one, if only an empty one: a RequestAuthentication
// that comes or goes changes this one resource, and there is no moment at which routes ask for what is not there yet.
// The name is also where Envoy keeps what it learned of a token.
const filterJWT = claimsFilter

// tokens gathers the configuration.
type tokens struct {
	config   *jwtv3.JwtAuthentication
	problems []Problem
	known    map[string]bool // problems so far
}

// jwtConfig is the gateway's configuration of jwt_authn.
func (e *Env) jwtConfig() (*jwtv3.JwtAuthentication, []Problem) {
	t := &tokens{known: map[string]bool{}, config: &jwtv3.JwtAuthentication{
		Providers:           map[string]*jwtv3.JwtProvider{},
		RequirementMap:      map[string]*jwtv3.JwtRequirement{},
		BypassCorsPreflight: true, // a browser sends no token with it. Istio pilot/pkg/security/authn/policy_applier.go
		StatPrefix:          "jwt.",
	}}
	for _, svc := range e.services() {
		routed := slices.ContainsFunc(svc.GetPorts(), func(p *waypoint.ServicePort) bool { return asksClaims(p.GetHttp()) })
		t.require(e.serviceTarget(svc, nil), routed)
	}
	if e.Gateway.GetWorkloads() {
		t.require(e.directTarget(), false)
	}
	if e.VirtualHosts != nil {
		for _, h := range sortedHosts(e.VirtualHosts()) {
			t.require(e.edgeTarget(h), asksClaims(h.GetHttp()))
		}
	}
	return t.config, t.problems
}

func sortedHosts(hosts []*waypoint.VirtualHost) []*waypoint.VirtualHost {
	return slices.SortedFunc(slices.Values(hosts), func(a, b *waypoint.VirtualHost) int {
		return cmp.Or(strings.Compare(a.GetListener(), b.GetListener()), strings.Compare(a.GetHostname(), b.GetHostname()))
	})
}

// asksClaims is true when a rule looks at the claims of a token: the route is then chosen again once they are known.
func asksClaims(rules []*waypoint.HTTPRule) bool {
	return slices.ContainsFunc(rules, func(r *waypoint.HTTPRule) bool {
		return slices.ContainsFunc(r.GetMatches(), func(m *waypoint.HTTPMatch) bool { return len(m.GetClaims()) > 0 })
	})
}

// authentications are a target's, each once.
func authentications(t target) []*waypoint.Authentication {
	var out []*waypoint.Authentication
	seen := map[string]bool{}
	for _, p := range t.policies {
		for _, a := range p.GetAuthentication() {
			if key := a.GetNamespace() + "/" + a.GetName(); !seen[key] {
				seen[key] = true
				out = append(out, a)
			}
		}
	}
	return out
}

// require adds what tokens of one target's requests must be.
func (t *tokens) require(of target, routed bool) {
	var names []string
	for _, a := range authentications(of) {
		for i, rule := range a.GetRules() {
			names = append(names, t.provider(a, i, rule, routed))
		}
	}
	t.config.RequirementMap[of.key] = requirement(names)
}

// requirement is that a token may be missing, and that one that is there is good. With several issuers whose tokens
// stand in the same place, one of them has to accept it. Istio pilot/pkg/security/authn/policy_applier.go
// convertToEnvoyJwtConfig has the same tree.
func requirement(providers []string) *jwtv3.JwtRequirement {
	switch len(providers) {
	case 0:
		return &jwtv3.JwtRequirement{} // nothing is asked
	case 1:
		return orMissing(providers[0])
	}
	any := &jwtv3.JwtRequirementOrList{}
	all := &jwtv3.JwtRequirementAndList{}
	for _, name := range providers {
		any.Requirements = append(any.Requirements, byProvider(name))
		all.Requirements = append(all.Requirements, orMissing(name))
	}
	any.Requirements = append(any.Requirements, &jwtv3.JwtRequirement{
		RequiresType: &jwtv3.JwtRequirement_RequiresAll{RequiresAll: all},
	})
	return &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_RequiresAny{RequiresAny: any}}
}

func byProvider(name string) *jwtv3.JwtRequirement {
	return &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_ProviderName{ProviderName: name}}
}

func orMissing(name string) *jwtv3.JwtRequirement {
	return &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_RequiresAny{RequiresAny: &jwtv3.JwtRequirementOrList{
		Requirements: []*jwtv3.JwtRequirement{
			byProvider(name),
			{RequiresType: &jwtv3.JwtRequirement_AllowMissing{AllowMissing: &emptypb.Empty{}}},
		},
	}}}
}

// provider adds an issuer and returns its name. The same rule of the same policy is one provider for all targets, unless
// routes depend on it, or two facts have it in different versions.
func (t *tokens) provider(a *waypoint.Authentication, i int, rule *waypoint.JWTRule, routed bool) string {
	object := "RequestAuthentication " + a.GetNamespace() + "/" + a.GetName()
	p, problems := jwtProvider(rule)
	for _, text := range problems {
		text = fmt.Sprintf("rule %d, issuer %s: %s", i, rule.GetIssuer(), text)
		if !t.known[object+text] {
			t.known[object+text] = true
			t.problems = append(t.problems, Problem{Object: object, Text: text})
		}
	}
	p.ClearRouteCache = routed
	base := fmt.Sprintf("%s/%s/%d", a.GetNamespace(), a.GetName(), i)
	if routed {
		base += "/routed"
	}
	for n, name := 1, base; ; n++ {
		if old := t.config.Providers[name]; old == nil || proto.Equal(old, p) {
			t.config.Providers[name] = p
			return name
		}
		name = base + "#" + strconv.Itoa(n)
	}
}

// jwtProvider is one issuer. One whose keys cannot be used keeps its place with a key nobody has: its tokens are refused,
// and only they.
func jwtProvider(rule *waypoint.JWTRule) (*jwtv3.JwtProvider, []string) {
	var problems []string
	keys, bad, err := verificationKeys(rule.GetJwks())
	if rule.GetJwksMissing() != "" {
		keys, bad, err = "", nil, fmt.Errorf("%s", rule.GetJwksMissing())
	}
	problems = append(problems, bad...)
	p := &jwtv3.JwtProvider{
		Issuer:            rule.GetIssuer(),
		Audiences:         rule.GetAudiences(),
		Forward:           rule.GetForwardOriginalToken(),
		PayloadInMetadata: claimsKey,
		// Lists written with spaces are lists for policies, too. Istio pilot/pkg/security/authn/policy_applier.go
		NormalizePayloadInMetadata: &jwtv3.JwtProvider_NormalizePayload{SpaceDelimitedClaims: []string{"permission", "scope"}},
		ClockSkewSeconds:           clockSkew(rule),
	}
	if err == nil {
		err = places(rule, p)
	}
	if err == nil {
		err = outputs(rule, p)
	}
	if err != nil {
		problems = append(problems, "its tokens are refused: "+err.Error())
		keys = unusableKeys
		p.ForwardPayloadHeader, p.ClaimToHeaders = "", nil
	}
	p.JwksSourceSpecifier = &jwtv3.JwtProvider_LocalJwks{LocalJwks: &corev3.DataSource{
		Specifier: &corev3.DataSource_InlineString{InlineString: keys},
	}}
	return p, problems
}

// clockSkew is in whole seconds, and none at all cannot be said: zero is Envoy's default of a minute.
func clockSkew(rule *waypoint.JWTRule) uint32 {
	if rule.GetClockSkew() == nil {
		return 0
	}
	return uint32(min(max(rule.GetClockSkew().AsDuration().Seconds(), 1), 3600))
}

// places are where tokens are looked for; none said means the Authorization header and the parameter access_token
// (RFC 6750 §2.1 and §2.3), which is Envoy's default.
func places(rule *waypoint.JWTRule, p *jwtv3.JwtProvider) error {
	for _, h := range rule.GetFromHeaders() {
		if !isHeaderName(h.GetName()) || strings.HasPrefix(h.GetName(), ":") {
			return fmt.Errorf("fromHeaders: %q is no header name", h.GetName())
		}
		p.FromHeaders = append(p.FromHeaders, &jwtv3.JwtHeader{Name: h.GetName(), ValuePrefix: h.GetPrefix()})
	}
	for _, name := range slices.Concat(rule.GetFromParams(), rule.GetFromCookies()) {
		if name == "" {
			return fmt.Errorf("a parameter or cookie without a name")
		}
	}
	p.FromParams, p.FromCookies = rule.GetFromParams(), rule.GetFromCookies()
	return nil
}

// outputs are the headers an application learns of a token from.
func outputs(rule *waypoint.JWTRule, p *jwtv3.JwtProvider) error {
	for _, name := range outputHeaders(rule) {
		if !isOutputHeader(name) {
			return fmt.Errorf("the header %q cannot be set from a token: use a name of your own", name)
		}
	}
	p.ForwardPayloadHeader = rule.GetOutputPayloadToHeader()
	claims := rule.GetOutputClaimsToHeaders()
	for _, header := range slices.Sorted(maps.Keys(claims)) {
		if claims[header] == "" {
			return fmt.Errorf("the header %q is to be set from a claim without a name", header)
		}
		p.ClaimToHeaders = append(p.ClaimToHeaders, &jwtv3.JwtClaimToHeader{HeaderName: header, ClaimName: claims[header]})
	}
	return nil
}

func outputHeaders(rule *waypoint.JWTRule) []string {
	out := slices.Sorted(maps.Keys(rule.GetOutputClaimsToHeaders()))
	if h := rule.GetOutputPayloadToHeader(); h != "" {
		out = append(out, h)
	}
	return out
}

// isOutputHeader keeps the content of a token out of headers that proxies go by.
func isOutputHeader(name string) bool {
	lower := strings.ToLower(name)
	if !isHeaderName(name) || strings.HasPrefix(lower, ":") {
		return false
	}
	switch lower {
	case "host", "connection", "content-length", "transfer-encoding", "te", "upgrade", "trailer", "keep-alive", headerXFCC, headerXFF:
		return false
	}
	return !slices.ContainsFunc(clientPrefixes, func(p string) bool { return strings.HasPrefix(lower, p) })
}

// reservedHeaders are those only a verified token may set for a target. Envoy removes a client's as well, but only those
// of issuers it gets to.
func reservedHeaders(t target) []string {
	names := map[string]bool{}
	for _, a := range authentications(t) {
		for _, rule := range a.GetRules() {
			for _, h := range outputHeaders(rule) {
				if isOutputHeader(h) {
					names[strings.ToLower(h)] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}
