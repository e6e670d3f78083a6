//go:build kind

package kind

import (
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/ambit-mesh/ambit/e2e/scrape"
	"github.com/ambit-mesh/ambit/install/charts"
)

// scraped asks the port that a pod's annotations name, as Prometheus would, and takes what it says in.
func (c *cluster) scraped(m scrape.Metrics, p *corev1.Pod) {
	c.Helper()
	a := p.Annotations
	if a["prometheus.io/scrape"] != "true" || a["prometheus.io/port"] == "" {
		c.Errorf("pod %s/%s has no annotations for Prometheus: %v", p.Namespace, p.Name, a)
		return
	}
	path := a["prometheus.io/path"]
	if path == "" {
		path = "/metrics"
	}
	// A PodMonitor finds the port by its name; both must mean the same.
	named := false
	for _, container := range p.Spec.Containers {
		for _, port := range container.Ports {
			named = named || (port.Name == "http-monitoring" || port.Name == "metrics") && fmt.Sprint(port.ContainerPort) == a["prometheus.io/port"]
		}
	}
	if !named {
		c.Errorf("pod %s/%s: port %s has no name that the PodMonitors look for", p.Namespace, p.Name, a["prometheus.io/port"])
	}
	body, err := c.client.CoreV1().RESTClient().Get().Namespace(p.Namespace).Resource("pods").
		Name(p.Name + ":" + a["prometheus.io/port"]).SubResource("proxy").Suffix(path).DoRaw(c.ctx)
	if err != nil {
		c.Errorf("pod %s/%s does not answer port %s%s: %v", p.Namespace, p.Name, a["prometheus.io/port"], path, err)
		return
	}
	families, problems := m.Add(body)
	if families < 20 {
		c.Errorf("pod %s/%s serves %d metrics only", p.Namespace, p.Name, families)
	}
	for _, text := range problems {
		c.Errorf("pod %s/%s: %s", p.Namespace, p.Name, text)
	}
}

// TestScrape makes a little of everything happen, then scrapes every pod of the mesh by its annotations. Each answers in
// the format of Prometheus, and together they serve every metric and label that the dashboards ask for.
func TestScrape(t *testing.T) {
	c := open(t)
	url := c.shop("scrape")
	c.namespace("scrape-outside")
	c.apply("scrape-outside", plain("stranger"))
	c.ready("scrape-outside", "")
	c.apply("scrape", `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, labels: {istio.io/waypoint-for: service}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, annotations: {networking.istio.io/service-type: ClusterIP}}
spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: edge}
spec:
  parentRefs: [{name: edge}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  rules: [{to: [{operation: {methods: [GET]}}]}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: nobody}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  jwtRules: [{issuer: nobody, jwksUri: "http://192.0.2.1:1/keys"}]
`)
	c.label("Namespace", "", "scrape", "istio.io/use-waypoint=wp")
	c.ready("scrape", "gateway.networking.k8s.io/gateway-name=wp")
	c.ready("scrape", "gateway.networking.k8s.io/gateway-name=edge")
	direct := c.pods("scrape", "app=web")[0].Status.PodIP
	c.refused("scrape", "client", url, "-X", "POST")                                    // by policy, at the waypoint
	c.refused("scrape-outside", "stranger", "http://"+net.JoinHostPort(direct, "8080")) // around the waypoint
	c.refused("scrape", "client", "http://"+net.JoinHostPort(direct, "9"))              // nobody listens
	c.answers("scrape", "client", url)                                                  // through the waypoint
	c.answers("scrape-outside", "stranger", "http://edge-istio.scrape/")                // through the gateway

	pages, err := fs.Glob(charts.Files, "base/files/dashboards/*.json")
	c.must(err)
	if len(pages) < 6 {
		t.Fatalf("the chart has %v only", pages)
	}
	rules, err := fs.ReadFile(charts.Files, "base/files/rules/ambit.yaml")
	c.must(err)
	c.eventually("every dashboard finds what it asks for", func() error {
		m := scrape.New()
		pods := slices.Concat(c.pods(system, ""), c.pods("scrape", "gateway.networking.k8s.io/gateway-name"))
		if len(pods) < 5 {
			return fmt.Errorf("%d pods of the mesh", len(pods))
		}
		for i := range pods {
			if isReady(&pods[i]) {
				c.scraped(m, &pods[i])
			}
		}
		var missing []string
		for _, page := range pages {
			raw, err := fs.ReadFile(charts.Files, page)
			c.must(err)
			_, problems := m.Dashboard(raw)
			missing = append(missing, problems...)
		}
		_, problems := m.Rules(rules)
		missing = append(missing, problems...)
		if t.Failed() {
			t.FailNow()
		}
		if missing != nil {
			return fmt.Errorf("%s", strings.Join(missing, "\n"))
		}
		return nil
	})
}
