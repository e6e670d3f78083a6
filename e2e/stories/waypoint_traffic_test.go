package stories

import (
	"fmt"
	"net/http"
	"testing"
)

// TestWaypointTraffic says in all the ways there are whose traffic goes through which waypoint.
func TestWaypointTraffic(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "web", "node2")
	w.web("shop", "web", 8080)
	w.apply(waypointYAML("shop", "wp", "service") + waypointYAML("shop", "pods", "workload") +
		httpService("shop", "web", "web", 80, 8080))
	w.synced()
	service := fmt.Sprintf("http://%s/", w.vip("shop", "web"))
	pod := fmt.Sprintf("http://%s:8080/", w.podIP("shop", "web"))
	ask := func(toService, toPod string) {
		t.Helper()
		if a := w.through("shop", "client", service, toService); toService != "" && a.Back.Get("Server") != "istio-envoy" {
			t.Errorf("the answer is from server %q", a.Back.Get("Server"))
		}
		w.through("shop", "client", pod, toPod)
	}
	ask("", "") // nobody asked for one
	w.label("Namespace", "", "shop", "istio.io/use-waypoint=wp")
	ask("shop/wp", "")
	w.label("Service", "shop", "web", "istio.io/use-waypoint=none")
	ask("", "")
	w.label("Service", "shop", "web", "istio.io/use-waypoint=wp")
	w.label("Namespace", "", "shop", "-istio.io/use-waypoint")
	ask("shop/wp", "")
	// A waypoint for pods is none for services, and the other way round.
	w.label("Service", "shop", "web", "istio.io/use-waypoint=pods")
	ask("", "")
	w.condition("Service", "shop", "web", "istio.io/WaypointBound=False/UnsupportedTrafficType")
	w.label("Service", "shop", "web", "-istio.io/use-waypoint")
	w.label("Pod", "shop", "web", "istio.io/use-waypoint=wp")
	ask("", "")
	w.label("Pod", "shop", "web", "istio.io/use-waypoint=pods")
	ask("", "shop/pods")
	w.label("Pod", "shop", "web", "istio.io/use-waypoint=none")
	w.label("Namespace", "", "shop", "istio.io/use-waypoint=pods")
	ask("", "")
	w.label("Pod", "shop", "web", "-istio.io/use-waypoint")
	ask("", "shop/pods")
	// One for both, and for nothing.
	w.label("Gateway", "shop", "pods", "istio.io/waypoint-for=all")
	ask("shop/pods", "shop/pods")
	w.label("Gateway", "shop", "pods", "istio.io/waypoint-for=none")
	ask("", "")

	// The waypoint's own namespace says who may use it.
	w.namespace("gate")
	w.apply(waypointYAML("gate", "shared", "service", `allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {gate: open}}}}`))
	w.label("Namespace", "", "shop", "-istio.io/use-waypoint")
	w.label("Service", "shop", "web", "istio.io/use-waypoint=shared", "istio.io/use-waypoint-namespace=gate")
	ask("", "")
	w.condition("Service", "shop", "web", "istio.io/WaypointBound=False/AttachmentDenied")
	w.label("Namespace", "", "shop", "gate=open")
	ask("gate/shared", "")
	w.condition("Service", "shop", "web", "istio.io/WaypointBound=True/WaypointAccepted")
	w.label("Namespace", "", "shop", "gate=closed")
	ask("", "")

	// A policy that is to be enforced there is not forgotten because the waypoint is not to be had.
	w.now(getOnly("shop", "web"))
	w.status("shop", "client", service, 0)
	w.status("shop", "client", pod, 0)
	w.label("Namespace", "", "shop", "gate=open")
	w.through("shop", "client", service, "gate/shared")
	w.status("shop", "client", "POST "+service, http.StatusForbidden)
	w.status("shop", "client", pod, 0)
}

// getOnly lets a service's clients read.
func getOnly(ns, service string) string {
	return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: get-only, namespace: %s}
spec:
  targetRefs: [{group: "", kind: Service, name: %s}]
  rules: [{to: [{operation: {methods: [GET]}}]}]
---
`, ns, service)
}
