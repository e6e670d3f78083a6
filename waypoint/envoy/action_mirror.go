package envoy

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// mirrors are where copies of requests go. A mirror that leads nowhere is left out: the requests themselves are fine.
func (e *Env) mirrors(h hostRoutes, rule *waypoint.HTTPRule) ([]*routev3.RouteAction_RequestMirrorPolicy, []Problem) {
	var out []*routev3.RouteAction_RequestMirrorPolicy
	var problems []Problem
	for _, m := range rule.GetMirrors() {
		if m.GetPerMillion() != nil && m.GetPerMillion().GetValue() == 0 {
			continue
		}
		backend, reason := m.GetTo(), m.GetTo().GetBroken()
		if reason == "" {
			var err error
			if backend, err = e.withPort(h, backend); err != nil {
				reason = err.Error()
			}
		}
		if reason != "" {
			problems = append(problems, Problem{Object: h.object(rule), Text: "nothing is mirrored: " + reason})
			continue
		}
		policy := &routev3.RouteAction_RequestMirrorPolicy{Cluster: e.clusterName(backend, kindHTTP)}
		if m.GetPerMillion() != nil {
			policy.RuntimeFraction = &corev3.RuntimeFractionalPercent{DefaultValue: perMillion(m.GetPerMillion().GetValue())}
		}
		out = append(out, policy)
	}
	return out, problems
}
