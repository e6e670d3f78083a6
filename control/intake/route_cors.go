package intake

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// corsOrigin is the form of an origin, from the CRD.
var corsOrigin = regexp.MustCompile(`^https?://((\*\.)?([a-zA-Z0-9-]+\.)*[a-zA-Z0-9-]+|\*)(:[0-9]{1,5})?$`)

func (r *reader) routeCORS(in *gatewayv1.HTTPCORSFilter, path []any) *waypoint.CORS {
	out := &waypoint.CORS{MaxAge: durationpb.New(5 * time.Second)}
	if nodeAt(r.root, sub(path, "maxAge")) != nil || in.MaxAge != 0 {
		if in.MaxAge < 1 {
			r.refuse(sub(path, "maxAge"), fmt.Sprintf("%d is not a number of seconds", in.MaxAge), "write 1 or more")
		}
		out.MaxAge = durationpb.New(time.Duration(in.MaxAge) * time.Second)
	}
	if in.AllowCredentials != nil {
		out.Credentials = wrapperspb.Bool(*in.AllowCredentials)
	}
	r.fewer(len(in.AllowOrigins), 64, sub(path, "allowOrigins"), "origin")
	r.fewer(len(in.AllowMethods), 9, sub(path, "allowMethods"), "method")
	r.fewer(len(in.AllowHeaders), 64, sub(path, "allowHeaders"), "header")
	r.fewer(len(in.ExposeHeaders), 64, sub(path, "exposeHeaders"), "header")
	for i, o := range in.AllowOrigins {
		out.Origins = append(out.Origins, r.origin(string(o), len(in.AllowOrigins), sub(path, "allowOrigins", i)))
	}
	for i, m := range in.AllowMethods {
		r.oneOf(string(m), sub(path, "allowMethods", i), methods...)
		if m == "*" && len(in.AllowMethods) > 1 {
			r.refuse(sub(path, "allowMethods", i), `"*" stands alone`, "remove the others")
		}
		out.Methods = append(out.Methods, string(m))
	}
	for i, h := range in.AllowHeaders {
		if h == "*" && len(in.AllowHeaders) > 1 {
			r.refuse(sub(path, "allowHeaders", i), `"*" stands alone`, "remove the others")
		}
	}
	out.RequestHeaders = r.corsHeaders(texts(in.AllowHeaders), sub(path, "allowHeaders"))
	out.ExposedHeaders = r.corsHeaders(texts(in.ExposeHeaders), sub(path, "exposeHeaders"))
	return out
}

func texts[S ~string](in []S) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = string(s)
	}
	return out
}

// origin converts an origin of a CORS filter; a star stands for any host, or for parts before a domain.
func (r *reader) origin(s string, of int, path []any) *waypoint.StringMatch {
	if s == "*" {
		if of > 1 {
			r.refuse(path, `"*" stands alone`, "remove the others")
		}
		return present()
	}
	if !corsOrigin.MatchString(s) {
		r.refuse(path, fmt.Sprintf("%q is not an origin", clip(s)), "write it like https://example.com or https://*.example.com")
		return exactly(s)
	}
	if !strings.Contains(s, "*") {
		return exactly(s)
	}
	scheme, rest, _ := strings.Cut(s, "://")
	host, port, hasPort := strings.Cut(rest, ":")
	exp := regexp.QuoteMeta(scheme) + "://"
	if host == "*" {
		exp += `[^/:]+`
	} else {
		exp += `[^/:]+` + regexp.QuoteMeta(host[1:])
	}
	if n, err := strconv.Atoi(port); hasPort && err == nil {
		exp += ":" + strconv.Itoa(n)
	}
	return expression(exp)
}
