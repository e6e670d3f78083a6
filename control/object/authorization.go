package object

import (
	"strconv"
	"strings"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// WaypointRules are the policy's rules as a waypoint takes them, with the stars of patterns understood. They are made
// anew at each call: most policies never reach a waypoint.
func (p *AuthorizationPolicy) WaypointRules() []*waypoint.AuthorizationRule {
	out := make([]*waypoint.AuthorizationRule, 0, len(p.Rules))
	for _, r := range p.Rules {
		rule := &waypoint.AuthorizationRule{}
		for _, s := range r.From {
			rule.From = append(rule.From, s.waypoint(p.Namespace))
		}
		for _, o := range r.To {
			rule.To = append(rule.To, o.waypoint())
		}
		for _, c := range r.When {
			rule.When = append(rule.When, c.waypoint(p.Namespace))
		}
		out = append(out, rule)
	}
	return out
}

// WaypointAction is the action in the words of the waypoint API.
func (a Action) WaypointAction() waypoint.Authorization_Action {
	switch a {
	case Deny:
		return waypoint.Authorization_DENY
	case Audit:
		return waypoint.Authorization_AUDIT
	case Custom:
		return waypoint.Authorization_CUSTOM
	}
	return waypoint.Authorization_ALLOW
}

func (s *Source) waypoint(ns string) *waypoint.Source {
	return &waypoint.Source{
		Principals: Patterns(s.Principals), NotPrincipals: Patterns(s.NotPrincipals),
		RequestPrincipals: Patterns(s.RequestPrincipals), NotRequestPrincipals: Patterns(s.NotRequestPrincipals),
		Namespaces: Patterns(s.Namespaces), NotNamespaces: Patterns(s.NotNamespaces),
		ServiceAccounts: accounts(s.ServiceAccounts, ns), NotServiceAccounts: accounts(s.NotServiceAccounts, ns),
		IpBlocks: s.IPBlocks, NotIpBlocks: s.NotIPBlocks,
		RemoteIpBlocks: s.RemoteIPBlocks, NotRemoteIpBlocks: s.NotRemoteIPBlocks,
		TrustDomains: Patterns(s.TrustDomains), NotTrustDomains: Patterns(s.NotTrustDomains),
	}
}

func (o *Operation) waypoint() *waypoint.Operation {
	out := &waypoint.Operation{
		Hosts: Patterns(o.Hosts), NotHosts: Patterns(o.NotHosts),
		Ports: numbers(o.Ports), NotPorts: numbers(o.NotPorts),
		Methods: Patterns(o.Methods), NotMethods: Patterns(o.NotMethods),
	}
	// Host names have no case. Istio pilot/pkg/security/authz/matcher HostMatcher.
	for _, m := range append(out.Hosts[:len(out.Hosts):len(out.Hosts)], out.NotHosts...) {
		m.IgnoreCase = true
	}
	out.Paths, out.PathTemplates = paths(o.Paths)
	out.NotPaths, out.NotPathTemplates = paths(o.NotPaths)
	return out
}

func (c *Condition) waypoint(ns string) *waypoint.Condition {
	parse := Patterns
	switch c.Key {
	case "source.ip", "remote.ip", "destination.ip", "destination.port":
		parse = exacts
	case "source.serviceAccount":
		parse = func(values []string) []*waypoint.StringMatch { return exacts(accounts(values, ns)) }
	}
	return &waypoint.Condition{Key: c.Key, Values: parse(c.Values), NotValues: parse(c.NotValues)}
}

// Pattern understands a value of an AuthorizationPolicy: a star alone asks for presence, one at the beginning or end
// stands for any text, everything else is the whole value.
func Pattern(s string) *waypoint.StringMatch {
	switch {
	case s == "*":
		return &waypoint.StringMatch{Kind: &waypoint.StringMatch_Present{Present: true}}
	case strings.HasPrefix(s, "*"):
		return &waypoint.StringMatch{Kind: &waypoint.StringMatch_Suffix{Suffix: s[1:]}}
	case strings.HasSuffix(s, "*"):
		return &waypoint.StringMatch{Kind: &waypoint.StringMatch_Prefix{Prefix: s[:len(s)-1]}}
	}
	return &waypoint.StringMatch{Kind: &waypoint.StringMatch_Exact{Exact: s}}
}

// Patterns is Pattern for each.
func Patterns(values []string) []*waypoint.StringMatch {
	if len(values) == 0 {
		return nil
	}
	out := make([]*waypoint.StringMatch, len(values))
	for i, v := range values {
		out[i] = Pattern(v)
	}
	return out
}

func exacts(values []string) []*waypoint.StringMatch {
	var out []*waypoint.StringMatch
	for _, v := range values {
		out = append(out, &waypoint.StringMatch{Kind: &waypoint.StringMatch_Exact{Exact: v}})
	}
	return out
}

// accounts adds the policy's namespace to names without one.
func accounts(values []string, ns string) []string {
	var out []string
	for _, v := range values {
		if !strings.Contains(v, "/") {
			v = ns + "/" + v
		}
		out = append(out, v)
	}
	return out
}

func numbers(values []string) []uint32 {
	var out []uint32
	for _, v := range values {
		n, _ := strconv.ParseUint(v, 10, 16) // checked when it was read; 0 matches no port
		out = append(out, uint32(n))
	}
	return out
}

// paths tells URI templates, which have {*} or {**} in them, from ordinary values.
func paths(values []string) (plain []*waypoint.StringMatch, templates []string) {
	for _, v := range values {
		if strings.Contains(v, "{*}") || strings.Contains(v, "{**}") {
			templates = append(templates, v)
		} else {
			plain = append(plain, Pattern(v))
		}
	}
	return plain, templates
}
