package facts

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
)

const own = "ns/gw.ns.svc.cluster.local"

// wishes records subscriptions.
type wishes map[string]bool

func (w wishes) Subscribe(typeURL string, names ...string) {
	for _, n := range names {
		w[typeURL[strings.LastIndexByte(typeURL, '.')+1:]+" "+n] = true
	}
}

func (w wishes) Unsubscribe(typeURL string, names ...string) {
	for _, n := range names {
		delete(w, typeURL[strings.LastIndexByte(typeURL, '.')+1:]+" "+n)
	}
}

// addresses are the names asked for one by one.
func (w wishes) addresses() []string {
	var out []string
	for k := range w {
		if name, ok := strings.CutPrefix(k, "Address "); ok && name != "ns/gw/*" && name != own {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func raw(t testing.TB, name string, m proto.Message) xds.Raw {
	t.Helper()
	body, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return xds.Raw{Name: name, Body: body}
}

func service(ns, host, waypointHost string) *workload.Address {
	s := &workload.Service{Namespace: ns, Hostname: host}
	if waypointHost != "" {
		s.Waypoint = &workload.GatewayAddress{Destination: &workload.GatewayAddress_Hostname{
			Hostname: &workload.NamespacedHostname{Namespace: ns, Hostname: waypointHost}}}
	}
	return &workload.Address{Type: &workload.Address_Service{Service: s}}
}

func pod(uid string, bound string, services ...string) *workload.Address {
	w := &workload.Workload{Uid: uid, Namespace: "ns", Addresses: [][]byte{netip.MustParseAddr("10.0.0.1").AsSlice()}, Services: map[string]*workload.PortList{}}
	for _, s := range services {
		w.Services[s] = &workload.PortList{}
	}
	if bound != "" {
		w.Waypoint = &workload.GatewayAddress{Destination: &workload.GatewayAddress_Hostname{
			Hostname: &workload.NamespacedHostname{Namespace: "ns", Hostname: bound}}}
	}
	return &workload.Address{Type: &workload.Address_Workload{Workload: w}}
}

func uids(list []*workload.Workload) (out []string) {
	for _, w := range list {
		out = append(out, w.Uid)
	}
	return out
}

func TestSubscriptionsFollowTheFacts(t *testing.T) {
	s, w := New(Config{Namespace: "ns", Name: "gw"}), wishes{}
	s.Subscribe(w)
	for _, typeURL := range Types() {
		if name := typeURL[strings.LastIndexByte(typeURL, '.')+1:] + " ns/gw/*"; !w[name] {
			t.Errorf("not asked for %s", name)
		}
	}
	if !w["Address "+own] || s.Unanswered() != 1 {
		t.Errorf("own service: asked %v, unanswered %d", w, s.Unanswered())
	}
	s.Apply(mesh.TypeWaypointService, []xds.Raw{raw(t, "ns/gw/a/x", &waypoint.Service{Namespace: "a", Hostname: "x"})}, nil)
	s.Apply(mesh.TypeWaypointDestination, []xds.Raw{
		raw(t, "ns/gw/a/x", &waypoint.Destination{Namespace: "a", Hostname: "x"}), raw(t, "ns/gw/b/y", &waypoint.Destination{Namespace: "b", Hostname: "y"})}, nil)
	if d := cmp.Diff([]string{"a/x", "b/y"}, w.addresses()); d != "" {
		t.Error(d)
	}
	// b/y is behind another waypoint; a/x does not exist.
	s.Apply(mesh.TypeAddress, []xds.Raw{raw(t, "b/y", service("b", "y", "other"))}, []string{"a/x", own})
	if d := cmp.Diff([]string{"a/x", "b/other", "b/y"}, w.addresses()); d != "" {
		t.Error(d)
	}
	if n := s.Unanswered(); n != 1 {
		t.Errorf("%d unanswered, want the other waypoint's service", n)
	}
	s.Apply(mesh.TypeWaypointDestination, nil, []string{"ns/gw/b/y", "ns/gw/a/x"})
	s.Apply(mesh.TypeAddress, nil, []string{"b/y"}) // as the server does for what is no longer asked for
	if d := cmp.Diff([]string{"a/x"}, w.addresses()); d != "" {
		t.Error(d)
	}
	if n := s.Unanswered(); n != 0 {
		t.Errorf("%d unanswered", n)
	}
}

func TestRefusedAlone(t *testing.T) {
	s := New(Config{Namespace: "ns", Name: "gw"})
	good := raw(t, "ns/gw/a/x", &waypoint.Service{Namespace: "a", Hostname: "x", Name: "first"})
	s.Apply(mesh.TypeWaypointService, []xds.Raw{good}, nil)
	for name, bad := range map[string]xds.Raw{
		"bytes":        {Name: "ns/gw/a/x", Body: []byte{0xff}},
		"another name": raw(t, "ns/gw/a/x", &waypoint.Service{Namespace: "a", Hostname: "z"}),
		"port":         raw(t, "ns/gw/a/x", &waypoint.Service{Namespace: "a", Hostname: "x", Ports: []*waypoint.ServicePort{{Number: 70000}}}),
		"port twice":   raw(t, "ns/gw/a/x", &waypoint.Service{Namespace: "a", Hostname: "x", Ports: []*waypoint.ServicePort{{Number: 7}, {Number: 7}}}),
		"foreign":      raw(t, "ns/other/a/x", &waypoint.Service{Namespace: "a", Hostname: "x"}),
	} {
		other := raw(t, "ns/gw/a/"+name, &waypoint.Service{Namespace: "a", Hostname: name})
		rejected := s.Apply(mesh.TypeWaypointService, []xds.Raw{bad, other}, nil)
		if len(rejected) != 1 || rejected[0].Name != bad.Name {
			t.Errorf("%s: rejected %v", name, rejected)
		}
		if s.Current().Service("a", "x").GetName() != "first" || s.Current().Service("a", name) == nil {
			t.Errorf("%s: the last good version or the other resource is not there", name)
		}
	}
	for name, bad := range map[string]proto.Message{
		"nothing":    &workload.Address{},
		"no uid":     pod("", ""),
		"an address": &workload.Address{Type: &workload.Address_Workload{Workload: &workload.Workload{Uid: "u", Addresses: [][]byte{{1}}}}},
		"no host":    service("a", "", ""),
	} {
		if rejected := s.Apply(mesh.TypeAddress, []xds.Raw{raw(t, "x", bad)}, nil); len(rejected) != 1 {
			t.Errorf("%s is not refused", name)
		}
	}
	gateway := &waypoint.Gateway{Namespace: "ns", Name: "gw"}
	if rejected := s.Apply(mesh.TypeWaypointGateway, []xds.Raw{raw(t, "ns/gw/gateway", gateway)}, nil); len(rejected) != 1 {
		t.Error("a gateway without trust domains would accept nobody or everybody; it must be refused")
	}
}

func TestBound(t *testing.T) {
	s := New(Config{Namespace: "ns", Name: "gw"})
	byAddress := pod("c", "")
	byAddress.GetWorkload().Waypoint = &workload.GatewayAddress{Destination: &workload.GatewayAddress_Address{
		Address: &workload.NetworkAddress{Address: netip.MustParseAddr("10.9.9.9").AsSlice()}}}
	s.Apply(mesh.TypeAddress, []xds.Raw{
		raw(t, "a", pod("a", "gw.ns.svc.cluster.local")), raw(t, "b", pod("b", "gw2.ns.svc.cluster.local")), raw(t, "c", byAddress)}, nil)
	_, c := s.Take()
	if got := uids(s.Current().Bound()); !slices.Equal(got, []string{"a"}) || !c.Bound {
		t.Errorf("bound %v, changed %v", got, c.Bound)
	}
	self := service("ns", "gw.ns.svc.cluster.local", "")
	self.GetService().Addresses = []*workload.NetworkAddress{{Address: netip.MustParseAddr("10.9.9.9").AsSlice()}}
	s.Apply(mesh.TypeAddress, []xds.Raw{raw(t, own, self)}, []string{"a"})
	if got := uids(s.Current().Bound()); !slices.Equal(got, []string{"c"}) {
		t.Errorf("bound %v", got)
	}
}

func TestOutlines(t *testing.T) {
	s := New(Config{Namespace: "ns", Name: "gw"})
	put := func(change func(*waypoint.Service)) Changes {
		svc := &waypoint.Service{Namespace: "a", Hostname: "x", Ports: []*waypoint.ServicePort{{Number: 80, Http: []*waypoint.HTTPRule{{BrokenStatus: 1}}}}}
		change(svc)
		s.Apply(mesh.TypeWaypointService, []xds.Raw{raw(t, "ns/gw/a/x", svc)}, nil)
		_, c := s.Take()
		if !c.Services.Has("a/x") {
			t.Error("the service is not among the changes")
		}
		return c
	}
	nothing := func(*waypoint.Service) {}
	put(nothing)
	for name, c := range map[string]struct {
		change func(*waypoint.Service)
		want   bool
	}{
		"rule":     {func(s *waypoint.Service) { s.Ports[0].Http[0].BrokenStatus = 2 }, false},
		"no rules": {func(s *waypoint.Service) { s.Ports[0].Http = nil }, true},
		"claims": {func(s *waypoint.Service) {
			s.Ports[0].Http[0].Matches = []*waypoint.HTTPMatch{{Claims: []*waypoint.ClaimMatch{{}}}}
		}, true},
		"port":     {func(s *waypoint.Service) { s.Ports[0].Number = 81 }, true},
		"stream":   {func(s *waypoint.Service) { s.Ports[0].Stream = []*waypoint.StreamRule{{}} }, true},
		"policies": {func(s *waypoint.Service) { s.Policies = &waypoint.Policies{} }, false},
		"guarded":  {func(s *waypoint.Service) { s.Guarded = true }, true},
	} {
		if got := put(c.change).Outlines.Has("a/x"); got != c.want {
			t.Errorf("%s: outline changed %v", name, got)
		}
		put(nothing)
	}
}

func TestPoliciesOfConnections(t *testing.T) {
	deny := func(s *waypoint.Service) {
		s.Policies = &waypoint.Policies{Authorization: []*waypoint.Authorization{{Name: "p", Action: waypoint.Authorization_DENY}}}
	}
	module := func(s *waypoint.Service) {
		s.Policies = &waypoint.Policies{Extensions: []*waypoint.Extension{{Name: "x"}}}
	}
	for name, c := range map[string]struct {
		protocol waypoint.Protocol
		change   func(*waypoint.Service)
		want     bool
	}{
		"authorization of HTTP":         {waypoint.Protocol_HTTP1, deny, false},
		"authorization of gRPC":         {waypoint.Protocol_GRPC, deny, false},
		"authorization of TCP":          {waypoint.Protocol_TCP, deny, true},
		"authorization of who knows":    {waypoint.Protocol_AUTO, deny, true},
		"an extension of HTTP requests": {waypoint.Protocol_HTTP2, module, true},
		"a route":                       {waypoint.Protocol_TCP, func(s *waypoint.Service) { s.Guarded = true }, false},
	} {
		s := New(Config{Namespace: "ns", Name: "gw"})
		svc := &waypoint.Service{Namespace: "a", Hostname: "x", Ports: []*waypoint.ServicePort{{Number: 80, Protocol: c.protocol}}}
		for i, change := range []func(*waypoint.Service){func(*waypoint.Service) {}, c.change} {
			change(svc)
			s.Apply(mesh.TypeWaypointService, []xds.Raw{raw(t, "ns/gw/a/x", svc)}, nil)
			_, changes := s.Take()
			if want := i == 0 || c.want; changes.Policies.Has("a/x") != want {
				t.Errorf("%s, step %d: policies changed %v", name, i, !want)
			}
		}
	}
}

func TestPrivateKeysAreNotShown(t *testing.T) {
	s := New(Config{Namespace: "ns", Name: "gw"})
	s.Apply(mesh.TypeWaypointSecret, []xds.Raw{raw(t, "ns/gw/a/s", &waypoint.Secret{
		Namespace: "a", Name: "s", CertificateChain: []byte("chain"), PrivateKey: []byte("very private")})}, nil)
	var out bytes.Buffer
	if err := s.Current().WriteJSON(&out); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "very private") || strings.Contains(out.String(), "dmVyeSBwcml2YXRl") || !strings.Contains(out.String(), "chain") {
		t.Errorf("shown: %s", &out)
	}
}

// Whatever comes and goes, in whatever order, endpoints and changes are what a naive map would say, and snapshots taken
// before stay as they were.
func TestAgainstNaiveMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := New(Config{Namespace: "ns", Name: "gw"})
		naive := map[string][]string{} // uid → services
		endpoints := func(service string) (out []string) {
			for uid, services := range naive {
				if slices.Contains(services, service) {
					out = append(out, uid)
				}
			}
			slices.Sort(out)
			return out
		}
		names := []string{"a/0", "a/1", "a/2"}
		type view struct {
			snapshot *Snapshot
			want     map[string][]string
		}
		var views []view
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			before := maps.Clone(naive)
			var upserts []xds.Raw
			var removed []string
			for range rapid.IntRange(1, 4).Draw(t, "batch") {
				uid := fmt.Sprintf("uid-%d", rapid.IntRange(0, 5).Draw(t, "uid"))
				if slices.ContainsFunc(upserts, func(r xds.Raw) bool { return r.Name == uid }) || slices.Contains(removed, uid) {
					continue
				}
				if rapid.Bool().Draw(t, "remove") {
					removed = append(removed, uid)
					delete(naive, uid)
					continue
				}
				services := rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 3, rapid.ID).Draw(t, "services")
				body, err := proto.Marshal(pod(uid, "", services...))
				if err != nil {
					t.Fatal(err)
				}
				upserts = append(upserts, xds.Raw{Name: uid, Body: body})
				naive[uid] = services
			}
			if rejected := s.Apply(mesh.TypeAddress, upserts, removed); len(rejected) > 0 {
				t.Fatal(rejected)
			}
			snapshot, changes := s.Take()
			want := map[string][]string{}
			for _, name := range names {
				want[name] = endpoints(name)
				for uid := range naive {
					if slices.Contains(before[uid], name) != slices.Contains(naive[uid], name) && !changes.Endpoints.Has(name) {
						t.Fatalf("endpoints of %s changed unnoticed", name)
					}
				}
			}
			views = append(views, view{snapshot, want})
		}
		for i, v := range views {
			for _, name := range names {
				ns, host, _ := strings.Cut(name, "/")
				if got := uids(v.snapshot.Endpoints(ns, host)); !slices.Equal(got, v.want[name]) {
					t.Fatalf("step %d, endpoints of %s: %v, want %v", i, name, got, v.want[name])
				}
			}
		}
	})
}

func FuzzApply(f *testing.F) {
	for _, m := range []proto.Message{pod("u", "gw", "a/x"), service("a", "x", "w"), &waypoint.Service{Namespace: "a", Hostname: "x"}, &waypoint.Gateway{Namespace: "ns", Name: "gw"}} {
		body, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(0, "ns/gw/a/x", body)
		f.Add(5, "a/x", body)
	}
	f.Fuzz(func(t *testing.T, kind int, name string, body []byte) {
		types := Types()
		typeURL := types[uint(kind)%uint(len(types))]
		s := New(Config{Namespace: "ns", Name: "gw"})
		s.Subscribe(wishes{})
		s.Apply(typeURL, []xds.Raw{{Name: name, Body: body}}, nil)
		s.Apply(typeURL, []xds.Raw{{Name: name, Body: body}}, nil)
		s.Apply(typeURL, nil, []string{name})
		var out bytes.Buffer
		if err := s.Current().WriteJSON(&out); err != nil {
			t.Error(err)
		}
	})
}
