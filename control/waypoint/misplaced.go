package waypoint

import (
	"fmt"

	"github.com/ambit-mesh/ambit/api/mesh"
	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// Things that are well formed and in the wrong place: what was written for an installation of Istio, for sidecars, or for
// a port where it cannot be.

// istioRoot is where Istio's own installation keeps what is about the whole mesh.
const istioRoot = "istio-system"

// strayMesh reports whether an object is a mesh configuration that nobody reads.
func (m *Model) strayMesh(k object.Key) bool {
	return k.Kind == object.KindConfigMap && k.Name == meshConfigName && k.Namespace == istioRoot && m.cfg.RootNamespace != istioRoot
}

// misplaced warns about what is for the whole mesh in an installation of Istio, and for one namespace here.
func (m *Model) misplaced(rep *model.Report, ns string) {
	if ns == istioRoot && m.cfg.RootNamespace != istioRoot {
		rep.Warn(status.OtherRootNamespace, "metadata.namespace", "what is about the whole mesh is in namespace "+m.cfg.RootNamespace+" here: this is about namespace "+ns+" alone",
			"move it to namespace "+m.cfg.RootNamespace+", or have it read there: control.rootNamespace="+istioRoot+" among the values of a cluster, ambitd --root-namespace="+istioRoot+" without one")
	}
}

// reportSelector warns about a choice by labels, which only gateways at the edge answer to. One that names their own
// labels knows that.
func reportSelector(rep *model.Report, s object.Selector) {
	if !s.Present {
		return
	}
	for _, l := range []string{mesh.LabelGatewayName, mesh.LabelGatewayClassName} {
		if _, ok := s.Labels.Lookup(l); ok {
			return
		}
	}
	rep.Warn(status.WithoutEffect, "spec.selector", "labels choose gateways at the edge alone: applications have no proxy of their own, and waypoints are not chosen so",
		"name the Service or the waypoint's Gateway in targetRefs")
}

// reportPortKind warns about a route for requests on ports where there are none.
func (r *reader) reportPortKind(rep *model.Report, o object.Object, p object.ParentRef, k object.Key, field string) {
	switch o.Key().Kind {
	case object.KindHTTPRoute, object.KindGRPCRoute:
	default:
		return
	}
	asked := 0
	for _, port := range r.ports(k) {
		if p.Port != 0 && port.Number != uint32(p.Port) {
			continue
		}
		asked++
		if port.Protocol != facts.Protocol_TCP && port.Protocol != facts.Protocol_TLS {
			return
		}
	}
	if asked > 0 {
		rep.Warn(status.RouteNotCarriedOut, field, fmt.Sprintf("what %s takes there is not read as requests, by its port's name or appProtocol: the route has no effect", k),
			"name the port http-… or grpc-…, or set its appProtocol, or write a TCPRoute or TLSRoute")
	}
}
