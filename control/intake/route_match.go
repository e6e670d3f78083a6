package intake

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// gepDuration parses GEP-2257's form.
func gepDuration(s string) (time.Duration, bool) {
	var total time.Duration
	n := 0
	for s != "" {
		digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
		if digits == 0 || digits > 5 || n == 4 {
			return 0, false
		}
		v := 0
		for _, c := range s[:digits] {
			v = v*10 + int(c-'0')
		}
		s = s[digits:]
		unit := time.Duration(0)
		switch {
		case strings.HasPrefix(s, "ms"):
			unit, s = time.Millisecond, s[2:]
		case strings.HasPrefix(s, "h"):
			unit, s = time.Hour, s[1:]
		case strings.HasPrefix(s, "m"):
			unit, s = time.Minute, s[1:]
		case strings.HasPrefix(s, "s"):
			unit, s = time.Second, s[1:]
		default:
			return 0, false
		}
		total += time.Duration(v) * unit
		n++
	}
	return total, n > 0
}

func (r *reader) routeMatch(in *gatewayv1.HTTPRouteMatch, path []any) *waypoint.HTTPMatch {
	out := &waypoint.HTTPMatch{Path: r.pathMatch(in.Path, sub(path, "path"))}
	if in.Method != nil {
		r.oneOf(string(*in.Method), sub(path, "method"), methods[:9]...)
		out.Method = exactly(string(*in.Method))
	}
	r.fewer(len(in.Headers), maxRouteItems, sub(path, "headers"), "header")
	r.fewer(len(in.QueryParams), maxRouteItems, sub(path, "queryParams"), "parameter")
	for i, h := range in.Headers {
		r.addHeader(out, string(h.Name), h.Value, (*string)(h.Type), sub(path, "headers", i))
	}
	for i, q := range in.QueryParams {
		p := sub(path, "queryParams", i)
		name := string(q.Name)
		if !isHeader(name) {
			r.refuse(sub(p, "name"), fmt.Sprintf("%q is not the name of a parameter", clip(name)), "use letters, digits and dashes")
		}
		if slices.ContainsFunc(out.Query, func(v *waypoint.ValueMatch) bool { return v.Name == name }) {
			r.refuse(sub(p, "name"), fmt.Sprintf("the parameter %q stands twice", clip(name)), "keep one of the two")
		}
		out.Query = append(out.Query, &waypoint.ValueMatch{Name: name, Value: r.typedValue(q.Value, (*string)(q.Type), 1024, p)})
	}
	return out
}

// addHeader adds a match of a header. Of two with one name only the first counts, says the Gateway API.
func (r *reader) addHeader(out *waypoint.HTTPMatch, name, value string, typ *string, path []any) {
	name = r.header(name, sub(path, "name"))
	v := r.typedValue(value, typ, 4096, path)
	if slices.ContainsFunc(out.Headers, func(v *waypoint.ValueMatch) bool { return v.Name == name }) {
		r.warn(sub(path, "name"), fmt.Sprintf("the header %q stands twice, only the first match counts", clip(name)), "remove the second")
		return
	}
	out.Headers = append(out.Headers, &waypoint.ValueMatch{Name: name, Value: v})
}

func (r *reader) typedValue(value string, typ *string, most int, path []any) *waypoint.StringMatch {
	if value == "" {
		r.refuse(sub(path, "value"), "the value is empty", "write a value")
	}
	if len(value) > most {
		r.refuse(sub(path, "value"), fmt.Sprintf("the value has %d characters, at most %d are allowed", len(value), most), "shorten it")
	}
	if typ != nil {
		r.oneOf(*typ, sub(path, "type"), "Exact", "RegularExpression")
		if *typ == "RegularExpression" {
			r.regex(value, sub(path, "value"))
			return expression(value)
		}
	}
	return exactly(value)
}

// pathForm is what an exact path or a prefix may consist of: RFC 3986 section 3.3.
var pathForm = regexp.MustCompile(`^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+$`)

func (r *reader) pathMatch(in *gatewayv1.HTTPPathMatch, path []any) *waypoint.PathMatch {
	if in == nil {
		return nil
	}
	kind, value := "PathPrefix", "/"
	if in.Type != nil {
		kind = string(*in.Type)
	}
	if in.Value != nil {
		value = *in.Value
	}
	r.oneOf(kind, sub(path, "type"), "Exact", "PathPrefix", "RegularExpression")
	path = sub(path, "value")
	if len(value) > 1024 {
		r.refuse(path, fmt.Sprintf("the path has %d characters, at most 1024 are allowed", len(value)), "shorten it")
		return nil
	}
	if kind == "RegularExpression" {
		r.regex(value, path)
		return &waypoint.PathMatch{Kind: &waypoint.PathMatch_Regex{Regex: value}}
	}
	switch {
	case !strings.HasPrefix(value, "/"):
		r.refuse(path, fmt.Sprintf("%q does not begin with /", clip(value)), "write /"+clip(value))
	case strings.Contains(value, "//"), strings.Contains(value, "/./"), strings.Contains(value, "/../"),
		strings.HasSuffix(value, "/."), strings.HasSuffix(value, "/.."), strings.Contains(lower(value), "%2f"), strings.Contains(value, "#"):
		r.refuse(path, fmt.Sprintf("%q is not in its shortest form", clip(value)), "write it without //, /./, /../, %2f and #")
	case !pathForm.MatchString(value):
		r.refuse(path, fmt.Sprintf("%q has characters that a path cannot have", clip(value)), "write them as %xx")
	}
	if kind == "Exact" {
		return &waypoint.PathMatch{Kind: &waypoint.PathMatch_Exact{Exact: value}}
	}
	return &waypoint.PathMatch{Kind: &waypoint.PathMatch_Segments{Segments: value}}
}

// prefixOnly reports whether a rule has just one match and that of a path prefix: only then is it known what a replaced
// prefix replaces.
func prefixOnly(matches []gatewayv1.HTTPRouteMatch) bool {
	switch len(matches) {
	case 0:
		return true // the schema's default is the prefix /
	case 1:
		p := matches[0].Path
		return p == nil || p.Type == nil || *p.Type == gatewayv1.PathMatchPathPrefix
	}
	return false
}
