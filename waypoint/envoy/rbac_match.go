package envoy

import (
	"fmt"
	"net/netip"
	"strings"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// Matchers of AuthorizationPolicies. Nothing a user writes becomes part of a regular expression here; this one is all
// there is, apart from those a user wrote as such.
const anyText = "(?s).+" // one character or more: the value is there

// logic combines permissions, or principals. Envoy has both kinds with the same operators and different leaves.
type logic[T any] struct {
	any func() T
	and func([]T) T
	or  func([]T) T
	not func(T) T
}

func (l logic[T]) never() T { return l.not(l.any()) }

func (l logic[T]) all(terms []T) T {
	switch len(terms) {
	case 0:
		return l.any()
	case 1:
		return terms[0]
	}
	return l.and(terms)
}

func (l logic[T]) one(terms []T) T {
	switch len(terms) {
	case 0:
		return l.never()
	case 1:
		return terms[0]
	}
	return l.or(terms)
}

func (l logic[T]) when(is bool) T {
	if is {
		return l.any()
	}
	return l.never()
}

var permission = logic[*rbacv3.Permission]{
	any: func() *rbacv3.Permission { return &rbacv3.Permission{Rule: &rbacv3.Permission_Any{Any: true}} },
	and: func(p []*rbacv3.Permission) *rbacv3.Permission {
		return &rbacv3.Permission{Rule: &rbacv3.Permission_AndRules{AndRules: &rbacv3.Permission_Set{Rules: p}}}
	},
	or: func(p []*rbacv3.Permission) *rbacv3.Permission {
		return &rbacv3.Permission{Rule: &rbacv3.Permission_OrRules{OrRules: &rbacv3.Permission_Set{Rules: p}}}
	},
	not: func(p *rbacv3.Permission) *rbacv3.Permission {
		return &rbacv3.Permission{Rule: &rbacv3.Permission_NotRule{NotRule: p}}
	},
}

var principal = logic[*rbacv3.Principal]{
	any: func() *rbacv3.Principal { return &rbacv3.Principal{Identifier: &rbacv3.Principal_Any{Any: true}} },
	and: func(p []*rbacv3.Principal) *rbacv3.Principal {
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_AndIds{AndIds: &rbacv3.Principal_Set{Ids: p}}}
	},
	or: func(p []*rbacv3.Principal) *rbacv3.Principal {
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_OrIds{OrIds: &rbacv3.Principal_Set{Ids: p}}}
	},
	not: func(p *rbacv3.Principal) *rbacv3.Principal {
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_NotId{NotId: p}}
	},
}

func startingWith(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: s}}
}

func endingWith(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: s}}
}

func containing(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: s}}
}

// textMatcher is a matcher of a value that is there.
func textMatcher(m *waypoint.StringMatch, ignoreCase bool) (*matcherv3.StringMatcher, error) {
	ignoreCase = ignoreCase || m.GetIgnoreCase()
	var out *matcherv3.StringMatcher
	switch k := m.GetKind().(type) {
	case *waypoint.StringMatch_Exact:
		out = exactString(k.Exact)
	case *waypoint.StringMatch_Prefix:
		if k.Prefix == "" { // Envoy wants a character; every value begins with nothing
			return constantRegex(`(?s).*`), nil
		}
		out = startingWith(k.Prefix)
	case *waypoint.StringMatch_Suffix:
		if k.Suffix == "" {
			return constantRegex(`(?s).*`), nil
		}
		out = endingWith(k.Suffix)
	case *waypoint.StringMatch_Present:
		return constantRegex(anyText), nil
	case *waypoint.StringMatch_Regex:
		re, err := safeRegex(k.Regex, ignoreCase)
		if err != nil {
			return nil, err
		}
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: re}}, nil
	default:
		return nil, fmt.Errorf("a value without a kind of match")
	}
	out.IgnoreCase = ignoreCase
	return out, nil
}

// headerText is about a request header, with all its lines joined by commas.
func headerText(name string, m *waypoint.StringMatch, ignoreCase bool) (*routev3.HeaderMatcher, error) {
	if !isHeaderName(name) {
		return nil, fmt.Errorf("%q is no header name", name)
	}
	h := &routev3.HeaderMatcher{Name: strings.ToLower(name)}
	if _, ok := m.GetKind().(*waypoint.StringMatch_Present); ok {
		h.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}
		return h, nil
	}
	s, err := textMatcher(m, ignoreCase)
	if err != nil {
		return nil, err
	}
	h.HeaderMatchSpecifier = &routev3.HeaderMatcher_StringMatch{StringMatch: s}
	return h, nil
}

// isHeaderName is true for tokens of RFC 9110 §5.1 and the pseudo-headers of requests.
func isHeaderName(name string) bool {
	switch name {
	case ":authority", ":method", ":path", ":scheme":
		return true
	case "":
		return false
	}
	if len(name) > 256 {
		return false
	}
	for i := range len(name) {
		c := name[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return true
}

// parseBlock takes an address or a prefix, as ipBlocks have them.
func parseBlock(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return p, fmt.Errorf("%q is no IP prefix", s)
		}
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%q is no IP address or prefix", s)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func cidr(p netip.Prefix) *corev3.CidrRange {
	return &corev3.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: uint32Value(uint32(p.Bits()))}
}

func xdsCIDRs(p netip.Prefix) []*xdscorev3.CidrRange {
	return []*xdscorev3.CidrRange{{AddressPrefix: p.Addr().String(), PrefixLen: uint32Value(uint32(p.Bits()))}}
}
