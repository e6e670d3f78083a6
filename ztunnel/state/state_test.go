package state_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
)

func at(addr string) state.NetAddr { return state.NetAddr{Addr: netip.MustParseAddr(addr)} }

func keys(seq func(func(*state.Service) bool)) string {
	var out []string
	for s := range seq {
		out = append(out, s.Key())
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestDefaultsOfTheWire(t *testing.T) {
	s := World(t, &workload.Workload{Uid: "u", Name: "n", Namespace: "ns"}).Current()
	w := s.Workload("u")
	want := identity.ID{TrustDomain: "cluster.local", Namespace: "ns", ServiceAccount: "default"}
	if w.Identity() != want || w.ClusterID != "Kubernetes" || w.Capacity != 1 || !w.Healthy || w.Tunnel != state.TCP {
		t.Fatalf("defaults are wrong: %+v", w)
	}
	zero := World(t, &workload.Workload{Uid: "u", Capacity: wrapperspb.UInt32(0)}).Current().Workload("u")
	if zero.Capacity != 0 {
		t.Fatalf("capacity 0 became %d", zero.Capacity)
	}
}

func TestLookups(t *testing.T) {
	st := World(t,
		In(Pod("shop", "cart", "cart-sa", "10.0.0.1", "fd00::1"), "shop/cart.shop.svc.cluster.local", 80, 8080),
		Service("shop", "cart", []string{"10.96.0.1"}, 80, 0),
	)
	s := st.Current()
	w := s.Pod("Kubernetes", "shop", "cart")
	if w == nil || s.WorkloadAt(at("10.0.0.1")) != w || s.WorkloadAt(at("fd00::1")) != w {
		t.Fatal("workload is not found by its addresses")
	}
	if s.WorkloadAt(state.NetAddr{Network: "other", Addr: netip.MustParseAddr("10.0.0.1")}) != nil {
		t.Fatal("an address was found on a network it is not on")
	}
	if got := keys(s.ServicesAt(at("10.96.0.1"))); got != "shop/cart.shop.svc.cluster.local" {
		t.Fatalf("ServicesAt = %q", got)
	}
	if got := keys(s.ServicesNamed("CART.shop.svc.cluster.local")); got != "shop/cart.shop.svc.cluster.local" {
		t.Fatalf("ServicesNamed = %q", got)
	}
	svc := s.Service("shop", "cart.shop.svc.cluster.local")
	if list, most := s.Endpoints(svc).List(); len(list) != 1 || most != 1 || list[0].Workload != w || list[0].TargetPort(80) != 8080 {
		t.Fatalf("endpoints = %+v, %d", list, most)
	}
	for name, seq := range map[string]func(func(*state.Workload) bool){
		"OnNode": s.OnNode("node1"), "WithIdentity": s.WithIdentity(w.Identity()),
	} {
		if got := slices.Collect(seq); len(got) != 1 || got[0] != w {
			t.Errorf("%s = %v", name, got)
		}
	}
}

func TestAddressClaimedTwice(t *testing.T) {
	pod := Pod("a", "pod", "sa", "10.0.0.1")
	entry := &workload.Workload{Uid: mesh.WorkloadEntryUID("Kubernetes", "a", "we"), Name: "we", Namespace: "a", Addresses: Addrs("10.0.0.1"), TunnelProtocol: workload.TunnelProtocol_HBONE}
	plain := &workload.Workload{Uid: "x/other", Name: "x", Namespace: "a", Addresses: Addrs("10.0.0.1")}
	st := World(t, plain, entry, pod)
	for _, want := range []string{pod.Uid, entry.Uid, plain.Uid} {
		if got := st.Current().WorkloadAt(at("10.0.0.1")); got == nil || got.UID != want {
			t.Fatalf("WorkloadAt = %v, want %s", got, want)
		}
		st.Apply(mesh.TypeAddress, nil, []string{want})
	}
	if got := st.Current().WorkloadAt(at("10.0.0.1")); got != nil {
		t.Fatalf("WorkloadAt = %v after all were removed", got)
	}
}

func TestHostNetworkOwnsNoAddress(t *testing.T) {
	w := Pod("a", "node-agent", "sa", "192.168.0.1")
	w.NetworkMode = workload.NetworkMode_HOST_NETWORK
	s := World(t, w).Current()
	if s.Workload(w.Uid) == nil || s.WorkloadAt(at("192.168.0.1")) != nil {
		t.Fatal("a host network workload must be known by uid only")
	}
}

func TestCIDRByLongestPrefix(t *testing.T) {
	wide, narrow, exact := Service("a", "wide", []string{"10.0.0.0/8"}, 80, 80), Service("a", "narrow", []string{"10.1.0.0/16", "fd00::/64"}, 80, 80), Service("a", "exact", []string{"10.1.2.3"}, 80, 80)
	st := World(t, wide, narrow, exact)
	for addr, want := range map[string]string{
		"10.9.9.9": "wide", "10.1.9.9": "narrow", "10.1.2.3": "exact", "fd00::9": "narrow", "11.0.0.1": "", "fd01::1": "",
	} {
		got := keys(st.Current().ServicesAt(at(addr)))
		if want != "" {
			want = "a/" + want + ".a.svc.cluster.local"
		}
		if got != want {
			t.Errorf("ServicesAt(%s) = %q, want %q", addr, got, want)
		}
	}
	st.Apply(mesh.TypeAddress, nil, []string{"a/narrow.a.svc.cluster.local"})
	if got := keys(st.Current().ServicesAt(at("10.1.9.9"))); got != "a/wide.a.svc.cluster.local" {
		t.Errorf("after removal ServicesAt = %q", got)
	}
}

func TestBestService(t *testing.T) {
	mk := func(ns string, canonical, private bool) *workload.Service {
		s := Service(ns, "x", []string{"240.0.0.1"}, 80, 80)
		s.Hostname, s.Canonical = "example.com", canonical
		if private {
			s.Visibility = workload.Service_NAMESPACE
		}
		return s
	}
	tests := []struct {
		name              string
		services          []proto.Message
		client, preferred string
		want              string
	}{
		{"own namespace beats canonical", []proto.Message{mk("a", true, false), mk("b", false, false)}, "b", "", "b"},
		{"canonical beats preferred", []proto.Message{mk("a", false, false), mk("b", true, false)}, "z", "a", "b"},
		{"preferred beats first", []proto.Message{mk("a", false, false), mk("b", false, false)}, "z", "b", "b"},
		{"first by namespace", []proto.Message{mk("b", false, false), mk("a", false, false)}, "z", "", "a"},
		{"private is hidden", []proto.Message{mk("a", true, true), mk("b", false, false)}, "z", "", "b"},
		{"private is seen at home", []proto.Message{mk("a", false, true), mk("b", true, false)}, "a", "", "a"},
		{"nothing visible", []proto.Message{mk("a", false, true)}, "z", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := World(t, tt.services...).Current()
			for _, seq := range []func(func(*state.Service) bool){s.ServicesAt(at("240.0.0.1")), s.ServicesNamed("example.com")} {
				got := ""
				if svc := state.Best(seq, tt.client, tt.preferred); svc != nil {
					got = svc.Namespace
				}
				if got != tt.want {
					t.Errorf("Best = %q, want %q", got, tt.want)
				}
			}
		})
	}
}

func TestEndpointsBeforeTheirService(t *testing.T) {
	const key = "a/x.a.svc.cluster.local"
	st := World(t, In(Pod("a", "p", "sa", "10.0.0.1"), key, 80, 80))
	staged := map[string]int{}
	for k, e := range st.Current().Staged() {
		staged[k] = e.Len()
	}
	if len(staged) != 1 || staged[key] != 1 {
		t.Fatalf("staged = %v", staged)
	}
	Put(t, st, Service("a", "x", []string{"10.96.0.1"}, 80, 80))
	s := st.Current()
	if n := s.Endpoints(s.ServiceByKey(key)).Len(); n != 1 {
		t.Fatalf("service arrived and has %d endpoints", n)
	}
	for range s.Staged() {
		t.Fatal("endpoints are staged though their service is known")
	}
}

func TestReinsertIsRemoveAndInsert(t *testing.T) {
	st := World(t, In(Pod("a", "p", "sa1", "10.0.0.1"), "a/x.a.svc", 80, 80))
	next := In(Pod("a", "p", "sa2", "10.0.0.2"), "a/y.a.svc", 80, 80)
	next.Node = "node2"
	Put(t, st, next)
	s := st.Current()
	if s.WorkloadAt(at("10.0.0.1")) != nil || s.WorkloadAt(at("10.0.0.2")) == nil {
		t.Error("the old address stayed, or the new one is missing")
	}
	for range s.OnNode("node1") {
		t.Error("still on the old node")
	}
	for range s.WithIdentity(identity.ID{TrustDomain: "cluster.local", Namespace: "a", ServiceAccount: "sa1"}) {
		t.Error("still under the old identity")
	}
	for k := range s.Staged() {
		if k != "a/y.a.svc" {
			t.Errorf("still an endpoint of %s", k)
		}
	}
}

func TestRemovalTriesUIDFirst(t *testing.T) {
	// A uid may look like a service name.
	w := &workload.Workload{Uid: "a/x.a.svc.cluster.local", Name: "w", Namespace: "a"}
	st := World(t, w, Service("a", "x", nil, 80, 80))
	st.Apply(mesh.TypeAddress, nil, []string{w.Uid})
	if st.Current().Workload(w.Uid) != nil || st.Current().ServiceByKey(w.Uid) == nil {
		t.Fatal("first removal must take the workload and leave the service")
	}
	st.Apply(mesh.TypeAddress, nil, []string{w.Uid, "never/known", "nonsense"})
	if st.Current().ServiceByKey(w.Uid) != nil {
		t.Fatal("second removal must take the service")
	}
}

func TestRefused(t *testing.T) {
	pod := func(change func(*workload.Workload)) proto.Message {
		w := Pod("a", "p", "sa", "10.0.0.9")
		change(w)
		return w
	}
	svc := func(change func(*workload.Service)) proto.Message {
		s := Service("a", "x", []string{"10.96.0.1"}, 80, 80)
		change(s)
		return s
	}
	policy := func(m *security.Match) proto.Message {
		return &security.Authorization{Name: "p", Namespace: "a", Scope: security.Scope_NAMESPACE,
			Rules: []*security.Rule{{Clauses: []*security.Clause{{Matches: []*security.Match{m}}}}}}
	}
	tests := []struct {
		resource proto.Message
		want     string
	}{
		{pod(func(w *workload.Workload) { w.Uid = "" }), "workload a/p has no uid"},
		{pod(func(w *workload.Workload) { w.Addresses = [][]byte{{1, 2, 3}} }), "addresses[0]: address has 3 bytes, not 4 or 16"},
		{pod(func(w *workload.Workload) { w.TunnelProtocol = workload.TunnelProtocol_LEGACY_ISTIO_MTLS }), "tunnel_protocol LEGACY_ISTIO_MTLS is not supported"},
		{pod(func(w *workload.Workload) { w.WorkloadType = 9 }), "workload_type 9 is unknown"},
		{pod(func(w *workload.Workload) { w.Status = 9 }), "status 9 is unknown"},
		{pod(func(w *workload.Workload) { w.NetworkMode = 9 }), "network_mode 9 is unknown"},
		{pod(func(w *workload.Workload) { In(w, "nohost", 1, 1) }), `services: "nohost" is not namespace/hostname`},
		{pod(func(w *workload.Workload) { In(w, "a/b", 70000, 1) }), "services[a/b]: service_port 70000 is not a port"},
		{pod(func(w *workload.Workload) { w.Waypoint = &workload.GatewayAddress{HboneMtlsPort: 1} }), "waypoint: destination is neither a hostname nor an address"},
		{pod(func(w *workload.Workload) { w.Waypoint = &workload.GatewayAddress{HboneMtlsPort: 1 << 16} }), "waypoint: hbone_mtls_port 65536 is not a port"},
		{pod(func(w *workload.Workload) { w.ApplicationTunnel = &workload.ApplicationTunnel{Protocol: 7} }), "application_tunnel: protocol 7 is unknown"},
		{svc(func(s *workload.Service) { s.Hostname = "" }), "service a/x has no hostname"},
		{svc(func(s *workload.Service) { s.Addresses[0].Length = proto.Uint32(33) }), "addresses[0]: prefix length 33 is too long for 10.96.0.1"},
		{svc(func(s *workload.Service) { s.IpFamilies = 9 }), "ip_families 9 is unknown"},
		{svc(func(s *workload.Service) { s.LoadBalancing = &workload.LoadBalancing{Mode: 9} }), "load_balancing.mode 9 is unknown"},
		{svc(func(s *workload.Service) { s.WeightedWaypoints = []*workload.WeightedWaypoint{{Weight: 1}} }), "weighted_waypoints[0]: destination is missing"},
		{policy(&security.Match{Namespaces: []*security.StringMatch{{}}}), "rules[0].clauses[0].matches[0].namespaces[0]: is neither exact, prefix, suffix nor presence"},
		{policy(&security.Match{SourceIps: []*security.Address{{Address: []byte{1}}}}), "rules[0].clauses[0].matches[0].source_ips[0]: address has 1 bytes, not 4 or 16"},
		{policy(&security.Match{DestinationPorts: []uint32{65536}}), "rules[0].clauses[0].matches[0].destination_ports[0]: 65536 is not a port"},
		{&security.Authorization{Name: "p", Scope: security.Scope_NAMESPACE}, `policy "p" of scope Namespace has no namespace`},
		{&security.Authorization{Name: "p", Namespace: "a", Action: 5}, "action 5 is unknown"},
	}
	for _, tt := range tests {
		t.Run(tt.want, func(t *testing.T) {
			st := World(t, Pod("a", "p", "sa", "10.0.0.1"))
			typeURL, raw := Raw(t, tt.resource)
			_, good := Raw(t, Pod("a", "good", "sa", "10.0.0.2"))
			ups := []xds.Raw{raw}
			if typeURL == mesh.TypeAddress {
				ups = append(ups, good)
			}
			rejected := st.Apply(typeURL, ups, nil)
			if len(rejected) != 1 || rejected[0].Name != raw.Name || rejected[0].Err.Error() != tt.want {
				t.Fatalf("rejected = %v, want %s", rejected, tt.want)
			}
			s := st.Current()
			if s.WorkloadAt(at("10.0.0.1")) == nil {
				t.Error("the previous version is gone")
			}
			if typeURL == mesh.TypeAddress && s.WorkloadAt(at("10.0.0.2")) == nil {
				t.Error("a good resource of the same response was not applied")
			}
		})
	}
	st := state.New()
	if got := st.Apply(mesh.TypeAddress, []xds.Raw{{Name: "x", Body: []byte{0xff}}}, nil); len(got) != 1 {
		t.Errorf("garbage was accepted: %v", got)
	}
	if got := st.Apply("type.googleapis.com/other", []xds.Raw{{Name: "x"}}, nil); len(got) != 1 {
		t.Errorf("a foreign type was accepted: %v", got)
	}
}

func TestFollowingChanges(t *testing.T) {
	st := state.New()
	s := st.Current()
	select {
	case <-s.Superseded():
		t.Fatal("superseded before any change")
	default:
	}
	Put(t, st, Pod("a", "p", "sa", "10.0.0.1"))
	<-s.Superseded()
	if next := st.Current(); next == s || next.Generation() != s.Generation()+1 || s.WorkloadAt(at("10.0.0.1")) != nil {
		t.Fatal("the old snapshot changed, or the new one is not there")
	}
}
