// Package statetest builds states for tests out of the protos a control plane would send, by the same door: State.Apply.
// It knows no lookups and starts nothing. Start reading at World.
package statetest

import (
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ztunnel/state"
)

// World returns a state that holds the given *workload.Workload, *workload.Service and *security.Authorization, and fails
// the test when one of them is refused.
func World(t testing.TB, resources ...proto.Message) *state.State {
	t.Helper()
	st := state.New()
	Put(t, st, resources...)
	return st
}

// Put adds resources to a state, or replaces them.
func Put(t testing.TB, st *state.State, resources ...proto.Message) {
	t.Helper()
	for _, r := range resources {
		typeURL, raw := Raw(t, r)
		if rejected := st.Apply(typeURL, []xds.Raw{raw}, nil); len(rejected) > 0 {
			t.Fatalf("%s was refused: %v", rejected[0].Name, rejected[0].Err)
		}
	}
}

// Raw encodes a resource the way it arrives.
func Raw(t testing.TB, r proto.Message) (typeURL string, raw xds.Raw) {
	t.Helper()
	switch r := r.(type) {
	case *workload.Workload:
		return mesh.TypeAddress, encode(t, r.GetUid(), &workload.Address{Type: &workload.Address_Workload{Workload: r}})
	case *workload.Service:
		name := mesh.ServiceName(r.GetNamespace(), r.GetHostname())
		return mesh.TypeAddress, encode(t, name, &workload.Address{Type: &workload.Address_Service{Service: r}})
	case *security.Authorization:
		return mesh.TypeAuthorization, encode(t, r.GetNamespace()+"/"+r.GetName(), r)
	}
	t.Fatalf("%T is no resource of a ztunnel", r)
	return "", xds.Raw{}
}

func encode(t testing.TB, name string, m proto.Message) xds.Raw {
	t.Helper()
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatalf("encode %s: %v", name, err)
	}
	return xds.Raw{Name: name, Body: body}
}

// Pod returns a healthy pod in the mesh, in cluster Kubernetes and on the network "", with a service account of its
// namespace.
func Pod(namespace, name, serviceAccount string, addrs ...string) *workload.Workload {
	return &workload.Workload{
		Uid:               mesh.PodUID("Kubernetes", namespace, name),
		Name:              name,
		Namespace:         namespace,
		ServiceAccount:    serviceAccount,
		Addresses:         Addrs(addrs...),
		TunnelProtocol:    workload.TunnelProtocol_HBONE,
		CanonicalName:     name,
		CanonicalRevision: "v1",
		WorkloadName:      name,
		WorkloadType:      workload.WorkloadType_DEPLOYMENT,
		Node:              "node1",
	}
}

// In makes a workload an endpoint of a service, ports being pairs of service port and target port.
func In(w *workload.Workload, service string, ports ...uint32) *workload.Workload {
	if w.Services == nil {
		w.Services = map[string]*workload.PortList{}
	}
	w.Services[service] = &workload.PortList{Ports: Ports(ports...)}
	return w
}

// Service returns a service name.namespace.svc.cluster.local with VIPs on the network "", ports being pairs.
func Service(namespace, name string, vips []string, ports ...uint32) *workload.Service {
	s := &workload.Service{
		Name:      name,
		Namespace: namespace,
		Hostname:  mesh.ServiceHostname(namespace, name, mesh.DefaultClusterDomain),
		Ports:     Ports(ports...),
	}
	for _, v := range vips {
		s.Addresses = append(s.Addresses, Net("", v))
	}
	return s
}

// Ports turns pairs of service port and target port into protos.
func Ports(pairs ...uint32) []*workload.Port {
	var out []*workload.Port
	for i := 0; i+1 < len(pairs); i += 2 {
		out = append(out, &workload.Port{ServicePort: pairs[i], TargetPort: pairs[i+1]})
	}
	return out
}

// Addrs turns addresses into bytes.
func Addrs(addrs ...string) [][]byte {
	var out [][]byte
	for _, a := range addrs {
		out = append(out, netip.MustParseAddr(a).AsSlice())
	}
	return out
}

// Net returns an address or CIDR range on a network.
func Net(network, addr string) *workload.NetworkAddress {
	if strings.Contains(addr, "/") {
		p := netip.MustParsePrefix(addr)
		return &workload.NetworkAddress{Network: network, Address: p.Addr().AsSlice(), Length: proto.Uint32(uint32(p.Bits()))}
	}
	return &workload.NetworkAddress{Network: network, Address: netip.MustParseAddr(addr).AsSlice()}
}

// Waypoint names a waypoint by hostname, on the HBONE port.
func Waypoint(namespace, hostname string) *workload.GatewayAddress {
	return &workload.GatewayAddress{
		Destination:   &workload.GatewayAddress_Hostname{Hostname: &workload.NamespacedHostname{Namespace: namespace, Hostname: hostname}},
		HboneMtlsPort: mesh.PortHBONE,
	}
}

// WaypointAt names a waypoint by address, on the HBONE port.
func WaypointAt(addr string) *workload.GatewayAddress {
	return &workload.GatewayAddress{
		Destination:   &workload.GatewayAddress_Address{Address: Net("", addr)},
		HboneMtlsPort: mesh.PortHBONE,
	}
}

// Guarded gives a workload or service its guards.
func Guarded[R interface {
	*workload.Workload | *workload.Service
}](r R, g *waypoint.Guards) R {
	config, err := anypb.New(g)
	if err != nil {
		panic(err) // it can only fail on invalid UTF-8
	}
	extension := &workload.Extension{Name: mesh.ExtensionGuards, Config: config}
	switch r := any(r).(type) {
	case *workload.Workload:
		r.Extensions = append(r.Extensions, extension)
	case *workload.Service:
		r.Extensions = append(r.Extensions, extension)
	}
	return r
}
