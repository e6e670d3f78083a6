package envoy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

var errMatchKind = errors.New("a pattern of this kind cannot be used here: write a value, or one with * at its beginning or end")

// conditions are a rule's "when", of which all must hold.
func (r *ruleMaker) conditions(all []*waypoint.Condition) ([]*rbacv3.Permission, []*rbacv3.Principal, error) {
	to := &conjunction[*rbacv3.Permission]{r: r, logic: permission}
	from := &conjunction[*rbacv3.Principal]{r: r, logic: principal}
	for _, c := range all {
		if len(c.GetValues())+len(c.GetNotValues()) == 0 {
			return nil, nil, fmt.Errorf("the condition %s has neither values nor notValues", c.GetKey())
		}
		switch f, isTo, err := r.condition(c.GetKey()); {
		case err != nil:
			return nil, nil, err
		case isTo != nil:
			addField(to, c.GetKey(), c.GetValues(), c.GetNotValues(), isTo)
		default:
			addField(from, c.GetKey(), c.GetValues(), c.GetNotValues(), f)
		}
	}
	return to.terms, from.terms, errors.Join(to.err, from.err)
}

type (
	fromValue = func(*waypoint.StringMatch) (*rbacv3.Principal, error)
	toValue   = func(*waypoint.StringMatch) (*rbacv3.Permission, error)
)

// condition finds what a key is about. Istio pilot/pkg/security/authz/model/model.go New.
func (r *ruleMaker) condition(key string) (fromValue, toValue, error) {
	block := func(f func(string) (*rbacv3.Principal, error)) fromValue {
		return func(m *waypoint.StringMatch) (*rbacv3.Principal, error) { return f(m.GetExact()) }
	}
	switch key {
	case "source.ip":
		return block(r.peerAddress), nil, nil
	case "remote.ip":
		return block(r.remoteAddress), nil, nil
	case "source.principal":
		return r.peer, nil, nil
	case "source.namespace":
		return r.peerNamespace, nil, nil
	case "source.serviceAccount":
		return block(r.peerAccount), nil, nil
	case "source.trustDomain":
		return r.peerTrustDomain, nil, nil
	case "request.auth.principal":
		return r.requestPrincipal, nil, nil
	case "request.auth.audiences":
		return r.claim("aud"), nil, nil
	case "request.auth.presenter":
		return r.claim("azp"), nil, nil
	case "destination.ip":
		return nil, r.destinationPermission, nil
	case "destination.port":
		return nil, func(m *waypoint.StringMatch) (*rbacv3.Permission, error) {
			n, err := strconv.ParseUint(m.GetExact(), 10, 16)
			if err != nil {
				return nil, fmt.Errorf("%q is no port", m.GetExact())
			}
			return r.portPermission(uint32(n))
		}, nil
	case "connection.sni":
		return nil, r.sniPermission, nil
	}
	if name, ok := bracketed(key, "request.headers"); ok {
		return func(m *waypoint.StringMatch) (*rbacv3.Principal, error) {
			h, err := r.header(name, m, false)
			if err != nil {
				return nil, err
			}
			return &rbacv3.Principal{Identifier: &rbacv3.Principal_Header{Header: h}}, nil
		}, nil, nil
	}
	if path, ok := claimPath(key); ok {
		return r.claim(path...), nil, nil
	}
	return nil, nil, fmt.Errorf("the condition %s is not supported: use one of Istio's stable conditions", key)
}

func (r *ruleMaker) sniPermission(m *waypoint.StringMatch) (*rbacv3.Permission, error) {
	if r.early {
		return nil, errNotYet
	}
	s, err := textMatcher(m, false)
	if err != nil {
		return nil, err
	}
	return &rbacv3.Permission{Rule: &rbacv3.Permission_RequestedServerName{RequestedServerName: s}}, nil
}

// bracketed takes name[value] apart.
func bracketed(key, name string) (string, bool) {
	rest, ok := strings.CutPrefix(key, name+"[")
	if !ok || !strings.HasSuffix(rest, "]") || len(rest) < 2 {
		return "", false
	}
	return rest[:len(rest)-1], true
}

// maxClaimDepth bounds how deep in a token a claim may be.
const maxClaimDepth = 8

// claimPath takes request.auth.claims[a][b] apart.
func claimPath(key string) ([]string, bool) {
	inner, ok := bracketed(key, "request.auth.claims")
	if !ok {
		return nil, false
	}
	path := strings.Split(inner, "][")
	if len(path) > maxClaimDepth {
		return nil, false
	}
	for _, p := range path {
		if p == "" || strings.ContainsAny(p, "[]") {
			return nil, false
		}
	}
	return path, true
}

// claim matches a claim that is a text, or a list with such a text in it.
func (r *ruleMaker) claim(path ...string) fromValue {
	return func(m *waypoint.StringMatch) (*rbacv3.Principal, error) {
		s, err := textMatcher(m, false)
		if err != nil {
			return nil, err
		}
		return r.claimText(s, true, path...)
	}
}

func (r *ruleMaker) claimText(s *matcherv3.StringMatcher, orList bool, path ...string) (*rbacv3.Principal, error) {
	if r.tcp {
		return nil, errNeedsHTTP
	}
	if !r.tokens {
		return nil, errNeedsToken
	}
	value := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: s}}
	if orList {
		list := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_ListMatch{ListMatch: &matcherv3.ListMatcher{
			MatchPattern: &matcherv3.ListMatcher_OneOf{OneOf: value},
		}}}
		value = &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_OrMatch{OrMatch: &matcherv3.OrMatcher{
			ValueMatchers: []*matcherv3.ValueMatcher{value, list},
		}}}
	}
	match := &matcherv3.MetadataMatcher{Filter: claimsFilter, Value: value}
	for _, key := range append([]string{claimsKey}, path...) {
		match.Path = append(match.Path, &matcherv3.MetadataMatcher_PathSegment{
			Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: key},
		})
	}
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_SourcedMetadata{SourcedMetadata: &rbacv3.SourcedMetadata{
		MetadataMatcher: match,
		MetadataSource:  rbacv3.MetadataSource_DYNAMIC,
	}}}, nil
}

// maxSlashes bounds the ways to take a request principal apart.
const maxSlashes = 32

// requestPrincipal matches <iss>/<sub> of a verified token. Both may have slashes, so that every way to take the value
// apart is one way to match.
func (r *ruleMaker) requestPrincipal(m *waypoint.StringMatch) (*rbacv3.Principal, error) {
	pair := func(iss, sub *matcherv3.StringMatcher) (*rbacv3.Principal, error) {
		i, err := r.claimText(iss, false, "iss")
		if err != nil {
			return nil, err
		}
		s, err := r.claimText(sub, false, "sub")
		if err != nil {
			return nil, err
		}
		return principal.all([]*rbacv3.Principal{i, s}), nil
	}
	something := func() *matcherv3.StringMatcher { return constantRegex(anyText) }
	// some matches a part that may be nothing written.
	some := func(f func(string) *matcherv3.StringMatcher, s string) *matcherv3.StringMatcher {
		if s == "" {
			return something()
		}
		return f(s)
	}
	var out []*rbacv3.Principal
	var failed error
	add := func(iss, sub *matcherv3.StringMatcher) {
		p, err := pair(iss, sub)
		if err != nil {
			failed = err
			return
		}
		out = append(out, p)
	}
	split := func(value string, f func(before, after string)) {
		for i, n := 0, 0; i < len(value) && n < maxSlashes; i++ {
			if value[i] == '/' {
				f(value[:i], value[i+1:])
				n++
			}
		}
	}
	switch k := m.GetKind().(type) {
	case *waypoint.StringMatch_Present:
		add(something(), something())
	case *waypoint.StringMatch_Exact:
		split(k.Exact, func(iss, sub string) { add(exactString(iss), exactString(sub)) })
	case *waypoint.StringMatch_Prefix:
		add(some(startingWith, k.Prefix), something())
		split(k.Prefix, func(iss, sub string) { add(exactString(iss), some(startingWith, sub)) })
	case *waypoint.StringMatch_Suffix:
		add(something(), some(endingWith, k.Suffix))
		split(k.Suffix, func(iss, sub string) { add(some(endingWith, iss), exactString(sub)) })
	default:
		return nil, errMatchKind
	}
	if failed == nil && len(out) == 0 { // so that a value without a slash is still refused where tokens are unknown
		_, failed = pair(something(), something())
	}
	return principal.one(out), failed
}
