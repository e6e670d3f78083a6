package intake

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// virtualMatches converts when a route holds, and reports whether it can hold at all: a match by labels of the client's
// pod means something only to a proxy beside the client.
func (r *reader) virtualMatches(in *networking.HTTPRoute, path []any, vs *object.VirtualService, out *object.VirtualHTTP) bool {
	if !r.fewer(len(in.Match), maxMatches, sub(path, "match"), "match") {
		return false
	}
	scoped := false
	for i, m := range in.Match {
		p := sub(path, "match", i)
		if len(m.SourceLabels) > 0 {
			r.sourceLabels(p)
			continue
		}
		match := r.httpMatch(m, p)
		scope := r.scope(m.Port, m.Gateways, p, vs)
		scoped = scoped || scope.Port != 0 || len(scope.Gateways) > 0
		out.Rule.Matches = append(out.Rule.Matches, match)
		out.Scopes = append(out.Scopes, scope)
	}
	if !scoped {
		out.Scopes = nil
	}
	return len(in.Match) == 0 || len(out.Rule.Matches) > 0
}

func (r *reader) sourceLabels(path []any) {
	r.warn(sub(path, "sourceLabels"), "the match is left out: labels of the client's pod are not known where the route is carried out", "match by sourceNamespace or a header, or write an AuthorizationPolicy")
}

func (r *reader) scope(port uint32, gateways []string, path []any, vs *object.VirtualService) object.MatchScope {
	var out object.MatchScope
	if port != 0 {
		out.Port, _ = r.port(int64(port), sub(path, "port"))
	}
	if !r.fewer(len(gateways), maxValues, sub(path, "gateways"), "gateway") {
		return out
	}
	for i, g := range gateways {
		name := r.gatewayName(g, sub(path, "gateways", i), vs.Namespace)
		if !slices.Contains(vs.Gateways, name) {
			r.warn(sub(path, "gateways", i), fmt.Sprintf("the match never holds at %s, which is not in spec.gateways", clip(name)), "add it to spec.gateways")
		}
		out.Gateways = append(out.Gateways, name)
	}
	return out
}

// claimPrefix is what headers begin with that stand for claims of a token. Istio pilot/pkg/networking/core/route.
const claimPrefix = "@request.auth.claims"

func (r *reader) httpMatch(in *networking.HTTPMatchRequest, path []any) *waypoint.HTTPMatch {
	out := &waypoint.HTTPMatch{Name: in.Name}
	out.Path = r.uri(in.Uri, in.IgnoreUriCase, sub(path, "uri"))
	out.Method = r.requestPart(in.Method, sub(path, "method"))
	out.Scheme = r.requestPart(in.Scheme, sub(path, "scheme"))
	out.Authority = r.requestPart(in.Authority, sub(path, "authority"))
	if len(in.Headers)+len(in.WithoutHeaders)+len(in.QueryParams) > maxValues {
		r.fewer(len(in.Headers)+len(in.WithoutHeaders)+len(in.QueryParams), maxValues, path, "value")
		return out
	}
	for _, name := range slices.Sorted(maps.Keys(in.Headers)) {
		r.headerMatch(out, name, in.Headers[name], false, sub(path, "headers", name))
	}
	for _, name := range slices.Sorted(maps.Keys(in.WithoutHeaders)) {
		r.headerMatch(out, name, in.WithoutHeaders[name], true, sub(path, "withoutHeaders", name))
	}
	for _, name := range slices.Sorted(maps.Keys(in.QueryParams)) {
		p := sub(path, "queryParams", name)
		if name == "" {
			r.refuse(p, "the name of the parameter is empty", "write a name before the colon")
		}
		out.Query = append(out.Query, &waypoint.ValueMatch{Name: name, Value: r.valueMatch(in.QueryParams[name], p)})
	}
	if ns := in.SourceNamespace; ns != "" {
		if !isLabel(ns) {
			r.refuse(sub(path, "sourceNamespace"), fmt.Sprintf("%q is not a valid namespace", clip(ns)), nameFix(ns))
		}
		out.SourceNamespaces = []string{ns}
	}
	return out
}

func (r *reader) uri(in *networking.StringMatch, ignoreCase bool, path []any) *waypoint.PathMatch {
	if in == nil {
		return nil
	}
	out := &waypoint.PathMatch{IgnoreCase: ignoreCase}
	switch k := in.MatchType.(type) {
	case *networking.StringMatch_Exact:
		r.notEmpty(k.Exact, sub(path, "exact"))
		out.Kind = &waypoint.PathMatch_Exact{Exact: k.Exact}
	case *networking.StringMatch_Prefix:
		r.notEmpty(k.Prefix, sub(path, "prefix"))
		out.Kind = &waypoint.PathMatch_Prefix{Prefix: k.Prefix}
	case *networking.StringMatch_Regex:
		r.notEmpty(k.Regex, sub(path, "regex"))
		r.regex(k.Regex, sub(path, "regex"))
		out.IgnoreCase = false // Istio: ignoreUriCase is for exact and prefix
		out.Kind = &waypoint.PathMatch_Regex{Regex: k.Regex}
	default:
		return nil
	}
	return out
}

func (r *reader) notEmpty(s string, path []any) {
	if s == "" {
		r.refuse(path, "the value is empty", "write a value, or remove the match")
	} else if len(s) > 8<<10 {
		r.refuse(path, fmt.Sprintf("the value has %d characters, at most %d are allowed", len(s), 8<<10), "shorten it")
	}
}

// requestPart converts a match of a part that every request has: no value means no match.
func (r *reader) requestPart(in *networking.StringMatch, path []any) *waypoint.StringMatch {
	if in == nil || in.MatchType == nil {
		return nil
	}
	return r.valueMatch(in, path)
}

// valueMatch converts a match of a value that may be there or not; an empty one asks for presence.
func (r *reader) valueMatch(in *networking.StringMatch, path []any) *waypoint.StringMatch {
	switch k := in.GetMatchType().(type) {
	case *networking.StringMatch_Exact:
		if k.Exact != "" {
			r.headerValue(k.Exact, sub(path, "exact"))
			return exactly(k.Exact)
		}
	case *networking.StringMatch_Prefix:
		if k.Prefix != "" {
			r.headerValue(k.Prefix, sub(path, "prefix"))
			return &waypoint.StringMatch{Kind: &waypoint.StringMatch_Prefix{Prefix: k.Prefix}}
		}
	case *networking.StringMatch_Regex:
		if k.Regex != "" {
			r.regex(k.Regex, sub(path, "regex"))
			return expression(k.Regex)
		}
	}
	return present()
}

func (r *reader) headerMatch(out *waypoint.HTTPMatch, name string, in *networking.StringMatch, invert bool, path []any) {
	value := r.valueMatch(in, path)
	if strings.HasPrefix(lower(name), claimPrefix) {
		claim := claimPath(name[len(claimPrefix):])
		if len(claim) == 0 || slices.Contains(claim, "") {
			r.refuse(path, fmt.Sprintf("%q names no claim", clip(name)), "write it like @request.auth.claims.group, or @request.auth.claims[group] when the name has dots")
		}
		out.Claims = append(out.Claims, &waypoint.ClaimMatch{Path: claim, Value: value, Invert: invert})
		return
	}
	switch n := lower(name); n {
	case ":authority", ":method", ":scheme":
		if !invert {
			r.pseudoHeader(out, n, value, path)
			return
		}
		out.Headers = append(out.Headers, &waypoint.ValueMatch{Name: n, Value: value, Invert: true})
		return
	case ":path":
		r.refuse(path, "the path is not a header", "match it with uri")
		return
	}
	out.Headers = append(out.Headers, &waypoint.ValueMatch{Name: r.header(name, path), Value: value, Invert: invert})
}

func (r *reader) pseudoHeader(out *waypoint.HTTPMatch, name string, value *waypoint.StringMatch, path []any) {
	into := map[string]**waypoint.StringMatch{":authority": &out.Authority, ":method": &out.Method, ":scheme": &out.Scheme}[name]
	if *into != nil {
		r.refuse(path, fmt.Sprintf("%s and %s are the same", name, name[1:]), "keep one of the two")
		return
	}
	*into = value
}

// claimPath splits ".a.b" and "[a][b]" into names.
func claimPath(s string) []string {
	if rest, ok := strings.CutPrefix(s, "."); ok {
		return strings.Split(rest, ".")
	}
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		return strings.Split(s[1:len(s)-1], "][")
	}
	return nil
}
