package stories

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab"
)

// TestWaypointCannotBePassedBy binds a policy to a service and tries every way around its waypoint. Next to it is a
// service with routes alone, to which nothing of this happens.
func TestWaypointCannotBePassedBy(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	w.guardedShop()
	service, free := "http://"+w.vip("shop", "web")+"/", "http://"+w.vip("shop", "free")+"/"
	pod, freePod := "http://"+w.podIP("shop", "web")+":8080/", "http://"+w.podIP("shop", "free")+":8080/"
	w.now(getOnly("shop", "web") + faultFree)
	w.through("shop", "client", service, "shop/wp")
	w.status("shop", "client", "POST "+service, http.StatusForbidden)
	w.status("shop", "client", "POST "+free, http.StatusTeapot)
	around := func(open bool) {
		t.Helper()
		for _, from := range []string{"shop/client", "outside/stranger"} {
			ns, name, _ := strings.Cut(from, "/")
			if open {
				w.through(ns, name, "POST "+pod, "")
			} else {
				w.status(ns, name, pod, 0)
			}
			w.through(ns, name, "POST "+freePod, "")
		}
	}
	around(false)
	w.status("outside", "stranger", service, 0) // a client without a proxy knows no waypoints
	w.logged("node2", "connection complete", "waypoint-required", "sa/client", "service shop/web.shop.svc.cluster.local must be reached through waypoint shop/wp", "AuthorizationPolicy shop/get-only")
	w.logged("node1", "waypoint-required", "direction=\"outbound\"", "sa/client")
	w.counted("node2", "ambit_waypoint_bypass_total", `service="shop/web.shop.svc.cluster.local"`, `outcome="refused"`)

	// The owner may say that the policy is advice.
	open := strings.Replace(httpService("shop", "web", "web", 80, 8080), "namespace: shop}", "namespace: shop, annotations: {ambit.io/waypoint-enforcement: open}}", 1)
	w.now(open)
	around(true)
	w.status("shop", "client", "POST "+service, http.StatusForbidden)
	w.counted("node2", "ambit_waypoint_bypass_total", `service="shop/web.shop.svc.cluster.local"`, `outcome="open"`)
	w.condition("Service", "shop", "web", "ambit.io/WaypointEnforced=False/Open")
	w.now(strings.Replace(open, "enforcement: open", "enforcement: closed", 1))
	around(false)
	w.condition("Service", "shop", "web", "ambit.io/WaypointEnforced=True/Closed")

	// The waypoint goes. What it enforces stays, what it only routes goes on without it.
	w.remove(waypointYAML("shop", "wp", "service"))
	w.synced()
	around(false)
	w.status("shop", "client", service, 0)
	w.through("shop", "client", "POST "+free, "")
	// It comes back, and with it the routes.
	w.now(waypointYAML("shop", "wp", "service"))
	w.through("shop", "client", service, "shop/wp")
	w.status("shop", "client", "POST "+free, http.StatusTeapot)
	// Without the policy nothing is closed any more.
	w.remove(waypointYAML("shop", "wp", "service") + getOnly("shop", "web"))
	w.synced()
	w.through("shop", "client", "POST "+service, "")
	around(true)
}

// TestWaypointIsDown takes the instances of a waypoint away in all ways while clients try to write, which its policy
// forbids: nobody ever succeeds.
func TestWaypointIsDown(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	w.guardedShop()
	service := "http://" + w.vip("shop", "web") + "/"
	w.now(getOnly("shop", "web"))
	c := w.client("shop", "client", false)
	c.Timeout = 3 * time.Second
	never := func(what string, until func() error) {
		t.Helper()
		w.eventually(what, func() error {
			if a, err := send(c, "POST "+service); err == nil && a.Status < 400 {
				t.Fatalf("%s: a write was answered %d by %q", what, a.Status, a.by())
			}
			return until()
		})
	}
	back := func() error {
		if a, err := send(c, service); err != nil || a.Status != http.StatusOK {
			return fmt.Errorf("%d, %w", a.Status, errors.Join(err, errNotYet))
		}
		return nil
	}
	gone := func() error {
		if _, err := send(c, service); err == nil {
			return errAnswered
		}
		return nil
	}
	never("the waypoint to serve", back)
	deployments, err := w.Get(w.soon(), "Deployment", "shop", "")
	w.must(err)
	if len(deployments) != 1 {
		t.Fatalf("%d deployments", len(deployments))
	}
	w.must(w.Scale(w.soon(), "Deployment", "shop", deployments[0].Name(), 0))
	never("nobody to serve", gone)
	w.must(w.Scale(w.soon(), "Deployment", "shop", deployments[0].Name(), 1))
	never("the waypoint to be back", back)

	// Killed: first Envoy, which the agent starts again, then the agent, which the lab starts again.
	proxy := w.proxies("shop", "wp")[0]
	for _, name := range []string{"envoy", "ambit-waypoint"} {
		w.must(syscall.Kill(w.process("shop", proxy, name), syscall.SIGKILL))
		never(name+" to be back", back)
	}
	// Frozen, it does not answer and nobody else does.
	envoy := w.process("shop", proxy, "envoy")
	w.must(syscall.Kill(envoy, syscall.SIGSTOP))
	for range 3 {
		if a, err := send(w.impatient("shop", "client"), "POST "+service); err == nil && a.Status < 400 {
			t.Errorf("a frozen waypoint: %d by %q", a.Status, a.by())
		}
	}
	w.must(syscall.Kill(envoy, syscall.SIGCONT))
	never("it to go on", back)
	// Without the control plane both go on as they are.
	w.must(w.Fail(w.soon(), lab.Fault{Kind: "control"}))
	never("the waypoint without a control plane", back)
	w.status("shop", "client", "http://"+w.podIP("shop", "web")+":8080/", 0)
}

func (w *world) impatient(ns, pod string) *http.Client {
	c := w.client(ns, pod, false)
	c.Timeout = time.Second
	return c
}

// TestWaypointPolicyTargets binds policies to everything they can be bound to.
func TestWaypointPolicyTargets(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	w.guardedShop()
	w.now(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: partner, namespace: shop}
spec: {hosts: [partner.example.com], addresses: [10.97.0.9], resolution: STATIC, location: MESH_INTERNAL, ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}], workloadSelector: {labels: {app: free}}}
`)
	service, free, partner := "http://"+w.vip("shop", "web")+"/", "http://"+w.vip("shop", "free")+"/", "http://10.97.0.9/"
	pod, freePod := "http://"+w.podIP("shop", "web")+":8080/", "http://"+w.podIP("shop", "free")+":8080/"
	all := []string{service, free, partner, pod, freePod}
	for _, c := range []struct {
		what, policy string
		forbidden    []string
		closed       []string
	}{
		{"a ServiceEntry", target("shop", "networking.istio.io", "ServiceEntry", "partner"), []string{partner}, []string{freePod}},
		{"a Gateway", target("shop", "gateway.networking.k8s.io", "Gateway", "wp"), []string{service, free, partner}, []string{pod, freePod}},
		{"a GatewayClass", target("ambit-system", "gateway.networking.k8s.io", "GatewayClass", "istio-waypoint"), []string{service, free, partner}, []string{pod, freePod}},
		// Only in the root namespace one speaks for all waypoints.
		{"a GatewayClass of others", target("shop", "gateway.networking.k8s.io", "GatewayClass", "istio-waypoint"), nil, nil},
	} {
		w.now(c.policy)
		for _, url := range all {
			want := http.StatusOK
			switch {
			case slices.Contains(c.forbidden, url):
				want = http.StatusForbidden
			case slices.Contains(c.closed, url):
				want = 0
			// A pod that several services lead to is reached by the waypoint of any.
			case strings.Contains(c.what, "ServiceEntry") && url == free:
			}
			if a, err := w.fetch("shop", "client", "POST "+url); a.Status != want || (err != nil) != (want == 0) {
				t.Errorf("a policy for %s, POST %s: %d %q, %v; want %d", c.what, url, a.Status, a.Body, err, want)
			}
			if want == http.StatusForbidden {
				w.through("shop", "client", url, "shop/wp")
			}
		}
		w.remove(c.policy)
		w.synced()
	}
}

// TestWaypointPolicyKinds: whatever refuses at a waypoint, or would if it could be evaluated, closes the ways around it.
func TestWaypointPolicyKinds(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	w.guardedShop()
	service, pod := "http://"+w.vip("shop", "web")+"/", "http://"+w.podIP("shop", "web")+":8080/"
	const at = `metadata: {name: kind, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
`
	const jwks = `{"keys":[{"use":"sig","kty":"EC","kid":"sample","crv":"P-256","alg":"ES256","x":"IH52_1dyQBWUDbNXJmJoj1oIhS6BJXAVNeZh1MWQCDo","y":"eCvwvr71-Zwr_EenrpKgqXuC8jhmhNe1DG4zMf2eAd4"}]}`
	authorization, authentication := "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"+at, "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n"+at
	for _, c := range []struct {
		what, yaml string
		status     int
	}{
		{"tokens that nobody must have", authentication + `  jwtRules: [{issuer: shop, jwks: '` + jwks + `'}]`, 200},
		{"tokens whose keys cannot be had", authentication + "  jwtRules: [{issuer: shop, jwksUri: \"https://127.0.0.1/keys\"}]", 200},
		{"nothing is allowed", authorization, 403},
		{"everything is denied", authorization + "  action: DENY\n  rules: [{}]", 403},
		{"everything is allowed", authorization + "  rules: [{}]", 200},
		{"an authorizer nobody knows", authorization + "  action: CUSTOM\n  provider: {name: nobody}\n  rules: [{}]", 403},
	} {
		w.now(c.yaml)
		if a, err := w.fetch("shop", "client", service); err != nil || a.Status != c.status {
			t.Errorf("%s: %d %q, %v; want %d", c.what, a.Status, a.Body, err, c.status)
		}
		if a, err := w.fetch("shop", "client", service, "Authorization: Bearer nonsense"); err != nil || strings.Contains(c.what, "tokens") && a.Status != http.StatusUnauthorized {
			t.Errorf("%s, with a bad token: %d, %v", c.what, a.Status, err)
		}
		for _, from := range []string{"shop/client", "outside/stranger"} {
			ns, name, _ := strings.Cut(from, "/")
			if a, err := w.fetch(ns, name, pod); err == nil {
				t.Errorf("%s: %s gets around with %d", c.what, from, a.Status)
			}
		}
		w.remove(c.yaml)
	}
	w.synced()
	w.through("shop", "client", pod, "")
}

// target is a policy that lets clients read what it is bound to.
func target(ns, group, kind, name string) string {
	return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: target, namespace: %s}
spec:
  targetRefs: [{group: %q, kind: %s, name: %s}]
  rules: [{to: [{operation: {methods: [GET]}}]}]
---
`, ns, group, kind, name)
}

// faultFree answers writes to the free service by itself: a route, which no policy is.
const faultFree = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: free, namespace: shop}
spec:
  hosts: [free]
  http:
  - match: [{method: {exact: POST}}]
    fault: {abort: {percentage: {value: 100}, httpStatus: 418}}
    route: [{destination: {host: free}}]
  - route: [{destination: {host: free}}]
---
`

// guardedShop is two services behind one waypoint, a client in the mesh, and a stranger.
func (w *world) guardedShop() {
	w.Helper()
	w.namespace("shop", "istio.io/dataplane-mode: ambient", "istio.io/use-waypoint: wp")
	w.namespace("outside")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "web", "node2")
	w.pod("shop", "free", "free", "node2")
	w.pod("outside", "stranger", "stranger", "node1")
	w.web("shop", "web", 8080)
	w.web("shop", "free", 8080)
	w.now(waypointYAML("shop", "wp", "service") + httpService("shop", "web", "web", 80, 8080) + httpService("shop", "free", "free", 80, 8080))
}

// counted waits for a sample of a node's ztunnel that is not zero.
func (w *world) counted(node string, parts ...string) {
	w.Helper()
	w.eventually(fmt.Sprintf("a sample %v of %s", parts, node), func() error {
		metrics, err := w.admin(node, "/metrics")
		if err != nil {
			return err
		}
	line:
		for line := range strings.Lines(string(metrics)) {
			for _, p := range parts {
				if !strings.Contains(line, p) {
					continue line
				}
			}
			if !strings.HasPrefix(line, "#") && !strings.HasSuffix(line, " 0\n") {
				return nil
			}
		}
		return errNotYet
	})
}

// process is the one of a name in a pod.
func (w *world) process(ns, pod, name string) (pid int) {
	w.Helper()
	w.eventually("process "+name, func() error {
		p, err := w.Pod(w.ctx, ns, pod)
		if err != nil || len(p.Containers) == 0 {
			return errors.Join(err, errNotYet)
		}
		if pid = descendant(p.Containers[0].Pid, name); pid == 0 {
			return errNotYet
		}
		return nil
	})
	return pid
}
