package envoy

import (
	"strings"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// Where a request comes from. The peer is whom connect_terminate authenticated, never what a header says.

func (r *ruleMaker) source(s *waypoint.Source) (*rbacv3.Principal, error) {
	g := &conjunction[*rbacv3.Principal]{r: r, logic: principal}
	addField(g, "principals", s.GetPrincipals(), s.GetNotPrincipals(), r.peer)
	addField(g, "requestPrincipals", s.GetRequestPrincipals(), s.GetNotRequestPrincipals(), r.requestPrincipal)
	addField(g, "namespaces", s.GetNamespaces(), s.GetNotNamespaces(), r.peerNamespace)
	addField(g, "serviceAccounts", s.GetServiceAccounts(), s.GetNotServiceAccounts(), r.peerAccount)
	addField(g, "trustDomains", s.GetTrustDomains(), s.GetNotTrustDomains(), r.peerTrustDomain)
	addField(g, "ipBlocks", s.GetIpBlocks(), s.GetNotIpBlocks(), r.peerAddress)
	addField(g, "remoteIpBlocks", s.GetRemoteIpBlocks(), s.GetNotRemoteIpBlocks(), r.remoteAddress)
	if g.err != nil {
		return nil, g.err
	}
	return principal.all(g.terms), nil
}

// id is about the peer's SPIFFE id as a whole. Whoever has none matches nothing.
func (r *ruleMaker) id(m *matcherv3.StringMatcher) *rbacv3.Principal {
	if r.edge {
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_Authenticated_{
			Authenticated: &rbacv3.Principal_Authenticated{PrincipalName: m},
		}}
	}
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_FilterState{FilterState: &matcherv3.FilterStateMatcher{
		Key:     statePeer,
		Matcher: &matcherv3.FilterStateMatcher_StringMatch{StringMatch: m},
	}}}
}

const spiffeScheme = "spiffe://"

// peer matches principals, which are written without the scheme. One in any of our trust domains stands for the same
// account in all of them. Istio pilot/pkg/security/trustdomain ReplaceTrustDomainAliases.
func (r *ruleMaker) peer(m *waypoint.StringMatch) (*rbacv3.Principal, error) {
	switch k := m.GetKind().(type) {
	case *waypoint.StringMatch_Exact:
		var out []*rbacv3.Principal
		for _, v := range r.aliases(k.Exact) {
			out = append(out, r.id(exactString(spiffeScheme+v)))
		}
		return principal.one(out), nil
	case *waypoint.StringMatch_Prefix:
		var out []*rbacv3.Principal
		for _, v := range r.aliases(k.Prefix) {
			out = append(out, r.id(startingWith(spiffeScheme+v)))
		}
		return principal.one(out), nil
	}
	s, err := textMatcher(m, false)
	if err != nil {
		return nil, err
	}
	return r.id(s), nil
}

// aliases are a principal, or the beginning of one, in each of our trust domains if it is in one of them.
func (r *ruleMaker) aliases(value string) []string {
	domain, rest, whole := strings.Cut(value, "/")
	if !whole {
		return []string{value}
	}
	for _, td := range r.trustDomains {
		if td != domain {
			continue
		}
		var out []string
		for _, td := range r.trustDomains {
			out = append(out, td+"/"+rest)
		}
		return out
	}
	return []string{value}
}

// A SPIFFE id of the mesh is spiffe://<trust domain>/ns/<namespace>/sa/<account>, and none of the three has a slash in
// it. Matchers of the parts are made of prefixes and of what stands between them, so that no part can be mistaken for
// another, whatever a policy says.

// peerNamespace matches the namespace part.
func (r *ruleMaker) peerNamespace(m *waypoint.StringMatch) (*rbacv3.Principal, error) {
	in := func(rest string) []*rbacv3.Principal {
		var out []*rbacv3.Principal
		for _, td := range r.trustDomains {
			out = append(out, r.id(startingWith(spiffeScheme+td+"/ns/"+rest)))
		}
		return out
	}
	switch k := m.GetKind().(type) {
	case *waypoint.StringMatch_Exact:
		if !isPart(k.Exact) {
			return principal.never(), nil
		}
		return principal.one(in(k.Exact + "/sa/")), nil
	case *waypoint.StringMatch_Prefix:
		if strings.Contains(k.Prefix, "/") {
			return principal.never(), nil
		}
		return principal.one(in(k.Prefix)), nil
	case *waypoint.StringMatch_Suffix:
		if strings.Contains(k.Suffix, "/") {
			return principal.never(), nil
		}
		return r.namespaceEnding(k.Suffix, in), nil
	case *waypoint.StringMatch_Present:
		return principal.one(in("")), nil
	}
	return nil, errMatchKind
}

// namespaceEnding looks for the end of the namespace by the "/sa/" behind it. That stands in an id once, unless the
// namespace itself is "sa", which is therefore looked at apart.
func (r *ruleMaker) namespaceEnding(suffix string, in func(string) []*rbacv3.Principal) *rbacv3.Principal {
	sa := principal.one(in("sa/sa/"))
	other := principal.all([]*rbacv3.Principal{
		principal.one(in("")), r.id(containing(suffix + "/sa/")), principal.not(sa),
	})
	if strings.HasSuffix("sa", suffix) {
		return principal.one([]*rbacv3.Principal{other, sa})
	}
	return other
}

// peerAccount matches namespace and account, in any of our trust domains.
func (r *ruleMaker) peerAccount(value string) (*rbacv3.Principal, error) {
	namespace, account, _ := strings.Cut(value, "/")
	if !isPart(namespace) || !isPart(account) {
		return principal.never(), nil
	}
	var out []*rbacv3.Principal
	for _, td := range r.trustDomains {
		out = append(out, r.id(exactString(spiffeScheme+td+"/ns/"+namespace+"/sa/"+account)))
	}
	return principal.one(out), nil
}

// peerTrustDomain goes through those there can be.
func (r *ruleMaker) peerTrustDomain(m *waypoint.StringMatch) (*rbacv3.Principal, error) {
	var out []*rbacv3.Principal
	for _, td := range r.trustDomains {
		ok := false
		switch k := m.GetKind().(type) {
		case *waypoint.StringMatch_Exact:
			ok = td == k.Exact
		case *waypoint.StringMatch_Prefix:
			ok = strings.HasPrefix(td, k.Prefix)
		case *waypoint.StringMatch_Suffix:
			ok = strings.HasSuffix(td, k.Suffix)
		case *waypoint.StringMatch_Present:
			ok = true
		default:
			return nil, errMatchKind
		}
		if ok {
			out = append(out, r.id(startingWith(spiffeScheme+td+"/")))
		}
	}
	return principal.one(out), nil
}

// isPart is true for what can be a part of a SPIFFE id.
func isPart(s string) bool { return s != "" && !strings.Contains(s, "/") }

// peerAddress is the address of the original client. Connections in main_internal come from another listener of this
// Envoy, and what it calls their direct remote address is not an IP address; the client's came with the filter state.
func (r *ruleMaker) peerAddress(block string) (*rbacv3.Principal, error) {
	p, err := parseBlock(block)
	if err != nil {
		return nil, err
	}
	if r.edge {
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_DirectRemoteIp{DirectRemoteIp: cidr(p)}}, nil
	}
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_FilterState{FilterState: &matcherv3.FilterStateMatcher{
		Key: stateRemoteIP,
		Matcher: &matcherv3.FilterStateMatcher_AddressMatch{AddressMatch: &matcherv3.AddressMatcher{
			Ranges: xdsCIDRs(p),
		}},
	}}}, nil
}

// remoteAddress is the address X-Forwarded-For leads to, or else the client's. At an edge gateway only as many of its
// entries are believed as there are trusted proxies; behind it the last entry is the gateway's, as in Istio. Any
// member of the mesh can say what it likes there: rules that must hold against those need a principal as well.
func (r *ruleMaker) remoteAddress(block string) (*rbacv3.Principal, error) {
	p, err := parseBlock(block)
	if err != nil {
		return nil, err
	}
	if r.tcp {
		return r.peerAddress(block)
	}
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_RemoteIp{RemoteIp: cidr(p)}}, nil
}
