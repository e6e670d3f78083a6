package model

import (
	"strings"

	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/object"
)

// IsWaypoint tells waypoints from gateways that stand at the edge of the mesh. class may be nil.
func IsWaypoint(g *object.Gateway, class *object.GatewayClass) bool { return isWaypoint(g, class) }

// IsEdge reports whether a Gateway is one of this mesh at its edge.
func IsEdge(g *object.Gateway, class *object.GatewayClass) bool {
	return !isWaypoint(g, class) && (g.Class == "istio" || class != nil && class.Controller == controllerIngress)
}

// Accounts are the service accounts, of its own namespace, that the proxies of a Gateway have or are to have. ok is false
// when there is no such Gateway.
func (m *Model) Accounts(namespace, name string) (accounts []string, ok bool) {
	w := m.waypoints[gatewayName{namespace, name}]
	if w == nil || w.obj == nil {
		return nil, false
	}
	prefix := m.spiffe(namespace, "")
	for _, id := range m.identities(w, w.accounts()) {
		accounts = append(accounts, strings.TrimPrefix(id, prefix))
	}
	return accounts, true
}

// PortProtocol is the protocol of a Service's port: as said, else by the prefix of its name.
func PortProtocol(p object.ServicePort) workload.AppProtocol { return appProtocol(p) }

// NamedProtocol reads a protocol as Istio spells it.
func NamedProtocol(s string) workload.AppProtocol { return protocolNamed(s) }
