package stories

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// shopDeployment runs the shop's application, as many pods of a version as asked for.
func shopDeployment(version string, replicas int) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web-%[1]s, namespace: shop}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: web, version: %[1]s}}
  template:
    metadata: {labels: {app: web, version: %[1]s}}
    spec:
      serviceAccountName: web
      terminationGracePeriodSeconds: 10
      containers:
      - name: web
        command: [ambit-echo, serve, --text, %[1]s]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 1}}}
---
`, version, replicas)
}

// shop is a namespace with a client, an application of two versions and a waypoint before it, with variables more. It
// returns the URL of the application.
func (w *world) shop(waypoints int, env ...string) string {
	w.Helper()
	w.namespace("shop", "istio.io/dataplane-mode: ambient", "istio.io/use-waypoint: waypoint")
	w.pod("shop", "client", "client", "node1")
	w.apply(withEnv(quickWaypoint, env...) + shopDeployment("v1", 2) + shopDeployment("v2", 1) + httpService("shop", "web", "web", 80, 8080))
	w.synced()
	if waypoints != 1 {
		w.must(w.Scale(w.soon(), "Deployment", "shop", "waypoint", waypoints))
	}
	w.must(w.Settled(w.soon(), "", "", "", nil))
	w.synced()
	url := fmt.Sprintf("http://%s/", w.vip("shop", "web"))
	w.eventually("an answer through the waypoint", func() error {
		a, err := w.fetch("shop", "client", url)
		if err == nil && a.Back.Get("Server") != "istio-envoy" {
			err = fmt.Errorf("%d by %q", a.Status, a.Back.Get("Server"))
		}
		return err
	})
	return url
}

// withEnv adds variables to the container of a waypoint, written as NAME=value.
func withEnv(waypoint string, env ...string) string {
	const first = "            - {name: AMBIT_DRAIN_WAIT"
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		waypoint = strings.Replace(waypoint, first, fmt.Sprintf("            - {name: %s, value: %q}\n%s", name, value, first), 1)
	}
	return waypoint
}

// quickWaypoint is a waypoint that does not wait long before it leaves: in a lab everybody knows of it in milliseconds.
const quickWaypoint = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop, labels: {istio.io/waypoint-for: service}}
spec:
  gatewayClassName: istio-waypoint
  infrastructure: {parametersRef: {group: "", kind: ConfigMap, name: quick}}
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: quick, namespace: shop}
data:
  deployment: |
    spec:
      template:
        spec:
          containers:
          - name: istio-proxy
            env:
            - {name: AMBIT_DRAIN_WAIT, value: 1s}
            - {name: TERMINATION_DRAIN_DURATION_SECONDS, value: "5"}
---
`

// storm is requests from many connections at once: some keep theirs, others open one for each request, some only read,
// others write. Anything but 200 is an error.
type storm struct {
	stops []func() load
}

func (w *world) storm(ns, pod, url string) *storm {
	w.Helper()
	s := &storm{}
	for _, keep := range []bool{true, false} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			s.stops = append(s.stops, w.requests(w.client(ns, pod, keep), fmt.Sprintf("%s %s", method, url)))
		}
	}
	return s
}

// end stops it and sums up.
func (s *storm) end() load {
	var all load
	for _, stop := range s.stops {
		one := stop()
		all.Calls += one.Calls
		all.Errors = append(all.Errors, one.Errors...)
	}
	slices.SortFunc(all.Errors, func(a, b failure) int { return a.At.Compare(b.At) })
	return all
}

// unharmed ends a storm and wants nothing to have failed.
func (w *world) unharmed(s *storm) {
	w.Helper()
	got := s.end()
	if len(got.Errors) > 0 {
		w.Error(got)
	}
	w.Logf("%d requests", got.Calls)
}

// requests sends one request after the other until the returned function is called.
func (w *world) requests(c *http.Client, request string, headers ...string) func() load {
	ctx, cancel := context.WithCancel(w.ctx)
	var out load
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(loadPause)
		defer tick.Stop()
		for ctx.Err() == nil {
			began := time.Now()
			out.Calls++
			a, err := send(c, request, headers...)
			if err == nil && a.Status != http.StatusOK {
				err = fmt.Errorf("%s: %d %q", request, a.Status, a.Body)
			}
			if err != nil {
				out.Errors = append(out.Errors, failure{began, time.Since(began), err})
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	return sync.OnceValue(func() load {
		cancel()
		wg.Wait()
		return out
	})
}

// churnRoute sends nine of ten to one version, or however many.
func churnRoute(v1, v2 int) string {
	return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec:
  hosts: [web]
  http:
  - match: [{headers: {who: {exact: jason}}}]
    timeout: 7s
    route: [{destination: {host: web, subset: v2}}]
  - route:
    - {destination: {host: web, subset: v1}, weight: %d}
    - {destination: {host: web, subset: v2}, weight: %d}
---
`, v1, v2)
}

// churnRule names the versions, with settings of the connections to them.
func churnRule(settings string) string {
	return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: shop}
spec:
  host: web
  trafficPolicy: {%s}
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
`, settings)
}

func churnHTTPRoute(header string) string {
	return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:
  - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: step, value: %q}]}}]
    backendRefs: [{name: web, port: 80}]
---
`, header)
}

func churnPolicy(name, rules string) string {
	return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: %s, namespace: shop}
spec: {targetRefs: [{group: "", kind: Service, name: web}], rules: [%s]}
---
`, name, rules)
}

const churnLimit = `
apiVersion: policy.ambit.io/v1alpha1
kind: LocalRateLimitPolicy
metadata: {name: plenty, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  rules: [{name: all, limit: {requests: 100000, per: 1s}}]
---
`

// TestWaypointRoutesUnderLoad changes routes, destinations and policies of a service under load, each in several ways. No
// request fails, and the routes before and after each change are the only ones that are seen.
func TestWaypointRoutesUnderLoad(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	url := w.shop(1)
	s := w.storm("shop", "client", url)
	versions := func(headers ...string) map[string]int {
		t.Helper()
		seen := map[string]int{}
		for range 20 {
			a := w.status("shop", "client", "GET "+url, http.StatusOK, headers...)
			for _, v := range []string{"v1", "v2"} {
				if strings.Contains(a.Body, "Text="+v) {
					seen[v]++
				}
			}
		}
		return seen
	}

	w.now(churnRule("") + churnRoute(100, 0))
	if got := versions(); got["v1"] != 20 {
		t.Errorf("all to v1: %v", got)
	}
	if got := versions("who: jason"); got["v2"] != 20 {
		t.Errorf("jason to v2: %v", got)
	}
	for i, settings := range []string{
		"loadBalancer: {simple: ROUND_ROBIN}",
		"connectionPool: {tcp: {maxConnections: 500}, http: {http2MaxRequests: 500, idleTimeout: 30s}}",
		"outlierDetection: {consecutive5xxErrors: 50, interval: 1s}, loadBalancer: {consistentHash: {httpHeaderName: who}}",
		"connectionPool: {tcp: {connectTimeout: 3s, tcpKeepalive: {time: 10s}}}",
	} {
		w.now(churnRule(settings) + churnRoute(100-25*i, 25*i))
	}
	w.now(churnRoute(0, 100))
	if got := versions(); got["v2"] != 20 {
		t.Errorf("all to v2: %v", got)
	}
	// In whichever order they go, what is left stands.
	w.remove(churnRoute(0, 100))
	w.synced()
	w.remove(churnRule(""))
	w.synced()
	for i := range 3 {
		w.now(churnHTTPRoute(fmt.Sprint(i)))
		if a := w.status("shop", "client", "GET "+url, http.StatusOK); a.Back.Get("Step") != fmt.Sprint(i) {
			t.Errorf("step %d is answered by %q", i, a.Back.Get("Step"))
		}
	}
	w.remove(churnHTTPRoute(""))
	w.synced()

	// A policy that lets in everybody who is there, narrowed and widened; then a limit that nobody reaches.
	for _, rules := range []string{"{}", "{to: [{operation: {methods: [GET, POST]}}]}", "{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}"} {
		w.now(churnPolicy("allow", rules))
		w.status("shop", "client", "GET "+url, http.StatusOK)
	}
	w.now(churnLimit)
	w.remove(churnPolicy("allow", "{}") + churnLimit)
	w.synced()
	w.unharmed(s)
	if told := w.ambitctl("config", "refused"); !strings.Contains(told, "Nothing is refused") {
		t.Errorf("ambitctl says\n%s", told)
	}
}

// TestWaypointEndpointsUnderLoad replaces, adds and removes pods and services behind a waypoint under load.
func TestWaypointEndpointsUnderLoad(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	url := w.shop(1)
	s := w.storm("shop", "client", url)
	w.must(w.Restart(w.soon(), "Deployment", "shop", "web-v1"))
	w.must(w.Settled(w.soon(), "Deployment", "shop", "web-v1", nil))
	// Services of others come and go meanwhile; the new ones answer, and those that go take nobody along.
	var others strings.Builder
	for i := range 30 {
		others.WriteString(httpService("shop", fmt.Sprintf("other%d", i), "web", 80, 8080))
	}
	w.now(others.String())
	other := fmt.Sprintf("http://%s/", w.vip("shop", "other7"))
	if a := w.status("shop", "client", "GET "+other, http.StatusOK); a.Back.Get("Server") != "istio-envoy" {
		t.Errorf("the new service is answered by %q", a.Back.Get("Server"))
	}
	w.must(w.Scale(w.soon(), "Deployment", "shop", "web-v1", 4))
	w.must(w.Settled(w.soon(), "Deployment", "shop", "web-v1", nil))
	w.remove(others.String())
	w.must(w.Scale(w.soon(), "Deployment", "shop", "web-v1", 1))
	w.must(w.Scale(w.soon(), "Deployment", "shop", "web-v2", 0))
	w.synced()
	w.must(w.Settled(w.soon(), "", "", "", nil))
	w.unharmed(s)
	if seen := w.pods(url, 10); len(seen) != 1 {
		t.Errorf("one pod is left, and %v answer", slices.Sorted(maps.Keys(seen)))
	}
}

// pods counts which pods answer.
func (w *world) pods(url string, n int) map[string]int {
	w.Helper()
	seen := map[string]int{}
	for range n {
		host, _, _ := strings.Cut(w.status("shop", "client", "GET "+url, http.StatusOK).Body, "\n")
		seen[host]++
	}
	return seen
}
