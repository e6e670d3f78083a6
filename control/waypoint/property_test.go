package waypoint

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ambit-mesh/ambit/api/mesh"
	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/jwks"
	"github.com/ambit-mesh/ambit/control/object"
)

// TestIncrementalEqualsRebuild feeds random events in random batches and asks after each that the outcome is that of new
// models which see the objects of the moment for the first time.
func TestIncrementalEqualsRebuild(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		objects := map[object.Key]object.Object{}
		fetched := map[jwks.Source]jwks.Set{}
		for range rapid.IntRange(1, 10).Draw(rt, "batches") {
			var events []object.Event
			if len(objects) == 0 {
				events = base(rt)
				for _, e := range events {
					objects[e.Key] = e.Object
				}
			}
			for range rapid.IntRange(1, 8).Draw(rt, "events") {
				e := drawEvent(rt)
				if slices.ContainsFunc(events, func(o object.Event) bool { return o.Key == e.Key }) {
					continue
				}
				events = append(events, e)
				if e.Object == nil {
					delete(objects, e.Key)
				} else {
					objects[e.Key] = e.Object
				}
			}
			w.apply(events...)
			for _, s := range w.keys {
				if chance(rt, 50) {
					fetched[s] = jwks.Set{Keys: pick(rt, "", "k1", "k2"), Problem: pick(rt, "", "no")}
					w.model.SetKeys(s, fetched[s])
				}
			}
			w.flush()
			fresh := newWorld(t)
			keys := make([]object.Key, 0, len(objects))
			for k := range objects {
				keys = append(keys, k)
			}
			slices.SortFunc(keys, func(a, b object.Key) int { return strings.Compare(a.String(), b.String()) })
			var all []object.Event
			for _, k := range rapid.Permutation(keys).Draw(rt, "order") {
				all = append(all, object.Put(objects[k]))
			}
			fresh.apply(all...)
			for s := range fetched {
				if !slices.Contains(w.keys, s) {
					delete(fetched, s)
					continue
				}
				fresh.model.SetKeys(s, fetched[s])
			}
			fresh.flush()
			if diff := cmp.Diff(fresh.text(), w.text()); diff != "" {
				rt.Fatalf("the incremental model (+) differs from a rebuild (-):\n%s", diff)
			}
		}
		for k := range objects {
			w.apply(object.Delete(k))
		}
		if left := w.text(); len(left) > 0 {
			rt.Fatalf("left over after all objects are gone: %v", left)
		}
		m := w.model
		if n := len(m.objects) + len(m.lists) + len(m.hosts) + len(m.namespacesOf) + len(m.hostsOf) + len(m.bound) + len(m.keys) + len(m.attached) +
			len(m.reports) + len(m.graph.units) + len(m.graph.readers) + len(m.graph.orphans); n != 0 {
			rt.Fatalf("an index still has %d entries: %+v", n, m)
		}
	})
}

func pick[T any](rt *rapid.T, of ...T) T { return rapid.SampledFrom(of).Draw(rt, "pick") }

func chance(rt *rapid.T, percent int) bool {
	return rapid.IntRange(0, 99).Draw(rt, "chance") < percent
}

// base is a small mesh in which most of what is drawn later means something; each part may be missing.
func base(rt *rapid.T) []object.Event {
	meta := func(ns, name string, labels ...string) object.Meta {
		return object.Meta{Namespace: ns, Name: name, Labels: object.LabelsOf(labels...)}
	}
	status := []object.GatewayAddress{{Kind: object.AddressHostname, Value: "h"}}
	from := object.FromAll
	all := []object.Object{
		&object.Namespace{Meta: meta("", "a", mesh.LabelUseWaypoint, "x")},
		&object.Gateway{Meta: meta("a", "x"), Class: mesh.GatewayClassWaypoint, Status: status},
		&object.Gateway{Meta: meta("a", "y"), Class: mesh.GatewayClassIngress, Status: status, ListenerSets: from, Listeners: []object.Listener{
			{Name: "one", Port: 80, Protocol: "HTTP", From: from},
			{Name: "two", Port: 443, Protocol: "HTTPS", From: from, Hostname: "*.example", Certificates: []object.Ref{{Kind: "Secret", Namespace: "a", Name: "x"}}},
			{Name: "three", Port: 90, Protocol: "TCP", From: from},
			{Name: "four", Port: 443, Protocol: "TLS", TLSMode: "Passthrough", Hostname: "one.example", From: from},
		}},
		&object.Service{Meta: meta("a", "x"), Ports: []object.ServicePort{{Name: "http", Port: 80, TargetPort: 80}}},
		&object.Service{Meta: meta("b", "y"), Ports: []object.ServicePort{{Name: "auto", Port: 80, TargetPort: 80}}},
		&object.ServiceEntry{Meta: meta("a", "x"), Hosts: []string{"one.example"}, Resolution: object.ResolutionDNS, Ports: []object.EntryPort{{Name: "http", Number: 80, Protocol: "HTTP"}}},
		&object.Secret{Meta: meta("a", "x"), Certificate: "c", PrivateKey: object.MakeConfidential([]byte("k"))},
	}
	var events []object.Event
	for _, o := range all {
		if chance(rt, 90) {
			events = append(events, object.Put(o))
		}
	}
	return events
}

func drawEvent(rt *rapid.T) object.Event {
	kind := pick(rt, object.KindNamespace, object.KindGateway, object.KindGateway, object.KindGatewayClass, object.KindService, object.KindService,
		object.KindServiceEntry, object.KindVirtualService, object.KindVirtualService, object.KindDestinationRule, object.KindHTTPRoute, object.KindHTTPRoute,
		object.KindTLSRoute, object.KindTCPRoute, object.KindReferenceGrant, object.KindBackendTLSPolicy, object.KindListenerSet,
		object.KindAuthorizationPolicy, object.KindRequestAuthentication, object.KindTelemetry, object.KindExtensionPolicy, object.KindLocalRateLimitPolicy,
		object.KindSecret, object.KindConfigMap)
	ns, name := pick(rt, "a", "b", mesh.SystemNamespace), pick(rt, "x", "y")
	switch kind {
	case object.KindNamespace:
		ns, name = "", pick(rt, "a", "b", mesh.SystemNamespace)
	case object.KindGatewayClass:
		ns, name = "", pick(rt, mesh.GatewayClassWaypoint, "mine")
	case object.KindConfigMap:
		name = pick(rt, "x", meshConfigName)
	}
	k := object.Key{Kind: kind, Namespace: ns, Name: name}
	if chance(rt, 25) {
		return object.Delete(k)
	}
	meta := object.Meta{Namespace: ns, Name: name, Created: time.Unix(int64(rapid.IntRange(0, 2).Draw(rt, "created")), 0)}
	labels := map[string]string{}
	if chance(rt, 60) {
		labels[mesh.LabelUseWaypoint] = pick(rt, "x", "x", "y", "none")
	}
	if chance(rt, 10) {
		labels["istio.io/persistent-session"] = "c:/p"
	}
	meta.Labels = object.MakeLabels(labels)
	return object.Put(drawObject(rt, kind, meta))
}

func drawObject(rt *rapid.T, kind object.Kind, meta object.Meta) object.Object {
	switch kind {
	case object.KindNamespace:
		return &object.Namespace{Meta: meta}
	case object.KindGateway:
		return drawGateway(rt, meta)
	case object.KindGatewayClass:
		return &object.GatewayClass{Meta: meta, Controller: pick(rt, "istio.io/mesh-controller", "istio.io/gateway-controller", "other")}
	case object.KindService:
		return &object.Service{Meta: meta, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Ports: drawPorts(rt)}
	case object.KindServiceEntry:
		return &object.ServiceEntry{
			Meta: meta, Hosts: []string{pick(rt, "one.example", "two.example")}, Resolution: object.Resolution(rapid.IntRange(0, 4).Draw(rt, "resolution")),
			Ports: []object.EntryPort{{Name: "http", Number: 80, Protocol: "HTTP", TargetPort: 80}},
		}
	case object.KindVirtualService:
		return drawVirtual(rt, meta)
	case object.KindDestinationRule:
		return &object.DestinationRule{
			Meta: meta, Host: drawHost(rt), ExportTo: pick(rt, nil, []string{"."}),
			Policy:  &facts.TrafficPolicy{Tls: &facts.ClientTLS{Mode: facts.ClientTLS_MUTUAL, Secret: pick(rt, "", "x")}},
			Subsets: []*facts.Subset{{Name: pick(rt, "v1", "v2"), Labels: map[string]string{"version": "1"}}},
		}
	case object.KindHTTPRoute:
		return drawHTTPRoute(rt, meta)
	case object.KindTLSRoute, object.KindTCPRoute:
		return &object.StreamRoute{
			Meta: meta, TLS: kind == object.KindTLSRoute, Parents: drawParents(rt, meta.Namespace), Hostnames: pick(rt, nil, []string{"one.example"}),
			Rules: []object.StreamRouteRule{{
				Rule: &facts.StreamRule{Backends: []*facts.Backend{{Weight: 1}}}, Backends: []object.BackendRef{drawBackend(rt, meta.Namespace)},
			}},
		}
	case object.KindReferenceGrant:
		return &object.ReferenceGrant{
			Meta: meta, From: []object.GrantFrom{{Group: groupGateway, Kind: pick(rt, "HTTPRoute", "Gateway"), Namespace: pick(rt, "a", "b")}},
			To: []object.GrantTo{{Kind: pick(rt, "Service", "Secret")}},
		}
	case object.KindBackendTLSPolicy:
		return &object.BackendTLSPolicy{
			Meta: meta, TargetRefs: []object.TargetRef{{Kind: "Service", Name: pick(rt, "x", "y"), SectionName: pick(rt, "", "http")}}, Hostname: "h",
			CertificateRefs: []object.Ref{{Kind: "ConfigMap", Namespace: meta.Namespace, Name: "x"}},
		}
	case object.KindListenerSet:
		return &object.ListenerSet{Meta: meta, Parent: object.Ref{Group: groupGateway, Kind: "Gateway", Namespace: pick(rt, "a", "b"), Name: "y"}, Listeners: drawListeners(rt)}
	}
	return drawPolicy(rt, kind, meta)
}

func drawPolicy(rt *rapid.T, kind object.Kind, meta object.Meta) object.Object {
	refs := drawTargets(rt)
	switch kind {
	case object.KindAuthorizationPolicy:
		return &object.AuthorizationPolicy{
			Meta: meta, TargetRefs: refs, Action: pick(rt, object.Allow, object.Deny, object.Custom), Provider: "p",
			Rules: []object.Rule{{From: []object.Source{{Principals: []string{"cluster.local/ns/a/sa/x"}}}}},
		}
	case object.KindRequestAuthentication:
		return &object.RequestAuthentication{Meta: meta, TargetRefs: refs, Rules: []object.JWTRule{
			{Rule: &facts.JWTRule{Issuer: "i"}, JWKSURI: pick(rt, "https://one/", "https://two/", "")},
		}}
	case object.KindTelemetry:
		return &object.Telemetry{Meta: meta, TargetRefs: refs, Logging: []object.TelemetryLogging{{Providers: []string{pick(rt, "envoy", "log")}}}}
	case object.KindExtensionPolicy:
		return &object.Extension{
			Meta: meta, Kind: kind, TargetRefs: refs,
			Spec:      &facts.Extension{FailOpen: chance(rt, 50), Kind: &facts.Extension_Processor{Processor: &facts.ExternalProcessor{}}},
			Processor: drawBackend(rt, meta.Namespace),
		}
	case object.KindLocalRateLimitPolicy:
		return &object.LocalRateLimitPolicy{Meta: meta, TargetRefs: refs, Spec: &facts.RateLimit{Rules: []*facts.RateLimitRule{{Requests: 3}}}}
	case object.KindSecret:
		s := &object.Secret{Meta: meta, CA: "ca"}
		if chance(rt, 70) {
			s.Certificate, s.PrivateKey = "cert", object.MakeConfidential([]byte("key"))
		}
		return s
	}
	c := &object.ConfigMap{Meta: meta, CA: pick(rt, "", "ca")}
	if chance(rt, 70) {
		c.Mesh = &object.MeshConfig{TrustDomainAliases: pick(rt, nil, []string{"old"}), AccessLogFile: pick(rt, "", "/dev/stdout"), Providers: []object.Provider{
			{Name: "p", Authorizer: &facts.ExternalAuthorizer{Service: &facts.Backend{Hostname: "x.a.svc.cluster.local", Port: 80}}},
			{Name: "log", AccessLog: &facts.AccessLog{}},
		}}
	}
	return c
}

func drawTargets(rt *rapid.T) []object.TargetRef {
	var refs []object.TargetRef
	for range rapid.IntRange(0, 2).Draw(rt, "targets") {
		refs = append(refs, pick(rt,
			object.TargetRef{Kind: "Service", Name: "x"}, object.TargetRef{Kind: "Service", Name: "y"}, object.TargetRef{Kind: "ServiceEntry", Name: "x"},
			object.TargetRef{Kind: "Gateway", Name: "x"}, object.TargetRef{Kind: "Gateway", Name: "y"}, object.TargetRef{Kind: "GatewayClass", Name: mesh.GatewayClassWaypoint}))
	}
	return refs
}

func drawPorts(rt *rapid.T) []object.ServicePort {
	all := []object.ServicePort{{Name: "http", Port: 80, TargetPort: 80}, {Name: "tcp", Port: 90, TargetPort: 90}, {Name: "auto", Port: 100, TargetPort: 100}}
	return all[:rapid.IntRange(1, 3).Draw(rt, "ports")]
}

func drawGateway(rt *rapid.T, meta object.Meta) *object.Gateway {
	g := &object.Gateway{Meta: meta, Class: mesh.GatewayClassWaypoint, ListenerSets: pick(rt, object.FromAll, object.FromNone)}
	if meta.Name == "y" {
		g.Class = pick(rt, mesh.GatewayClassIngress, "mine")
	}
	g.Listeners = drawListeners(rt)
	if chance(rt, 80) {
		g.Status = []object.GatewayAddress{{Kind: object.AddressHostname, Value: "h"}}
	}
	return g
}

func drawListeners(rt *rapid.T) []object.Listener {
	var all []object.Listener
	for _, name := range []string{"one", "two"}[:rapid.IntRange(0, 2).Draw(rt, "listeners")] {
		all = append(all, object.Listener{
			Name: name, Port: pick[uint16](rt, 80, 443), Protocol: pick(rt, "HTTP", "HTTPS", "TLS", "TCP", "HBONE"), Hostname: pick(rt, "", "*.example", "one.example"),
			From: pick(rt, object.FromAll, object.FromSame), Certificates: []object.Ref{{Kind: "Secret", Namespace: pick(rt, "a", "b"), Name: "x"}},
		})
	}
	return all
}

func drawHost(rt *rapid.T) string {
	return pick(rt, "x.a.svc.cluster.local", "y.a.svc.cluster.local", "x.b.svc.cluster.local", "*.a.svc.cluster.local", "one.example", "*.example", "*")
}

func drawVirtual(rt *rapid.T, meta object.Meta) *object.VirtualService {
	v := &object.VirtualService{Meta: meta, Gateways: []string{pick(rt, "mesh", "mesh", "a/y")}, ExportTo: pick(rt, nil, []string{"."})}
	for range rapid.IntRange(0, 2).Draw(rt, "hosts") {
		if h := drawHost(rt); !slices.Contains(v.Hosts, h) {
			v.Hosts = append(v.Hosts, h)
		}
	}
	for range rapid.IntRange(0, 2).Draw(rt, "rules") {
		e := object.VirtualHTTP{Rule: &facts.HTTPRule{
			Matches: []*facts.HTTPMatch{{Path: &facts.PathMatch{Kind: &facts.PathMatch_Prefix{Prefix: pick(rt, "/", "/a", "/a/b")}}}},
		}}
		if chance(rt, 30) {
			e.Delegate = object.Ref{Namespace: pick(rt, "a", "b"), Name: pick(rt, "x", "y")}
		} else {
			e.Rule.Action = &facts.HTTPRule_Forward{Forward: &facts.Forward{Backends: []*facts.Backend{
				{Hostname: pick(rt, "x.a.svc.cluster.local", "y.b.svc.cluster.local", "one.example"), Port: pick[uint32](rt, 0, 80), Subset: pick(rt, "", "v1"), Weight: 1},
			}}}
		}
		if chance(rt, 30) {
			e.Scopes = []object.MatchScope{{Port: 80}}
		}
		v.HTTP = append(v.HTTP, e)
	}
	return v
}

func drawHTTPRoute(rt *rapid.T, meta object.Meta) *object.HTTPRoute {
	o := &object.HTTPRoute{Meta: meta, Parents: drawParents(rt, meta.Namespace), Hostnames: pick(rt, nil, []string{"one.example"}, []string{"*.example", "x"})}
	for range rapid.IntRange(0, 2).Draw(rt, "rules") {
		o.Rules = append(o.Rules, object.RouteRule{
			Rule: &facts.HTTPRule{
				Matches: []*facts.HTTPMatch{{Path: &facts.PathMatch{Kind: &facts.PathMatch_Segments{Segments: pick(rt, "/", "/a")}}}, {}},
				Action:  &facts.HTTPRule_Forward{Forward: &facts.Forward{Backends: []*facts.Backend{{Weight: 1}}}},
				Mirrors: []*facts.Mirror{{To: &facts.Backend{}}},
			},
			Backends: []object.BackendRef{drawBackend(rt, meta.Namespace)}, Mirrors: []object.BackendRef{drawBackend(rt, meta.Namespace)},
		})
	}
	return o
}

func drawBackend(rt *rapid.T, ns string) object.BackendRef {
	return object.BackendRef{
		Ref:  object.Ref{Group: pick(rt, "", groupIstio), Kind: pick(rt, "Service", "Service", "ServiceEntry", "Hostname"), Namespace: pick(rt, ns, "a", "b"), Name: pick(rt, "x", "y", "one.example")},
		Port: pick[uint16](rt, 80, 80, 81, 0),
	}
}

func drawParents(rt *rapid.T, ns string) []object.ParentRef {
	var all []object.ParentRef
	for range rapid.IntRange(0, 2).Draw(rt, "parents") {
		kind := pick(rt, "Service", "ServiceEntry", "Gateway", "Gateway", "ListenerSet")
		all = append(all, object.ParentRef{
			Ref:  object.Ref{Kind: kind, Namespace: pick(rt, ns, ns, "a", "b"), Name: pick(rt, "x", "y")},
			Port: pick[uint16](rt, 0, 0, 80), Section: pick(rt, "", "", "one"),
		})
	}
	return all
}
