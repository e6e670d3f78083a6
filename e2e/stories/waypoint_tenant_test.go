package stories

import (
	"fmt"
	"strings"
	"testing"
)

// TestWaypointTenants puts two namespaces behind one waypoint. A policy of the one keeps everybody from writing; whoever may
// write any object in the other tries to lead his own requests, which nothing keeps, past it.
func TestWaypointTenants(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	const behind = "istio.io/use-waypoint: shared"
	w.namespace("infra", "istio.io/dataplane-mode: ambient")
	for _, ns := range []string{"shop", "tenant"} {
		w.namespace(ns, "istio.io/dataplane-mode: ambient", behind, "istio.io/use-waypoint-namespace: infra")
	}
	w.pod("shop", "web", "web", "node2")
	w.pod("tenant", "mallory", "mallory", "node1")
	w.pod("tenant", "door", "door", "node1")
	w.web("shop", "web", 8080)
	w.web("tenant", "door", 8080)
	w.now(waypointYAML("infra", "shared", "all", "allowedRoutes: {namespaces: {from: All}}") +
		httpService("shop", "web", "web", 80, 8080) + httpService("tenant", "door", "door", 80, 8080) + getOnly("shop", "web"))
	web, door := "http://"+w.vip("shop", "web")+"/", "http://"+w.vip("tenant", "door")+"/"
	w.through("tenant", "mallory", web, "infra/shared")
	w.status("tenant", "mallory", "POST "+web, 403)
	w.through("tenant", "mallory", "POST "+door, "infra/shared")

	// The waypoint serves pods by their own address, too, but not past what their services guard.
	ip := w.podIP("shop", "web")
	w.status("tenant", "mallory", "POST http://"+ip+":8080/", 0)
	entry := func(endpoint, more string) string {
		return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: alias, namespace: tenant, labels: {networking.istio.io/tunnel: http}}
spec:
  hosts: [alias.example]
  addresses: [240.1.1.1]
  resolution: STATIC
  ports: [{name: http, number: 80, targetPort: 8080, protocol: HTTP}]
  endpoints: [%s]
  %s
---
`, endpoint, more)
	}
	slice := func(target string) string {
		return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: alias, namespace: tenant}
spec: {clusterIP: 10.96.66.66, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: alias-1, namespace: tenant, labels: {kubernetes.io/service-name: alias}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [%s]%s}]
---
`, ip, target)
	}
	const alias, listed = "http://240.1.1.1/", "http://10.96.66.66/"
	sans := "subjectAltNames: [spiffe://cluster.local/ns/shop/sa/web]"
	for name, c := range map[string]struct{ objects, address string }{
		"a VirtualService": {`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: sneak, namespace: tenant}
spec: {hosts: [door.tenant.svc.cluster.local], http: [{route: [{destination: {host: web.shop.svc.cluster.local}}]}]}
---
`, door},
		"an HTTPRoute": {`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: sneak, namespace: tenant}
spec: {parentRefs: [{kind: Service, group: "", name: door}], rules: [{backendRefs: [{name: web, namespace: shop, port: 80}]}]}
---
`, door},
		"the pod's address":              {entry(fmt.Sprintf("{address: %s}", ip), ""), alias},
		"the pod's address and identity": {entry(fmt.Sprintf("{address: %s, serviceAccount: web, labels: {networking.istio.io/tunnel: http}}", ip), sans), alias},
		"the pod, listed by address":     {slice(""), listed},
		"the pod, listed by name":        {slice(", targetRef: {kind: Pod, namespace: shop, name: web}"), listed},
		"a workload at the pod's address": {fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: web, namespace: tenant, labels: {app: door, networking.istio.io/tunnel: http}}
spec: {address: %s, serviceAccount: web, labels: {app: door}}
---
`, ip), "http://" + ip + ":8080/"},
		"a waypoint of his own": {strings.ReplaceAll(slice(", targetRef: {kind: Pod, namespace: shop, name: web}"), "metadata: {name: alias, namespace: tenant}",
			"metadata: {name: alias, namespace: tenant, labels: {istio.io/use-waypoint: own, istio.io/use-waypoint-namespace: tenant}}") + waypointYAML("tenant", "own", "service"), listed},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.as(t)
			w.now(c.objects)
			defer func() {
				w.remove(c.objects)
				w.synced()
			}()
			if a, err := w.fetch("tenant", "mallory", "POST "+c.address); err == nil && a.Status == 200 && strings.Contains(a.Body, "web") {
				t.Errorf("POST %s reached the pod: %q", c.address, a.Body)
			}
			w.status("tenant", "mallory", "POST "+web, 403)
			w.through("tenant", "mallory", web, "infra/shared") // nor does he take anything away
		})
	}
}
