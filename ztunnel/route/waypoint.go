package route

import (
	"net/netip"

	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// waypointOf returns the waypoint a connection to a service goes through: one of the weighted ones by chance, else the
// one; nil when there is none.
func (r *router) waypointOf(svc *state.Service) *state.Gateway {
	var total uint64
	for _, w := range svc.Waypoints {
		total += uint64(w.Weight)
	}
	if total == 0 {
		return svc.Waypoint
	}
	n := r.rng.n(total)
	for i := range svc.Waypoints {
		w := &svc.Waypoints[i]
		if n < uint64(w.Weight) {
			return &w.Gateway
		}
		n -= uint64(w.Weight)
	}
	return svc.Waypoint
}

// hop is one instance of a gateway.
type hop struct {
	workload *state.Workload
	service  *state.Service // when the gateway is named by one
	addr     netip.Addr     // when the gateway is named by a pod's address
	port     uint16
}

// gateway finds an instance of a waypoint. A waypoint that is configured but missing is an error: going around it would go
// around its policy. One that is ending, or not ready, is tried when there is no other: it still serves, or it refuses, but
// it never lets anybody past a policy. kube-proxy does so with endpoints that end (KEP-1669).
func (r *router) gateway(g *state.Gateway) (hop, error) {
	svc, w := gatewayTarget(r.s, g)
	switch {
	case w != nil:
		return hop{workload: w, addr: g.Addr.Addr, port: g.Port}, nil
	case svc == nil:
		return hop{}, telemetry.Fail(telemetry.UnknownWaypoint, "unknown waypoint: "+gatewayName(g), nil)
	}
	want := wanted{port: g.Port, waypoint: true}
	e := r.pick(svc, want)
	if e == nil {
		last := want
		last.anyHealth = true
		e = r.pick(svc, last)
	}
	if e == nil {
		return hop{}, telemetry.Fail(telemetry.NoWaypointEndpoint, "no healthy upstream: waypoint "+gatewayName(g)+": "+r.unusable(svc, want), nil)
	}
	port, _ := want.target(svc, e)
	return hop{workload: e.Workload, service: svc, port: port}, nil
}

// gatewayTarget finds what a gateway names: a service, or one workload.
func gatewayTarget(s *state.Snapshot, g *state.Gateway) (*state.Service, *state.Workload) {
	if g.Hostname != "" {
		return s.Service(g.Namespace, g.Hostname), nil
	}
	if w := s.WorkloadAt(g.Addr); w != nil {
		return nil, w
	}
	// A gateway's VIP is nobody's own choice, so neither namespace nor visibility matters.
	for svc := range s.ServicesAt(g.Addr) {
		return svc, nil
	}
	return nil, nil
}

func gatewayName(g *state.Gateway) string {
	if g.Hostname != "" {
		return g.Namespace + "/" + g.Hostname
	}
	return g.Addr.String()
}

// FromWaypoint reports whether a connection to a workload comes from the workload's own waypoint: the peer runs as the
// waypoint's identity, and its address is that of one of the waypoint's instances. Without the address a pod that shares
// the waypoint's service account could go around it. istio/ztunnel src/proxy.rs check_from_waypoint.
func FromWaypoint(s *state.Snapshot, w *state.Workload, network string, peer identity.ID, addr netip.Addr) bool {
	if w.Waypoint == nil || peer.IsZero() {
		return false
	}
	src := s.WorkloadAt(state.NetAddr{Network: network, Addr: state.Unmapped(addr)})
	return src != nil && src.Identity() == peer && isInstance(s, w.Waypoint, src)
}

// isInstance reports whether a workload is one of the pods behind a gateway.
func isInstance(s *state.Snapshot, g *state.Gateway, w *state.Workload) bool {
	svc, pod := gatewayTarget(s, g)
	if pod != nil {
		return pod.UID == w.UID
	}
	return svc != nil && w.Endpoint(svc.Key()) != nil
}
