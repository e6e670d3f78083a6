package intake

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/wrapperspb"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// groupPolicy is the group of our own kinds.
const groupPolicy = "policy.ambit.io"

// filterField pairs the field that goes with a type of filter with whether it is set.
type filterField struct {
	typ, field string
	set        bool
}

func filterFields(f *gatewayv1.HTTPRouteFilter) []filterField {
	return []filterField{
		{"RequestHeaderModifier", "requestHeaderModifier", f.RequestHeaderModifier != nil},
		{"ResponseHeaderModifier", "responseHeaderModifier", f.ResponseHeaderModifier != nil},
		{"RequestMirror", "requestMirror", f.RequestMirror != nil},
		{"RequestRedirect", "requestRedirect", f.RequestRedirect != nil},
		{"URLRewrite", "urlRewrite", f.URLRewrite != nil},
		{"CORS", "cors", f.CORS != nil},
		{"ExternalAuth", "externalAuth", f.ExternalAuth != nil},
		{"ExtensionRef", "extensionRef", f.ExtensionRef != nil},
	}
}

// repeatable are the types of filters that may stand several times.
var repeatable = []string{"RequestMirror", "ExtensionRef", "ExternalAuth"}

// filterShape checks that filters say what they are, once. It reports whether a filter can be used.
func (r *reader) filterShape(fs []gatewayv1.HTTPRouteFilter, path []any) bool {
	if !r.fewer(len(fs), maxRouteItems, path, "filter") {
		return false
	}
	before := r.refused
	seen := map[string]bool{}
	for i := range fs {
		p, typ := sub(path, i), string(fs[i].Type)
		known := false
		for _, ff := range filterFields(&fs[i]) {
			switch {
			case ff.typ == typ && !ff.set:
				r.refuse(p, fmt.Sprintf("a filter of type %s needs the field %s", typ, ff.field), "add it")
			case ff.typ != typ && ff.set:
				r.refuse(sub(p, ff.field), fmt.Sprintf("the field goes with type %s, not with %s", ff.typ, clip(typ)), "put it into a filter of its own")
			}
			known = known || ff.typ == typ
		}
		if !known {
			if typ == "" {
				r.refuse(sub(p, "type"), "the field is missing", "write the type of the filter, like RequestHeaderModifier")
			} else {
				r.oneOf(typ, sub(p, "type"), "RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "RequestRedirect", "URLRewrite", "CORS", "ExternalAuth", "ExtensionRef")
			}
		}
		if seen[typ] && !slices.Contains(repeatable, typ) {
			r.refuse(p, fmt.Sprintf("there are two filters of type %s", clip(typ)), "put them together")
		}
		seen[typ] = true
	}
	if seen["RequestRedirect"] && seen["URLRewrite"] {
		r.refuse(path, "RequestRedirect and URLRewrite exclude each other", "keep one of the two")
	}
	return r.refused == before
}

// filters converts the filters of a rule.
func (r *reader) filters(fs []gatewayv1.HTTPRouteFilter, path []any, namespace string, rule *object.RouteRule, whole *gatewayv1.HTTPRouteRule) {
	path = sub(path, "filters")
	if !r.filterShape(fs, path) {
		return
	}
	out := rule.Rule
	for i := range fs {
		f, p := &fs[i], sub(path, i)
		switch f.Type {
		case gatewayv1.HTTPRouteFilterRequestHeaderModifier:
			out.RequestHeaders, out.Rewrite = r.modifier(f.RequestHeaderModifier, sub(p, "requestHeaderModifier"), true, out.Rewrite)
		case gatewayv1.HTTPRouteFilterResponseHeaderModifier:
			out.ResponseHeaders, _ = r.modifier(f.ResponseHeaderModifier, sub(p, "responseHeaderModifier"), false, nil)
		case gatewayv1.HTTPRouteFilterRequestMirror:
			r.mirror(f.RequestMirror, sub(p, "requestMirror"), namespace, rule)
		case gatewayv1.HTTPRouteFilterRequestRedirect:
			if len(rule.Backends) > 0 {
				r.refuse(p, "a redirect excludes backendRefs", "remove one of the two")
			}
			out.Action = &waypoint.HTTPRule_Redirect{Redirect: r.redirect(f.RequestRedirect, sub(p, "requestRedirect"), whole)}
		case gatewayv1.HTTPRouteFilterURLRewrite:
			out.Rewrite = r.rewrite(f.URLRewrite, sub(p, "urlRewrite"), whole, out.Rewrite)
		case gatewayv1.HTTPRouteFilterCORS:
			out.Cors = r.routeCORS(f.CORS, sub(p, "cors"))
		case gatewayv1.HTTPRouteFilterExternalAuth:
			r.breakRule(out, p, "filters of type ExternalAuth are not supported", "use an AuthorizationPolicy with action CUSTOM")
		case gatewayv1.HTTPRouteFilterExtensionRef:
			r.extensionRef(f.ExtensionRef, sub(p, "extensionRef"), namespace, rule)
		}
	}
}

func (r *reader) extensionRef(in *gatewayv1.LocalObjectReference, path []any, namespace string, rule *object.RouteRule) {
	ref := r.ref(&in.Group, &in.Kind, nil, in.Name, groupPolicy, "ExtensionPolicy", namespace, path)
	switch {
	case ref.Group == groupPolicy && ref.Kind == "ExtensionPolicy",
		ref.Group == groupExtensions && (ref.Kind == "TrafficExtension" || ref.Kind == "WasmPlugin"):
		rule.Extensions = append(rule.Extensions, ref)
	default:
		r.breakRule(rule.Rule, path, fmt.Sprintf("%s of group %q is not a filter that is known here", clip(ref.Kind), clip(ref.Group)), "name an ExtensionPolicy of "+groupPolicy)
	}
}

// backendFilters converts the filters of one backend: header edits; others break its share.
func (r *reader) backendFilters(fs []gatewayv1.HTTPRouteFilter, path []any, rule *object.RouteRule, out *waypoint.Backend) {
	path = sub(path, "filters")
	if len(fs) == 0 || !r.filterShape(fs, path) {
		return
	}
	for i := range fs {
		f, p := &fs[i], sub(path, i)
		switch f.Type {
		case gatewayv1.HTTPRouteFilterRequestHeaderModifier:
			out.RequestHeaders, out.Rewrite = r.modifier(f.RequestHeaderModifier, sub(p, "requestHeaderModifier"), true, out.Rewrite)
		case gatewayv1.HTTPRouteFilterResponseHeaderModifier:
			out.ResponseHeaders, _ = r.modifier(f.ResponseHeaderModifier, sub(p, "responseHeaderModifier"), false, nil)
		default:
			problem := fmt.Sprintf("filters of type %s are not supported for one backend", f.Type)
			r.warn(p, problem+": its share of the requests is answered with status 500", "put the filter into the rule")
			out.Broken = pathString(p) + ": " + problem
		}
	}
}

// modifier converts header edits. Setting Host is a rewrite of the authority.
func (r *reader) modifier(in *gatewayv1.HTTPHeaderFilter, path []any, request bool, w *waypoint.Rewrite) (*waypoint.HeaderEdits, *waypoint.Rewrite) {
	out := &waypoint.HeaderEdits{}
	edits := func(field string, hs []gatewayv1.HTTPHeader) []*waypoint.HeaderValue {
		r.fewer(len(hs), maxRouteItems, sub(path, field), "header")
		var vs []*waypoint.HeaderValue
		for i, h := range hs {
			p := sub(path, field, i)
			name := r.header(string(h.Name), sub(p, "name"))
			if h.Value == "" || len(h.Value) > 4096 {
				r.refuse(sub(p, "value"), "a value has 1 to 4096 characters", "write a value, or remove the header with remove")
			}
			r.headerValue(h.Value, sub(p, "value"))
			if slices.ContainsFunc(vs, func(v *waypoint.HeaderValue) bool { return v.Name == name }) {
				r.refuse(sub(p, "name"), fmt.Sprintf("the header %q stands twice", clip(name)), "keep one of the two")
			}
			if request && name == "host" && field == "set" {
				if w == nil {
					w = &waypoint.Rewrite{}
				}
				w.Authority = h.Value
				continue
			}
			vs = append(vs, &waypoint.HeaderValue{Name: name, Value: h.Value})
		}
		return vs
	}
	out.Set, out.Add = edits("set", in.Set), edits("add", in.Add)
	r.fewer(len(in.Remove), maxRouteItems, sub(path, "remove"), "header")
	for i, name := range in.Remove {
		if request && lower(name) == "host" {
			r.warn(sub(path, "remove", i), "a request needs a host, it is not removed", "remove the entry")
			continue
		}
		out.Remove = append(out.Remove, r.header(name, sub(path, "remove", i)))
	}
	if len(out.Set)+len(out.Add)+len(out.Remove) == 0 {
		return nil, w
	}
	return out, w
}

func (r *reader) mirror(in *gatewayv1.HTTPRequestMirrorFilter, path []any, namespace string, rule *object.RouteRule) {
	m := &waypoint.Mirror{To: &waypoint.Backend{}}
	rule.Mirrors = append(rule.Mirrors, r.backend(&in.BackendRef, sub(path, "backendRef"), namespace))
	switch {
	case in.Percent != nil && in.Fraction != nil:
		r.refuse(path, "percent and fraction exclude each other", "keep one of the two")
	case in.Percent != nil:
		m.PerMillion = wrapperspb.UInt32(r.perMillion(float64(*in.Percent), sub(path, "percent")))
	case in.Fraction != nil:
		d := int32(100)
		if in.Fraction.Denominator != nil {
			d = *in.Fraction.Denominator
		}
		if n := in.Fraction.Numerator; n < 0 || d < 1 || n > d {
			r.refuse(sub(path, "fraction"), fmt.Sprintf("%d of %d is not a fraction", n, d), "write a numerator from 0 to the denominator")
		} else {
			m.PerMillion = wrapperspb.UInt32(uint32(math.Round(float64(n) / float64(d) * 1e6)))
		}
	}
	rule.Rule.Mirrors = append(rule.Rule.Mirrors, m)
}

// replacement converts a path modifier into the whole path or the prefix.
func (r *reader) replacement(in *gatewayv1.HTTPPathModifier, path []any, whole *gatewayv1.HTTPRouteRule) (full string, prefix *wrapperspb.StringValue) {
	if in == nil {
		return "", nil
	}
	r.oneOf(string(in.Type), sub(path, "type"), "ReplaceFullPath", "ReplacePrefixMatch")
	for _, f := range []struct {
		typ   gatewayv1.HTTPPathModifierType
		field string
		v     *string
	}{{gatewayv1.FullPathHTTPPathModifier, "replaceFullPath", in.ReplaceFullPath}, {gatewayv1.PrefixMatchHTTPPathModifier, "replacePrefixMatch", in.ReplacePrefixMatch}} {
		switch {
		case f.typ == in.Type && f.v == nil:
			r.refuse(sub(path, f.field), "the field is missing", "write the new path")
		case f.typ != in.Type && f.v != nil:
			r.refuse(sub(path, f.field), fmt.Sprintf("the field goes with type %s", f.typ), "write that type, or remove the field")
		case f.v != nil && (len(*f.v) > 1024 || strings.ContainsAny(*f.v, "\r\n\x00")):
			r.refuse(sub(path, f.field), "a path has at most 1024 characters and no line breaks", "shorten it")
		}
	}
	if in.Type == gatewayv1.FullPathHTTPPathModifier && in.ReplaceFullPath != nil {
		full = *in.ReplaceFullPath
		if full == "" {
			full = "/"
		}
	}
	if in.Type == gatewayv1.PrefixMatchHTTPPathModifier && in.ReplacePrefixMatch != nil {
		if !prefixOnly(whole.Matches) {
			r.refuse(sub(path, "replacePrefixMatch"), "the prefix is known only when the rule has one match, of type PathPrefix", "give the rule one such match, or write type: ReplaceFullPath")
		}
		prefix = wrapperspb.String(*in.ReplacePrefixMatch)
	}
	return full, prefix
}

func (r *reader) preciseHost(in *gatewayv1.PreciseHostname, path []any) string {
	if in == nil {
		return ""
	}
	if s := string(*in); !isSubdomain(s) {
		r.refuse(path, fmt.Sprintf("%q is not a host name", clip(s)), hostFix(s))
	}
	return string(*in)
}

func (r *reader) redirect(in *gatewayv1.HTTPRequestRedirectFilter, path []any, whole *gatewayv1.HTTPRouteRule) *waypoint.Redirect {
	out := &waypoint.Redirect{Status: 302, Hostname: r.preciseHost(in.Hostname, sub(path, "hostname"))}
	out.Path, out.Prefix = r.replacement(in.Path, sub(path, "path"), whole)
	if in.Scheme != nil {
		r.oneOf(*in.Scheme, sub(path, "scheme"), "http", "https")
		out.Scheme = *in.Scheme
	}
	if in.StatusCode != nil {
		out.Status = uint32(max(0, *in.StatusCode))
		if !slices.Contains([]int{301, 302, 303, 307, 308}, *in.StatusCode) {
			r.refuse(sub(path, "statusCode"), fmt.Sprintf("%d is not the status of a redirect", *in.StatusCode), "write 301, 302, 303, 307 or 308")
		}
	}
	switch {
	case in.Port != nil:
		n, _ := r.port(int64(*in.Port), sub(path, "port"))
		out.Port = uint32(n)
		// A port that goes without saying is left out of the Location header, says the Gateway API.
		out.DefaultPort = out.Scheme == "http" && n == 80 || out.Scheme == "https" && n == 443
	case out.Scheme != "":
		out.DefaultPort = true // the well-known port of the scheme
	}
	return out
}

func (r *reader) rewrite(in *gatewayv1.HTTPURLRewriteFilter, path []any, whole *gatewayv1.HTTPRouteRule, out *waypoint.Rewrite) *waypoint.Rewrite {
	if out == nil {
		out = &waypoint.Rewrite{}
	}
	if h := r.preciseHost(in.Hostname, sub(path, "hostname")); h != "" {
		out.Authority = h
	}
	out.Path, out.Prefix = r.replacement(in.Path, sub(path, "path"), whole)
	return out
}
