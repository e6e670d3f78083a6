package model

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/object"
)

// waypointFact reads a Gateway as a waypoint.
func (m *Model) waypointFact(w *waypoint) waypointFact {
	f := waypointFact{traffic: "service"}
	g := w.obj
	f.accounts = w.accounts()
	f.identities = m.identities(w, f.accounts)
	if g == nil {
		f.why = "there is no such Gateway"
		return f
	}
	var classLabels, classAnnotations object.Labels
	class := m.classes[g.Class]
	if class != nil {
		classLabels, classAnnotations = class.Labels, class.Annotations
	}
	if !isWaypoint(g, class) {
		f.why = "its class " + strconv.Quote(g.Class) + " is not one for waypoints; use " + mesh.GatewayClassWaypoint
		return f
	}
	f.isWaypoint = true
	f.traffic = firstLabel(g.Labels, firstLabel(classLabels, "service", mesh.LabelWaypointFor), mesh.LabelWaypointFor)
	f.services = f.traffic == "service" || f.traffic == "all"
	f.workload = f.traffic == "workload" || f.traffic == "all"
	if v, ok := firstOf(mesh.AnnotationInboundBinding, g.Annotations, classAnnotations); ok {
		f.tunnel = inboundBinding(v)
	}
	f.from, f.selector = attachment(g, f.tunnel)
	f.address = m.gatewayAddress(g)
	f.ready = f.address != nil
	if !f.ready {
		f.why = "its status has no address yet: are its pods running?"
	}
	return f
}

// accounts are the service accounts of the pods that are instances of the waypoint.
func (w *waypoint) accounts() []string {
	var names []string
	if w.sel == nil {
		return nil
	}
	for g := range w.sel.groups {
		for s := range g.members {
			if p, ok := s.obj.(*object.Pod); ok && !slices.Contains(names, p.ServiceAccount) {
				names = append(names, p.ServiceAccount)
			}
		}
	}
	slices.Sort(names)
	return names
}

// touchInstances marks the waypoints a pod is an instance of: its account is theirs.
func (m *Model) touchInstances(s *source) {
	if s.group == nil {
		return
	}
	for _, sel := range s.group.matches {
		if w, ok := sel.owner.(*waypoint); ok {
			m.dirty.waypoints.add(w)
		}
	}
}

func firstOf(key string, from ...object.Labels) (string, bool) {
	for _, l := range from {
		if v, ok := l.Lookup(key); ok {
			return v, true
		}
	}
	return "", false
}

// isWaypoint tells waypoints from gateways that stand at the edge of the mesh.
func isWaypoint(g *object.Gateway, class *object.GatewayClass) bool {
	switch g.Class {
	case mesh.GatewayClassWaypoint:
		return true
	case mesh.GatewayClassEastWest, mesh.GatewayClassIngress:
		return false
	}
	if class != nil {
		if class.Controller == controllerWaypoint || class.Labels.Has(mesh.LabelWaypointFor) || class.Annotations.Has(mesh.AnnotationInboundBinding) {
			return true
		}
	}
	return g.Labels.Has(mesh.LabelWaypointFor) || g.Annotations.Has(mesh.AnnotationInboundBinding) ||
		slices.ContainsFunc(g.Listeners, func(l object.Listener) bool { return l.Protocol == "HBONE" })
}

// Controllers whose Gateways and rendered objects never have a waypoint themselves.
const (
	controllerWaypoint = "istio.io/mesh-controller"
	controllerIngress  = "istio.io/gateway-controller"
	managedWaypoint    = "istio.io-mesh-controller"
	managedEastWest    = "istio.io-eastwest-controller"
)

// inboundBinding reads PROTOCOL or PROTOCOL/PORT; nil when it is neither.
func inboundBinding(v string) *workload.ApplicationTunnel {
	proto, port, hasPort := strings.Cut(v, "/")
	t := &workload.ApplicationTunnel{}
	switch proto {
	case "NONE":
	case "PROXY":
		t.Protocol = workload.ApplicationTunnel_PROXY
	default:
		return nil
	}
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil
		}
		t.Port = uint32(n)
	}
	return t
}

// attachment is who may attach: what the listener that takes mesh traffic says.
func attachment(g *object.Gateway, tunnel *workload.ApplicationTunnel) (object.RouteNamespaces, object.LabelSelector) {
	pick := func(match func(*object.Listener) bool) *object.Listener {
		for i := range g.Listeners {
			if match(&g.Listeners[i]) {
				return &g.Listeners[i]
			}
		}
		return nil
	}
	var l *object.Listener
	switch {
	case tunnel.GetPort() != 0:
		l = pick(func(l *object.Listener) bool { return uint32(l.Port) == tunnel.Port })
	case tunnel.GetProtocol() == workload.ApplicationTunnel_PROXY:
		l = pick(func(l *object.Listener) bool { return l.Protocol == "istio.io/PROXY" })
	}
	if l == nil {
		l = pick(func(l *object.Listener) bool { return l.Protocol == "HBONE" && l.Port == mesh.PortHBONE })
	}
	if l == nil {
		return object.FromSame, object.LabelSelector{}
	}
	return l.From, l.FromSelector
}

// gatewayAddress is where a waypoint is reached. A hostname outlives the addresses behind it, so it is preferred.
func (m *Model) gatewayAddress(g *object.Gateway) *workload.GatewayAddress {
	for _, a := range g.Status {
		if a.Kind == object.AddressHostname && a.Value != "" {
			return &workload.GatewayAddress{
				Destination: &workload.GatewayAddress_Hostname{
					Hostname: &workload.NamespacedHostname{Namespace: g.Namespace, Hostname: a.Value},
				},
				HboneMtlsPort: mesh.PortHBONE,
			}
		}
	}
	for _, a := range g.Status {
		if ip, err := netip.ParseAddr(a.Value); err == nil && a.Kind == object.AddressIP {
			return &workload.GatewayAddress{
				Destination: &workload.GatewayAddress_Address{
					Address: &workload.NetworkAddress{Network: m.network, Address: rawAddress(ip)},
				},
				HboneMtlsPort: mesh.PortHBONE,
			}
		}
	}
	return nil
}
