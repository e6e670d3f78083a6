package model

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/ambit-mesh/ambit/api/security"
)

// All NetworkPolicies about a pod together admit what any of them admits, and AuthorizationPolicies are asked besides: so
// they become one DENY of what none of them admits. With the rules A, B … that admit something,
//
//	deny what is  (not A) and (not B) and …
//
// which is the shape of a policy that node proxies evaluate: each "not A" is a clause, and as A is "from these sources to
// these ports", the clause matches what comes from elsewhere or goes to another port. Any ztunnel can enforce that.

// Bounds of what a node proxy is told.
const (
	maxPorts = 4096
	maxPeers = 20_000
	// maxRule bounds all ports, addresses and names in what NetworkPolicies come to for a pod.
	maxRule = 100_000
)

// networkRule is a variant as a policy.
func (m *Model) networkRule(v *variant) *security.Authorization {
	rule := &security.Rule{}
	whole, left := 0, maxRule
	for _, p := range v.policies {
		if p.obj != nil { // else the pods it was about are about to name another variant
			var clauses []*security.Clause
			if clauses, left = m.clausesOf(p, v, left); left < 0 {
				break
			}
			rule.Clauses = append(rule.Clauses, clauses...)
		}
		whole++
	}
	if whole != v.whole {
		v.whole = whole
		for _, p := range v.policies {
			m.dirty.reports.add(p)
		}
	}
	if len(v.through) > 0 {
		// A waypoint passes on what others sent, and for those the same rule is asked again.
		w := &security.Match{}
		for _, principal := range v.through {
			w.NotPrincipals = append(w.NotPrincipals, exactly(principal))
		}
		rule.Clauses = append(rule.Clauses, clause(w))
	}
	return &security.Authorization{
		Name: v.name, Namespace: v.ns.name, Scope: security.Scope_WORKLOAD_SELECTOR, Action: security.Action_DENY,
		Rules: []*security.Rule{rule},
	}
}

// clausesOf are a policy's, and what is left of how large they may be; below zero they are too large.
func (m *Model) clausesOf(p *networkPolicy, v *variant, left int) ([]*security.Clause, int) {
	var clauses []*security.Clause
	for i := range p.obj.Rules {
		more := m.notAdmitted(p, i, v)
		if left -= size(more); left < 0 {
			return nil, left
		}
		clauses = append(clauses, more...)
	}
	return clauses, left
}

// notAdmitted are clauses that together match what a rule does not admit.
func (m *Model) notAdmitted(p *networkPolicy, i int, v *variant) []*security.Clause {
	rule := &p.obj.Rules[i]
	ports, ok := portsOf(rule.Ports, v.ports)
	if !ok || ports.none() {
		return nil // it admits nothing that node proxies see
	}
	if len(rule.From) == 0 {
		return []*security.Clause{elsewhere(ports)}
	}
	var out []*security.Clause
	for j := range rule.From {
		peer := &rule.From[j]
		if peer.Block.IsValid() {
			c := elsewhere(ports, &security.Match{NotSourceIps: []*security.Address{prefix(peer.Block)}})
			if len(peer.Except) > 0 {
				except := &security.Match{}
				for _, e := range peer.Except {
					except.SourceIps = append(except.SourceIps, prefix(e))
				}
				c.Matches = append(c.Matches, except)
			}
			out = append(out, c)
			continue
		}
		out = append(out, m.notMembers(p.peers[i][j], ports)...)
	}
	return out
}

// notMembers matches what comes from none of a peer's pods. Whoever has an identity is known by it:
//
//   - a peer that is whole namespaces, by the namespace;
//   - pods that are all there are of their service account, by the account;
//   - others, by their account and their address.
//
// Pods outside the mesh have no identity and are known by their addresses.
func (m *Model) notMembers(peer *networkPeer, ports portSet) []*security.Clause {
	var (
		spaces   []*security.StringMatch
		whole    []*security.ServiceAccountMatch
		plain    []*security.Address // of those without identity
		part     = map[accountName][]*security.Address{}
		everyone = peer.wholeNamespaces()
	)
	clear(peer.told)
	for a := range peer.accounts {
		peer.told[a] = m.known(peer, a)
	}
	if everyone {
		names := set[string]{}
		for a := range peer.accounts {
			names.add(a.ns)
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			spaces = append(spaces, exactly(name))
		}
	}
	if len(peer.members) <= maxPeers || m.addressed(peer) <= maxPeers { // else they are refused, as the report says
		for s := range peer.members {
			pod, known := m.member(peer, s)
			if known && pod.captured {
				continue
			}
			for _, ip := range pod.ips {
				a := prefix(netip.PrefixFrom(ip, ip.BitLen()))
				if known {
					plain = append(plain, a)
				} else {
					part[pod.account] = append(part[pod.account], a)
				}
			}
		}
	}
	if !everyone {
		for _, a := range sortedAccounts(peer.accounts) {
			if peer.accounts[a] == m.networks.accounts[a] {
				whole = append(whole, &security.ServiceAccountMatch{Namespace: a.ns, ServiceAccount: a.name})
			}
		}
	}
	sortAddresses(plain)
	var out []*security.Clause
	if len(spaces)+len(whole) > 0 {
		// Not of them; and without an identity, not from their addresses either.
		matches := []*security.Match{{NotNamespaces: spaces, NotServiceAccounts: whole, NotSourceIps: plain}}
		if len(plain) > 0 {
			matches = append(matches, &security.Match{NotNamespaces: spaces, NotServiceAccounts: whole, Principals: anyone()})
		}
		out = append(out, elsewhere(ports, matches...))
	} else if len(plain) > 0 {
		out = append(out, elsewhere(ports, &security.Match{NotSourceIps: plain}, &security.Match{Principals: anyone()}))
	}
	for _, a := range sortedAccounts(part) {
		sortAddresses(part[a])
		out = append(out, elsewhere(ports, &security.Match{NotSourceIps: part[a]}, &security.Match{
			Principals: anyone(), NotServiceAccounts: []*security.ServiceAccountMatch{{Namespace: a.ns, ServiceAccount: a.name}},
		}))
	}
	return out
}

// wholeNamespaces reports whether every pod of the namespaces is one of the peer's.
func (p *networkPeer) wholeNamespaces() bool {
	return p.obj.Namespaces != nil && (p.obj.Pods == nil || p.obj.Pods.MatchLabels.Empty() && len(p.obj.Pods.Expressions) == 0)
}

// member is a pod of a peer. known says that its identity tells that it is one.
func (m *Model) member(peer *networkPeer, s *source) (pod networkPod, known bool) {
	pod = m.networks.pods[s]
	return pod, m.known(peer, pod.account) == byIdentity
}

// addressed counts the pods of a peer that are known by their addresses.
func (m *Model) addressed(peer *networkPeer) (n int) {
	for s := range peer.members {
		if pod, known := m.member(peer, s); !known || !pod.captured {
			n++
		}
	}
	return n
}

func exactly(s string) *security.StringMatch {
	return &security.StringMatch{MatchType: &security.StringMatch_Exact{Exact: s}}
}

func anyone() []*security.StringMatch { return []*security.StringMatch{presence()} }

func prefix(p netip.Prefix) *security.Address {
	return &security.Address{Address: p.Addr().AsSlice(), Length: uint32(p.Bits())}
}

func sortAddresses(all []*security.Address) {
	slices.SortFunc(all, func(a, b *security.Address) int {
		return cmp.Or(slices.Compare(a.Address, b.Address), cmp.Compare(a.Length, b.Length))
	})
}

func sortedAccounts[V any](of map[accountName]V) []accountName {
	return slices.SortedFunc(maps.Keys(of), func(a, b accountName) int { return cmp.Or(cmp.Compare(a.ns, b.ns), cmp.Compare(a.name, b.name)) })
}
