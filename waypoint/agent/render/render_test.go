package render

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/waypoint/agent/ads"
	"github.com/ambit-mesh/ambit/waypoint/envoy"
	"github.com/ambit-mesh/ambit/waypoint/facts"
)

const prefix = "default/waypoint/"

// world feeds a store with facts and a renderer with what changed.
type world struct {
	t     testing.TB
	store *facts.Store
	r     *Renderer
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, store: facts.New(facts.Config{Namespace: "default", Name: "waypoint"})}
	w.r = New(envoy.Options{NodeID: "n", Namespace: "default", Pod: "p", XDSSocket: "/x", SDSSocket: "/x"}, nil, slog.New(slog.DiscardHandler))
	w.put(mesh.TypeWaypointGateway, prefix+"gateway",
		&waypoint.Gateway{Namespace: "default", Name: "waypoint", Services: true, TrustDomains: []string{"cluster.local"}})
	return w
}

func (w *world) put(typeURL, name string, m proto.Message) {
	w.t.Helper()
	body, err := proto.Marshal(m)
	if err != nil {
		w.t.Fatal(err)
	}
	if rejected := w.store.Apply(typeURL, []xds.Raw{{Name: name, Body: body}}, nil); len(rejected) > 0 {
		w.t.Fatal(rejected)
	}
}

func (w *world) drop(typeURL, name string) { w.store.Apply(typeURL, nil, []string{name}) }

func (w *world) service(host string, rules ...*waypoint.HTTPRule) {
	w.put(mesh.TypeWaypointService, prefix+"default/"+host, &waypoint.Service{Namespace: "default", Hostname: host, Name: host,
		Ports: []*waypoint.ServicePort{{Number: 80, Protocol: waypoint.Protocol_HTTP1, Http: rules}}})
}

func (w *world) destination(host string) {
	w.put(mesh.TypeWaypointDestination, prefix+"default/"+host, &waypoint.Destination{Namespace: "default", Hostname: host})
}

func (w *world) address(host string, vip netip.Addr) {
	w.put(mesh.TypeAddress, "default/"+host, &workload.Address{Type: &workload.Address_Service{Service: &workload.Service{
		Namespace: "default", Hostname: host, Name: host, Canonical: true, Addresses: []*workload.NetworkAddress{{Address: vip.AsSlice()}},
		Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}},
	}}})
}

func (w *world) pod(name string, ip netip.Addr, hosts ...string) {
	services := map[string]*workload.PortList{}
	for _, h := range hosts {
		services["default/"+h] = &workload.PortList{Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}}}
	}
	uid := "Kubernetes//Pod/default/" + name
	w.put(mesh.TypeAddress, uid, &workload.Address{Type: &workload.Address_Workload{Workload: &workload.Workload{
		Uid: uid, Name: name, Namespace: "default", ServiceAccount: "app", Node: "node1", WorkloadName: name, CanonicalName: "app",
		CanonicalRevision: "v1", Addresses: [][]byte{ip.AsSlice()}, TunnelProtocol: workload.TunnelProtocol_HBONE, Services: services,
	}}})
}

// render returns what the changes led to, as "Type name" and "Type -name".
func (w *world) render() []string {
	w.t.Helper()
	var out []string
	for _, u := range w.r.Render(w.store.Take()) {
		short := u.Type[strings.LastIndexByte(u.Type, '.')+1:]
		for _, r := range u.Put {
			out = append(out, short+" "+r.Name)
		}
		for _, name := range u.Remove {
			out = append(out, short+" -"+name)
		}
	}
	return out
}

func (w *world) expect(what string, has []string, hasNot ...string) {
	w.t.Helper()
	got := w.render()
	for _, name := range has {
		if !slices.Contains(got, name) {
			w.t.Errorf("%s: no %q in\n%s", what, name, strings.Join(got, "\n"))
		}
	}
	for _, part := range hasNot {
		for _, g := range got {
			if strings.Contains(g, part) {
				w.t.Errorf("%s: %q should not be touched", what, g)
			}
		}
	}
}

func vip(n int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 0x0a600000+uint32(n))
	return netip.AddrFrom4(b)
}

// A change costs the units that looked at what changed, and no others.
func TestOnlyWhatChanged(t *testing.T) {
	w := newWorld(t)
	for i, h := range []string{"a.svc", "b.svc"} {
		w.service(h)
		w.destination(h)
		w.address(h, vip(i+1))
		w.pod(h[:1]+"-0", vip(100+i), h)
	}
	direct := func(status uint32) *waypoint.HTTPRule {
		return &waypoint.HTTPRule{Action: &waypoint.HTTPRule_Direct{Direct: &waypoint.DirectResponse{Status: status}}}
	}
	w.service("a.svc", direct(200))
	w.expect("first", []string{
		"Listener connect_terminate", "Cluster inbound-vip|80|http|a.svc", "ClusterLoadAssignment inbound-vip|80|http|b.svc",
		"FilterChain inbound-vip|80|http|a.svc", "RouteConfiguration inbound-vip|80|http|b.svc",
	})
	if got := w.render(); len(got) > 0 {
		t.Errorf("nothing changed, rendered %v", got)
	}
	w.pod("a-1", vip(200), "a.svc")
	w.expect("an endpoint", []string{"ClusterLoadAssignment inbound-vip|80|http|a.svc"}, "b.svc", "Route", "Listener", "FilterChain")
	w.service("a.svc", direct(201))
	w.expect("a route", []string{"RouteConfiguration inbound-vip|80|http|a.svc"}, "b.svc", "Listener", "Extension")
	w.drop(mesh.TypeWaypointService, prefix+"default/b.svc")
	w.expect("a service goes", []string{"FilterChain -inbound-vip|80|http|b.svc", "RouteConfiguration -inbound-vip|80|http|b.svc"})
	w.drop(mesh.TypeWaypointDestination, prefix+"default/b.svc")
	w.expect("a destination goes", nil, "a.svc")
	if len(w.r.units) == 0 || w.r.units["clusters/default/b.svc"] != nil {
		t.Error("units of what is gone are left")
	}
}

// Two services that would get the same names do not disturb each other.
func TestNamesAreTaken(t *testing.T) {
	w := newWorld(t)
	put := func(ns string) {
		w.put(mesh.TypeWaypointService, prefix+ns+"/x.com", &waypoint.Service{Namespace: ns, Hostname: "x.com",
			Ports: []*waypoint.ServicePort{{Number: 80, Protocol: waypoint.Protocol_HTTP1}}})
	}
	put("one")
	w.expect("the first", []string{"RouteConfiguration inbound-vip|80|http|x.com"})
	put("two")
	w.expect("the second", nil, "RouteConfiguration")
	if p := w.r.Problems(); len(p) == 0 || !strings.Contains(p[0].Text, "already the name") {
		t.Errorf("problems %+v", p)
	}
	w.drop(mesh.TypeWaypointService, prefix+"one/x.com")
	w.expect("the first goes", []string{"RouteConfiguration inbound-vip|80|http|x.com"})
	if p := w.r.Problems(); len(p) > 0 {
		t.Errorf("problems %+v", p)
	}
}

// A mistake of ours in one unit leaves everything else, and the unit itself, as it was.
func TestPanicIsContained(t *testing.T) {
	w := newWorld(t)
	w.service("a.svc")
	w.render()
	w.r.units["service/default/a.svc"].expand = func(*pass) { panic("boom") }
	w.service("a.svc", &waypoint.HTTPRule{Action: &waypoint.HTTPRule_Direct{Direct: &waypoint.DirectResponse{Status: 200}}})
	w.service("b.svc")
	w.expect("the others", []string{"RouteConfiguration inbound-vip|80|http|b.svc"}, "a.svc")
	if p := w.r.Problems(); len(p) != 1 || !strings.Contains(p[0].Text, "boom") || p[0].Unit != "service/default/a.svc" {
		t.Errorf("problems %+v", p)
	}
}

func TestObjects(t *testing.T) {
	w := newWorld(t)
	rule := &waypoint.HTTPRule{
		Origin: &waypoint.Origin{Kind: "HTTPRoute", Namespace: "default", Name: "r"},
		Action: &waypoint.HTTPRule_Direct{Direct: &waypoint.DirectResponse{Status: 200}},
	}
	w.service("a.svc", rule, rule)
	w.render()
	unit, objects := w.r.Objects(w.store.Current(), ads.TypeRoute, "inbound-vip|80|http|a.svc")
	if unit != "service/default/a.svc" || !slices.Equal(objects, []string{"HTTPRoute default/r"}) {
		t.Errorf("%q, %v", unit, objects)
	}
	// Whoever has nothing but a service is told that, and a module is named by its resource.
	w.service("b.svc")
	w.render()
	if _, objects := w.r.Objects(w.store.Current(), ads.TypeRoute, "inbound-vip|80|http|b.svc"); !slices.Equal(objects, []string{"Service default/b.svc"}) {
		t.Errorf("%v", objects)
	}
	if objects := objectsOf(w.store.Current(), "extensions", "ambit.wasm|default/m"); !slices.Equal(objects, []string{"WasmPlugin default/m"}) {
		t.Errorf("%v", objects)
	}
}

// large is 1,000 services of 10 pods each.
func large(t testing.TB) *world {
	w := newWorld(t)
	for i := range 1000 {
		h := fmt.Sprintf("service-%d.default.svc.cluster.local", i)
		w.service(h)
		w.destination(h)
		w.address(h, vip(i+1))
		for j := range 10 {
			w.pod(fmt.Sprintf("service-%d-5f7d8c9b6d-%05d", i, j), vip(10000+10*i+j), h)
		}
	}
	return w
}

// TestFootprint bounds what 1,000 services of 10 pods cost the agent: facts, configuration and what tells them apart.
func TestFootprint(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second")
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	w := large(t)
	known := heap()
	s := ads.NewServer(nil, ads.Events{})
	s.Apply(w.r.Render(w.store.Take())...)
	after := heap()
	t.Logf("facts %d KiB, configuration %d KiB", (known-before)>>10, (after-known)>>10)
	if after-before > 24<<20 {
		t.Errorf("the agent's state takes %d MiB", (after-before)>>20)
	}
	runtime.KeepAlive(w)
	runtime.KeepAlive(s)
}

func BenchmarkEverything(b *testing.B) {
	w := large(b)
	snapshot, changes := w.store.Take()
	for b.Loop() {
		r := New(envoy.Options{NodeID: "n", XDSSocket: "/x", SDSSocket: "/x"}, nil, slog.New(slog.DiscardHandler))
		r.Render(snapshot, changes)
	}
}

func BenchmarkOneRoute(b *testing.B) {
	w := large(b)
	w.render()
	for i := 0; b.Loop(); i++ {
		w.service("service-7.default.svc.cluster.local", &waypoint.HTTPRule{
			Action: &waypoint.HTTPRule_Direct{Direct: &waypoint.DirectResponse{Status: uint32(200 + i%100)}}})
		w.render()
	}
}

func BenchmarkOneService(b *testing.B) {
	w := large(b)
	w.render()
	const h = "another.default.svc.cluster.local"
	for i := 0; b.Loop(); i++ {
		w.service(h)
		w.destination(h)
		w.address(h, vip(100000))
		w.pod("another-5f7d8c9b6d-00000", vip(100001), h)
		w.render()
		w.drop(mesh.TypeWaypointService, prefix+"default/"+h)
		w.drop(mesh.TypeWaypointDestination, prefix+"default/"+h)
		w.render()
	}
}

func BenchmarkOneEndpoint(b *testing.B) {
	w := large(b)
	w.render()
	for i := 0; b.Loop(); i++ {
		w.pod("service-7-5f7d8c9b6d-00000", vip(100000+i%1000), "service-7.default.svc.cluster.local")
		w.render()
	}
}
