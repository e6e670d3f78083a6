package route

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// InboundRequest is one CONNECT request that arrived for a pod on port 15008.
type InboundRequest struct {
	Authority string
	Local     netip.Addr      // the address the connection was made to, one of the pod's own
	Workload  *state.Workload // the pod
	Network   string          // the network this proxy is on
	// ForwardedHost is the host of the forwarded header. It only helps to name the service in logs and metrics.
	ForwardedHost string
	// LoopbackTunnel is the LOCALHOST_APP_TUNNEL setting: an application tunnel is reached over loopback.
	LoopbackTunnel     bool
	PreferredNamespace string
}

// InboundDecision is where an inbound connection goes inside the pod.
type InboundDecision struct {
	// Addr is the socket address to dial.
	Addr netip.AddrPort
	// Policy is the address policies see: the pod's own, with the target port.
	Policy netip.AddrPort
	// Loopback says that Addr is on loopback, so that the connection must come from loopback too and not from the client's
	// address.
	Loopback bool
	// ProxyProtocol says that a PROXY v2 header with Target as destination goes first.
	ProxyProtocol bool
	// Target is what the peer asked for; of a hostname, an address of the service.
	Target netip.AddrPort
	// Service is the service the connection was meant for, as far as can be told.
	Service *state.Service
}

// Inbound decides where a CONNECT request goes. The next hop is always the pod itself; the authority only chooses the
// port. An error is always a *telemetry.Error; Status gives the answer it deserves. istio/ztunnel src/proxy/inbound.rs.
func Inbound(s *state.Snapshot, req InboundRequest) (InboundDecision, error) {
	host, port, err := splitAuthority(req.Authority)
	if err != nil {
		return InboundDecision{}, telemetry.Fail(telemetry.BadAuthority, "invalid authority "+strconv.Quote(clip(req.Authority)), err)
	}
	req.Local = state.Unmapped(req.Local)
	in := inbound{s: s, req: req, port: port}
	var d InboundDecision
	if a, err := netip.ParseAddr(host); err == nil {
		d, err = in.byAddr(state.Unmapped(a))
		if err != nil {
			return InboundDecision{}, err
		}
	} else if d, err = in.byHostname(host); err != nil {
		return InboundDecision{}, err
	}
	if ownPort(d.Addr.Port()) {
		return InboundDecision{}, selfCall(d.Addr)
	}
	if t := req.Workload.AppTunnel; t != nil {
		return in.throughApp(d, t), nil
	}
	return d, nil
}

// InboundPlaintext decides about a connection that arrived outside HBONE and was redirected to port 15006. It goes where
// it was going.
func InboundPlaintext(s *state.Snapshot, w *state.Workload, dst netip.AddrPort) (InboundDecision, error) {
	dst = netip.AddrPortFrom(state.Unmapped(dst.Addr()), dst.Port())
	if ownPort(dst.Port()) {
		return InboundDecision{}, selfCall(dst)
	}
	return InboundDecision{Addr: dst, Policy: dst, Target: dst, Service: serviceOfPort(s, w, dst.Port())}, nil
}

func selfCall(a netip.AddrPort) error {
	return telemetry.Fail(telemetry.SelfCall, "attempted recursive call to ourselves: "+a.String(), nil)
}

type inbound struct {
	s    *state.Snapshot
	req  InboundRequest
	port uint16
}

// byAddr handles ip:port. The address must be the pod's; a waypoint is also asked for what it stands in front of.
func (in *inbound) byAddr(a netip.Addr) (InboundDecision, error) {
	if a != in.req.Local && in.req.Workload.AppTunnel == nil && !in.waypointFor(a) {
		text := fmt.Sprintf("ip mismatch: asked for %s on a connection to %s", a, in.req.Local)
		return InboundDecision{}, telemetry.Fail(telemetry.WrongDestination, text, nil)
	}
	next := netip.AddrPortFrom(in.req.Local, in.port)
	return InboundDecision{Addr: next, Policy: next, Target: netip.AddrPortFrom(a, in.port), Service: in.service(a)}, nil
}

// waypointFor reports whether this pod is the waypoint of whatever owns an address.
func (in *inbound) waypointFor(a netip.Addr) bool {
	at := state.NetAddr{Network: in.req.Network, Addr: a}
	if w := in.s.WorkloadAt(at); w != nil {
		return w.Waypoint != nil && isInstance(in.s, w.Waypoint, in.req.Workload)
	}
	for svc := range in.s.ServicesAt(at) {
		if in.fronts(svc) {
			return true
		}
	}
	return false
}

// fronts reports whether this pod is a waypoint of a service.
func (in *inbound) fronts(svc *state.Service) bool {
	if svc.Waypoint != nil && isInstance(in.s, svc.Waypoint, in.req.Workload) {
		return true
	}
	for i := range svc.Waypoints {
		if isInstance(in.s, &svc.Waypoints[i].Gateway, in.req.Workload) {
			return true
		}
	}
	return false
}

// byHostname handles hostname:port, which only peers on other networks send. This pod must be what the name leads to.
func (in *inbound) byHostname(host string) (InboundDecision, error) {
	w := in.req.Workload
	svc := state.Best(in.s.ServicesNamed(host), w.Namespace, in.req.PreferredNamespace)
	if svc == nil {
		return InboundDecision{}, telemetry.Fail(telemetry.UnknownDestination, "unknown service: "+clip(host), nil)
	}
	e := w.Endpoint(svc.Key())
	if e == nil && !in.fronts(svc) {
		text := fmt.Sprintf("workload %s/%s is neither an endpoint nor the waypoint of %s", w.Namespace, w.Name, svc.Hostname)
		return InboundDecision{}, telemetry.Fail(telemetry.UnknownDestination, text, nil)
	}
	var port uint16
	if e != nil {
		port = e.TargetPort(in.port)
	}
	if of, ok := svc.Port(in.port); ok && port == 0 {
		port = of.Target
	}
	if port == 0 {
		text := fmt.Sprintf("service %s has no port %d on workload %s/%s", svc.Hostname, in.port, w.Namespace, w.Name)
		return InboundDecision{}, telemetry.Fail(telemetry.UnknownDestination, text, nil)
	}
	next := netip.AddrPortFrom(in.req.Local, port)
	return InboundDecision{Addr: next, Policy: next, Target: netip.AddrPortFrom(in.vip(svc), in.port), Service: svc}, nil
}

// vip is the address that stands for a service where a hostname cannot be written, as in the PROXY protocol: a VIP on our
// network if there is one, IPv4 first; the pod's own address when the service has none.
func (in *inbound) vip(svc *state.Service) netip.Addr {
	best, rank := in.req.Local, -1
	for _, v := range svc.VIPs {
		r := 0
		if v.Network == in.req.Network {
			r = 1
			if v.Addr.Is4() {
				r = 2
			}
		}
		if r > rank {
			best, rank = v.Addr, r
		}
	}
	return best
}

// throughApp redirects a connection into the tunnel the application ends itself.
func (in *inbound) throughApp(d InboundDecision, t *state.AppTunnel) InboundDecision {
	port := d.Addr.Port()
	if t.Port != 0 {
		port = t.Port
	}
	d.Policy = netip.AddrPortFrom(in.req.Local, port)
	d.Addr = d.Policy
	d.ProxyProtocol = t.Proxy
	if t.Proxy && in.req.LoopbackTunnel {
		loopback := netip.IPv6Loopback()
		if in.req.Local.Is4() {
			loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		d.Addr, d.Loopback = netip.AddrPortFrom(loopback, port), true
	}
	return d
}

// service guesses which service a peer meant, for logs and metrics alone: the authority names a pod, not a service.
func (in *inbound) service(a netip.Addr) *state.Service {
	if a != in.req.Local {
		at := state.NetAddr{Network: in.req.Network, Addr: a}
		return state.Best(in.s.ServicesAt(at), in.req.Workload.Namespace, in.req.PreferredNamespace)
	}
	if in.req.ForwardedHost != "" {
		for svc := range in.s.ServicesNamed(in.req.ForwardedHost) {
			if e := in.req.Workload.Endpoint(svc.Key()); e != nil && serves(svc, e, in.port) {
				return svc
			}
		}
	}
	return serviceOfPort(in.s, in.req.Workload, in.port)
}

// serviceOfPort finds a service that sends traffic to this port of the workload, the first by name when several do.
func serviceOfPort(s *state.Snapshot, w *state.Workload, target uint16) *state.Service {
	for i := range w.Endpoints {
		e := &w.Endpoints[i]
		if svc := s.ServiceByKey(e.Service); svc != nil && serves(svc, e, target) {
			return svc
		}
	}
	return nil
}

// serves reports whether some port of a service leads to this target port of an endpoint.
func serves(svc *state.Service, e *state.Endpoint, target uint16) bool {
	for _, p := range e.Ports {
		if p.Target == target {
			return true
		}
	}
	for _, p := range svc.Ports {
		if p.Target == target && e.TargetPort(p.Service) == 0 {
			return true
		}
	}
	return false
}

// splitAuthority reads ip:port, [ip]:port or hostname:port. RFC 9113 §8.5: the authority of CONNECT is host and port, no
// user, no path.
func splitAuthority(authority string) (string, uint16, error) {
	if len(authority) > 300 {
		return "", 0, fmt.Errorf("%d bytes is too long", len(authority))
	}
	host, portText, err := net.SplitHostPort(authority)
	if err != nil {
		return "", 0, fmt.Errorf("not host:port")
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return "", 0, fmt.Errorf("port %q is not a port", clip(portText))
	}
	if strings.Contains(host, ":") {
		a, err := netip.ParseAddr(host)
		if err != nil || a.Zone() != "" {
			return "", 0, fmt.Errorf("host is not an IPv6 address")
		}
		return host, uint16(port), nil
	}
	for i := 0; i < len(host); i++ {
		if c := host[i]; !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '*') {
			return "", 0, fmt.Errorf("host is neither an address nor a hostname")
		}
	}
	if host == "" {
		return "", 0, fmt.Errorf("host is missing")
	}
	return host, uint16(port), nil
}

// clip keeps what a peer sent from flooding a log line.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// Status returns the HTTP status a failed CONNECT request is answered with. Istio ambient wire contract, HBONE errors.
func Status(err error) int {
	switch telemetry.ReasonOf(err) {
	case telemetry.OK:
		return 200
	case telemetry.BadMethod, telemetry.BadAuthority, telemetry.WrongDestination:
		return 400
	case telemetry.PolicyDenied, telemetry.PolicyNotAllowed, telemetry.PolicyChanged, telemetry.WaypointRequired:
		return 401
	}
	return 503
}
