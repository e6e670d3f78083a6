// Package explain says what a node proxy would do with a connection, and why, from the state that really routes: it asks
// the same decisions as a connection does (route, authz) and opens nothing.
//
// It is pure: a snapshot and a question in, an answer out. Where chance chooses between endpoints all of them are listed.
// Start reading at Outbound and Inbound.
package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/authz"
	"github.com/ambit-mesh/ambit/ztunnel/route"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// Mesh is what the questions have in common.
type Mesh struct {
	Network            string
	PreferredNamespace string
	// Domain is the cluster's, for short names.
	Domain string
}

// Question is a connection a pod might open.
type Question struct {
	// Workload is the pod that dials: uid, namespace/name or address.
	Workload string
	// Host is a name or an address, Port the port of it.
	Host string
	Port uint16
	// Unredirected: the pod's connections do not enter a proxy, and are on the wire as the pod makes them.
	Unredirected bool
}

// Hop is where a connection may go.
type Hop struct {
	UID       string `json:"uid,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	Node      string `json:"node,omitempty"`
	Address   string `json:"address"`
	// Port is the one the application is to see; 0 at a waypoint, which decides that.
	Port   uint16   `json:"port,omitempty"`
	Accept []string `json:"accept,omitempty"`
}

// Way is what becomes of a connection a pod opens.
type Way struct {
	// Captured: the pod's connections enter the proxy.
	Captured  bool   `json:"captured"`
	Source    string `json:"source"`
	Identity  string `json:"identity,omitempty"`
	Node      string `json:"node,omitempty"`
	Address   string `json:"address,omitempty"`
	Dst       string `json:"dst,omitempty"`
	Kind      string `json:"kind,omitempty"`
	Service   string `json:"service,omitempty"`
	Authority string `json:"authority,omitempty"`
	// Waypoint says that the hops are instances of the waypoint named; it is namespace/hostname or network/address.
	Waypoint string `json:"waypoint,omitempty"`
	Hops     []Hop  `json:"hops,omitempty"`
	// Around says what a tolerated connection goes around.
	Around string `json:"around,omitempty"`
	// Reason and Error are set when the connection is refused here.
	Reason string `json:"reason,omitempty"`
	Error  string `json:"error,omitempty"`
}

// maxHops is how many candidates are listed.
const maxHops = 64

// Outbound walks a connection out of a pod.
func Outbound(s *state.Snapshot, m Mesh, q Question) (Way, error) {
	src := find(s, m.Network, q.Workload)
	if src == nil {
		return Way{}, fmt.Errorf("this proxy knows no workload %q; write its uid, namespace/name or address", q.Workload)
	}
	way := Way{Source: src.Namespace + "/" + src.Name, Captured: !q.Unredirected, Node: src.Node}
	dst, err := resolve(s, m, src, q.Host)
	if err != nil {
		return Way{}, err
	}
	req := route.Request{Source: src, Dst: netip.AddrPortFrom(dst, q.Port), Network: m.Network, PreferredNamespace: m.PreferredNamespace}
	if len(src.Addrs) > 0 {
		req.SourceAddr = src.Addrs[0]
		way.Address = req.SourceAddr.String()
	}
	way.Dst = req.Dst.String()
	if q.Unredirected {
		way.unredirected(s, req)
		way.sort()
		return way, nil
	}
	if id := src.Identity(); !id.IsZero() {
		way.Identity = id.String()
	}
	for len(way.Hops) < maxHops {
		d, err := route.Outbound(s, req, nil)
		if err != nil {
			if len(way.Hops) == 0 {
				way.Reason, way.Error = telemetry.ReasonOf(err).String(), err.Error()
			}
			break
		}
		if !way.add(d) || d.Workload == nil {
			break
		}
		req.Avoid = append(req.Avoid, d.Workload.UID)
	}
	way.sort()
	return way, nil
}

// unredirected lists where the network alone brings a connection: to a pod by its address, to any endpoint of a service.
func (w *Way) unredirected(s *state.Snapshot, req route.Request) {
	w.Kind = route.Plain.String()
	at := state.NetAddr{Network: req.Network, Addr: req.Dst.Addr()}
	if dst := s.WorkloadAt(at); dst != nil {
		w.Hops = []Hop{hopTo(dst, req.Dst)}
		return
	}
	svc := state.Best(s.ServicesAt(at), req.Source.Namespace, req.PreferredNamespace)
	if svc == nil {
		w.Kind = route.Passthrough.String()
		return
	}
	w.Service = svc.Namespace + "/" + svc.Hostname
	list, _ := s.Endpoints(svc).List()
	for _, e := range list {
		port := e.TargetPort(req.Dst.Port())
		if p, ok := svc.Port(req.Dst.Port()); port == 0 && ok {
			port = p.Target
		}
		if port == 0 || !e.Workload.Healthy || len(e.Workload.Addrs) == 0 || len(w.Hops) == maxHops {
			continue
		}
		w.Hops = append(w.Hops, hopTo(e.Workload, netip.AddrPortFrom(e.Workload.Addrs[0], port)))
	}
	if len(w.Hops) == 0 {
		w.Reason, w.Error = telemetry.NoHealthyUpstream.String(), "service "+svc.Hostname+" has no endpoint that is ready"
	}
}

func (w *Way) sort() {
	slices.SortFunc(w.Hops, func(a, b Hop) int { return strings.Compare(a.Address, b.Address) })
}

func hopTo(x *state.Workload, at netip.AddrPort) Hop {
	return Hop{UID: x.UID, Namespace: x.Namespace, Name: x.Name, Node: x.Node, Address: at.String(), Port: at.Port()}
}

// add lists one more candidate; false when it is listed already.
func (w *Way) add(d route.Decision) bool {
	h := Hop{Address: d.Addr.String()}
	if d.Resolve != "" {
		h.Address = d.Resolve
	}
	if !d.Waypoint {
		h.Port = d.Addr.Port()
		if inner, err := netip.ParseAddrPort(d.Authority); err == nil {
			h.Port = inner.Port()
		}
	}
	for _, id := range d.Accept {
		h.Accept = append(h.Accept, id.String())
	}
	if x := d.Workload; x != nil {
		h.UID, h.Namespace, h.Name, h.Node = x.UID, x.Namespace, x.Name, x.Node
	}
	if slices.ContainsFunc(w.Hops, func(o Hop) bool { return o.UID == h.UID && o.Address == h.Address }) {
		return false
	}
	if len(w.Hops) == 0 {
		w.Kind, w.Authority = d.Kind.String(), d.Authority
		if d.Service != nil {
			w.Service = d.Service.Namespace + "/" + d.Service.Hostname
		}
		if d.Waypoint {
			w.Waypoint = d.Workload.Namespace + "/" + d.Workload.CanonicalName
		}
		if d.Bypass.Open {
			w.Around = d.Bypass.String()
		}
	}
	w.Hops = append(w.Hops, h)
	return true
}

// find looks a workload up by uid, namespace/name or address.
func find(s *state.Snapshot, network, what string) *state.Workload {
	if w := s.Workload(what); w != nil {
		return w
	}
	if a, err := netip.ParseAddr(what); err == nil {
		return s.WorkloadAt(state.NetAddr{Network: network, Addr: a.Unmap()})
	}
	for _, w := range s.Workloads() {
		if w.Namespace+"/"+w.Name == what {
			return w
		}
	}
	return nil
}

// resolve does what the pod's resolver would: a name is tried in the pod's namespace, then as namespace.name, then as it is.
func resolve(s *state.Snapshot, m Mesh, src *state.Workload, host string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap(), nil
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	for _, name := range []string{host + "." + src.Namespace + ".svc." + m.Domain, host + ".svc." + m.Domain, host + "." + m.Domain, host} {
		svc := state.Best(s.ServicesNamed(name), src.Namespace, m.PreferredNamespace)
		if svc == nil {
			continue
		}
		for _, a := range svc.VIPs {
			if a.Network == m.Network {
				return a.Addr, nil
			}
		}
		list, _ := s.Endpoints(svc).List()
		for _, e := range list {
			if len(e.Workload.Addrs) > 0 {
				return e.Workload.Addrs[0], nil
			}
		}
		return netip.Addr{}, fmt.Errorf("service %s has neither an address nor an endpoint", name)
	}
	return netip.Addr{}, fmt.Errorf("the mesh knows no %q: it is looked up by DNS, and what that answers is passed through; write an address", host)
}

// Arrival is a connection that reaches a pod.
type Arrival struct {
	// Workload is the pod: uid, namespace/name or address.
	Workload string
	// Port is the pod's, or that of the service if there is one: namespace/hostname.
	Port    uint16
	Service string
	// Peer is who the other end of the tunnel is; empty for plaintext.
	Peer   string
	PeerIP netip.Addr
	// Client and ClientIP are for whom a waypoint says it speaks.
	Client   string
	ClientIP netip.Addr
	// Unredirected: connections to the pod do not enter a proxy.
	Unredirected bool
}

// Verdict is what becomes of a connection at the pod's own proxy.
type Verdict struct {
	Workload string `json:"workload"`
	// Captured: connections to the pod enter the proxy. Of others nobody asks policies.
	Captured bool `json:"captured"`
	Allow    bool `json:"allow"`
	// Policy decided; empty when none did.
	Policy string `json:"policy,omitempty"`
	// Asked are the ALLOW policies none of which matched, when that is why.
	Asked []string `json:"asked,omitempty"`
	// DryRun are policies that matched and decide nothing.
	DryRun []string `json:"dryRun,omitempty"`
	// Enforced are the policies of the waypoint that was gone around, when that is why.
	Enforced []string `json:"enforced,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	Error    string   `json:"error,omitempty"`
	// Around says what a tolerated connection went around.
	Around string `json:"around,omitempty"`
}

// Inbound asks the policies and guards of a pod.
func Inbound(s *state.Snapshot, m Mesh, a Arrival) (Verdict, error) {
	w := find(s, m.Network, a.Workload)
	if w == nil {
		return Verdict{}, fmt.Errorf("this proxy knows no workload %q; write its uid, namespace/name or address", a.Workload)
	}
	if a.Unredirected {
		return Verdict{Workload: w.Namespace + "/" + w.Name, Allow: true}, nil
	}
	port, err := targetPort(s, w, a)
	if err != nil {
		return Verdict{}, err
	}
	c := authz.Connection{SourceIP: a.PeerIP, DestPort: port, ClientIP: a.ClientIP}
	if len(w.Addrs) > 0 {
		c.DestIP = w.Addrs[0]
	}
	for _, id := range []struct {
		text string
		to   *identity.ID
	}{{a.Peer, &c.Source}, {a.Client, &c.Client}} {
		if id.text == "" {
			continue
		}
		parsed, err := identity.Parse(id.text)
		if err != nil {
			return Verdict{}, err
		}
		*id.to = parsed
	}
	v := authz.Check(s, w, c)
	out := Verdict{Workload: w.Namespace + "/" + w.Name, Captured: true, Allow: v.Allow, Policy: v.Policy}
	for _, d := range v.DryRun {
		out.DryRun = append(out.DryRun, d.Policy)
	}
	if v.Reason == telemetry.PolicyNotAllowed {
		out.Asked = authz.Allows(s, w)
	}
	err = v.Error()
	if v.Allow {
		p := authz.Guard(w.Guards, c.Source, port)
		if err = p.Error(); err != nil {
			out.Allow, out.Policy, out.Enforced = false, "", p.Guard.Policies
		} else if p.Open {
			out.Around = p.String()
		}
	}
	if err != nil {
		out.Reason, out.Error = telemetry.ReasonOf(err).String(), err.Error()
	}
	return out, nil
}

// targetPort is the port of the pod that a port of a service leads to.
func targetPort(s *state.Snapshot, w *state.Workload, a Arrival) (uint16, error) {
	if a.Service == "" {
		return a.Port, nil
	}
	svc := s.ServiceByKey(a.Service)
	if svc == nil {
		return 0, fmt.Errorf("this proxy knows no service %q; write its namespace/hostname", a.Service)
	}
	list, _ := s.Endpoints(svc).List()
	for _, e := range list {
		if e.Workload.UID != w.UID {
			continue
		}
		if port := e.TargetPort(a.Port); port != 0 {
			return port, nil
		}
	}
	for _, p := range svc.Ports {
		if p.Service == a.Port && p.Target != 0 {
			return p.Target, nil
		}
	}
	return 0, fmt.Errorf("port %d of %s leads nowhere at %s/%s", a.Port, a.Service, w.Namespace, w.Name)
}
