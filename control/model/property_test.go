package model

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ambit-mesh/ambit/api/mesh"
	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// TestIncrementalEqualsRebuild feeds random events in random batches and asks after each that the outcome is that of a
// new model which sees the objects of the moment for the first time.
func TestIncrementalEqualsRebuild(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cfg := Config{
			Network:        rapid.SampledFrom([]string{"", "net1"}).Draw(rt, "network"),
			DryRun:         rapid.Bool().Draw(rt, "dryRun"),
			AllowWaypoints: rapid.Bool().Draw(rt, "allowWaypoints"),
		}
		if rapid.Bool().Draw(rt, "visibility") {
			cfg.Visibility = []VisibilityRule{
				{Namespaces: object.LabelSelector{MatchLabels: object.LabelsOf("see", "none")}, Visibility: Nobody},
				{Namespaces: object.LabelSelector{MatchLabels: object.LabelsOf("see", "own")}, Visibility: NamespaceOnly},
			}
		}
		m, rec := New(cfg), newRecorder(t)
		world := map[object.Key]object.Object{}
		for range rapid.IntRange(1, 12).Draw(rt, "batches") {
			for range rapid.IntRange(1, 6).Draw(rt, "events") {
				e := drawEvent(rt)
				if e.Object == nil {
					delete(world, e.Key)
				} else {
					world[e.Key] = e.Object
				}
				m.Apply([]object.Event{e})
			}
			m.Flush(rec)
			if m.Pending() {
				rt.Fatal("something is marked after Flush")
			}
			fresh, want := New(cfg), newRecorder(t)
			keys := make([]object.Key, 0, len(world))
			for k := range world {
				keys = append(keys, k)
			}
			slices.SortFunc(keys, func(a, b object.Key) int { return -compareKeys(a, b) })
			keys = rapid.Permutation(keys).Draw(rt, "order")
			for _, k := range keys {
				fresh.Apply([]object.Event{object.Put(world[k])})
			}
			fresh.Flush(want)
			if diff := cmp.Diff(want.text(), rec.text()); diff != "" {
				rt.Fatalf("the incremental model (+) differs from a rebuild (-):\n%s", diff)
			}
		}
		// Nothing may be left once everything is gone.
		for k := range world {
			m.Apply([]object.Event{object.Delete(k)})
		}
		m.Flush(rec)
		if left := rec.text(); len(left) > 0 {
			rt.Fatalf("left over after all objects are gone: %v", left)
		}
		if n := len(m.namespaces) + len(m.nodes) + len(m.classes) + len(m.hosts) + len(m.podIPs) + len(m.sliceIPs) + len(m.vips) +
			len(m.waypoints) + len(m.targets) + len(m.rules) + len(m.forAccount) + len(m.subsets) + len(m.reports) + len(m.pool.v4.leases) + len(m.pool.v4.waiting) + len(m.pool.v4.reserved) +
			len(m.everywhere.byPair) + len(m.everywhere.all); n != 0 {
			rt.Fatalf("an index still has %d entries: %+v", n, m)
		}
	})
}

func compareKeys(a, b object.Key) int {
	switch {
	case a.String() < b.String():
		return -1
	case a.String() > b.String():
		return 1
	}
	return 0
}

var (
	someNamespaces = []string{"a", "b", mesh.SystemNamespace}
	someNames      = []string{"x", "y", "z"}
	someAddresses  = []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("240.240.9.9")}
)

func pick[T any](rt *rapid.T, of ...T) T { return rapid.SampledFrom(of).Draw(rt, "pick") }

func chance(rt *rapid.T, percent int) bool {
	return rapid.IntRange(0, 99).Draw(rt, "chance") < percent
}

func drawMeta(rt *rapid.T, ns, name string) object.Meta {
	m := object.Meta{Namespace: ns, Name: name, Generation: 1}
	l := map[string]string{}
	for range rapid.IntRange(0, 2).Draw(rt, "labels") {
		l[pick(rt, "app", "tier", "version")] = pick(rt, "1", "2")
	}
	if chance(rt, 25) {
		l[mesh.LabelUseWaypoint] = pick(rt, "x", "y", "none")
		if chance(rt, 30) {
			l[mesh.LabelUseWaypointNS] = pick(rt, someNamespaces...)
		}
	}
	if chance(rt, 15) {
		l[mesh.LabelUseWaypointCanary] = pick(rt, "x", "z")
	}
	if chance(rt, 10) {
		l[mesh.LabelGatewayName] = pick(rt, "x", "y")
	}
	if chance(rt, 10) {
		l[mesh.LabelIngressUseWaypoint] = pick(rt, "true", "false")
	}
	if chance(rt, 5) {
		l[mesh.LabelNetwork] = "net2"
	}
	if chance(rt, 10) {
		l[mesh.LabelWaypointFor] = pick(rt, "service", "workload", "all", "none", "nonsense")
	}
	if chance(rt, 10) {
		l["see"] = pick(rt, "own", "none")
	}
	m.Labels = object.MakeLabels(l)
	a := map[string]string{}
	if chance(rt, 30) {
		a[mesh.AnnotationRedirection] = mesh.RedirectionEnabled
	}
	if chance(rt, 10) {
		a[mesh.AnnotationCanaryWeight] = pick(rt, "10", "101")
	}
	if chance(rt, 10) {
		a[mesh.AnnotationTrafficDistribution] = pick(rt, "PreferClose", "PreferSameNode")
	}
	if chance(rt, 10) {
		a[mesh.AnnotationEnforcement] = pick(rt, mesh.EnforcementOpen, mesh.EnforcementClosed, "what")
	}
	if chance(rt, 10) {
		a[mesh.AnnotationServiceAccount] = "other"
	}
	if chance(rt, 15) {
		a[mesh.AnnotationForAccount] = pick(rt, "default", "sa")
	}
	if chance(rt, 10) {
		a[mesh.AnnotationInboundBinding] = pick(rt, "PROXY/15088", "PROXY", "NONE", "what")
	}
	m.Annotations = object.MakeLabels(a)
	m.Created = time.Unix(int64(rapid.IntRange(0, 2).Draw(rt, "created")), 0)
	m.Deleting = chance(rt, 10)
	return m
}

func drawSelector(rt *rapid.T) object.Selector {
	if chance(rt, 30) {
		return object.Selector{}
	}
	l := map[string]string{}
	for range rapid.IntRange(0, 2).Draw(rt, "selector") {
		l[pick(rt, "app", "tier")] = pick(rt, "1", "2")
	}
	return object.Selector{Present: true, Labels: object.MakeLabels(l)}
}

func drawEvent(rt *rapid.T) object.Event {
	kind := pick(rt, object.KindNamespace, object.KindNode, object.KindPod, object.KindPod, object.KindPod, object.KindService,
		object.KindService, object.KindEndpointSlice, object.KindServiceEntry, object.KindServiceEntry, object.KindWorkloadEntry,
		object.KindAuthorizationPolicy, object.KindPeerAuthentication, object.KindPeerAuthentication, object.KindGateway, object.KindGateway, object.KindGatewayClass,
		object.KindRequestAuthentication, object.KindAuthorizationPolicy, object.KindDestinationRule)
	ns, name := pick(rt, someNamespaces...), pick(rt, someNames...)
	switch kind {
	case object.KindNamespace:
		ns, name = "", pick(rt, someNamespaces...)
	case object.KindNode, object.KindGatewayClass:
		ns = ""
	}
	key := object.Key{Kind: kind, Namespace: ns, Name: name}
	if chance(rt, 25) {
		return object.Delete(key)
	}
	meta := drawMeta(rt, ns, name)
	switch kind {
	case object.KindNamespace:
		return object.Put(&object.Namespace{Meta: meta})
	case object.KindNode:
		if chance(rt, 60) {
			meta.Labels = object.LabelsOf(mesh.LabelRegion, pick(rt, "r1", "r2"), mesh.LabelZone, "z")
		}
		return object.Put(&object.Node{Meta: meta})
	case object.KindPod:
		return object.Put(drawPod(rt, meta))
	case object.KindService:
		return object.Put(drawService(rt, meta))
	case object.KindEndpointSlice:
		return object.Put(drawSlice(rt, meta))
	case object.KindServiceEntry:
		return object.Put(drawServiceEntry(rt, meta))
	case object.KindWorkloadEntry:
		return object.Put(&object.WorkloadEntry{Meta: meta, Workload: drawWorkload(rt)})
	case object.KindAuthorizationPolicy:
		return object.Put(drawPolicy(rt, meta))
	case object.KindRequestAuthentication:
		a := &object.RequestAuthentication{Meta: meta, TargetRefs: drawTargets(rt)}
		if chance(rt, 80) {
			a.Rules = []object.JWTRule{{}}
		}
		return object.Put(a)
	case object.KindDestinationRule:
		return object.Put(&object.DestinationRule{
			Meta: meta, Host: pick(rt, "x.a.svc.cluster.local", "one.example", "*.a.svc.cluster.local", "*"),
			Subsets: []*facts.Subset{{Name: "s", Labels: map[string]string{pick(rt, "app", "tier", "version"): "1"}}},
		})
	case object.KindPeerAuthentication:
		p := &object.PeerAuthentication{Meta: meta, Selector: drawSelector(rt), Mode: object.MTLSMode(rapid.IntRange(0, 3).Draw(rt, "mode"))}
		for i := range rapid.IntRange(0, 2).Draw(rt, "ports") {
			p.Ports = append(p.Ports, object.PortMode{Port: uint16(80 + i), Mode: object.MTLSMode(rapid.IntRange(0, 3).Draw(rt, "mode"))})
		}
		return object.Put(p)
	case object.KindGateway:
		return object.Put(drawGateway(rt, meta))
	}
	return object.Put(&object.GatewayClass{Meta: meta, Controller: pick(rt, controllerWaypoint, "other")})
}

func drawAddresses(rt *rapid.T, atMost int) []netip.Addr {
	var as []netip.Addr
	for range rapid.IntRange(0, atMost).Draw(rt, "addresses") {
		if a := pick(rt, someAddresses...); !slices.Contains(as, a) {
			as = append(as, a)
		}
	}
	return as
}

func drawPod(rt *rapid.T, meta object.Meta) *object.Pod {
	p := &object.Pod{
		Meta: meta, IPs: drawAddresses(rt, 2), Node: pick(rt, "", "x", "y"), ServiceAccount: pick(rt, "default", "sa"),
		Phase: pick(rt, object.Running, object.Running, object.Pending, object.Succeeded), Ready: chance(rt, 70), HostNetwork: chance(rt, 10),
	}
	if chance(rt, 50) {
		p.Ports = []object.ContainerPort{{Name: "http", Port: pick[uint16](rt, 8080, 9090)}}
	}
	if chance(rt, 50) {
		p.Owner = pick(rt, object.Owner{Kind: "ReplicaSet", Name: "d-123"}, object.Owner{Kind: "Job", Name: "j-12345678"})
	}
	return p
}

func drawService(rt *rapid.T, meta object.Meta) *object.Service {
	s := &object.Service{
		Meta: meta, ClusterIPs: drawAddresses(rt, 2), Selector: drawSelector(rt),
		PublishNotReadyAddresses: chance(rt, 10), InternalTrafficLocal: chance(rt, 10),
		TrafficDistribution: pick(rt, "", "PreferClose"),
	}
	if chance(rt, 8) {
		s.Type = object.ExternalName
	}
	for i := range rapid.IntRange(0, 2).Draw(rt, "ports") {
		p := object.ServicePort{Name: pick(rt, "http", "grpc-x"), Port: uint16(80 + i), TargetPort: 8080}
		if chance(rt, 30) {
			p.TargetPort, p.TargetName = 0, "http"
		}
		s.Ports = append(s.Ports, p)
	}
	return s
}

func drawSlice(rt *rapid.T, meta object.Meta) *object.EndpointSlice {
	e := &object.EndpointSlice{Meta: meta, Service: pick(rt, "", "x", "y"), Family: pick(rt, object.IPv4, object.IPv4, 0)}
	e.Ports = []object.SlicePort{{Name: pick(rt, "http", "grpc-x"), Port: 7070}}
	for range rapid.IntRange(0, 2).Draw(rt, "endpoints") {
		ep := object.Endpoint{Addresses: []netip.Addr{pick(rt, someAddresses...)}, Ready: chance(rt, 70)}
		if chance(rt, 40) {
			ep.TargetPod = object.Key{Kind: object.KindPod, Namespace: pick(rt, someNamespaces...), Name: pick(rt, someNames...)}
		}
		e.Endpoints = append(e.Endpoints, ep)
	}
	return e
}

func drawWorkload(rt *rapid.T) object.Workload {
	w := object.Workload{ServiceAccount: pick(rt, "", "sa"), Locality: pick(rt, "", "r/z"), Weight: uint32(rapid.IntRange(0, 2).Draw(rt, "weight"))}
	switch {
	case chance(rt, 60):
		w.Address = pick(rt, someAddresses...)
	case chance(rt, 80):
		w.Host = pick(rt, "one.example", "two.example")
	}
	if chance(rt, 30) {
		w.Ports = []object.NamedPort{{Name: "http", Port: 1234}}
	}
	if chance(rt, 40) {
		w.Labels = object.LabelsOf("app", pick(rt, "1", "2"), mesh.LabelUseWaypoint, pick(rt, "x", "none"))
	}
	return w
}

func drawServiceEntry(rt *rapid.T, meta object.Meta) *object.ServiceEntry {
	e := &object.ServiceEntry{
		Meta: meta, Resolution: object.Resolution(rapid.IntRange(0, 4).Draw(rt, "resolution")), SubjectAltNames: []string{"spiffe://x"},
	}
	for range rapid.IntRange(1, 3).Draw(rt, "hosts") {
		e.Hosts = append(e.Hosts, pick(rt, "one.example", "two.example", "*.three.example", "x.a.svc.cluster.local", "y.b.svc.cluster.local"))
	}
	e.Ports = []object.EntryPort{{Name: "http", Number: 80, Protocol: "HTTP", TargetPort: 8080}}
	for _, a := range drawAddresses(rt, 1) {
		e.Addresses = append(e.Addresses, netip.PrefixFrom(a, pick(rt, 32, a.BitLen(), a.BitLen())))
	}
	for i := range e.Addresses {
		if !e.Addresses[i].IsValid() {
			e.Addresses[i] = netip.MustParsePrefix("10.0.0.0/24")
		}
	}
	if chance(rt, 10) {
		e.Assigned = []object.HostAddress{{Host: e.Hosts[0], Address: netip.MustParseAddr("240.240.9.9")}}
	}
	if chance(rt, 40) {
		e.WorkloadSelector = drawSelector(rt)
	} else {
		for range rapid.IntRange(0, 2).Draw(rt, "endpoints") {
			e.Endpoints = append(e.Endpoints, drawWorkload(rt))
		}
	}
	if chance(rt, 10) {
		e.ExportTo = []string{"."}
	}
	return e
}

func drawPolicy(rt *rapid.T, meta object.Meta) *object.AuthorizationPolicy {
	p := &object.AuthorizationPolicy{Meta: meta, Action: object.Action(rapid.IntRange(0, 3).Draw(rt, "action")), Selector: drawSelector(rt)}
	if chance(rt, 20) {
		p.Annotations = object.LabelsOf(mesh.AnnotationDryRun, pick(rt, "true", "maybe"))
	}
	if chance(rt, 30) {
		p.Selector = object.Selector{}
		p.TargetRefs = drawTargets(rt)
	}
	for range rapid.IntRange(0, 2).Draw(rt, "rules") {
		r := object.Rule{}
		if chance(rt, 50) {
			r.From = []object.Source{{Principals: []string{"*"}, IPBlocks: []string{pick(rt, "10.0.0.0/8", "10.0.0.1")}}}
		}
		if chance(rt, 50) {
			r.To = []object.Operation{{Ports: []string{pick(rt, "80", "no")}, Methods: pick(rt, nil, []string{"GET"})}}
		}
		if chance(rt, 30) {
			r.When = []object.Condition{{Key: pick(rt, "source.ip", "request.headers[x]"), Values: []string{"10.0.0.1"}}}
		}
		p.Rules = append(p.Rules, r)
	}
	return p
}

func drawTargets(rt *rapid.T) []object.TargetRef {
	var refs []object.TargetRef
	for range rapid.IntRange(1, 2).Draw(rt, "refs") {
		refs = append(refs, object.TargetRef{Kind: pick(rt, "Service", "Service", "ServiceEntry", "Gateway", "GatewayClass", "Pod"), Name: pick(rt, append(someNames, mesh.GatewayClassWaypoint)...)})
	}
	return refs
}

func drawGateway(rt *rapid.T, meta object.Meta) *object.Gateway {
	g := &object.Gateway{Meta: meta, Class: pick(rt, mesh.GatewayClassWaypoint, mesh.GatewayClassWaypoint, "x", "y", mesh.GatewayClassEastWest)}
	if chance(rt, 80) {
		l := object.Listener{Name: "mesh", Port: mesh.PortHBONE, Protocol: "HBONE", From: object.RouteNamespaces(rapid.IntRange(0, 3).Draw(rt, "from"))}
		if l.From == object.FromSelector {
			l.FromSelector = object.LabelSelector{MatchLabels: object.LabelsOf("app", "1")}
		}
		g.Listeners = append(g.Listeners, l)
	}
	if chance(rt, 80) {
		g.Status = append(g.Status, pick(rt,
			object.GatewayAddress{Kind: object.AddressHostname, Value: fmt.Sprintf("%s.%s.svc.cluster.local", meta.Name, meta.Namespace)},
			object.GatewayAddress{Kind: object.AddressIP, Value: "10.9.9.9"}))
	}
	return g
}
