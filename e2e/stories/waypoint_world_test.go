package stories

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/e2e/mesh"
)

// startWaypoints is start for stories with waypoints: what they need of the machine is there.
func startWaypoints(t *testing.T, o options) *world {
	t.Helper()
	w := up(t, o)
	ctx, cancel := context.WithTimeout(w.ctx, 2*patience)
	defer cancel()
	_, err := mesh.Start(ctx, w.Lab, o.mesh, nil)
	w.must(err)
	t.Cleanup(func() {
		if t.Failed() {
			w.tellWaypoints()
		}
	})
	return w
}

// as is the same world in a part of the story.
func (w *world) as(t *testing.T) *world { return &world{T: t, Lab: w.Lab, ctx: w.ctx} }

// tellWaypoints prints what waypoints and gateways said.
func (w *world) tellWaypoints() {
	logs, _ := filepath.Glob(filepath.Join(w.Dir, "logs", "pods", "*", "istio-proxy.log"))
	for _, f := range logs {
		if data, err := os.ReadFile(f); err == nil {
			lines := strings.Split(strings.TrimSpace(string(data)), "\n")
			w.Logf("%s (last lines):\n%s", filepath.Base(filepath.Dir(f)), strings.Join(lines[max(0, len(lines)-25):], "\n"))
		}
	}
}

// synced waits until everything that was applied is in force everywhere.
func (w *world) synced() {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, 2*patience)
	defer cancel()
	w.must(mesh.Synced(ctx, w.Lab, nil))
}

// now applies and waits until it is in force.
func (w *world) now(yaml string) {
	w.Helper()
	w.apply(yaml)
	w.synced()
}

// label sets and removes ("-key") labels, and waits until that is in force.
func (w *world) label(kind, ns, name string, labels ...string) {
	w.Helper()
	set, remove := map[string]string{}, []string(nil)
	for _, l := range labels {
		if key, ok := strings.CutPrefix(l, "-"); ok {
			remove = append(remove, key)
			continue
		}
		key, value, _ := strings.Cut(l, "=")
		set[key] = value
	}
	w.must(w.Label(w.soon(), kind, ns, name, set, remove...))
	w.synced()
}

// waypointYAML is a waypoint that takes traffic for service, workload, all or none. More is written like key: value, into
// the Gateway's listener.
func waypointYAML(ns, name, traffic string, listener ...string) string {
	return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %s, namespace: %s, labels: {istio.io/waypoint-for: %s}}
spec: {gatewayClassName: istio-waypoint, listeners: [{%s}]}
---
`, name, ns, traffic, strings.Join(append([]string{"name: mesh", "port: 15008", "protocol: HBONE"}, listener...), ", "))
}

// httpService puts a virtual address before the pods of an app. More is written into the port.
func httpService(ns, name, app string, port, target int, more ...string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: %s}
spec: {selector: {app: %s}, ports: [{%s}]}
---
`, name, ns, app, strings.Join(append([]string{"name: http", fmt.Sprintf("port: %d", port), fmt.Sprintf("targetPort: %d", target)}, more...), ", "))
}

// vip is the virtual address of a Service.
func (w *world) vip(ns, name string) string {
	w.Helper()
	svc, err := w.Get(w.soon(), "Service", ns, name)
	w.must(err)
	if len(svc) != 1 {
		w.Fatalf("service %s/%s: %d of them", ns, name, len(svc))
	}
	return svc[0].Text("spec", "clusterIP")
}

// web answers every request from a port inside a pod with what it was, by HTTP/1.1 and HTTP/2.
func (w *world) web(ns, pod string, port int) {
	w.Helper()
	w.handle(ns, pod, port, echoRequest(pod))
}

func echoRequest(pod string) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		_ = json.NewEncoder(rw).Encode(answer{
			Pod: pod, From: strings.TrimPrefix(from, "::ffff:"), Proto: r.Proto, Method: r.Method, Host: r.Host, Path: r.URL.String(), Header: r.Header, Sent: string(body),
		})
	}
}

// handle serves HTTP from a port inside a pod.
func (w *world) handle(ns, pod string, port int, h http.Handler) {
	w.Helper()
	var l net.Listener
	w.must(w.inside(ns, pod, func() (err error) { l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); return err }))
	w.handleOn(l, h)
}

func (w *world) handleOn(l net.Listener, h http.Handler) {
	var both http.Protocols
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: &both}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	w.Cleanup(func() { s.Close(); <-done })
}

// answer is what came back of a request, and what the application saw of it.
type answer struct {
	Status int         `json:"-"`
	Back   http.Header `json:"-"`
	Body   string      `json:"-"`
	Local  string      `json:"-"` // the address the request was sent from, where a story must know

	Pod, From, Proto, Method, Host, Path, Sent string
	Header                                     http.Header
}

// by names the proxy that the request came through as namespace/account; empty when there was none.
func (a answer) by() string {
	_, id, ok := strings.Cut(a.Header.Get("X-Forwarded-Client-Cert"), "By=spiffe://")
	if !ok {
		return ""
	}
	id, _, _ = strings.Cut(id, ";")
	parts := strings.Split(id, "/") // cluster.local/ns/NS/sa/SA
	if len(parts) != 5 {
		return id
	}
	return parts[2] + "/" + parts[4]
}

// client is an HTTP client inside a pod that opens a connection for each request, or keeps them.
func (w *world) client(ns, pod string, keep bool) *http.Client {
	return w.clientBy(keep, func(addr string) (net.Conn, error) { return w.dial(ns, pod, addr) })
}

func (w *world) clientBy(keep bool, dial func(addr string) (net.Conn, error)) *http.Client {
	tr := &http.Transport{
		DisableKeepAlives:   !keep,
		DisableCompression:  true,
		MaxIdleConnsPerHost: 64,
		DialContext:         func(_ context.Context, _, addr string) (net.Conn, error) { return dial(addr) },
	}
	w.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// ask sends one request, written as "METHOD URL", with headers written as "key: value".
func send(c *http.Client, request string, headers ...string) (a answer, err error) {
	method, url, ok := strings.Cut(request, " ")
	if !ok {
		method, url = http.MethodGet, request
	}
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		return a, err
	}
	for _, h := range headers {
		key, value, _ := strings.Cut(h, ": ")
		if strings.EqualFold(key, "host") {
			req.Host = value
		} else {
			req.Header.Add(key, value)
		}
	}
	resp, err := c.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return a, err
	}
	if resp.StatusCode == http.StatusOK && bytes.HasPrefix(body, []byte("{")) {
		if err := json.Unmarshal(body, &a); err != nil {
			return a, fmt.Errorf("%w in %q", err, body)
		}
	}
	a.Status, a.Back, a.Body = resp.StatusCode, resp.Header, string(body)
	return a, nil
}

// fetch sends one request from a pod over a connection of its own.
func (w *world) fetch(ns, pod, request string, headers ...string) (answer, error) {
	return send(w.client(ns, pod, false), request, headers...)
}

// through wants a request to be answered with 200, having come through a proxy (namespace/account), or none.
func (w *world) through(ns, pod, request, by string, headers ...string) answer {
	w.Helper()
	a, err := w.fetch(ns, pod, request, headers...)
	if err != nil || a.Status != http.StatusOK || a.by() != by {
		w.Fatalf("%s/%s asks %s: %d %q by %q, %v; want 200 by %q", ns, pod, request, a.Status, a.Body, a.by(), err, by)
	}
	return a
}

// status wants a request to be answered with a status; 0 wants the connection to fail.
func (w *world) status(ns, pod, request string, status int, headers ...string) answer {
	w.Helper()
	a, err := w.fetch(ns, pod, request, headers...)
	if (err != nil) != (status == 0) || a.Status != status {
		w.Fatalf("%s/%s asks %s: %d %q, %v; want %d", ns, pod, request, a.Status, a.Body, err, status)
	}
	return a
}

// condition waits for a condition of an object, as TYPE=STATUS/REASON, in its status or that of any parent or ancestor,
// and returns its message.
func (w *world) condition(kind, ns, name, want string) (message string) {
	w.Helper()
	w.eventually(fmt.Sprintf("%s %s/%s to say %s", kind, ns, name, want), func() error {
		objects, err := w.Get(w.ctx, kind, ns, name)
		if err != nil {
			return err
		}
		if len(objects) != 1 {
			return fmt.Errorf("%d of them", len(objects))
		}
		var seen []string
		for _, c := range conditions(objects[0].At("status")) {
			said := fmt.Sprintf("%v=%v/%v", c["type"], c["status"], c["reason"])
			if said == want {
				message, _ = c["message"].(string)
				return nil
			}
			seen = append(seen, said)
		}
		return fmt.Errorf("it says %s", strings.Join(seen, ", "))
	})
	return message
}

// conditions are all conditions anywhere below a value.
func conditions(v any) (out []map[string]any) {
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			list, ok := inner.([]any)
			if key != "conditions" || !ok {
				out = append(out, conditions(inner)...)
				continue
			}
			for _, c := range list {
				if m, ok := c.(map[string]any); ok {
					out = append(out, m)
				}
			}
		}
	case []any:
		for _, inner := range v {
			out = append(out, conditions(inner)...)
		}
	}
	return out
}

// proxies are the pods of a Gateway.
func (w *world) proxies(ns, gateway string) []string {
	w.Helper()
	pods, err := w.PodsOf(w.soon(), ns, map[string]string{"gateway.networking.k8s.io/gateway-name": gateway})
	w.must(err)
	slices.Sort(pods)
	return pods
}

var errAnswered = errors.New("it was answered")
