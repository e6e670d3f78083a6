package envoy

import (
	"strconv"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	previousprioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

const (
	defaultAttempts = 2
	// onIdempotent are conditions under which a request may be sent again that does no more the second time. An endpoint that
	// died behind its tunnel looks like a connection that broke: nothing but "reset" covers it, and it cannot tell a request
	// that was never seen from one that was carried out.
	onIdempotent = "reset,connect-failure,refused-stream"
	// onAny are those under which the request was certainly not carried out.
	onAny = "connect-failure,refused-stream"
	// onGRPC adds what a gRPC server says of itself. Istio pilot/pkg/networking/core/route/retry DefaultPolicy.
	onGRPC = onAny + ",unavailable,cancelled"
	// idempotentMethods: RFC 9110 §9.2.2, without TRACE, which nothing here forwards.
	idempotentMethods = "GET|HEAD|OPTIONS|PUT|DELETE"
	onStatuses        = "retriable-status-codes"
)

// retryOn are Envoy's conditions. Router filter documentation, x-envoy-retry-on and x-envoy-retry-grpc-on.
var retryOn = map[string]bool{
	"5xx": true, "gateway-error": true, "reset": true, "reset-before-request": true, "connect-failure": true,
	"envoy-ratelimited": true, "retriable-4xx": true, "refused-stream": true, onStatuses: true,
	"retriable-headers": true, "http3-post-connect-failure": true,
	"cancelled": true, "deadline-exceeded": true, "internal": true, "resource-exhausted": true, "unavailable": true,
}

// retryVariant is a retry policy and the requests it is for.
type retryVariant struct {
	policy *routev3.RetryPolicy
	// grpc: calls of gRPC only.
	grpc bool
	// idempotent: requests that may be sent twice only.
	idempotent bool
}

// retries are the policies of a rule, one of which fits every request; none: no retries.
func (e *Env) retries(h hostRoutes, rule *waypoint.HTTPRule) ([]retryVariant, []Problem) {
	retry := rule.GetRetry()
	if retry == nil {
		retry = e.defaultRetry(h)
	}
	perTry := shortest(positive(retry.GetPerTryTimeout()), positive(rule.GetBackendTimeout()))
	if retry.GetAttempts() == 0 {
		if perTry == 0 {
			return nil, nil
		}
		// One try, but not a longer one.
		return []retryVariant{{policy: &routev3.RetryPolicy{NumRetries: uint32Value(0), PerTryTimeout: durationpb.New(perTry)}}}, nil
	}
	on, statuses, unknown := conditions(retry)
	var problems []Problem
	for _, name := range unknown {
		problems = append(problems, Problem{
			Object: h.object(rule),
			Text:   "retry condition " + strconv.Quote(name) + " is unknown and left out: use Envoy's names or status codes",
		})
	}
	base := func(on string) *routev3.RetryPolicy {
		if len(statuses) > 0 && !strings.Contains(on, onStatuses) {
			on += "," + onStatuses
		}
		return retryPolicy(retry, on, statuses, perTry)
	}
	switch {
	case len(on) > 0:
		return []retryVariant{{policy: base(strings.Join(on, ","))}}, problems
	case len(unknown) > 0 && len(statuses) == 0:
		// What was asked for is not known; something else was not asked for.
		return nil, problems
	case len(statuses) > 0:
		return []retryVariant{{policy: base(onIdempotent), idempotent: true}, {policy: base(onGRPC)}}, problems
	}
	return defaultVariants(h.protocol, base), problems
}

// defaultVariants: calls of gRPC are POST requests and have conditions of their own.
func defaultVariants(p waypoint.Protocol, base func(string) *routev3.RetryPolicy) []retryVariant {
	grpc := retryVariant{policy: base(onGRPC)}
	if p == waypoint.Protocol_GRPC {
		return []retryVariant{grpc}
	}
	http := retryVariant{policy: base(onIdempotent)}
	http.policy.RetriableRequestHeaders = []*routev3.HeaderMatcher{methodsMatcher()}
	if p == waypoint.Protocol_HTTP1 {
		return []retryVariant{http}
	}
	grpc.grpc = true
	return []retryVariant{grpc, http}
}

// defaultRetry is for rules that say nothing: of the service, of the gateway, of the mesh, or our own.
func (e *Env) defaultRetry(h hostRoutes) *waypoint.Retry {
	for i := len(h.target.policies) - 1; i >= 0; i-- {
		if r := h.target.policies[i].GetDefaultRetry(); r != nil {
			return r
		}
	}
	if r := e.Gateway.GetMesh().GetDefaultRetry(); r != nil {
		return r
	}
	return &waypoint.Retry{Attempts: defaultAttempts}
}

// conditions sorts what a retry is on: names, status codes, and what is neither.
func conditions(r *waypoint.Retry) (on []string, statuses []uint32, unknown []string) {
	status := func(n uint64) bool {
		if n < 100 || n > 599 {
			return false
		}
		statuses = append(statuses, uint32(n))
		return true
	}
	for _, s := range r.GetStatuses() {
		if !status(uint64(s)) {
			unknown = append(unknown, strconv.FormatUint(uint64(s), 10))
		}
	}
	for _, list := range r.GetOn() {
		for _, name := range strings.Split(list, ",") {
			name = strings.ToLower(strings.TrimSpace(name))
			n, err := strconv.ParseUint(name, 10, 32)
			switch {
			case name == "":
			case retryOn[name]:
				on = append(on, name)
			case err != nil || !status(n):
				unknown = append(unknown, name)
			}
		}
	}
	return on, statuses, unknown
}

func retryPolicy(r *waypoint.Retry, on string, statuses []uint32, perTry time.Duration) *routev3.RetryPolicy {
	p := &routev3.RetryPolicy{
		RetryOn:              on,
		NumRetries:           uint32Value(r.GetAttempts()),
		RetriableStatusCodes: statuses,
		// Not where it just failed. The least loaded endpoint is picked, and a dead one has no load: it comes up three times
		// out of four, and more than a few picks are needed to miss it.
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name: "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{
				TypedConfig: toAny(&previoushostsv3.PreviousHostsPredicate{}),
			},
		}},
		HostSelectionRetryMaxAttempts: 20,
	}
	if perTry > 0 {
		p.PerTryTimeout = durationpb.New(perTry)
	}
	if backoff := positive(r.GetBackoff()); backoff > 0 {
		backoff = max(backoff, time.Millisecond)
		p.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{
			BaseInterval: durationpb.New(backoff),
			MaxInterval:  durationpb.New(min(10*backoff, longest)),
		}
	}
	if r.GetRemoteLocalities().GetValue() {
		p.RetryPriority = &routev3.RetryPolicy_RetryPriority{
			Name: "envoy.retry_priorities.previous_priorities",
			ConfigType: &routev3.RetryPolicy_RetryPriority_TypedConfig{
				TypedConfig: toAny(&previousprioritiesv3.PreviousPrioritiesConfig{UpdateFrequency: 2}),
			},
		}
	}
	return p
}

// withRetries gives drafts their retry policy; where it depends on the request they are doubled, the narrower first.
func withRetries(variants []retryVariant, drafts []draft) []draft {
	if len(variants) == 0 {
		return drafts
	}
	var out []draft
	for _, d := range drafts {
		if d.route.GetRoute() == nil {
			out = append(out, d)
			continue
		}
		for i, v := range variants {
			already := d.route.Match.Grpc != nil
			if already && !v.grpc && i < len(variants)-1 {
				continue
			}
			c := d
			if i < len(variants)-1 && !(already && v.grpc) {
				c = d.clone()
			}
			if v.grpc {
				c.route.Match.Grpc = &routev3.RouteMatch_GrpcRouteMatchOptions{}
			}
			if v.idempotent {
				c.route.Match.Headers = append(c.route.Match.Headers, methodsMatcher())
			}
			c.route.GetRoute().RetryPolicy = v.policy
			out = append(out, c)
			if already && v.grpc {
				break
			}
		}
	}
	return out
}

func methodsMatcher() *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{
		Name:                 ":method",
		HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: constantRegex(idempotentMethods)},
	}
}

// shortest of two limits, of which 0 is none.
func shortest(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
