package envoy

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
)

// extension reads what the control plane attached to a workload under a name.
func extension(w *workload.Workload, name string, into proto.Message) bool {
	for _, x := range w.GetExtensions() {
		if x.GetName() == name {
			return x.GetConfig().UnmarshalTo(into) == nil
		}
	}
	return false
}

// guarded says whether a workload refuses us what is for the service: only waypoints other than us may bring it.
func guarded(w *workload.Workload, service, self string) bool {
	var g waypoint.Guards
	if !extension(w, mesh.ExtensionGuards, &g) {
		return false
	}
	return slices.ContainsFunc(g.GetGuards(), func(g *waypoint.Guard) bool {
		return g.GetService() == service && !g.GetOpen() && len(g.GetWaypoints()) > 0 && !slices.Contains(g.GetWaypoints(), self)
	})
}
