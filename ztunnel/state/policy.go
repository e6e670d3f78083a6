package state

import (
	"net/netip"
	"strings"
)

// PolicyScope says which workloads a policy applies to.
type PolicyScope uint8

// The scopes, in the order of the wire enum.
const (
	ScopeGlobal PolicyScope = iota
	ScopeNamespace
	ScopeSelector
)

// String returns the scope as config_dump spells it.
func (s PolicyScope) String() string {
	return [...]string{"Global", "Namespace", "WorkloadSelector", "Global"}[s&3]
}

// Policy is one L4 authorization policy, compiled for matching. It is immutable. Evaluating it is the work of package
// authz.
type Policy struct {
	Name, Namespace string
	Scope           PolicyScope
	Deny            bool // the action: DENY, else ALLOW
	DryRun          bool
	Rules           []Rule // any may match

	key string
}

// Key returns the policy's resource name, namespace/name.
func (p *Policy) Key() string { return p.key }

// Rule is a list of clauses that must all match.
type Rule []Clause

// Clause is a list of matches of which one must match.
type Clause []Match

// Match is a set of conditions that must all hold. A nil condition was not set.
type Match struct {
	Namespaces, NotNamespaces           *Strings
	Principals, NotPrincipals           *Strings
	ServiceAccounts, NotServiceAccounts *ServiceAccounts
	SourceIPs, NotSourceIPs             *Prefixes
	DestinationIPs, NotDestinationIPs   *Prefixes
	DestinationPorts, NotPorts          *Ports
}

// Empty reports whether nothing is set; such a match matches nothing.
func (m *Match) Empty() bool { return *m == Match{} }

// StringKind is how a StringMatch compares.
type StringKind uint8

// The kinds of string match.
const (
	Exact StringKind = iota
	Prefix
	Suffix
	Presence
)

// StringMatch is one pattern of a policy.
type StringMatch struct {
	Kind  StringKind
	Value string
}

// Strings matches a string against a set of patterns.
type Strings struct {
	List  []StringMatch       // as received
	exact map[string]struct{} // the exact ones, when there are many
	rest  []StringMatch       // those to try one by one
}

// many is where a hash lookup becomes cheaper than comparing one by one.
const many = 8

func newStrings(list []StringMatch) *Strings {
	if len(list) == 0 {
		return nil
	}
	s := &Strings{List: list, rest: list}
	if len(list) < many {
		return s
	}
	s.exact, s.rest = map[string]struct{}{}, nil
	for _, m := range list {
		if m.Kind == Exact {
			s.exact[m.Value] = struct{}{}
		} else {
			s.rest = append(s.rest, m)
		}
	}
	return s
}

// Match reports whether any pattern matches. The empty string stands for an absent value, which no pattern but an empty
// exact one matches.
func (s *Strings) Match(v string) bool {
	if s.exact != nil {
		if _, ok := s.exact[v]; ok {
			return true
		}
	}
	for i := range s.rest {
		if s.rest[i].match(v) {
			return true
		}
	}
	return false
}

func (m *StringMatch) match(v string) bool {
	switch m.Kind {
	case Exact:
		return v == m.Value
	case Prefix:
		return strings.HasPrefix(v, m.Value)
	case Suffix:
		return strings.HasSuffix(v, m.Value)
	default:
		return v != ""
	}
}

// ServiceAccount is a service account of a namespace, in whatever trust domain.
type ServiceAccount struct{ Namespace, Name string }

// ServiceAccounts matches a service account against a set.
type ServiceAccounts struct {
	List []ServiceAccount
	set  map[ServiceAccount]struct{}
}

func newServiceAccounts(list []ServiceAccount) *ServiceAccounts {
	if len(list) == 0 {
		return nil
	}
	s := &ServiceAccounts{List: list}
	if len(list) >= many {
		s.set = make(map[ServiceAccount]struct{}, len(list))
		for _, a := range list {
			s.set[a] = struct{}{}
		}
	}
	return s
}

// Match reports whether the account is in the set.
func (s *ServiceAccounts) Match(a ServiceAccount) bool {
	if s.set != nil {
		_, ok := s.set[a]
		return ok
	}
	for i := range s.List {
		if s.List[i] == a {
			return true
		}
	}
	return false
}

// Prefixes matches an address against CIDR ranges.
type Prefixes struct {
	List []netip.Prefix
	set  map[netip.Prefix]struct{}
	lens []int16 // lengths present in set, IPv4 as they are, IPv6 plus 256
}

func newPrefixes(list []netip.Prefix) *Prefixes {
	if len(list) == 0 {
		return nil
	}
	p := &Prefixes{List: list}
	if len(list) < many {
		return p
	}
	p.set = make(map[netip.Prefix]struct{}, len(list))
	seen := map[int16]bool{}
	for _, x := range list {
		p.set[x] = struct{}{}
		if l := lengthKey(x.Addr(), x.Bits()); !seen[l] {
			seen[l] = true
			p.lens = append(p.lens, l)
		}
	}
	return p
}

func lengthKey(a netip.Addr, bits int) int16 {
	if a.Is6() {
		return int16(bits) + 256
	}
	return int16(bits)
}

// Match reports whether any range contains the address, which must not be a v4-mapped one.
func (p *Prefixes) Match(a netip.Addr) bool {
	if p.set == nil {
		for i := range p.List {
			if p.List[i].Contains(a) {
				return true
			}
		}
		return false
	}
	for _, l := range p.lens {
		if (l >= 256) != a.Is6() {
			continue
		}
		masked, err := a.Prefix(int(l & 255))
		if err != nil {
			continue
		}
		if _, ok := p.set[masked]; ok {
			return true
		}
	}
	return false
}

// Ports matches a destination port.
type Ports struct{ List []uint16 }

func newPorts(list []uint16) *Ports {
	if len(list) == 0 {
		return nil
	}
	return &Ports{list}
}

// Match reports whether the port is listed.
func (p *Ports) Match(port uint16) bool {
	for _, x := range p.List {
		if x == port {
			return true
		}
	}
	return false
}

// PolicySet is the policies of one scope, sorted the way they are evaluated.
type PolicySet struct {
	DryDeny, Deny, DryAllow, Allow []*Policy
}

// of returns the list a policy belongs on.
func (s *PolicySet) of(p *Policy) *[]*Policy {
	switch {
	case p.Deny && p.DryRun:
		return &s.DryDeny
	case p.Deny:
		return &s.Deny
	case p.DryRun:
		return &s.DryAllow
	default:
		return &s.Allow
	}
}

// with and without return a changed copy; lists are kept in order of key so that which policy is named in a verdict does
// not depend on the order of arrival.
func (s *PolicySet) with(p *Policy) *PolicySet {
	next := *s
	list := next.of(p)
	at := 0
	for at < len(*list) && (*list)[at].Key() < p.Key() {
		at++
	}
	*list = insertAt(*list, at, p)
	return &next
}

func (s *PolicySet) without(p *Policy) *PolicySet {
	next := *s
	list := next.of(p)
	for i, x := range *list {
		if x == p {
			*list = removeAt(*list, i)
			break
		}
	}
	return &next
}

func (s *PolicySet) empty() bool {
	return len(s.DryDeny)+len(s.Deny)+len(s.DryAllow)+len(s.Allow) == 0
}
