package route

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/authz"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// Request is one outbound connection.
type Request struct {
	Source     *state.Workload // the pod that dials
	SourceAddr netip.Addr      // its address on this connection
	Dst        netip.AddrPort  // the address it dialed
	Network    string          // the network this proxy is on
	// PreferredNamespace wins among services that share a VIP, after the client's own namespace and the canonical one.
	PreferredNamespace string
	// Avoid lists uids of workloads that were tried for this connection and could not be reached.
	Avoid []string
}

// Kind is how a connection is carried.
type Kind uint8

const (
	// Passthrough goes to the address that was dialed, untouched.
	Passthrough Kind = iota
	// Plain goes to a chosen workload without a tunnel.
	Plain
	// HBONE goes through an HTTP/2 CONNECT tunnel over mutual TLS.
	HBONE
)

// String returns "passthrough", "plain" or "hbone".
func (k Kind) String() string { return [...]string{"passthrough", "plain", "hbone", "?"}[k&3] }

// Decision is where an outbound connection goes.
type Decision struct {
	Kind Kind
	// Addr is the socket address to dial. While Resolve is set its IP is missing.
	Addr netip.AddrPort
	// Authority is what the CONNECT request asks for: the address as the application dialed it when Addr is a waypoint, the
	// workload's own otherwise. Empty unless Kind is HBONE.
	Authority string
	// Accept lists the identities the other end of the tunnel may have.
	Accept []identity.ID
	// Workload is what Addr belongs to: the endpoint, or the waypoint's pod. Nil for Passthrough.
	Workload *state.Workload
	// Service is the service that was dialed, if it was one.
	Service *state.Service
	// Waypoint says that the tunnel ends at a waypoint and not at the workload itself.
	Waypoint bool
	// Bypass says that the connection goes around a waypoint: the owner of the destination accepts that, or it is why there
	// is an error.
	Bypass authz.Passage
	// Resolve, when set, is a hostname the caller must resolve first, and give to Resolved.
	Resolve string

	families state.Families
	prefer6  bool
	target   uint16
}

// Rand returns a number in [0, n). Nil stands for math/rand.
type Rand func(n uint64) uint64

func (r Rand) n(n uint64) uint64 {
	if r == nil {
		return rand.Uint64N(n)
	}
	return r(n)
}

// OwnPorts are the ports of the proxy itself inside a pod; nobody may be sent to them.
var ownPorts = [...]uint16{mesh.PortHBONE, mesh.PortInboundPlaintext, mesh.PortOutbound, mesh.PortSOCKS5}

func ownPort(port uint16) bool { return slices.Contains(ownPorts[:], port) }

// Outbound decides where a connection of a pod goes. An error is always a *telemetry.Error.
//
// The order of the cases is that of istio/ztunnel src/proxy/outbound.rs build_request.
func Outbound(s *state.Snapshot, req Request, rng Rand) (Decision, error) {
	if req.Source == nil {
		return Decision{}, telemetry.Fail(telemetry.UnknownSource, "unknown source: "+req.SourceAddr.String(), nil)
	}
	req.Dst = netip.AddrPortFrom(state.Unmapped(req.Dst.Addr()), req.Dst.Port())
	r := router{s: s, req: req, rng: rng}
	dst := req.Dst.Addr()
	if ownPort(req.Dst.Port()) && (dst.IsLoopback() || req.Source.HasAddr(dst)) {
		return Decision{}, telemetry.Fail(telemetry.SelfCall, "attempted recursive call to ourselves: "+req.Dst.String(), nil)
	}
	at := state.NetAddr{Network: req.Network, Addr: dst}
	if w := s.WorkloadAt(at); w != nil {
		return r.toWorkload(w)
	}
	if svc := state.Best(s.ServicesAt(at), req.Source.Namespace, req.PreferredNamespace); svc != nil {
		return r.toService(svc)
	}
	return Decision{Kind: Passthrough, Addr: req.Dst}, nil
}

type router struct {
	s   *state.Snapshot
	req Request
	rng Rand
}

// toWorkload carries a connection to a pod that was dialed by its own address.
func (r *router) toWorkload(w *state.Workload) (Decision, error) {
	if w.Waypoint != nil && !FromWaypoint(r.s, w, r.req.Network, r.req.Source.Identity(), r.req.SourceAddr) {
		return r.viaWaypoint(w.Waypoint, nil)
	}
	d := Decision{Workload: w, target: r.req.Dst.Port()}
	if err := r.guard(&d, endGuards(w), d.target); err != nil {
		return Decision{Bypass: d.Bypass}, err
	}
	return d.seal(r.req.Dst.Addr()), nil
}

// endGuards are the guards of a workload that nobody else would enforce: the proxy of a workload in the mesh asks them itself.
func endGuards(w *state.Workload) *state.Guards {
	if w.Tunnel == state.HBONE {
		return nil
	}
	return w.Guards
}

// guard refuses a connection that would go around a waypoint to something outside the mesh.
func (r *router) guard(d *Decision, g *state.Guards, ports ...uint16) error {
	for _, port := range ports {
		p := authz.Guard(g, r.req.Source.Identity(), port)
		if p.Guard != nil {
			d.Bypass = p
		}
		if err := p.Error(); err != nil {
			return err
		}
	}
	return nil
}

// toService carries a connection to a service. The workload's own waypoint is never asked here: whoever dials a service
// gets the service's waypoint or none.
func (r *router) toService(svc *state.Service) (Decision, error) {
	if g := r.waypointOf(svc); g != nil {
		return r.viaWaypoint(g, svc)
	}
	d := Decision{Service: svc}
	port := r.req.Dst.Port()
	ports := []uint16{port}
	if p, ok := svc.Port(port); ok && p.Target != 0 && p.Target != port {
		ports = append(ports, p.Target)
	}
	if err := r.guard(&d, svc.Guards, ports...); err != nil {
		return Decision{Bypass: d.Bypass}, err
	}
	if svc.Mode == state.Passthrough {
		d.Kind, d.Addr = Passthrough, r.req.Dst
		return d, nil
	}
	want := wanted{port: port}
	e := r.pick(svc, want)
	if e == nil {
		return Decision{}, telemetry.Fail(telemetry.NoHealthyUpstream, "no healthy upstream: "+svc.Hostname+": "+r.unusable(svc, want), nil)
	}
	d.Workload, d.families, d.prefer6 = e.Workload, svc.Families, r.req.Dst.Addr().Is6()
	d.target, _ = want.target(svc, e)
	if err := r.guard(&d, endGuards(d.Workload), d.target); err != nil {
		return Decision{Bypass: d.Bypass}, err
	}
	return r.reach(d)
}

// viaWaypoint carries a connection to one endpoint of a waypoint, which asked for the address that was dialed finds the
// rest of the way itself.
func (r *router) viaWaypoint(g *state.Gateway, svc *state.Service) (Decision, error) {
	wp, err := r.gateway(g)
	if err != nil {
		return Decision{}, err
	}
	d := Decision{Workload: wp.workload, Service: svc, Waypoint: true, Kind: HBONE, Authority: r.req.Dst.String(), prefer6: r.req.Dst.Addr().Is6()}
	d.Accept = accept(wp.workload, wp.service)
	d.target = wp.port
	if wp.workload.Network != r.req.Network {
		return Decision{}, otherNetwork(wp.workload)
	}
	if wp.addr.IsValid() {
		d.Addr = netip.AddrPortFrom(wp.addr, wp.port)
		return d, nil
	}
	if wp.service != nil {
		d.families = wp.service.Families
	}
	return r.reach(d)
}

// reach chooses the address of the decision's workload.
func (r *router) reach(d Decision) (Decision, error) {
	w := d.Workload
	if w.Network != r.req.Network {
		return Decision{}, otherNetwork(w)
	}
	if len(w.Addrs) == 0 && w.Hostname != "" {
		d.Resolve = w.Hostname
		return d.seal(netip.Addr{}), nil
	}
	a, ok := choose(w.Addrs, d.families, d.prefer6, r.rng)
	if !ok {
		text := fmt.Sprintf("workload %s/%s has no address the service may use", w.Namespace, w.Name)
		return Decision{}, telemetry.Fail(telemetry.NoAddress, text, nil)
	}
	return d.seal(a), nil
}

func otherNetwork(w *state.Workload) error {
	text := fmt.Sprintf("workload %s/%s is on network %q, which is not reachable from here yet", w.Namespace, w.Name, w.Network)
	return telemetry.Fail(telemetry.OtherNetwork, text, nil)
}

// choose picks an address: of the family that was dialed if there is one, by chance among several.
func choose(addrs []netip.Addr, families state.Families, prefer6 bool, rng Rand) (netip.Addr, bool) {
	var best netip.Addr
	var count uint64
	matched := false
	for _, a := range addrs {
		if !families.Allow(a) {
			continue
		}
		same := a.Is6() == prefer6
		switch {
		case same && !matched:
			best, count, matched = a, 1, true
		case same == matched:
			// Each of the n seen so far stays with chance 1/n.
			if count++; rng.n(count) == 0 {
				best = a
			}
		}
	}
	return best, best.IsValid()
}

// seal completes a decision with the address that was chosen, which is missing while a name is unresolved.
func (d Decision) seal(a netip.Addr) Decision {
	switch {
	case d.Waypoint:
		d.Addr = netip.AddrPortFrom(a, d.target)
	case d.Workload.Tunnel == state.HBONE:
		d.Kind = HBONE
		d.Addr = netip.AddrPortFrom(a, mesh.PortHBONE)
		d.Accept = accept(d.Workload, d.Service)
		if a.IsValid() {
			d.Authority = netip.AddrPortFrom(a, d.target).String()
		}
	default:
		d.Kind = Plain
		d.Addr = netip.AddrPortFrom(a, d.target)
	}
	return d
}

// Resolved completes a decision whose Resolve name has been looked up.
func (d Decision) Resolved(answers []netip.Addr, rng Rand) (Decision, error) {
	a, ok := choose(answers, d.families, d.prefer6, rng)
	if !ok {
		return Decision{}, telemetry.Fail(telemetry.Unresolvable, "no usable address for "+d.Resolve, nil)
	}
	d.Resolve = ""
	return d.seal(a), nil
}

func accept(w *state.Workload, svc *state.Service) []identity.ID {
	if svc == nil || len(svc.Accept) == 0 {
		return []identity.ID{w.Identity()}
	}
	return append([]identity.ID{w.Identity()}, svc.Accept...)
}
