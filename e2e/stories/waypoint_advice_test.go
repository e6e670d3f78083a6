package stories

import (
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/e2e/mesh"
)

// TestWaypointGuardsByTheMoment binds policies while connections are open, on one node where proxies may hand connections
// over without a tunnel: only policies that refuse something close a way around, and they close open ones too.
func TestWaypointGuardsByTheMoment(t *testing.T) {
	w := startWaypoints(t, options{nodes: 1, mesh: mesh.Options{ZtunnelEnv: []string{"AMBIT_SAME_NODE_FAST_PATH=true"}}})
	w.namespace("shop", "istio.io/dataplane-mode: ambient", "istio.io/use-waypoint: wp")
	w.namespace("outside")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "web", "node1")
	w.pod("outside", "stranger", "stranger", "node1")
	w.web("shop", "web", 8080)
	w.serve("shop", "web", 7000)
	alias := strings.Replace(httpService("shop", "alias", "web", 80, 8080), "namespace: shop}", "namespace: shop, labels: {istio.io/use-waypoint: none}}", 1)
	w.now(waypointYAML("shop", "wp", "service") + httpService("shop", "web", "web", 80, 8080) + alias)
	service, pod := "http://"+w.vip("shop", "web")+"/", "http://"+w.podIP("shop", "web")+":8080/"
	other := "http://" + w.vip("shop", "alias") + "/"
	lines := net.JoinHostPort(w.podIP("shop", "web"), "7000")
	openTo := func() {
		t.Helper()
		w.through("shop", "client", "POST "+service, "shop/wp")
		w.through("shop", "client", "POST "+pod, "")
		w.through("shop", "client", "POST "+other, "")
		w.through("outside", "stranger", "POST "+pod, "")
	}
	openTo()
	// What only watches closes nothing.
	dry := strings.Replace(getOnly("shop", "web"), "namespace: shop}", "namespace: shop, annotations: {istio.io/dry-run: \"true\"}}", 1)
	w.now(dry)
	openTo()
	w.remove(dry)
	audit := strings.Replace(getOnly("shop", "web"), "rules:", "action: AUDIT\n  rules:", 1)
	w.now(audit)
	openTo()
	w.remove(audit)
	w.synced()

	// Connections around the waypoint that are open when the policy comes are cut, from inside and outside of the mesh.
	// Those to ports that the service does not lead to are nobody's business.
	keep, stay := map[string]*http.Client{}, map[string]net.Conn{}
	for _, from := range []string{"shop/client", "outside/stranger"} {
		ns, name, _ := strings.Cut(from, "/")
		c, err := w.dial(ns, name, lines)
		w.must(err)
		defer c.Close()
		if _, err := say(c, "hi"); err != nil {
			t.Errorf("%s: %v", from, err)
		}
		stay[from] = c
		keep[from] = w.client(ns, name, true)
		if a, err := send(keep[from], pod); err != nil || a.Status != 200 {
			t.Errorf("%s: %d, %v", from, a.Status, err)
		}
	}
	through := w.client("shop", "client", true)
	if a, err := send(through, "POST "+service); err != nil || a.Status != 200 {
		t.Errorf("through the waypoint: %d, %v", a.Status, err)
	}
	w.now(getOnly("shop", "web"))
	for from, c := range keep {
		if a, err := send(c, pod); err == nil {
			t.Errorf("%s goes on around the waypoint: %d", from, a.Status)
		}
		if _, err := say(stay[from], "hi"); err != nil {
			t.Errorf("%s to another port: %v", from, err)
		}
	}
	if a, err := send(through, "POST "+service); err != nil || a.Status != http.StatusForbidden {
		t.Errorf("the open connection through the waypoint: %d, %v", a.Status, err)
	}
	w.through("shop", "client", service, "shop/wp")
	w.status("shop", "client", other, 0) // another service of the same port is a way around
	w.status("shop", "web", pod, 200)    // a pod that talks to itself goes through nothing
	w.status("shop", "web", service, 200)
	w.logged("node1", "waypoint-required", "sa/client")

	// Without a waypoint that anybody asks for, the policy is about nothing, and says so.
	w.label("Namespace", "", "shop", "-istio.io/use-waypoint")
	w.through("shop", "client", "POST "+service, "")
	w.condition("AuthorizationPolicy", "shop", "get-only", "WaypointAccepted=False/AncestorNotBound")
	w.label("Namespace", "", "shop", "istio.io/use-waypoint=wp")
	w.condition("AuthorizationPolicy", "shop", "get-only", "WaypointAccepted=True/Accepted")
}
