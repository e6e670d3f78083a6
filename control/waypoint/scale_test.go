package waypoint

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ambit-mesh/ambit/api/mesh"
	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// town is a waypoint with many services, each with a route, a VirtualService, a rule and a policy.
func town(services int) []object.Event {
	at := func(name string) object.Meta {
		return object.Meta{Namespace: "town", Name: name, Created: time.Unix(1, 0)}
	}
	ns := object.Meta{Name: "town", Labels: object.LabelsOf(mesh.LabelUseWaypoint, "wp")}
	events := []object.Event{
		object.Put(&object.Namespace{Meta: ns}),
		object.Put(&object.Gateway{
			Meta: at("wp"), Class: mesh.GatewayClassWaypoint, Listeners: []object.Listener{{Name: "mesh", Port: 15008, Protocol: "HBONE"}},
			Status: []object.GatewayAddress{{Kind: object.AddressHostname, Value: "wp.town.svc.cluster.local"}},
		}),
	}
	for i := range services {
		name := fmt.Sprintf("s%d", i)
		events = append(events,
			object.Put(&object.Service{
				Meta: at(name), ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})},
				Ports: []object.ServicePort{{Name: "http", Port: 80, TargetPort: 80}},
			}),
			object.Put(townRoute(i, "/")),
			object.Put(&object.DestinationRule{Meta: at(name), Host: name + ".town.svc.cluster.local", Subsets: []*facts.Subset{{Name: "v1"}}}),
			object.Put(&object.AuthorizationPolicy{
				Meta: at(name), TargetRefs: []object.TargetRef{{Kind: "Service", Name: name}},
				Rules: []object.Rule{{To: []object.Operation{{Methods: []string{"GET"}}}}},
			}),
			object.Put(&object.VirtualService{
				Meta: at(name), Hosts: []string{name + ".town.svc.cluster.local"}, Gateways: []string{"mesh"},
				HTTP: []object.VirtualHTTP{{Rule: &facts.HTTPRule{Action: &facts.HTTPRule_Forward{Forward: &facts.Forward{
					Backends: []*facts.Backend{{Hostname: name + ".town.svc.cluster.local", Subset: "v1", Weight: 1}},
				}}}}},
			}))
	}
	return events
}

func townRoute(i int, path string) *object.HTTPRoute {
	name := fmt.Sprintf("s%d", i)
	ref := object.Ref{Kind: "Service", Namespace: "town", Name: name}
	return &object.HTTPRoute{
		Meta: object.Meta{Namespace: "town", Name: name, Created: time.Unix(2, 0)}, Parents: []object.ParentRef{{Ref: ref}},
		Rules: []object.RouteRule{{
			Rule: &facts.HTTPRule{
				Matches: []*facts.HTTPMatch{{Path: &facts.PathMatch{Kind: &facts.PathMatch_Segments{Segments: path}}}},
				Action:  &facts.HTTPRule_Forward{Forward: &facts.Forward{Backends: []*facts.Backend{{Weight: 1}}}},
			},
			Backends: []object.BackendRef{{Ref: ref, Port: 80}},
		}},
	}
}

// A change computes what it is about, however much there is beside it.
func TestWorkFollowsTheChange(t *testing.T) {
	w := newWorld(t)
	w.apply(town(1000)...)
	if n := len(w.facts); n != 2001 {
		t.Fatalf("%d facts", n)
	}
	name := "Service town/wp/town/s7.town.svc.cluster.local"
	for _, c := range []struct {
		what    string
		event   object.Event
		changed []string
		builds  int
	}{
		{"a route", object.Put(townRoute(7, "/new")), []string{name}, 2},
		{"the same route again", object.Put(townRoute(7, "/new")), nil, 2},
		{"no route", object.Delete(townRoute(7, "/").Key()), []string{name}, 2},
		{"no policy", object.Delete(object.Key{Kind: object.KindAuthorizationPolicy, Namespace: "town", Name: "s7"}), []string{name}, 4},
		{"no rule", object.Delete(object.Key{Kind: object.KindDestinationRule, Namespace: "town", Name: "s7"}),
			[]string{"Destination town/wp/town/s7.town.svc.cluster.local", name}, 4},
		{"no service", object.Delete(object.Key{Kind: object.KindService, Namespace: "town", Name: "s7"}),
			[]string{"-Destination town/wp/town/s7.town.svc.cluster.local", "-" + name}, 8},
	} {
		before := w.model.Builds()
		w.apply(c.event)
		if diff := cmp.Diff(c.changed, w.changed); diff != "" && len(c.changed)+len(w.changed) > 0 {
			t.Errorf("%s: %s", c.what, diff)
		}
		if n := int(w.model.Builds() - before); n > c.builds {
			t.Errorf("%s: %d units were computed, want at most %d", c.what, n, c.builds)
		}
		slices.Sort(w.changed)
	}
}

// city is a gateway at the edge with many hosts, each with a route.
func city(routes int) []object.Event {
	events := []object.Event{
		object.Put(&object.Gateway{
			Meta: object.Meta{Namespace: "town", Name: "edge"}, Class: mesh.GatewayClassIngress,
			Listeners: []object.Listener{{Name: "http", Port: 80, Protocol: "HTTP"}},
		}),
		object.Put(&object.Service{Meta: object.Meta{Namespace: "town", Name: "web"}, Ports: []object.ServicePort{{Name: "http", Port: 80, TargetPort: 80}}}),
	}
	for i := range routes {
		events = append(events, object.Put(cityRoute(i, "/")))
	}
	return events
}

func cityRoute(i int, path string) *object.HTTPRoute {
	o := townRoute(i, path)
	o.Parents = []object.ParentRef{{Ref: object.Ref{Group: groupGateway, Kind: "Gateway", Namespace: "town", Name: "edge"}}}
	o.Hostnames = []string{o.Name + ".example"}
	o.Rules[0].Backends[0].Name = "web"
	return o
}

func TestWorkAtTheEdge(t *testing.T) {
	w := newWorld(t)
	w.apply(city(1000)...)
	if n := len(w.facts); n != 1002 {
		t.Fatalf("%d facts", n)
	}
	before := w.model.Builds()
	w.apply(object.Put(cityRoute(7, "/new")))
	if diff := cmp.Diff([]string{"VirtualHost town/edge/http/s7.example"}, w.changed); diff != "" {
		t.Error(diff)
	}
	if n := w.model.Builds() - before; n > 3 {
		t.Errorf("%d units were computed", n)
	}
	w.apply(object.Delete(cityRoute(7, "/").Key()))
	if diff := cmp.Diff([]string{"-VirtualHost town/edge/http/s7.example"}, w.changed); diff != "" {
		t.Error(diff)
	}
}

func BenchmarkEdgeRouteChange(b *testing.B) {
	w := newWorld(b)
	w.apply(city(1000)...)
	paths := []string{"/a", "/b"}
	i := 0
	for b.Loop() {
		w.apply(object.Put(cityRoute(i%1000, paths[i/1000%2])))
		i++
	}
}

func BenchmarkRouteChange(b *testing.B) {
	w := newWorld(b)
	w.apply(town(1000)...)
	paths := []string{"/a", "/b"}
	i := 0
	for b.Loop() {
		w.apply(object.Put(townRoute(i%1000, paths[i/1000%2])))
		i++
	}
}

func BenchmarkAddService(b *testing.B) {
	w := newWorld(b)
	w.apply(town(1000)...)
	s := &object.Service{Meta: object.Meta{Namespace: "town", Name: "more"}, Ports: []object.ServicePort{{Name: "http", Port: 80, TargetPort: 80}}}
	for b.Loop() {
		w.apply(object.Put(s))
		w.apply(object.Delete(s.Key()))
	}
}

func BenchmarkStart(b *testing.B) {
	events := town(1000)
	for b.Loop() {
		newWorld(b).apply(events...)
	}
}
