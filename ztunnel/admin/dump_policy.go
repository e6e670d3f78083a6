package admin

import (
	"net/netip"

	"github.com/ambit-mesh/ambit/ztunnel/state"
)

type policyJSON struct {
	Name      string          `json:"name"`
	Namespace string          `json:"namespace"`
	Scope     string          `json:"scope"`
	Action    string          `json:"action"`
	Rules     [][][]matchJSON `json:"rules"`
	DryRun    bool            `json:"dryRun"`
}

type accountJSON struct {
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount"`
}

type matchJSON struct {
	Namespaces          []map[string]any `json:"namespaces,omitempty"`
	NotNamespaces       []map[string]any `json:"notNamespaces,omitempty"`
	ServiceAccounts     []accountJSON    `json:"serviceAccounts,omitempty"`
	NotServiceAccounts  []accountJSON    `json:"notServiceAccounts,omitempty"`
	Principals          []map[string]any `json:"principals,omitempty"`
	NotPrincipals       []map[string]any `json:"notPrincipals,omitempty"`
	SourceIPs           []netip.Prefix   `json:"sourceIps,omitempty"`
	NotSourceIPs        []netip.Prefix   `json:"notSourceIps,omitempty"`
	DestinationIPs      []netip.Prefix   `json:"destinationIps,omitempty"`
	NotDestinationIPs   []netip.Prefix   `json:"notDestinationIps,omitempty"`
	DestinationPorts    []uint16         `json:"destinationPorts,omitempty"`
	NotDestinationPorts []uint16         `json:"notDestinationPorts,omitempty"`
}

func dumpPolicy(p *state.Policy) any {
	j := policyJSON{
		Name: p.Name, Namespace: p.Namespace, Scope: p.Scope.String(), Action: pick(p.Deny, "Deny", "Allow"),
		Rules: [][][]matchJSON{}, DryRun: p.DryRun,
	}
	for _, rule := range p.Rules {
		clauses := [][]matchJSON{}
		for _, clause := range rule {
			matches := []matchJSON{}
			for i := range clause {
				matches = append(matches, dumpMatch(&clause[i]))
			}
			clauses = append(clauses, matches)
		}
		j.Rules = append(j.Rules, clauses)
	}
	return j
}

func dumpMatch(m *state.Match) matchJSON {
	return matchJSON{
		Namespaces: dumpStrings(m.Namespaces), NotNamespaces: dumpStrings(m.NotNamespaces),
		Principals: dumpStrings(m.Principals), NotPrincipals: dumpStrings(m.NotPrincipals),
		ServiceAccounts: dumpAccounts(m.ServiceAccounts), NotServiceAccounts: dumpAccounts(m.NotServiceAccounts),
		SourceIPs: dumpPrefixes(m.SourceIPs), NotSourceIPs: dumpPrefixes(m.NotSourceIPs),
		DestinationIPs: dumpPrefixes(m.DestinationIPs), NotDestinationIPs: dumpPrefixes(m.NotDestinationIPs),
		DestinationPorts: dumpPorts(m.DestinationPorts), NotDestinationPorts: dumpPorts(m.NotPorts),
	}
}

func dumpStrings(s *state.Strings) (out []map[string]any) {
	if s == nil {
		return nil
	}
	for _, m := range s.List {
		switch m.Kind {
		case state.Exact:
			out = append(out, map[string]any{"Exact": m.Value})
		case state.Prefix:
			out = append(out, map[string]any{"Prefix": m.Value})
		case state.Suffix:
			out = append(out, map[string]any{"Suffix": m.Value})
		default:
			out = append(out, map[string]any{"Presence": []string{}})
		}
	}
	return out
}

func dumpAccounts(s *state.ServiceAccounts) (out []accountJSON) {
	if s == nil {
		return nil
	}
	for _, a := range s.List {
		out = append(out, accountJSON{a.Namespace, a.Name})
	}
	return out
}

func dumpPrefixes(p *state.Prefixes) []netip.Prefix {
	if p == nil {
		return nil
	}
	return p.List
}

func dumpPorts(p *state.Ports) []uint16 {
	if p == nil {
		return nil
	}
	return p.List
}
