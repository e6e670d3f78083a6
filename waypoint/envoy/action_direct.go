package envoy

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// headerReason says in a response why the waypoint, and not the application, gave it.
const headerReason = "x-ambit-reason"

// direct answers by itself.
func direct(a *waypoint.DirectResponse, drafts []draft) error {
	if a.GetStatus() < 200 || a.GetStatus() > 599 {
		return fmt.Errorf("a direct response with status %d: use 200 to 599", a.GetStatus())
	}
	if len(a.GetBody()) > maxDirectBody {
		return fmt.Errorf("a direct response with a body of %d bytes: use at most %d", len(a.GetBody()), maxDirectBody)
	}
	for _, d := range drafts {
		response := &routev3.DirectResponseAction{Status: a.GetStatus()}
		if len(a.GetBody()) > 0 {
			response.Body = &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: a.GetBody()}}
		}
		d.route.Action = &routev3.Route_DirectResponse{DirectResponse: response}
	}
	return nil
}

// refuse answers in the place of a rule that cannot be carried out. Calls of gRPC get the status that asks callers to
// come back: Envoy makes UNAVAILABLE of 503 and UNKNOWN of 500. Gateway API GRPCRouteRule backendRefs.
func refuse(drafts []draft, status uint32, reason string) []*routev3.Route {
	if status < 200 || status > 599 {
		status = 500
	}
	var out []*routev3.Route
	for _, d := range drafts {
		if status == 500 {
			grpc := proto.CloneOf(d.route)
			grpc.Match.Grpc = &routev3.RouteMatch_GrpcRouteMatchOptions{}
			setRefusal(grpc, 503, reason, reason)
			out = append(out, grpc)
		}
		r := proto.CloneOf(d.route)
		setRefusal(r, status, reason, reason)
		out = append(out, r)
	}
	return out
}

func setRefusal(r *routev3.Route, status uint32, reason, body string) {
	r.Action = &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
		Status: status,
		Body: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{
			InlineString: clip(body, maxReason) + "\n",
		}},
	}}
	r.ResponseHeadersToAdd = []*corev3.HeaderValueOption{reasonHeader(reason)}
}

// maxReason keeps reasons short enough for a header.
const maxReason = 240

func reasonHeader(reason string) *corev3.HeaderValueOption {
	return setHeader(headerReason, escapeFormat(printable(clip(reason, maxReason))))
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	// Back to the start of a character: Envoy takes no text that is not UTF-8.
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}

// printable leaves only what a header value may have. RFC 9110 §5.5.
func printable(s string) string {
	out := make([]byte, 0, len(s))
	for _, c := range []byte(s) {
		if c < 0x20 || c > 0x7e {
			c = '?'
		}
		out = append(out, c)
	}
	return string(out)
}
