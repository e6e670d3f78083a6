package intake

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// Istio pilot/pkg/networking/core/route ApplyRedirect: a path that is this word and a rest replaces the matched prefix.
const prefixWord = "%PREFIX()%"

func (r *reader) virtualRedirect(in *networking.HTTPRedirect, path []any) *waypoint.Redirect {
	out := &waypoint.Redirect{Hostname: in.Authority, Scheme: in.Scheme, Path: in.Uri, Status: in.RedirectCode}
	if in.Uri != "" && in.PrefixRewrite != "" {
		r.refuse(sub(path, "prefixRewrite"), "uri and prefixRewrite exclude each other", "keep one of the two")
	}
	if rest, ok := strings.CutPrefix(in.Uri, prefixWord); ok {
		out.Path, out.Prefix = "", wrapperspb.String(rest)
	}
	if in.PrefixRewrite != "" {
		out.Prefix = wrapperspb.String(in.PrefixRewrite)
	}
	r.headerValue(in.Uri, sub(path, "uri"))
	r.headerValue(in.Authority, sub(path, "authority"))
	switch in.RedirectCode {
	case 0:
		out.Status = 301
	case 301, 302, 303, 307, 308:
	default:
		r.refuse(sub(path, "redirectCode"), fmt.Sprintf("%d is not the status of a redirect", in.RedirectCode), "write 301, 302, 303, 307 or 308")
	}
	if in.Scheme != "" && in.Scheme != "http" && in.Scheme != "https" {
		r.notOneOf(locate(r.root, sub(path, "scheme")), sub(path, "scheme"), in.Scheme, []string{"http", "https"})
	}
	switch p := in.RedirectPort.(type) {
	case *networking.HTTPRedirect_Port:
		n, _ := r.port(int64(p.Port), sub(path, "port"))
		out.Port = uint32(n)
	case *networking.HTTPRedirect_DerivePort:
		// FROM_REQUEST_PORT keeps the port, which is what happens without a word.
		out.DefaultPort = p.DerivePort == networking.HTTPRedirect_FROM_PROTOCOL_DEFAULT
	}
	return out
}

func (r *reader) virtualDirect(in *networking.HTTPDirectResponse, path []any) *waypoint.DirectResponse {
	out := &waypoint.DirectResponse{Status: r.httpStatus(int64(in.Status), 200, sub(path, "status"))}
	switch b := in.Body.GetSpecifier().(type) {
	case *networking.HTTPBody_String_:
		out.Body = []byte(b.String_)
	case *networking.HTTPBody_Bytes:
		out.Body = b.Bytes
	}
	if len(out.Body) > maxBody {
		r.refuse(sub(path, "body"), fmt.Sprintf("the body has %d bytes, at most %d are allowed", len(out.Body), maxBody), "serve it from an application")
		out.Body = nil
	}
	return out
}

// virtualEdits converts rewrite and headers.
func (r *reader) virtualEdits(in *networking.HTTPRoute, path []any, out *waypoint.HTTPRule) {
	if h := in.Headers; h != nil {
		out.RequestHeaders, out.Rewrite = r.headerOperations(h.Request, sub(path, "headers", "request"), nil)
		out.ResponseHeaders, _ = r.headerOperations(h.Response, sub(path, "headers", "response"), nil)
	}
	w, path := in.Rewrite, sub(path, "rewrite")
	if w == nil {
		return
	}
	if w.Uri == "" && w.Authority == "" && w.UriRegexRewrite == nil {
		r.refuse(path, "nothing is rewritten", "write uri, authority or uriRegexRewrite")
	}
	if w.Uri != "" && w.UriRegexRewrite != nil {
		r.refuse(sub(path, "uriRegexRewrite"), "uri and uriRegexRewrite exclude each other", "keep one of the two")
	}
	if out.Rewrite == nil {
		out.Rewrite = &waypoint.Rewrite{}
	}
	r.headerValue(w.Uri, sub(path, "uri"))
	r.headerValue(w.Authority, sub(path, "authority"))
	if w.Authority != "" && out.Rewrite.Authority == "" { // as in Istio, a header Host that is set wins
		out.Rewrite.Authority = w.Authority
	}
	if w.Uri != "" {
		out.Rewrite.Prefix = wrapperspb.String(w.Uri)
	}
	if x := w.UriRegexRewrite; x != nil {
		if x.Match == "" {
			r.refuse(sub(path, "uriRegexRewrite", "match"), "the field is missing", "write the expression that is replaced")
		}
		r.regex(x.Match, sub(path, "uriRegexRewrite", "match"))
		r.headerValue(x.Rewrite, sub(path, "uriRegexRewrite", "rewrite"))
		out.Rewrite.Regex, out.Rewrite.Substitution = x.Match, x.Rewrite
	}
}

// headerOperations converts edits. Setting Host in requests is a rewrite of the authority, which is given back.
func (r *reader) headerOperations(in *networking.Headers_HeaderOperations, path []any, w *waypoint.Rewrite) (*waypoint.HeaderEdits, *waypoint.Rewrite) {
	if in == nil {
		return nil, w
	}
	out := &waypoint.HeaderEdits{}
	if n := len(in.Set) + len(in.Add) + len(in.Remove); !r.fewer(n, maxValues, path, "edit") {
		return nil, w
	}
	response := path[len(path)-1] == "response"
	edits := func(field string, m map[string]string) []*waypoint.HeaderValue {
		var vs []*waypoint.HeaderValue
		for _, name := range slices.Sorted(maps.Keys(m)) {
			p := sub(path, field, name)
			r.headerValue(m[name], p)
			if n := lower(name); !response && (n == "host" || n == ":authority") {
				if field == "add" {
					r.refuse(p, "a request has one host", "write it under set")
				}
				w = &waypoint.Rewrite{Authority: m[name]}
				continue
			}
			vs = append(vs, &waypoint.HeaderValue{Name: r.header(name, p), Value: m[name]})
		}
		return vs
	}
	out.Set, out.Add = edits("set", in.Set), edits("add", in.Add)
	for i, name := range in.Remove {
		if n := lower(name); !response && (n == "host" || n == ":authority") {
			r.refuse(sub(path, "remove", i), "a request needs a host", "remove the entry")
			continue
		}
		out.Remove = append(out.Remove, r.header(name, sub(path, "remove", i)))
	}
	if len(out.Set)+len(out.Add)+len(out.Remove) == 0 {
		return nil, w
	}
	return out, w
}

func (r *reader) virtualMirrors(in *networking.HTTPRoute, path []any, vs *object.VirtualService, out *waypoint.HTTPRule) {
	if in.Mirror != nil && len(in.Mirrors) > 0 {
		r.refuse(sub(path, "mirrors"), "mirror and mirrors exclude each other", "put all into mirrors")
	}
	if !r.fewer(len(in.Mirrors), maxBackends, sub(path, "mirrors"), "mirror") {
		return
	}
	if in.Mirror != nil {
		m := &waypoint.Mirror{To: r.virtualDestination(in.Mirror, sub(path, "mirror"), vs.Namespace)}
		switch {
		case in.MirrorPercentage != nil:
			m.PerMillion = wrapperspb.UInt32(r.perMillion(in.MirrorPercentage.Value, sub(path, "mirrorPercentage", "value")))
		case in.MirrorPercent != nil: //nolint:staticcheck // people still write it
			m.PerMillion = wrapperspb.UInt32(r.perMillion(float64(in.MirrorPercent.Value), sub(path, "mirrorPercent")))
		}
		out.Mirrors = append(out.Mirrors, m)
	}
	for i, x := range in.Mirrors {
		m := &waypoint.Mirror{To: r.virtualDestination(x.Destination, sub(path, "mirrors", i, "destination"), vs.Namespace)}
		if x.Percentage != nil {
			m.PerMillion = wrapperspb.UInt32(r.perMillion(x.Percentage.Value, sub(path, "mirrors", i, "percentage", "value")))
		}
		out.Mirrors = append(out.Mirrors, m)
	}
}

// retryConditions are Envoy's: x-envoy-retry-on and x-envoy-retry-grpc-on of its router filter.
var retryConditions = []string{
	"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited", "retriable-4xx",
	"refused-stream", "retriable-status-codes", "retriable-headers", "http3-post-connect-failure",
	"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
}

// maxAttempts bounds how much one request can be multiplied.
const maxAttempts = 100

func (r *reader) retry(in *networking.HTTPRetry, path []any) *waypoint.Retry {
	if in == nil {
		return nil
	}
	out := &waypoint.Retry{
		PerTryTimeout: r.duration(in.PerTryTimeout, sub(path, "perTryTimeout"), false),
		Backoff:       r.duration(in.Backoff, sub(path, "backoff"), false),
	}
	if in.Attempts < 0 || in.Attempts > maxAttempts {
		r.refuse(sub(path, "attempts"), fmt.Sprintf("%d attempts are not possible", in.Attempts), fmt.Sprintf("write a number from 0 to %d", maxAttempts))
	} else {
		out.Attempts = uint32(in.Attempts)
	}
	if in.Attempts == 0 && (in.PerTryTimeout != nil || in.RetryOn != "") {
		r.warn(path, "nothing is retried: attempts is missing or 0", "write attempts: 2, or remove the other fields")
	}
	if v := in.RetryRemoteLocalities; v != nil {
		out.RemoteLocalities = wrapperspb.Bool(v.Value)
	}
	out.IgnorePreviousHosts = in.RetryIgnorePreviousHosts.GetValue()
	for part := range strings.SplitSeq(in.RetryOn, ",") {
		part = strings.TrimSpace(part)
		if n, err := strconv.ParseUint(part, 10, 16); err == nil {
			out.Statuses = append(out.Statuses, r.httpStatus(int64(n), 100, sub(path, "retryOn")))
			continue
		}
		if part == "" {
			continue
		}
		if !slices.Contains(retryConditions, part) {
			r.notOneOf(locate(r.root, sub(path, "retryOn")), sub(path, "retryOn"), part, retryConditions)
		}
		out.On = append(out.On, part)
	}
	return out
}

func (r *reader) fault(in *networking.HTTPFaultInjection, path []any) *waypoint.Fault {
	if in == nil {
		return nil
	}
	out := &waypoint.Fault{}
	if in.Delay == nil && in.Abort == nil {
		r.refuse(path, "there is neither delay nor abort", "add one of them")
	}
	if d := in.Delay; d != nil {
		p := sub(path, "delay")
		switch k := d.HttpDelayType.(type) {
		case *networking.HTTPFaultInjection_Delay_FixedDelay:
			out.Delay = r.duration(k.FixedDelay, sub(p, "fixedDelay"), false)
		default:
			r.refuse(p, "only fixedDelay is possible", "write fixedDelay: 5s")
		}
		out.DelayPerMillion = 1_000_000
		switch {
		case d.Percentage != nil:
			out.DelayPerMillion = r.perMillion(d.Percentage.Value, sub(p, "percentage", "value"))
		case d.Percent != 0: //nolint:staticcheck // people still write it
			out.DelayPerMillion = r.perMillion(float64(d.Percent), sub(p, "percent"))
		}
	}
	if a := in.Abort; a != nil {
		p := sub(path, "abort")
		out.AbortPerMillion = 1_000_000
		if a.Percentage != nil {
			out.AbortPerMillion = r.perMillion(a.Percentage.Value, sub(p, "percentage", "value"))
		}
		switch k := a.ErrorType.(type) {
		case *networking.HTTPFaultInjection_Abort_HttpStatus:
			out.AbortStatus = r.httpStatus(int64(k.HttpStatus), 200, sub(p, "httpStatus"))
		case *networking.HTTPFaultInjection_Abort_GrpcStatus:
			var c codes.Code
			if err := c.UnmarshalJSON([]byte(strconv.Quote(k.GrpcStatus))); err != nil {
				r.refuse(sub(p, "grpcStatus"), fmt.Sprintf("%q is not a gRPC status", clip(k.GrpcStatus)), "write a name like UNAVAILABLE")
			}
			out.AbortGrpcStatus = wrapperspb.UInt32(uint32(c))
		default:
			r.refuse(p, "only httpStatus and grpcStatus are possible", "write httpStatus: 503")
		}
	}
	return out
}

// methods of requests that a CORS policy may name.
var methods = []string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*"}

func (r *reader) cors(in *networking.CorsPolicy, path []any) *waypoint.CORS {
	if in == nil {
		return nil
	}
	out := &waypoint.CORS{
		MaxAge:           r.duration(in.MaxAge, sub(path, "maxAge"), true),
		ForwardUnmatched: in.UnmatchedPreflights != networking.CorsPolicy_IGNORE, // Istio's default forwards
	}
	n := len(in.AllowOrigin) + len(in.AllowOrigins) + len(in.AllowMethods) + len(in.AllowHeaders) + len(in.ExposeHeaders) //nolint:staticcheck // people still write it
	if !r.fewer(n, maxValues, path, "value") {
		return nil
	}
	for i, o := range in.AllowOrigins {
		out.Origins = append(out.Origins, r.valueMatch(o, sub(path, "allowOrigins", i)))
	}
	for _, o := range in.AllowOrigin { //nolint:staticcheck // people still write it
		if o == "*" {
			out.Origins = append(out.Origins, present())
		} else {
			out.Origins = append(out.Origins, exactly(o))
		}
	}
	for i, m := range in.AllowMethods {
		if !slices.Contains(methods, m) {
			r.notOneOf(locate(r.root, sub(path, "allowMethods", i)), sub(path, "allowMethods", i), m, methods)
		}
		out.Methods = append(out.Methods, m)
	}
	out.RequestHeaders = r.corsHeaders(in.AllowHeaders, sub(path, "allowHeaders"))
	out.ExposedHeaders = r.corsHeaders(in.ExposeHeaders, sub(path, "exposeHeaders"))
	if v := in.AllowCredentials; v != nil {
		out.Credentials = wrapperspb.Bool(v.Value)
	}
	return out
}

func (r *reader) corsHeaders(in []string, path []any) []string {
	var out []string
	for i, h := range in {
		if h != "*" {
			h = r.header(h, sub(path, i))
		}
		out = append(out, h)
	}
	return out
}
