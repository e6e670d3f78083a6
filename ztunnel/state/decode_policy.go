package state

import (
	"fmt"
	"math"
	"net/netip"

	"github.com/ambit-mesh/ambit/api/security"
)

func decodePolicy(in *security.Authorization) (*Policy, error) {
	if in.GetName() == "" {
		return nil, fmt.Errorf("policy in namespace %q has no name", in.GetNamespace())
	}
	p := &Policy{Name: in.GetName(), Namespace: shared(in.GetNamespace()), DryRun: in.GetDryRun()}
	p.key = p.Namespace + "/" + p.Name
	switch s := in.GetScope(); s {
	case security.Scope_GLOBAL, security.Scope_NAMESPACE, security.Scope_WORKLOAD_SELECTOR:
		p.Scope = PolicyScope(s)
	default:
		return nil, fmt.Errorf("scope %d is unknown", s)
	}
	if p.Scope != ScopeGlobal && p.Namespace == "" {
		return nil, fmt.Errorf("policy %q of scope %s has no namespace", p.Name, p.Scope)
	}
	switch a := in.GetAction(); a {
	case security.Action_ALLOW:
	case security.Action_DENY:
		p.Deny = true
	default:
		return nil, fmt.Errorf("action %d is unknown", a)
	}
	for i, r := range in.GetRules() {
		rule := make(Rule, 0, len(r.GetClauses()))
		for j, c := range r.GetClauses() {
			clause := make(Clause, 0, len(c.GetMatches()))
			for k, m := range c.GetMatches() {
				match, err := decodeMatch(m)
				if err != nil {
					return nil, fmt.Errorf("rules[%d].clauses[%d].matches[%d].%w", i, j, k, err)
				}
				clause = append(clause, match)
			}
			rule = append(rule, clause)
		}
		p.Rules = append(p.Rules, rule)
	}
	return p, nil
}

// closedPolicy stands for a policy that cannot be read and has no last good version: somebody wanted to restrict this
// scope, and until it is known how, nothing is allowed there. It is nil where no restriction can be told to have been
// meant: a dry run, or an action or scope this version does not know.
func closedPolicy(in *security.Authorization) *Policy {
	head := &security.Authorization{Name: in.GetName(), Namespace: in.GetNamespace(), Scope: in.GetScope(), Action: in.GetAction()}
	p, err := decodePolicy(head)
	if err != nil || in.GetDryRun() {
		return nil
	}
	if p.Deny {
		p.Rules = []Rule{{}} // without clauses it matches everything; an ALLOW policy without rules allows nothing
	}
	return p
}

// decodeMatch refuses what it does not understand instead of leaving it out: a match with one condition less matches more.
func decodeMatch(in *security.Match) (Match, error) {
	var m Match
	for _, f := range []struct {
		field string
		in    []*security.StringMatch
		out   **Strings
	}{
		{"namespaces", in.GetNamespaces(), &m.Namespaces},
		{"not_namespaces", in.GetNotNamespaces(), &m.NotNamespaces},
		{"principals", in.GetPrincipals(), &m.Principals},
		{"not_principals", in.GetNotPrincipals(), &m.NotPrincipals},
	} {
		list, err := decodeStrings(f.in)
		if err != nil {
			return m, fmt.Errorf("%s%w", f.field, err)
		}
		*f.out = newStrings(list)
	}
	for _, f := range []struct {
		field string
		in    []*security.Address
		out   **Prefixes
	}{
		{"source_ips", in.GetSourceIps(), &m.SourceIPs},
		{"not_source_ips", in.GetNotSourceIps(), &m.NotSourceIPs},
		{"destination_ips", in.GetDestinationIps(), &m.DestinationIPs},
		{"not_destination_ips", in.GetNotDestinationIps(), &m.NotDestinationIPs},
	} {
		list := make([]netip.Prefix, 0, len(f.in))
		for i, a := range f.in {
			p, err := decodePrefix(a.GetAddress(), a.GetLength())
			if err != nil {
				return m, fmt.Errorf("%s[%d]: %w", f.field, i, err)
			}
			list = append(list, p)
		}
		*f.out = newPrefixes(list)
	}
	var err error
	if m.DestinationPorts, err = decodePorts("destination_ports", in.GetDestinationPorts()); err != nil {
		return m, err
	}
	if m.NotPorts, err = decodePorts("not_destination_ports", in.GetNotDestinationPorts()); err != nil {
		return m, err
	}
	m.ServiceAccounts = newServiceAccounts(decodeAccounts(in.GetServiceAccounts()))
	m.NotServiceAccounts = newServiceAccounts(decodeAccounts(in.GetNotServiceAccounts()))
	return m, nil
}

func decodeStrings(in []*security.StringMatch) ([]StringMatch, error) {
	out := make([]StringMatch, 0, len(in))
	for i, m := range in {
		switch t := m.GetMatchType().(type) {
		case *security.StringMatch_Exact:
			out = append(out, StringMatch{Exact, t.Exact})
		case *security.StringMatch_Prefix:
			out = append(out, StringMatch{Prefix, t.Prefix})
		case *security.StringMatch_Suffix:
			out = append(out, StringMatch{Suffix, t.Suffix})
		case *security.StringMatch_Presence:
			out = append(out, StringMatch{Kind: Presence})
		default:
			return nil, fmt.Errorf("[%d]: is neither exact, prefix, suffix nor presence", i)
		}
	}
	return out, nil
}

func decodePorts(field string, in []uint32) (*Ports, error) {
	out := make([]uint16, 0, len(in))
	for i, p := range in {
		if p > math.MaxUint16 {
			return nil, fmt.Errorf("%s[%d]: %d is not a port", field, i, p)
		}
		out = append(out, uint16(p))
	}
	return newPorts(out), nil
}

func decodeAccounts(in []*security.ServiceAccountMatch) []ServiceAccount {
	out := make([]ServiceAccount, 0, len(in))
	for _, a := range in {
		out = append(out, ServiceAccount{a.GetNamespace(), a.GetServiceAccount()})
	}
	return out
}
