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
		if m.GetTo().GetBroken() != "" {
			continue
		}
		backend, err := e.withPort(h, m.GetTo())
		if err != nil {
			problems = append(problems, Problem{Object: h.object(rule), Text: "nothing is mirrored: " + err.Error()})
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
