package envoy

import (
	"errors"
	"fmt"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// routeMatches are Envoy's matches for one of ours: several where Envoy can only say "and" and we mean "or". An error
// means that the match cannot be expressed; it then matches nothing.
func (e *Env) routeMatches(m *waypoint.HTTPMatch) ([]*routev3.RouteMatch, error) {
	match := &routev3.RouteMatch{}
	if err := setPath(match, m.GetPath()); err != nil {
		return nil, err
	}
	for _, pseudo := range []struct {
		name  string
		value *waypoint.StringMatch
	}{{":method", m.GetMethod()}, {":scheme", m.GetScheme()}, {":authority", m.GetAuthority()}} {
		if pseudo.value == nil {
			continue
		}
		h, err := headerMatcher(&waypoint.ValueMatch{Name: pseudo.name, Value: pseudo.value})
		if err != nil {
			return nil, err
		}
		match.Headers = append(match.Headers, h)
	}
	for _, header := range m.GetHeaders() {
		h, err := headerMatcher(header)
		if err != nil {
			return nil, err
		}
		match.Headers = append(match.Headers, h)
	}
	for _, query := range m.GetQuery() {
		q, err := queryMatcher(query)
		if err != nil {
			return nil, err
		}
		match.QueryParameters = append(match.QueryParameters, q)
	}
	for _, claim := range m.GetClaims() {
		c, err := claimMatcher(claim)
		if err != nil {
			return nil, err
		}
		match.DynamicMetadata = append(match.DynamicMetadata, c)
	}
	return e.fromNamespaces(match, m.GetSourceNamespaces()), nil
}

// setPath sets how the path must look; nothing said is every path.
func setPath(match *routev3.RouteMatch, p *waypoint.PathMatch) error {
	if p.GetIgnoreCase() {
		match.CaseSensitive = wrapperspb.Bool(false)
	}
	switch k := p.GetKind().(type) {
	case nil:
		match.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/"}
	case *waypoint.PathMatch_Exact:
		match.PathSpecifier = &routev3.RouteMatch_Path{Path: k.Exact}
	case *waypoint.PathMatch_Prefix:
		match.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: k.Prefix}
	case *waypoint.PathMatch_Segments:
		segments := trimSegments(k.Segments)
		if segments == "" {
			match.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/"}
			return nil
		}
		if len(segments) < 2 || strings.ContainsAny(segments, "?#") {
			return fmt.Errorf("path prefix %q is none: write /segment/segment, without a query", k.Segments)
		}
		match.PathSpecifier = &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: segments}
	case *waypoint.PathMatch_Regex:
		regex, err := safeRegex(k.Regex, p.GetIgnoreCase())
		if err != nil {
			return fmt.Errorf("path: %w", err)
		}
		match.CaseSensitive = nil
		match.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: regex}
	default:
		return errors.New("a path match of a kind this version does not know: upgrade the waypoint")
	}
	return nil
}

// trimSegments leaves out slashes at the end: /a/ and /a are the same prefix. Gateway API HTTPPathMatch, PathMatchPathPrefix.
func trimSegments(prefix string) string { return strings.TrimRight(prefix, "/") }

// headerName is what Envoy calls a header, or an error if nothing can be called so.
func headerName(name string) (string, error) {
	lower := strings.ToLower(name)
	if lower == "host" {
		return ":authority", nil
	}
	if !isToken(strings.TrimPrefix(lower, ":")) {
		return "", fmt.Errorf("%q is no header name", name)
	}
	return lower, nil
}

// isToken: RFC 9110 §5.6.2.
func isToken(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

func headerMatcher(v *waypoint.ValueMatch) (*routev3.HeaderMatcher, error) {
	name, err := headerName(v.GetName())
	if err != nil {
		return nil, err
	}
	out := &routev3.HeaderMatcher{Name: name, InvertMatch: v.GetInvert()}
	if isPresence(v.GetValue()) {
		out.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}
		return out, nil
	}
	value, err := stringMatcher(v.GetValue())
	if err != nil {
		return nil, fmt.Errorf("header %s: %w", v.GetName(), err)
	}
	out.HeaderMatchSpecifier = &routev3.HeaderMatcher_StringMatch{StringMatch: value}
	// A header that is not there does not have the value: without this Envoy would call the match failed either way.
	out.TreatMissingHeaderAsEmpty = v.GetInvert()
	return out, nil
}

func queryMatcher(v *waypoint.ValueMatch) (*routev3.QueryParameterMatcher, error) {
	if v.GetName() == "" {
		return nil, errors.New("a query parameter without a name")
	}
	if v.GetInvert() {
		return nil, fmt.Errorf("query parameter %s: Envoy cannot match the absence of a value", v.GetName())
	}
	out := &routev3.QueryParameterMatcher{Name: v.GetName()}
	if isPresence(v.GetValue()) {
		out.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: true}
		return out, nil
	}
	value, err := stringMatcher(v.GetValue())
	if err != nil {
		return nil, fmt.Errorf("query parameter %s: %w", v.GetName(), err)
	}
	out.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_StringMatch{StringMatch: value}
	return out, nil
}

// Where jwt_authn leaves the payload of a verified token.
const (
	claimsFilter = "envoy.filters.http.jwt_authn"
	claimsKey    = "payload"
)

// claimMatcher matches a claim that is the value, or a list that has it.
func claimMatcher(c *waypoint.ClaimMatch) (*matcherv3.MetadataMatcher, error) {
	if len(c.GetPath()) == 0 {
		return nil, errors.New("a JWT claim without a name")
	}
	value, err := stringMatcher(c.GetValue())
	if err != nil {
		return nil, fmt.Errorf("JWT claim %s: %w", strings.Join(c.GetPath(), "."), err)
	}
	out := &matcherv3.MetadataMatcher{Filter: claimsFilter, Invert: c.GetInvert()}
	for _, key := range append([]string{claimsKey}, c.GetPath()...) {
		if key == "" {
			return nil, fmt.Errorf("JWT claim %q: a part of its name is empty", strings.Join(c.GetPath(), "."))
		}
		out.Path = append(out.Path, &matcherv3.MetadataMatcher_PathSegment{
			Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: key},
		})
	}
	one := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: value}}
	list := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_ListMatch{ListMatch: &matcherv3.ListMatcher{
		MatchPattern: &matcherv3.ListMatcher_OneOf{OneOf: one},
	}}}
	out.Value = &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_OrMatch{
		OrMatch: &matcherv3.OrMatcher{ValueMatchers: []*matcherv3.ValueMatcher{one, list}},
	}}
	return out, nil
}

// fromNamespaces holds a match to peers of any of the namespaces, by the SPIFFE id of their certificates. Every accepted
// trust domain has a namespace of that name. A client without a mesh identity is in none.
func (e *Env) fromNamespaces(match *routev3.RouteMatch, namespaces []string) []*routev3.RouteMatch {
	if len(namespaces) == 0 {
		return []*routev3.RouteMatch{match}
	}
	var out []*routev3.RouteMatch
	for _, td := range e.trustDomains() {
		for _, namespace := range namespaces {
			m := proto.CloneOf(match)
			m.FilterState = append(m.FilterState, &matcherv3.FilterStateMatcher{
				Key: statePeer,
				Matcher: &matcherv3.FilterStateMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
					MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "spiffe://" + td + "/ns/" + namespace + "/sa/"},
				}},
			})
			out = append(out, m)
		}
	}
	return out
}
