package envoy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// filterTokens is where tokens are verified: a list of one jwt_authn filter for a target with RequestAuthentications, and
// nothing for others. The filter has the target's issuers and no others, because every filter chain would keep a copy of
// a configuration they share.
const filterTokens = "ambit.tokens"

// tokens gathers the configuration of a target.
type tokens struct {
	config   *jwtv3.JwtAuthentication
	problems []Problem
}

// tokenFilters are the filters that verify a target's tokens.
func (e *Env) tokenFilters(t target) ([]*corev3.TypedExtensionConfig, []Problem) {
	all := authentications(t)
	if len(all) == 0 {
		return nil, nil
	}
	g := &tokens{config: &jwtv3.JwtAuthentication{
		Providers:           map[string]*jwtv3.JwtProvider{},
		BypassCorsPreflight: true, // a browser sends no token with it. Istio pilot/pkg/security/authn/policy_applier.go
	}}
	routed := e.asksClaims(t)
	var names []string
	for _, a := range all {
		for i, rule := range a.GetRules() {
			names = append(names, g.provider(a, i, rule, routed))
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	g.config.Rules = []*jwtv3.RequirementRule{{
		Match:           &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		RequirementType: &jwtv3.RequirementRule_Requires{Requires: requirement(names)},
	}}
	return []*corev3.TypedExtensionConfig{typedExtension(claimsFilter, g.config)}, g.problems
}

// asksClaims is true when routes of the target depend on claims.
func (e *Env) asksClaims(t target) bool {
	if t.edge {
		return e.VirtualHosts != nil && slices.ContainsFunc(e.VirtualHosts(), func(h *waypoint.VirtualHost) bool {
			return e.edgeTarget(h).key == t.key && asksClaims(h.GetHttp())
		})
	}
	return slices.ContainsFunc(e.Service(t.namespace, t.hostname).GetPorts(), func(p *waypoint.ServicePort) bool {
		return asksClaims(p.GetHttp())
	})
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

// requirement is that a token may be missing, and that one that is there is good. With several issuers whose tokens
// stand in the same place, one of them has to accept it. Istio pilot/pkg/security/authn/policy_applier.go
// convertToEnvoyJwtConfig has the same tree.
func requirement(providers []string) *jwtv3.JwtRequirement {
	switch len(providers) {
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

// provider adds an issuer and returns its name.
func (t *tokens) provider(a *waypoint.Authentication, i int, rule *waypoint.JWTRule, routed bool) string {
	p, problems := jwtProvider(rule)
	for _, text := range problems {
		t.problems = append(t.problems, Problem{
			Object: "RequestAuthentication " + a.GetNamespace() + "/" + a.GetName(),
			Text:   fmt.Sprintf("rule %d, issuer %s: %s", i, rule.GetIssuer(), text),
		})
	}
	p.ClearRouteCache = routed
	name := fmt.Sprintf("%s/%s/%d", a.GetNamespace(), a.GetName(), i)
	t.config.Providers[name] = p
	return name
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
