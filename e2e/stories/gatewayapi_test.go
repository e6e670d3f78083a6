package stories

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/e2e/conformance/gatewayapi"
)

// TestGatewayAPIMesh runs the mesh tests of Gateway API's conformance module in a lab: their manifests, and all requests
// they make. The application behind them is this test's, in the pods that the manifests describe.
func TestGatewayAPIMesh(t *testing.T) {
	dir, err := gatewayapi.Dir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tests, err := gatewayapi.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	w := startWaypoints(t, options{nodes: 2})
	base, err := gatewayapi.Manifest(dir, "mesh/manifests.yaml")
	w.must(err)
	w.apply(withoutImages(t, base))
	waypoints := ""
	for _, ns := range []string{gatewayapi.Namespace, gatewayapi.ConsumerNamespace} {
		w.must(w.Label(w.soon(), "Namespace", "", ns, map[string]string{"istio.io/dataplane-mode": "ambient", "istio.io/use-waypoint": "waypoint"}))
		waypoints += waypointYAML(ns, "waypoint", "service")
	}
	w.apply(waypoints)
	w.must(w.Settled(w.soon(), "", "", "", nil))
	c := &conformance{world: w, vips: map[string]string{}, clients: map[string]string{}}
	c.places()
	w.synced()
	for _, test := range tests {
		t.Run(test.Name, func(t *testing.T) {
			routes := ""
			for _, m := range test.Manifests {
				text, err := gatewayapi.Manifest(dir, m)
				if err != nil {
					t.Fatal(err)
				}
				routes += text + "\n---\n"
			}
			if routes != "" {
				w.apply(routes)
				w.synced()
				defer w.remove(routes)
			}
			for i, one := range test.Cases {
				if err := c.check(one, strings.Contains(test.Name, "Rewrite")); err != nil {
					t.Errorf("case %d %s %+v: %v", i, one.TestCaseName, one.Request, err)
				}
			}
			if test.Weights != nil {
				if err := c.weights(test.Cases[0], test.Weights); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// withoutImages has pods of Deployments do nothing: a lab has no images.
func withoutImages(t *testing.T, manifests string) string {
	t.Helper()
	var out strings.Builder
	for doc := range strings.SplitSeq(manifests, "\n---") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatal(err)
		}
		if o["kind"] == "Deployment" {
			template := o["spec"].(map[string]any)["template"].(map[string]any)
			spec := template["spec"].(map[string]any)
			spec["containers"] = []any{map[string]any{"name": "echo", "command": []string{"sleep", "infinity"}}}
			spec["terminationGracePeriodSeconds"] = 1
		}
		text, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(text)
		out.WriteString("---\n")
	}
	return out.String()
}

// conformance is the lab as the tests know it.
type conformance struct {
	*world
	vips    map[string]string // of services, by name.namespace
	clients map[string]string // pod echo-v1 of a namespace
	v2      string            // address of echo-v2
}

// places serves in all pods and learns addresses.
func (c *conformance) places() {
	c.Helper()
	for _, ns := range []string{gatewayapi.Namespace, gatewayapi.ConsumerNamespace} {
		pods, err := c.Get(c.soon(), "Pod", ns, "")
		c.must(err)
		for _, p := range pods {
			switch {
			case strings.HasPrefix(p.Name(), "echo-v1"):
				c.clients[ns] = p.Name()
			case strings.HasPrefix(p.Name(), "echo-v2"):
				c.v2 = p.Text("status", "podIP")
			}
			if strings.HasPrefix(p.Name(), "echo-") {
				for _, port := range []int{8080, 7070} {
					c.handle(ns, p.Name(), port, echoOrGRPC(p.Name()))
				}
			}
		}
		services, err := c.Get(c.soon(), "Service", ns, "")
		c.must(err)
		for _, s := range services {
			c.vips[s.Name()+"."+ns] = s.Text("spec", "clusterIP")
		}
	}
}

// echoOrGRPC says what arrived; to gRPC it answers with an empty message, and in a header who it is.
func echoOrGRPC(pod string) http.HandlerFunc {
	plain := echoRequest(pod)
	return func(rw http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			plain(rw, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		rw.Header().Set("Content-Type", "application/grpc")
		rw.Header().Set("X-Pod", pod)
		rw.Header().Set("Trailer", "Grpc-Status")
		_, _ = rw.Write(make([]byte, 5))
		rw.Header().Set("Grpc-Status", "0")
	}
}

// ask makes a case's request from its client. A host is what a resolver in the client's namespace makes of it.
func (c *conformance) ask(one gatewayapi.Case) (answer, error) {
	host := one.Request.Host
	if host == "" {
		host = "echo"
	}
	host = strings.ReplaceAll(host, gatewayapi.PodAddress, c.v2)
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = host, "80"
	}
	addr := name
	if net.ParseIP(name) == nil {
		full := name
		if !strings.Contains(name, ".") {
			full += "." + one.Client
		}
		if addr = c.vips[strings.TrimSuffix(full, ".svc.cluster.local")]; addr == "" {
			return answer{}, fmt.Errorf("there is no service %s", full)
		}
	}
	client := c.client(one.Client, c.clients[one.Client], false)
	if one.Request.Protocol == "grpc" {
		return c.askGRPC(client.Transport.(*http.Transport), net.JoinHostPort(addr, port), host)
	}
	headers := []string{"Host: " + host}
	for k, v := range one.Request.Headers {
		headers = append(headers, k+": "+v)
	}
	method := one.Request.Method
	if method == "" {
		method = http.MethodGet
	}
	path := one.Request.Path
	if path == "" {
		path = "/"
	}
	return send(client, method+" http://"+net.JoinHostPort(addr, port)+path, headers...)
}

// askGRPC makes an empty unary call.
func (c *conformance) askGRPC(tr *http.Transport, addr, authority string) (answer, error) {
	tr.Protocols = new(http.Protocols)
	tr.Protocols.SetUnencryptedHTTP2(true)
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/proto.EchoTestService/Echo", bytes.NewReader(make([]byte, 5)))
	if err != nil {
		return answer{}, err
	}
	req.Host = authority
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	if _, err = io.Copy(io.Discard, resp.Body); err == nil && resp.Trailer.Get("Grpc-Status") != "0" {
		err = fmt.Errorf("gRPC status %q", resp.Trailer.Get("Grpc-Status")+resp.Header.Get("Grpc-Status"))
	}
	return answer{Status: resp.StatusCode, Back: resp.Header, Pod: resp.Header.Get("X-Pod")}, err
}

// check makes the request and compares.
func (c *conformance) check(one gatewayapi.Case, rewrites bool) error {
	a, err := c.ask(one)
	if err != nil {
		return err
	}
	want := one.Response.StatusCodes
	if s := one.Response.StatusCode; s != 0 {
		want = append(want, s)
	} else if len(want) == 0 {
		want = []int{http.StatusOK}
	}
	if !slices.Contains(want, a.Status) {
		return fmt.Errorf("status %d %q, want %v", a.Status, a.Body, want)
	}
	if !strings.HasPrefix(a.Pod, one.Backend) {
		return fmt.Errorf("answered by %q, want %q", a.Pod, one.Backend)
	}
	if err := headersOf(a.Back, one.Response.Headers, one.Response.AbsentHeaders); err != nil {
		return fmt.Errorf("response: %w", err)
	}
	if r := one.ExpectedRequest; r != nil {
		if err := headersOf(a.Header, r.Headers, r.AbsentHeaders); err != nil {
			return fmt.Errorf("request: %w", err)
		}
		// The module's mesh tests compare no paths, and some expect those of another case. Rewrites are meant.
		if rewrites && r.Path != "" && r.Path != a.Path {
			return fmt.Errorf("the application was asked for %s, want %s", a.Path, r.Path)
		}
	}
	return redirected(a, one)
}

func headersOf(h http.Header, want map[string]string, absent []string) error {
	for k, v := range want {
		if got := strings.Join(h.Values(k), ","); got != v {
			return fmt.Errorf("header %s is %q, want %q", k, got, v)
		}
	}
	for _, k := range absent {
		if h.Values(k) != nil {
			return fmt.Errorf("header %s is there: %q", k, h.Values(k))
		}
	}
	return nil
}

// redirected compares what is said of the Location.
func redirected(a answer, one gatewayapi.Case) error {
	want := one.RedirectRequest
	if want == nil {
		return nil
	}
	at, err := url.Parse(a.Back.Get("Location"))
	if err != nil {
		return err
	}
	for _, part := range []struct{ what, got, want string }{
		{"scheme", at.Scheme, want.Scheme}, {"host", at.Hostname(), want.Host}, {"port", at.Port(), want.Port}, {"path", at.Path, want.Path},
	} {
		if part.want != "" && part.got != part.want {
			return fmt.Errorf("redirected to %s: its %s should be %q", at, part.what, part.want)
		}
	}
	return nil
}

// weights counts who answers.
func (c *conformance) weights(one gatewayapi.Case, want map[string]float64) error {
	const n = 300
	seen := map[string]float64{}
	for range n {
		a, err := c.ask(one)
		if err != nil {
			return err
		}
		name := strings.Join(strings.SplitN(a.Pod, "-", 3)[:2], "-")
		seen[name] += 1.0 / n
	}
	for _, name := range slices.Sorted(maps.Keys(seen)) {
		// Three and a half standard deviations: one run in two thousand is further away by chance.
		if p := want[name]; math.Abs(seen[name]-p) > 3.5*math.Sqrt(p*(1-p)/n) {
			return fmt.Errorf("shares %v, want %v", seen, want)
		}
	}
	return nil
}
