package waypoint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/jwks"
	"github.com/ambit-mesh/ambit/control/object"
)

// authorization is one AuthorizationPolicy.
func (m *Model) authorization(r *reader, gw gatewayName, a *object.AuthorizationPolicy) *facts.Authorization {
	f := &facts.Authorization{
		Namespace: a.Namespace,
		Name:      a.Name,
		Action:    a.Action.WaypointAction(),
		Rules:     a.WaypointRules(),
		DryRun:    a.Annotations.Get(mesh.AnnotationDryRun) == "true",
	}
	domains := r.trustDomains()
	if len(domains) > 1 || domains[0] != mesh.DefaultTrustDomain {
		for _, rule := range f.Rules {
			for _, s := range rule.From {
				s.Principals = aliased(s.Principals, domains)
				s.NotPrincipals = aliased(s.NotPrincipals, domains)
			}
			for _, c := range rule.When {
				if c.Key == "source.principal" {
					c.Values, c.NotValues = aliased(c.Values, domains), aliased(c.NotValues, domains)
				}
			}
		}
	}
	if a.Action == object.Custom {
		authorizer, why := m.authorizer(r, gw, a)
		f.Authorizer, f.Broken = authorizer, why
	}
	return f
}

// aliased adds to principals of one of the mesh's trust domains the same of the others; cluster.local always stands for
// the mesh's own. Istio
// pilot/pkg/security/trustdomain ReplaceTrustDomainAliases.
func aliased(in []*facts.StringMatch, domains []string) []*facts.StringMatch {
	var out []*facts.StringMatch
	for _, match := range in {
		out = append(out, match)
		text, wrap := match.GetExact(), func(s string) *facts.StringMatch {
			return &facts.StringMatch{Kind: &facts.StringMatch_Exact{Exact: s}, IgnoreCase: match.IgnoreCase}
		}
		if text == "" {
			text, wrap = match.GetPrefix(), func(s string) *facts.StringMatch {
				return &facts.StringMatch{Kind: &facts.StringMatch_Prefix{Prefix: s}, IgnoreCase: match.IgnoreCase}
			}
		}
		domain, rest, ok := strings.Cut(text, "/")
		if !ok || domain != mesh.DefaultTrustDomain && !slices.Contains(domains, domain) {
			continue
		}
		for _, d := range domains {
			if d != domain {
				out = append(out, wrap(d+"/"+rest))
			}
		}
	}
	return out
}

// authorizer finds the provider of a CUSTOM policy. Without one nothing can be decided, so what the policy's rules match is
// denied.
func (m *Model) authorizer(r *reader, gw gatewayName, a *object.AuthorizationPolicy) (*facts.ExternalAuthorizer, string) {
	p, ok := r.mesh().Provider(a.Provider)
	switch {
	case !ok:
		return nil, fmt.Sprintf("the mesh configuration has no extension provider %q", a.Provider)
	case p.Authorizer == nil:
		return nil, fmt.Sprintf("extension provider %q does not authorize requests", a.Provider)
	}
	out := proto.Clone(p.Authorizer).(*facts.ExternalAuthorizer)
	if out.Service == nil {
		return nil, fmt.Sprintf("extension provider %q names no service", a.Provider)
	}
	r.provided(gw, out.Service)
	return out, out.Service.Broken
}

// provided resolves the service of an extension provider.
func (r *reader) provided(gw gatewayName, b *facts.Backend) {
	if b == nil {
		return
	}
	from := cmp.Or(b.Namespace, r.m.cfg.RootNamespace)
	r.resolveHost(from, b, gw, b.Port)
}

// authentication is one RequestAuthentication with the key sets that are known.
func (r *reader) authentication(a *object.RequestAuthentication) *facts.Authentication {
	f := &facts.Authentication{Namespace: a.Namespace, Name: a.Name}
	for i := range a.Rules {
		rule := proto.Clone(a.Rules[i].Rule).(*facts.JWTRule)
		if rule.Jwks == "" {
			s := jwksSource(&a.Rules[i])
			set := r.keys(s)
			rule.Jwks = set.Keys
			if set.Keys == "" {
				rule.JwksMissing = cmp.Or(set.Problem, "the key set of "+s.String()+" has not been fetched yet")
			}
		}
		f.Rules = append(f.Rules, rule)
	}
	return f
}

func jwksSource(rule *object.JWTRule) jwks.Source {
	s := jwks.Source{URI: rule.JWKSURI, Timeout: rule.Timeout}
	if s.URI == "" {
		s.Issuer = rule.Rule.GetIssuer()
	}
	return s
}
