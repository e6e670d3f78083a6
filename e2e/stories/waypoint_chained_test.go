package stories

import (
	"net/http"
	"strings"
	"testing"
)

// TestWaypointToWaypoint routes from one service's waypoint to a service that has another, with a policy of its own: the
// second is not passed by, knows the first by its certificate, and says who spoke.
func TestWaypointToWaypoint(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	w.guardedShop()
	w.namespace("bank", "istio.io/dataplane-mode: ambient", "istio.io/use-waypoint: teller")
	w.pod("bank", "safe", "safe", "node1")
	w.web("bank", "safe", 8080)
	w.namespace("plain", "istio.io/use-waypoint: front")
	w.pod("plain", "old", "old", "node2")
	w.web("plain", "old", 8080)
	w.now(waypointYAML("bank", "teller", "service") + httpService("bank", "safe", "safe", 80, 8080) +
		waypointYAML("plain", "front", "service") + httpService("plain", "old", "old", 80, 8080) + `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec:
  hosts: [web]
  http:
  - match: [{uri: {prefix: /bank}}]
    route: [{destination: {host: safe.bank.svc.cluster.local}}]
  - match: [{uri: {prefix: /old}}]
    route: [{destination: {host: old.plain.svc.cluster.local}}]
  - route: [{destination: {host: web}}]
`)
	service := "http://" + w.vip("shop", "web")
	w.through("shop", "client", service+"/", "shop/wp")
	// Without a policy there the first waypoint's routing is all there is.
	if a := w.through("shop", "client", service+"/bank", "shop/wp"); a.Pod != "safe" {
		t.Errorf("%+v", a)
	}
	w.now(strings.Replace(strings.NewReplacer("namespace: shop", "namespace: bank", "name: web", "name: safe").Replace(onlyClient),
		"cluster.local/ns/shop/sa/client", "cluster.local/ns/shop/sa/wp", 1))
	a := w.through("shop", "client", service+"/bank", "bank/teller")
	if a.Pod != "safe" || !strings.Contains(a.Header.Get("X-Forwarded-Client-Cert"), "URI=spiffe://cluster.local/ns/shop/sa/wp") {
		t.Errorf("%+v", a)
	}
	if got := strings.Split(a.Header.Get("X-Forwarded-For"), ","); got[0] != w.podIP("shop", "client") || len(got) != 2 {
		t.Errorf("the application sees XFF %q", got)
	}
	// Nobody else, and nobody around it.
	w.status("shop", "client", "http://"+w.vip("bank", "safe")+"/", http.StatusForbidden)
	w.status("shop", "client", "http://"+w.podIP("bank", "safe")+":8080/", 0)
	// Pods outside of the mesh behind a waypoint: the way there is mutual TLS, the last step is not.
	if a := w.through("shop", "client", "http://"+w.vip("plain", "old")+"/", "plain/front"); a.Pod != "old" {
		t.Errorf("%+v", a)
	}
	if a := w.through("shop", "client", service+"/old", "shop/wp"); a.Pod != "old" {
		t.Errorf("%+v", a)
	}
	w.now(getOnly("plain", "old"))
	w.status("shop", "client", "POST http://"+w.vip("plain", "old")+"/", http.StatusForbidden)
	w.status("shop", "client", "POST "+service+"/old", http.StatusForbidden)
	w.status("shop", "client", "http://"+w.podIP("plain", "old")+":8080/", 0)
}
