package envoy

import (
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

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

// closedPorts are the ports of pods that are not to be had at the pod's own address: a service there has policies that we
// enforce, and they are not asked for connections to the pod. Its guard would let us in all the same.
func (e *Env) closedPorts() map[netip.Addr][]*waypoint.Guard {
	if !e.Gateway.GetWorkloads() || e.Workloads == nil {
		return nil
	}
	o := e.options()
	self := spiffeID(o.TrustDomain, o.Namespace, o.ServiceAccount)
	out := map[netip.Addr][]*waypoint.Guard{}
	for _, w := range e.Workloads() {
		var all waypoint.Guards
		if w.GetNetwork() != o.Network || !extension(w, mesh.ExtensionGuards, &all) {
			continue
		}
		for _, g := range all.GetGuards() {
			if g.GetService() == "" || g.GetOpen() || !slices.Contains(g.GetWaypoints(), self) {
				continue
			}
			for _, raw := range w.GetAddresses() {
				if a, ok := netip.AddrFromSlice(raw); ok {
					out[a] = append(out[a], g)
				}
			}
		}
	}
	return out
}

// around is the way to a pod, but for the ports that guards close.
func around(guards []*waypoint.Guard, way, nowhere *onMatch) *onMatch {
	ports := map[string]*onMatch{}
	for _, g := range guards {
		if len(g.GetPorts()) == 0 {
			return nowhere
		}
		for _, port := range g.GetPorts() {
			ports[portText(port)] = nowhere
		}
	}
	if len(ports) == 0 {
		return way
	}
	return lookUp(portInput(), ports, way)
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

// ownRanges are addresses that mean this machine, or its link, to whoever dials them: the proxy's own admin port, or its
// node's metadata service. RFC 6890 §2.2.
var ownRanges = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("::/128"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("::ffff:0:0/96"), netip.MustParsePrefix("fe80::/10"),
}

// keepOut takes our own addresses out of ranges that a service claims, such as 0.0.0.0/0. With resolution NONE it would
// lead wherever the peer says.
func keepOut(ranges map[netip.Prefix]*onMatch, nowhere *onMatch) {
	for _, own := range ownRanges {
		for p := range ranges {
			if p.Bits() < own.Bits() && p.Overlaps(own) {
				claim(ranges, own, nowhere)
				break
			}
		}
	}
}

// ownSource makes connections to addresses that are looked up come from the pod's own address: a name may lead to
// loopback, where the agent believes that who comes from loopback is inside the pod. Nil where the address is not known.
func (e *Env) ownSource() *corev3.BindConfig {
	own := e.Options.Address.Unmap()
	if !own.IsValid() || own.IsLoopback() || own.IsUnspecified() {
		return nil
	}
	other := netip.IPv6Unspecified() // no choice for the other family
	if own.Is6() {
		other = netip.IPv4Unspecified()
	}
	return &corev3.BindConfig{
		SourceAddress:        socketAddress(own.String(), 0).GetSocketAddress(),
		ExtraSourceAddresses: []*corev3.ExtraSourceAddress{{Address: socketAddress(other.String(), 0).GetSocketAddress()}},
	}
}
