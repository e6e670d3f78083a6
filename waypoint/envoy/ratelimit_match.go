package envoy

import (
	"fmt"
	"strconv"
	"strings"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// Rate limits have few conditions of their own. An RBAC filter in front of them that only tries finds out whether a
// request is one of a rule's, and the limit is skipped where the filter has noted nothing. Query parameters, which RBAC
// cannot see, are a condition of the limit itself.

// matches are the ways a request can be one of a rule's, each as conditions of a limit. Matches without query parameters
// are one way together; a request that fits several of the others takes a token for each.
func (s *limits) matches(all []*waypoint.HTTPMatch) ([][]*routev3.RateLimit_Action, error) {
	var ways [][]*routev3.RateLimit_Action
	together := map[string]*rbacv3.Policy{}
	var found []map[string]*rbacv3.Policy
	var queries [][]*routev3.RateLimit_Action
	for i, m := range all {
		policy, err := s.maker.httpMatch(m)
		if err != nil {
			return nil, fmt.Errorf("match %d: %w", i, err)
		}
		name := "match" + strconv.Itoa(i)
		if len(m.GetQuery()) == 0 {
			together[name] = policy
			continue
		}
		query, err := queryConditions(m.GetQuery())
		if err != nil {
			return nil, fmt.Errorf("match %d: %w", i, err)
		}
		found = append(found, map[string]*rbacv3.Policy{name: policy})
		queries = append(queries, query)
	}
	if len(together) > 0 {
		found, queries = append(found, together), append(queries, nil)
	}
	most := mostQueries(all)
	for i, policies := range found {
		prefix := "ratelimit_" + strconv.Itoa(len(s.finders)) + "_"
		s.finders = append(s.finders, typedExtension("envoy.filters.http.rbac", &httprbacv3.RBAC{
			ShadowRules:           &rbacv3.RBAC{Action: rbacv3.RBAC_DENY, Policies: policies},
			ShadowRulesStatPrefix: prefix,
		}))
		noted := &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_Metadata{Metadata: &routev3.RateLimit_Action_MetaData{
			DescriptorKey: "found",
			MetadataKey: &metadatav3.MetadataKey{
				Key: "envoy.filters.http.rbac",
				Path: []*metadatav3.MetadataKey_PathSegment{{
					Segment: &metadatav3.MetadataKey_PathSegment_Key{Key: prefix + "shadow_engine_result"},
				}},
			},
			Source: routev3.RateLimit_Action_MetaData_DYNAMIC,
		}}}
		// All ways must describe the request alike, or each had a bucket of its own.
		for len(queries[i]) < most {
			queries[i] = append(queries[i], literalKey("query", "fits"))
		}
		ways = append(ways, append([]*routev3.RateLimit_Action{noted}, queries[i]...))
	}
	return ways, nil
}

func mostQueries(all []*waypoint.HTTPMatch) int {
	most := 0
	for _, m := range all {
		most = max(most, len(m.GetQuery()))
	}
	return most
}

// foundEntries are what a descriptor has of the conditions above when they hold. DENY is what a trying filter that
// matches would do.
func foundEntries(all []*waypoint.HTTPMatch) []*ratelimitv3.RateLimitDescriptor_Entry {
	if len(all) == 0 {
		return nil
	}
	out := []*ratelimitv3.RateLimitDescriptor_Entry{{Key: "found", Value: "denied"}}
	for range mostQueries(all) {
		out = append(out, &ratelimitv3.RateLimitDescriptor_Entry{Key: "query", Value: "fits"})
	}
	return out
}

func literalKey(key, value string) *routev3.RateLimit_Action {
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_GenericKey_{
		GenericKey: &routev3.RateLimit_Action_GenericKey{DescriptorKey: key, DescriptorValue: escapeFormat(value)},
	}}
}

func queryConditions(all []*waypoint.ValueMatch) ([]*routev3.RateLimit_Action, error) {
	var out []*routev3.RateLimit_Action
	for _, v := range all {
		plain := proto.CloneOf(v)
		plain.Invert = false
		q, err := queryMatcher(plain)
		if err != nil {
			return nil, err
		}
		out = append(out, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_QueryParameterValueMatch_{
			QueryParameterValueMatch: &routev3.RateLimit_Action_QueryParameterValueMatch{
				DescriptorKey: "query", DescriptorValue: "fits",
				ExpectMatch:     wrapperspb.Bool(!v.GetInvert()),
				QueryParameters: []*routev3.QueryParameterMatcher{q},
			},
		}})
	}
	return out, nil
}

// httpMatch is a match of a route, but for its query, as an RBAC policy.
func (r *ruleMaker) httpMatch(m *waypoint.HTTPMatch) (*rbacv3.Policy, error) {
	var to []*rbacv3.Permission
	var from []*rbacv3.Principal
	if m.GetPath().GetKind() != nil {
		p, err := pathMatch(m.GetPath())
		if err != nil {
			return nil, err
		}
		to = append(to, p)
	}
	header := func(name string, value *waypoint.StringMatch, invert, ignoreCase bool) error {
		if value == nil {
			value = &waypoint.StringMatch{Kind: &waypoint.StringMatch_Present{Present: true}}
		}
		p, err := r.headerPermission(name, value, ignoreCase)
		if err != nil {
			return err
		}
		if invert {
			p = permission.not(p)
		}
		to = append(to, p)
		return nil
	}
	for _, h := range m.GetHeaders() {
		if err := header(h.GetName(), h.GetValue(), h.GetInvert(), false); err != nil {
			return nil, err
		}
	}
	for _, h := range []struct {
		name  string
		value *waypoint.StringMatch
	}{{":method", m.GetMethod()}, {":scheme", m.GetScheme()}, {":authority", m.GetAuthority()}} {
		if h.value == nil {
			continue
		}
		if err := header(h.name, h.value, false, h.name == ":authority"); err != nil {
			return nil, err
		}
	}
	if len(m.GetSourceNamespaces()) > 0 {
		var any []*rbacv3.Principal
		for _, ns := range m.GetSourceNamespaces() {
			p, err := r.peerNamespace(&waypoint.StringMatch{Kind: &waypoint.StringMatch_Exact{Exact: ns}})
			if err != nil {
				return nil, err
			}
			any = append(any, p)
		}
		from = append(from, principal.one(any))
	}
	for _, c := range m.GetClaims() {
		p, err := r.claim(c.GetPath()...)(c.GetValue())
		if err != nil {
			return nil, err
		}
		if c.GetInvert() {
			p = principal.not(p)
		}
		from = append(from, p)
	}
	return &rbacv3.Policy{
		Permissions: []*rbacv3.Permission{permission.all(to)},
		Principals:  []*rbacv3.Principal{principal.all(from)},
	}, nil
}

func pathMatch(p *waypoint.PathMatch) (*rbacv3.Permission, error) {
	url := func(s *matcherv3.StringMatcher) *rbacv3.Permission {
		s.IgnoreCase = p.GetIgnoreCase() && s.GetSafeRegex() == nil
		return &rbacv3.Permission{Rule: &rbacv3.Permission_UrlPath{UrlPath: &matcherv3.PathMatcher{
			Rule: &matcherv3.PathMatcher_Path{Path: s},
		}}}
	}
	switch k := p.GetKind().(type) {
	case *waypoint.PathMatch_Exact:
		return url(exactString(k.Exact)), nil
	case *waypoint.PathMatch_Prefix:
		if k.Prefix == "" {
			return permission.any(), nil
		}
		return url(startingWith(k.Prefix)), nil
	case *waypoint.PathMatch_Segments:
		// /a is /a and everything below /a/, and / is everything.
		s := strings.TrimRight(k.Segments, "/")
		if s == "" {
			return permission.any(), nil
		}
		return permission.one([]*rbacv3.Permission{url(exactString(s)), url(startingWith(s + "/"))}), nil
	case *waypoint.PathMatch_Regex:
		re, err := safeRegex(k.Regex, p.GetIgnoreCase())
		if err != nil {
			return nil, err
		}
		return url(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: re}}), nil
	}
	return nil, errMatchKind
}
