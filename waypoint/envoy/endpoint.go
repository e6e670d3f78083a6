package envoy

import (
	"net/netip"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
)

// candidate is an endpoint of a cluster before it has its place among the others.
type candidate struct {
	workload *workload.Workload
	endpoint *endpointv3.LbEndpoint
}

// assignment is the endpoints of one cluster. Those that are not healthy, or weigh nothing, are left out: Envoy would
// use them when too few others are left.
func (e *Env) assignment(d *waypoint.Destination, l leg) *endpointv3.ClusterLoadAssignment {
	var all []candidate
	if through, ok := e.detour(d); ok {
		all = e.throughWaypoint(d, l, through)
	} else {
		all = e.candidates(d, l)
	}
	cla := &endpointv3.ClusterLoadAssignment{ClusterName: l.name}
	if d.GetResolution() == waypoint.Destination_DNS && len(all) == 0 && l.subset == nil {
		all = append(all, candidate{workload: &workload.Workload{}, endpoint: plainEndpoint(d.GetHostname(), l.port)})
	}
	cla.Endpoints = e.places(d, l, all)
	return cla
}

func (e *Env) candidates(d *waypoint.Destination, l leg) []candidate {
	svc := e.Address(d.GetNamespace(), d.GetHostname())
	sickToo := svc.GetLoadBalancing().GetHealthPolicy() == workload.LoadBalancing_ALLOW_ALL
	var out []candidate
	for _, w := range e.Endpoints(d.GetNamespace(), d.GetHostname()) {
		if w.GetStatus() == workload.WorkloadStatus_UNHEALTHY && !sickToo || w.GetCapacity() != nil && w.GetCapacity().GetValue() == 0 {
			continue
		}
		port := targetPort(w, d, l.port)
		if port == 0 || !selected(l.subset, w) || e.borrowed(d, w, port) {
			continue
		}
		if lb := e.endpoint(d, w, svc, port); lb != nil {
			weigh(lb, w)
			out = append(out, candidate{workload: w, endpoint: lb})
		}
	}
	return out
}

func weigh(lb *endpointv3.LbEndpoint, w *workload.Workload) {
	weight := uint32(1)
	if w.GetCapacity() != nil {
		weight = w.GetCapacity().GetValue()
	}
	lb.LoadBalancingWeight = uint32Value(weight)
}

// targetPort is the workload's port behind a port of the service; zero: it has none.
func targetPort(w *workload.Workload, d *waypoint.Destination, port uint32) uint32 {
	for _, p := range w.GetServices()[mesh.ServiceName(d.GetNamespace(), d.GetHostname())].GetPorts() {
		if p.GetServicePort() == port {
			return p.GetTargetPort()
		}
	}
	return 0
}

// endpoint is a workload as Envoy has it: behind a tunnel, or an address; nil when it cannot be reached from here.
func (e *Env) endpoint(d *waypoint.Destination, w *workload.Workload, svc *workload.Service, port uint32) *endpointv3.LbEndpoint {
	ip, ok := e.addressOf(w)
	if !ok {
		if d.GetResolution() == waypoint.Destination_DNS && w.GetHostname() != "" {
			return plainEndpoint(w.GetHostname(), port)
		}
		return nil
	}
	if w.GetTunnelProtocol() != workload.TunnelProtocol_HBONE {
		lb := plainEndpoint(ip.String(), port)
		lb.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{metaPeer: peerMetadata(w)}}
		return lb
	}
	return tunnelEndpoint(w, netip.AddrPortFrom(ip, uint16(port)), netip.AddrPort{}, e.accepted(svc))
}

// addressOf is where a workload is reached in our network. One of a dual-stack pod's addresses is enough, and Istio
// takes the first as well (pilot/pkg/serviceregistry/kube/controller/ambient/workloads.go).
func (e *Env) addressOf(w *workload.Workload) (netip.Addr, bool) {
	if w.GetNetwork() != e.Options.Network {
		return netip.Addr{}, false
	}
	for _, raw := range w.GetAddresses() {
		if ip, ok := netip.AddrFromSlice(raw); ok && !ip.IsUnspecified() {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

func plainEndpoint(host string, port uint32) *endpointv3.LbEndpoint {
	return &endpointv3.LbEndpoint{
		HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: socketAddress(host, port)}},
	}
}

// tunnelEndpoint leads through connect_originate to target, at the workload itself or at a waypoint's address given
// besides. Whoever answers must be the workload, or one of those the service accepts in its place.
func tunnelEndpoint(w *workload.Workload, target, waypointAt netip.AddrPort, accepted []string) *endpointv3.LbEndpoint {
	sans := append([]string{spiffeID(w.GetTrustDomain(), w.GetNamespace(), w.GetServiceAccount())}, accepted...)
	peer := peerMetadata(w)
	// A list with commas, Envoy source/common/network/upstream_subject_alt_names.cc.
	peer.Fields[metaSAN] = structpb.NewStringValue(strings.Join(sans, ","))
	id, via := target.String(), ""
	if waypointAt.IsValid() {
		via = waypointAt.String()
		id += "|" + via
	}
	return &endpointv3.LbEndpoint{
		HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
			Address: internalAddress(ListenerOriginate, id),
		}},
		Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
			metaTransport: stringStruct("tunnel", "hbone"),
			metaOriginal:  stringStruct(metaLocal, target.String(), metaWaypoint, via),
			metaPeer:      peer,
		}},
	}
}

// peerMetadata tells telemetry who was picked.
func peerMetadata(w *workload.Workload) *structpb.Struct {
	principal := ""
	if w.GetTunnelProtocol() == workload.TunnelProtocol_HBONE {
		principal = spiffeID(w.GetTrustDomain(), w.GetNamespace(), w.GetServiceAccount())
	}
	cluster := w.GetClusterId()
	if cluster == "" {
		cluster = mesh.DefaultClusterID
	}
	return stringStruct(
		"principal", principal,
		"workload", w.GetWorkloadName(),
		"namespace", w.GetNamespace(),
		"service", w.GetCanonicalName(),
		"revision", w.GetCanonicalRevision(),
		"cluster", cluster,
	)
}

// selected says whether a workload has all labels of a subset.
func selected(s *waypoint.Subset, w *workload.Workload) bool {
	if s == nil || len(s.GetLabels()) == 0 {
		return true
	}
	labels := labelsOf(w)
	for key, value := range s.GetLabels() {
		if labels[key] != value {
			return false
		}
	}
	return true
}

// labelsOf are the labels of a workload that the control plane sent along.
func labelsOf(w *workload.Workload) map[string]string {
	var l waypoint.Labels
	if !extension(w, mesh.ExtensionLabels, &l) {
		return nil
	}
	return l.GetLabels()
}

// throughWaypoint are the endpoints of another waypoint, which is to carry the connection on to the service.
func (e *Env) throughWaypoint(d *waypoint.Destination, l leg, through *workload.NamespacedHostname) []candidate {
	vip, ok := e.virtualAddress(d)
	if !ok || l.subset != nil {
		return nil // a waypoint is asked for a service by its address, and has no word for subsets
	}
	svc := e.Address(through.GetNamespace(), through.GetHostname())
	var out, sick []candidate
	for _, w := range e.Endpoints(through.GetNamespace(), through.GetHostname()) {
		ip, ok := e.addressOf(w)
		if !ok {
			continue
		}
		at := netip.AddrPortFrom(ip, uint16(e.options().PeerHBONEPort))
		lb := tunnelEndpoint(w, netip.AddrPortFrom(vip, uint16(l.port)), at, e.accepted(svc))
		weigh(lb, w)
		c := candidate{workload: w, endpoint: lb}
		if w.GetStatus() == workload.WorkloadStatus_UNHEALTHY {
			sick = append(sick, c)
		} else {
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		// As the node proxy does (ztunnel/route): one that ends still serves, and none lets anybody past a policy.
		return sick
	}
	return out
}

// virtualAddress is one address of a service in our network.
func (e *Env) virtualAddress(d *waypoint.Destination) (netip.Addr, bool) {
	for _, a := range e.Address(d.GetNamespace(), d.GetHostname()).GetAddresses() {
		if p, ok := e.prefix(a); ok && p.IsSingleIP() {
			return p.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// Detour is the other waypoint that traffic to a destination goes through, if any.
func (e *Env) Detour(d *waypoint.Destination) (through *workload.NamespacedHostname, ok bool) {
	if e.Address == nil {
		return nil, false
	}
	return e.detour(d)
}

// detour is the other waypoint that traffic to a destination must come through, if any: its pods refuse what comes
// otherwise, or an edge gateway is told to use it.
func (e *Env) detour(d *waypoint.Destination) (*workload.NamespacedHostname, bool) {
	svc := e.Address(d.GetNamespace(), d.GetHostname())
	through := svc.GetWaypoint().GetHostname()
	if through == nil || e.Service(d.GetNamespace(), d.GetHostname()) != nil {
		return nil, false
	}
	if e.Gateway.GetKind() == waypoint.Gateway_EDGE {
		if svc.GetIngressUseWaypoint() {
			return through, true
		}
	}
	o := e.options()
	self := spiffeID(o.TrustDomain, o.Namespace, o.ServiceAccount)
	for _, w := range e.Endpoints(d.GetNamespace(), d.GetHostname()) {
		if guarded(w, mesh.ServiceName(d.GetNamespace(), d.GetHostname()), self) {
			return through, true
		}
	}
	return nil, false
}
