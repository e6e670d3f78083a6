package stories

import (
	"io/fs"
	"net/http"
	"path"
	"testing"

	"github.com/ambit-mesh/ambit/e2e/scrape"
	"github.com/ambit-mesh/ambit/install/charts"
)

// TestDashboards makes a little of everything happen, scrapes every program, and holds the queries of all dashboards to what
// they served: a metric or label that was renamed is found here, and not by an empty panel.
func TestDashboards(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	w.guardedShop()
	service, direct := "http://"+w.vip("shop", "web")+"/", "http://"+w.podIP("shop", "web")
	w.now(getOnly("shop", "web") + edgeOf("shop", "web") + keysOfNobody)
	w.through("shop", "client", service, "shop/wp")
	w.status("shop", "client", "POST "+service, http.StatusForbidden)
	w.status("outside", "stranger", direct+":8080/", 0) // around the waypoint
	w.status("shop", "client", direct+":9/", 0)         // nobody listens
	w.status("outside", "stranger", "http://"+w.ingress("shop", "edge-istio")+"/", http.StatusOK)
	w.counted("node2", "ambit_waypoint_bypass_total", `outcome="refused"`)
	w.counted("node1", "istio_tcp_connections_failed_total")
	_, err := w.ask("udp", "shop", "client", "web.shop.svc.cluster.local.", 1)
	w.must(err)

	m := scrape.New()
	add := func(what string, body []byte, err error) {
		t.Helper()
		w.must(err)
		families, problems := m.Add(body)
		if families < 20 {
			t.Errorf("%s serves %d metrics only:\n%s", what, families, body)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", what, p)
		}
	}
	socket := func(what, path string) {
		t.Helper()
		body, err := getUnix(w.ctx, path, "/metrics")
		add(what, body, err)
	}
	socket("ambitd", w.Control.AdminSocket)
	socket("ambit-ca", w.Control.CAAdminSocket)
	for _, node := range w.Nodes {
		socket("the CNI agent of "+node.Name, node.CNIAdmin)
		body, err := w.admin(node.Name, "/metrics")
		add("the ztunnel of "+node.Name, body, err)
	}
	for _, gateway := range []string{"wp", "edge"} {
		for _, pod := range w.proxies("shop", gateway) {
			body, err := w.agent(pod, "/metrics")
			add("the instance "+pod, []byte(body), err)
		}
	}
	// What only a cluster has; the story of the same name in e2e/kind promises nothing.
	m.Promise("ambit_control_leader")
	m.Promise("ambit_control_unreadable_kinds")
	m.Promise("ambit_control_last_good_not_kept")
	m.Promise("istio_cni_install_ready")
	m.Promise("istio_cni_plugin_requests_total", "response_code")

	pages, err := fs.Glob(charts.Files, "base/files/dashboards/*.json")
	if err != nil || len(pages) < 6 {
		t.Fatalf("%d dashboards, %v", len(pages), err)
	}
	for _, page := range pages {
		raw, err := fs.ReadFile(charts.Files, page)
		w.must(err)
		n, problems := m.Dashboard(raw)
		if n < 10 {
			t.Errorf("%s has %d queries", path.Base(page), n)
		}
		for _, p := range problems {
			t.Error(p)
		}
	}
	rules, err := fs.ReadFile(charts.Files, "base/files/rules/ambit.yaml")
	w.must(err)
	n, problems := m.Rules(rules)
	if n < 10 {
		t.Errorf("%d alerts", n)
	}
	for _, p := range problems {
		t.Error(p)
	}
}

// keysOfNobody makes the control plane look for keys in vain.
const keysOfNobody = `
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: nobody, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: free}]
  jwtRules: [{issuer: nobody, jwksUri: "http://172.30.0.2:1/keys"}]
---
`

// edgeOf is a gateway that leads to one service.
func edgeOf(ns, service string) string {
	return `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: ` + ns + `}
spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: edge, namespace: ` + ns + `}
spec:
  parentRefs: [{name: edge}]
  rules: [{backendRefs: [{name: ` + service + `, port: 80}]}]
---
`
}
