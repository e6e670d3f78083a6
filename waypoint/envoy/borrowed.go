package envoy

import (
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
)

// Pods let their waypoint in where they let nobody else in, and do not see for which service it comes. So on a waypoint
// that namespaces share, a service must not lead to pods that are not its namespace's to offer: neither by an
// EndpointSlice that lists them, nor by a ServiceEntry with their addresses that accepts their identity.

// borrowed reports whether an endpoint is a pod of another namespace whose guard would let us in for a service of its own.
func (e *Env) borrowed(d *waypoint.Destination, w *workload.Workload, port uint32) bool {
	if w.GetNamespace() == d.GetNamespace() {
		return false
	}
	var g waypoint.Guards
	if !extension(w, mesh.ExtensionGuards, &g) {
		return false
	}
	o := e.options()
	self := spiffeID(o.TrustDomain, o.Namespace, o.ServiceAccount)
	return slices.ContainsFunc(g.GetGuards(), func(g *waypoint.Guard) bool {
		return !g.GetOpen() && (len(g.GetPorts()) == 0 || slices.Contains(g.GetPorts(), port)) && slices.Contains(g.GetWaypoints(), self)
	})
}

// accepted are the identities a service accepts at the end of a tunnel besides those of its workloads: none of the mesh
// that are of another namespace.
func (e *Env) accepted(svc *workload.Service) []string {
	var out []string
	for _, san := range svc.GetSubjectAltNames() {
		if strings.Contains(san, ",") { // they are written one after the other, with commas
			continue
		}
		if slices.ContainsFunc(e.trustDomains(), func(td string) bool {
			return strings.HasPrefix(san, spiffeScheme+td+"/ns/"+svc.GetNamespace()+"/sa/")
		}) {
			out = append(out, san)
		}
	}
	return out
}
