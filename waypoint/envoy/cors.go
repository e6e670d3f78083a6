package envoy

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// corsConfig says which other origins' pages may call; nil: nothing about it.
func corsConfig(c *waypoint.CORS) (*corsv3.CorsPolicy, error) {
	if c == nil {
		return nil, nil
	}
	out := &corsv3.CorsPolicy{
		AllowMethods:                 strings.Join(c.GetMethods(), ","),
		AllowHeaders:                 strings.Join(c.GetRequestHeaders(), ","),
		ExposeHeaders:                strings.Join(c.GetExposedHeaders(), ","),
		AllowCredentials:             c.GetCredentials(),
		ForwardNotMatchingPreflights: wrapperspb.Bool(c.GetForwardUnmatched()),
	}
	for _, list := range []string{out.AllowMethods, out.AllowHeaders, out.ExposeHeaders} {
		if strings.ContainsAny(list, "\r\n\x00") {
			return nil, fmt.Errorf("CORS: %q has a line break", list)
		}
	}
	for _, origin := range c.GetOrigins() {
		m, err := stringMatcher(origin)
		if err != nil {
			return nil, fmt.Errorf("CORS: origin: %w", err)
		}
		out.AllowOriginStringMatch = append(out.AllowOriginStringMatch, m)
	}
	if c.GetMaxAge() != nil {
		out.MaxAge = strconv.FormatInt(int64(positive(c.GetMaxAge())/time.Second), 10)
	}
	return out, nil
}

// preflights lets a rule with CORS answer the browser's question in advance, which comes with the method OPTIONS and would
// not fit a match on the method it asks about. Fetch standard, CORS-preflight request.
func preflights(rule *waypoint.HTTPRule, drafts []draft) []draft {
	if rule.GetCors() == nil {
		return drafts
	}
	var out []draft
	for _, d := range drafts {
		out = append(out, d)
		for i, h := range d.route.Match.Headers {
			if h.GetName() != ":method" {
				continue
			}
			p := d.clone()
			asked := proto.CloneOf(h)
			asked.Name = "access-control-request-method"
			p.route.Match.Headers[i] = &routev3.HeaderMatcher{
				Name:                 ":method",
				HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: exactString("OPTIONS")},
			}
			p.route.Match.Headers = append(p.route.Match.Headers, asked)
			out = append(out, p)
			break
		}
	}
	return out
}
