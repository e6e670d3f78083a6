package daemon

import (
	"github.com/ambit-mesh/ambit/control/gateways"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
)

// report hands what the mesh made of a Gateway to who writes its status. Whether it runs, and so is programmed, is for
// them to say: only what keeps a listener from that is passed on.
func (g *gatewayRunner) report(of object.Key, r model.Report) {
	if g == nil {
		return
	}
	out := gateways.Report{Namespace: of.Namespace, Name: of.Name, ListenerSets: r.Sets}
	for _, c := range r.Conditions {
		if c.Type != "Programmed" && c.Type != "Accepted" {
			out.Conditions = append(out.Conditions, gateways.Condition{Type: c.Type, True: c.Status, Reason: c.Reason, Message: c.Message})
		}
	}
	for _, l := range r.Listeners {
		// Kinds that are known to be none are not the usual ones.
		lr := gateways.ListenerReport{Name: l.Name, AttachedRoutes: l.Attached, SupportedKinds: []gateways.RouteKind{}}
		for _, k := range l.Kinds {
			lr.SupportedKinds = append(lr.SupportedKinds, gateways.RouteKind{Group: "gateway.networking.k8s.io", Kind: k})
		}
		for _, c := range l.Conditions {
			if c.Type != "Programmed" || !c.Status {
				lr.Conditions = append(lr.Conditions, gateways.Condition{Type: c.Type, True: c.Status, Reason: c.Reason, Message: c.Message})
			}
		}
		out.Listeners = append(out.Listeners, lr)
	}
	g.reconciler.Report(out)
}
