package static

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/ambit-mesh/ambit/api/security"
)

type policyIn struct {
	Name      string        `json:"name"`
	Namespace string        `json:"namespace"`
	Scope     string        `json:"scope"`
	Action    string        `json:"action"`
	DryRun    bool          `json:"dryRun"`
	Rules     [][][]matchIn `json:"rules"`
}

type accountIn struct {
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount"`
}

type matchIn struct {
	Namespaces          []stringIn  `json:"namespaces"`
	NotNamespaces       []stringIn  `json:"notNamespaces"`
	ServiceAccounts     []accountIn `json:"serviceAccounts"`
	NotServiceAccounts  []accountIn `json:"notServiceAccounts"`
	Principals          []stringIn  `json:"principals"`
	NotPrincipals       []stringIn  `json:"notPrincipals"`
	SourceIPs           []prefixIn  `json:"sourceIps"`
	NotSourceIPs        []prefixIn  `json:"notSourceIps"`
	DestinationIPs      []prefixIn  `json:"destinationIps"`
	NotDestinationIPs   []prefixIn  `json:"notDestinationIps"`
	DestinationPorts    []uint32    `json:"destinationPorts"`
	NotDestinationPorts []uint32    `json:"notDestinationPorts"`
}

// stringIn is {Exact: v}, {Prefix: v}, {Suffix: v}, {Presence: []} or Presence.
type stringIn struct{ match *security.StringMatch }

// UnmarshalJSON refuses what is not exactly one of the kinds: a pattern left out would make the match a wider one.
func (s *stringIn) UnmarshalJSON(b []byte) error {
	presence := &security.StringMatch{MatchType: &security.StringMatch_Presence{Presence: &security.Empty{}}}
	if string(b) == `"Presence"` {
		s.match = presence
		return nil
	}
	var kinds map[string]json.RawMessage
	if err := json.Unmarshal(b, &kinds); err != nil || len(kinds) != 1 {
		return fmt.Errorf("%s is not a string match: write {Exact: VALUE}, {Prefix: VALUE}, {Suffix: VALUE} or {Presence: []}", b)
	}
	for kind, raw := range kinds {
		if kind == "Presence" {
			s.match = presence
			continue
		}
		var v string
		if err := json.Unmarshal(raw, &v); err != nil {
			return fmt.Errorf("%s of a string match: %w", kind, err)
		}
		switch kind {
		case "Exact":
			s.match = &security.StringMatch{MatchType: &security.StringMatch_Exact{Exact: v}}
		case "Prefix":
			s.match = &security.StringMatch{MatchType: &security.StringMatch_Prefix{Prefix: v}}
		case "Suffix":
			s.match = &security.StringMatch{MatchType: &security.StringMatch_Suffix{Suffix: v}}
		default:
			return fmt.Errorf("%q is no kind of string match: use Exact, Prefix, Suffix or Presence", kind)
		}
	}
	return nil
}

// prefixIn is a CIDR range, or an address on its own.
type prefixIn struct{ netip.Prefix }

// UnmarshalText reads either.
func (p *prefixIn) UnmarshalText(b []byte) error {
	if a, err := netip.ParseAddr(string(b)); err == nil {
		p.Prefix = netip.PrefixFrom(a, a.BitLen())
		return nil
	}
	return p.Prefix.UnmarshalText(b)
}

func (in *policyIn) proto() (*security.Authorization, error) {
	p := &security.Authorization{Name: in.Name, Namespace: in.Namespace, DryRun: in.DryRun}
	var err error
	if p.Scope, err = choose("scope", in.Scope, map[string]security.Scope{
		"Global": security.Scope_GLOBAL, "Namespace": security.Scope_NAMESPACE, "WorkloadSelector": security.Scope_WORKLOAD_SELECTOR,
	}); err != nil {
		return nil, err
	}
	if p.Action, err = choose("action", in.Action, map[string]security.Action{"Allow": security.Action_ALLOW, "Deny": security.Action_DENY}); err != nil {
		return nil, err
	}
	for _, clauses := range in.Rules {
		rule := &security.Rule{}
		for _, matches := range clauses {
			clause := &security.Clause{}
			for i := range matches {
				clause.Matches = append(clause.Matches, matches[i].proto())
			}
			rule.Clauses = append(rule.Clauses, clause)
		}
		p.Rules = append(p.Rules, rule)
	}
	return p, nil
}

func (in *matchIn) proto() *security.Match {
	return &security.Match{
		Namespaces: stringMatches(in.Namespaces), NotNamespaces: stringMatches(in.NotNamespaces),
		Principals: stringMatches(in.Principals), NotPrincipals: stringMatches(in.NotPrincipals),
		ServiceAccounts: accounts(in.ServiceAccounts), NotServiceAccounts: accounts(in.NotServiceAccounts),
		SourceIps: prefixes(in.SourceIPs), NotSourceIps: prefixes(in.NotSourceIPs),
		DestinationIps: prefixes(in.DestinationIPs), NotDestinationIps: prefixes(in.NotDestinationIPs),
		DestinationPorts: in.DestinationPorts, NotDestinationPorts: in.NotDestinationPorts,
	}
}

func stringMatches(in []stringIn) (out []*security.StringMatch) {
	for _, s := range in {
		if s.match == nil {
			s.match = &security.StringMatch{} // null in a list; whoever reads the message refuses it
		}
		out = append(out, s.match)
	}
	return out
}

func accounts(in []accountIn) (out []*security.ServiceAccountMatch) {
	for _, a := range in {
		out = append(out, &security.ServiceAccountMatch{Namespace: a.Namespace, ServiceAccount: a.ServiceAccount})
	}
	return out
}

func prefixes(in []prefixIn) (out []*security.Address) {
	for _, p := range in {
		out = append(out, &security.Address{Address: p.Addr().AsSlice(), Length: uint32(max(p.Bits(), 0))})
	}
	return out
}
