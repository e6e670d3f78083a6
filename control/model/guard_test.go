package model

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/ambit-mesh/ambit/api/mesh"
	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/object"
)

// guardStory is a namespace with a waypoint, a service and its pod, to which things happen.
type guardStory struct {
	t   *testing.T
	m   *Model
	rec *recorder
}

func newGuardStory(t *testing.T) *guardStory {
	s := &guardStory{t: t, m: New(Config{}), rec: newRecorder(t)}
	s.put(`
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: wp}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.1.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}, {name: admin, port: 81, targetPort: adm}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web, version: v1, tier: gold}}
spec: {containers: [{name: c, image: i, ports: [{name: adm, containerPort: 9090}]}]}
status: {phase: Running, podIP: 10.2.0.1, conditions: [{type: Ready, status: "True"}]}
`, waypointReady)
	return s
}

const waypointReady = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{type: Hostname, value: wp.shop.svc.cluster.local}]}
`

const getOnly = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: get-only, namespace: shop}
spec:
  targetRefs: [{kind: Service, group: "", name: web}]
  rules: [{to: [{operation: {methods: [GET]}}]}]
`

func (s *guardStory) put(texts ...string) {
	s.t.Helper()
	for _, text := range texts {
		s.m.Apply(decode(s.t, []byte(text)))
	}
	s.m.Flush(s.rec)
}

func (s *guardStory) delete(texts ...string) {
	s.t.Helper()
	for _, text := range texts {
		for _, e := range decode(s.t, []byte(text)) {
			s.m.Apply([]object.Event{object.Delete(e.Key)})
		}
	}
	s.m.Flush(s.rec)
}

func (s *guardStory) guards() *facts.Guards {
	s.t.Helper()
	return guardsIn(s.t, s.rec.workloads[mesh.PodUID(mesh.DefaultClusterID, "shop", "web-1")].GetExtensions())
}

func guardsIn(t *testing.T, xs []*workload.Extension) *facts.Guards {
	t.Helper()
	g := &facts.Guards{}
	for _, x := range xs {
		if x.Name == mesh.ExtensionGuards {
			if err := x.Config.UnmarshalTo(g); err != nil {
				t.Fatal(err)
			}
		}
	}
	return g
}

const waypointID = "spiffe://cluster.local/ns/shop/sa/wp"

func (s *guardStory) expect(what string, want *facts.Guards) {
	s.t.Helper()
	if diff := cmp.Diff(want, s.guards(), protocmp.Transform()); diff != "" {
		s.t.Errorf("%s:\n%s", what, diff)
	}
}

func guarding(policies string, with ...func(*facts.Guard)) *facts.Guards {
	g := &facts.Guard{
		Ports: []uint32{8080, 9090}, Waypoints: []string{waypointID}, Gateway: "shop/wp", Service: "shop/web.shop.svc.cluster.local",
		Policies: strings.Split(policies, ";"),
	}
	for _, f := range with {
		f(g)
	}
	return &facts.Guards{Guards: []*facts.Guard{g}, Waypoints: []string{waypointID}}
}

func TestGuards(t *testing.T) {
	trusted := &facts.Guards{Waypoints: []string{waypointID}}
	s := newGuardStory(t)
	s.expect("a waypoint without policies", trusted)

	s.put(getOnly)
	const policy = "AuthorizationPolicy shop/get-only"
	s.expect("a policy on the service", guarding(policy))
	if h := s.rec.hosts["shop/web.shop.svc.cluster.local"]; !h.Guarded || h.Waypoint.Name != "wp" {
		t.Errorf("the host is told as %+v", h)
	}

	// The waypoint goes away: what it enforces still holds.
	s.delete(waypointReady)
	closed := guarding(policy)
	closed.Waypoints = nil
	s.expect("the waypoint is gone", closed)
	rep := s.rec.reports[object.Key{Kind: object.KindService, Namespace: "shop", Name: "web"}]
	if !slices.ContainsFunc(rep.Warnings, func(w Warning) bool { return strings.Contains(w.Problem, "endpoints refuse all traffic") }) {
		t.Errorf("nobody is told: %+v", rep)
	}
	s.put(waypointReady[:strings.Index(waypointReady, "status:")])
	s.expect("the waypoint is not ready", closed)
	s.put(waypointReady)
	s.expect("the waypoint is back", guarding(policy))

	// An account of its own, and instances that have another one.
	s.put(strings.Replace(waypointReady, "namespace: shop}", "namespace: shop, annotations: {gateway.istio.io/service-account: own}}", 1), `
apiVersion: v1
kind: Pod
metadata: {name: wp-1, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: wp}}
spec: {serviceAccountName: old, containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 10.2.0.9}
`)
	ids := []string{"spiffe://cluster.local/ns/shop/sa/old", "spiffe://cluster.local/ns/shop/sa/own"}
	want := guarding(policy, func(g *facts.Guard) { g.Waypoints = ids })
	want.Waypoints = ids
	s.expect("accounts", want)
}

func TestGuardsAreOpenedByTheOwner(t *testing.T) {
	s := newGuardStory(t)
	s.put(getOnly)
	open := func(g *facts.Guard) { g.Open = true }
	const policy = "AuthorizationPolicy shop/get-only"
	service := `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {ambit.io/waypoint-enforcement: WORD}}
spec: {clusterIP: 10.1.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}, {name: admin, port: 81, targetPort: adm}]}
`
	s.put(strings.Replace(service, "WORD", "open", 1))
	s.expect("open by the service", guarding(policy, open))
	rep := s.rec.reports[object.Key{Kind: object.KindService, Namespace: "shop", Name: "web"}]
	if !slices.ContainsFunc(rep.Conditions, func(c Condition) bool { return c.Type == WaypointEnforced && !c.Status && c.Reason == "Open" }) {
		t.Errorf("it is not visible: %+v", rep)
	}
	s.put(strings.Replace(service, "WORD", "sure", 1))
	s.expect("a word nobody knows", guarding(policy))

	s.put(strings.Replace(service, ", annotations: {ambit.io/waypoint-enforcement: WORD}", "", 1), `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: wp}, annotations: {ambit.io/waypoint-enforcement: open}}
`)
	s.expect("open by the namespace", guarding(policy, open))
	s.put(`
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web}, annotations: {ambit.io/waypoint-enforcement: closed}}
spec: {containers: [{name: c, image: i, ports: [{name: adm, containerPort: 9090}]}]}
status: {phase: Running, podIP: 10.2.0.1, conditions: [{type: Ready, status: "True"}]}
`)
	s.expect("closed by the pod", guarding(policy))
}

func TestGuardsOfGatewayPolicies(t *testing.T) {
	s := newGuardStory(t)
	s.put(`
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}]
  jwtRules: [{issuer: me, jwksUri: "https://keys.example/"}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: everywhere, namespace: ambit-system}
spec:
  action: DENY
  targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}]
  rules: [{to: [{operation: {methods: [DELETE]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-logs, namespace: shop}
spec:
  action: AUDIT
  targetRefs: [{group: "", kind: Service, name: web}]
  rules: [{}]
`)
	both := "AuthorizationPolicy ambit-system/everywhere;RequestAuthentication shop/tokens"
	s.expect("policies of the Gateway and its class", guarding(both))

	// The pod asks for the waypoint too, and the waypoint takes such traffic: every port is guarded.
	s.put(strings.Replace(waypointReady, "namespace: shop}", "namespace: shop, labels: {istio.io/waypoint-for: all}}", 1))
	want := guarding(both)
	want.Guards = append(want.Guards, &facts.Guard{Waypoints: []string{waypointID}, Gateway: "shop/wp", Policies: strings.Split(both, ";")})
	s.expect("the pod by its own address", want)
	if got := s.rec.scopes[mesh.PodUID(mesh.DefaultClusterID, "shop", "web-1")]; !slices.Equal(got, []string{"shop/wp"}) {
		t.Errorf("scopes %v", got)
	}
}

func TestGuardWithoutWaypoint(t *testing.T) {
	s := newGuardStory(t)
	s.put(getOnly, `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
`)
	s.expect("nobody asked for a waypoint", &facts.Guards{})
	rep := s.rec.reports[object.Key{Kind: object.KindAuthorizationPolicy, Namespace: "shop", Name: "get-only"}]
	if len(rep.Conditions) != 1 || rep.Conditions[0].Reason != "AncestorNotBound" || len(rep.Warnings) == 0 {
		t.Errorf("%+v", rep)
	}
	s.put(`
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: wp}}
`)
	s.expect("it does now", guarding("AuthorizationPolicy shop/get-only"))
	s.delete(getOnly)
	s.expect("no policy any more", &facts.Guards{Waypoints: []string{waypointID}})
}

func TestGuardOfAServiceOutside(t *testing.T) {
	s := newGuardStory(t)
	s.put(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: shop}
spec: {hosts: [api.example.com], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: who, namespace: shop}
spec:
  targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: api}]
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]
`)
	g := guardsIn(t, s.rec.services["shop/api.example.com"].GetExtensions())
	want := &facts.Guards{Waypoints: []string{waypointID}, Guards: []*facts.Guard{{
		Waypoints: []string{waypointID}, Gateway: "shop/wp", Service: "shop/api.example.com", Policies: []string{"AuthorizationPolicy shop/who"},
	}}}
	if diff := cmp.Diff(want, g, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestCanaryWaypointIsLetIn(t *testing.T) {
	s := newGuardStory(t)
	s.put(getOnly, strings.ReplaceAll(waypointReady, "wp", "next"), `
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-canary: next}
  annotations: {istio.io/use-waypoint-canary-weight: "10"}
`)
	ids := []string{"spiffe://cluster.local/ns/shop/sa/next", waypointID}
	want := guarding("AuthorizationPolicy shop/get-only", func(g *facts.Guard) { g.Waypoints = ids })
	want.Waypoints = ids
	s.expect("both waypoints", want)
}

func TestWaypointOfAnAccount(t *testing.T) {
	s := newGuardStory(t)
	s.put(`
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: theirs, namespace: shop, labels: {istio.io/waypoint-for: workload}, annotations: {istio.io/for-service-account: default}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{type: Hostname, value: theirs.shop.svc.cluster.local}]}
`)
	of := func() string {
		return s.rec.workloads[mesh.PodUID(mesh.DefaultClusterID, "shop", "web-1")].GetWaypoint().GetHostname().GetHostname()
	}
	if got := of(); got != "theirs.shop.svc.cluster.local" {
		t.Errorf("the workload's waypoint is %q", got)
	}
	s.delete(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: theirs, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
`)
	if got := of(); got != "" {
		t.Errorf("the workload's waypoint is still %q", got)
	}
}

func TestSubsetLabels(t *testing.T) {
	s := newGuardStory(t)
	labels := func() map[string]string {
		for _, x := range s.rec.workloads[mesh.PodUID(mesh.DefaultClusterID, "shop", "web-1")].GetExtensions() {
			if x.Name == mesh.ExtensionLabels {
				var l facts.Labels
				if err := proto.Unmarshal(x.Config.Value, &l); err != nil {
					t.Fatal(err)
				}
				return l.Labels
			}
		}
		return nil
	}
	if l := labels(); l != nil {
		t.Errorf("labels nobody asks for: %v", l)
	}
	rule := `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: shop}
spec: {host: web, subsets: [{name: v1, labels: {version: v1}}, {name: none, labels: {other: x}}]}
`
	s.put(rule)
	if l := labels(); len(l) != 1 || l["version"] != "v1" {
		t.Errorf("%v", l)
	}
	s.delete(rule)
	if l := labels(); l != nil {
		t.Errorf("still %v", l)
	}
}

// Endpoints outside the mesh guard nothing, and the service says so as long as there are any.
func TestGuardsNobodyKeeps(t *testing.T) {
	s := newGuardStory(t)
	s.put(getOnly)
	pod := func(redirection, ready string) string {
		return `
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web}, annotations: {ambient.istio.io/redirection: ` + redirection + `}}
spec: {containers: [{name: c, image: i, ports: [{name: adm, containerPort: 9090}]}]}
status: {phase: Running, podIP: 10.2.0.1, conditions: [{type: Ready, status: "` + ready + `"}]}
`
	}
	said := func() string {
		for _, c := range s.m.reports[object.Key{Kind: object.KindService, Namespace: "shop", Name: "web"}].Conditions {
			if c.Type == WaypointEnforced {
				return c.Reason + ": " + c.Message
			}
		}
		return ""
	}
	expect := func(when, want string) {
		t.Helper()
		if got := said(); !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	expect("a pod that is not captured", "EndpointsNotInMesh: 1 of its endpoints are not in the mesh, Pod shop/web-1 for one")
	s.put(pod("enabled", "True"))
	expect("captured", "Closed")
	s.put(pod("disabled", "True"))
	expect("let go", "EndpointsNotInMesh")
	s.put(pod("disabled", "False"))
	expect("not ready", "Closed")
	s.put(pod("disabled", "True"))
	s.m.Apply([]object.Event{object.Delete(object.Key{Kind: object.KindPod, Namespace: "shop", Name: "web-1"})})
	s.put()
	expect("gone", "Closed")
	s.put(pod("disabled", "True"))
	s.m.Apply([]object.Event{object.Delete(object.Key{Kind: object.KindAuthorizationPolicy, Namespace: "shop", Name: "get-only"})})
	s.put()
	expect("without a policy", "")
}
