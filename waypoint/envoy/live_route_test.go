package envoy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

const reviews = "reviews.default.svc.cluster.local"

// rules reads rules in the JSON of the facts. $reviews and $other are backends.
func rules(t *testing.T, text string) []*waypoint.HTTPRule {
	t.Helper()
	text = strings.NewReplacer(
		"$reviews", `"namespace":"default","hostname":"`+reviews+`","port":80`,
		"$other", `"namespace":"default","hostname":"other.default.svc.cluster.local","port":80`,
	).Replace(text)
	var raw []json.RawMessage
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	var out []*waypoint.HTTPRule
	for i, r := range raw {
		rule := &waypoint.HTTPRule{}
		if err := protojson.Unmarshal(r, rule); err != nil {
			t.Fatalf("rule %d: %v", i, err)
		}
		rule.Origin = &waypoint.Origin{Kind: "HTTPRoute", Namespace: "default", Name: "reviews", Rule: uint32(i)}
		out = append(out, rule)
	}
	return out
}

// version gives a pod the label by which subsets are told apart.
func version(t *testing.T, pod *workload.Workload, v string) *workload.Workload {
	t.Helper()
	config, err := anypb.New(&waypoint.Labels{Labels: map[string]string{"version": v}})
	if err != nil {
		t.Fatal(err)
	}
	pod.Extensions = append(pod.Extensions, &workload.Extension{Name: mesh.ExtensionLabels, Config: config})
	return pod
}

// bookstore is reviews in two versions and one other service, all with the same application.
type bookstore struct {
	*envoytest.World
	service *waypoint.Service
	net     string
	port    uint32
	proxy   *envoytest.Proxy
}

// store starts applications at net.1, net.2 (reviews v1 and v2) and net.3 (other), and a proxy before them. Those without
// are left to the test.
func store(t *testing.T, subnet string, change func(*bookstore), without ...string) *bookstore {
	t.Helper()
	s := &bookstore{World: &envoytest.World{}, net: subnet, port: envoytest.FreePort(t)}
	for i, name := range []string{"v1", "v2", "other"} {
		if !slices.Contains(without, name) {
			s.app(t, name, fmt.Sprintf("%s.%d", subnet, i+1))
		}
	}
	ports := []envoytest.Port{{Number: 80, Target: s.port, Protocol: waypoint.Protocol_HTTP1}}
	s.service = s.Add(reviews, "10.96.1.1", ports,
		version(t, envoytest.Pod("v1", subnet+".1", "echo"), "v1"), version(t, envoytest.Pod("v2", subnet+".2", "echo"), "v2"))
	s.Add("other.default.svc.cluster.local", "10.96.1.2", ports, envoytest.Pod("other", subnet+".3", "echo"))
	s.Destinations[0].Subsets = []*waypoint.Subset{
		{Name: "v1", Labels: map[string]string{"version": "v1"}}, {Name: "v2", Labels: map[string]string{"version": "v2"}},
	}
	if change != nil {
		change(s)
	}
	s.proxy = envoytest.Start(t, s.World)
	for i := range 3 {
		s.proxy.Node(fmt.Sprintf("%s.%d", subnet, i+1), idEcho)
	}
	return s
}

func (s *bookstore) app(t *testing.T, name, ip string) {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", ip, s.port))
	if err != nil {
		t.Fatal(err)
	}
	envoytest.AppAt(t, name, l)
}

func (s *bookstore) route(t *testing.T, text string) {
	t.Helper()
	s.service.Ports[0].Routed = true
	s.service.Ports[0].Http = rules(t, text)
	s.proxy.Apply(s.World)
}

// client is one of default/client, to reviews.
func (s *bookstore) client() *http.Client { return s.proxy.Peer(idClient).Client("10.96.1.1:80") }

// exchange sends any request and reads the answer.
func exchange(t *testing.T, c *http.Client, method, url string, body io.Reader, header ...string) (*http.Response, envoytest.Echo) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	var echo envoytest.Echo
	if json.Unmarshal(text, &echo) != nil {
		echo = envoytest.Echo{Body: string(text)}
	}
	return resp, echo
}

// TestWithoutRoutes: a service nobody wrote routes for is reached as it is, at all its endpoints.
func TestWithoutRoutes(t *testing.T) {
	s := store(t, "127.0.31", nil)
	c, seen := s.client(), map[string]int{}
	for range 20 {
		_, echo := exchange(t, c, "GET", "http://reviews/any?x=1", nil)
		seen[echo.App]++
	}
	if seen["v1"] == 0 || seen["v2"] == 0 || len(seen) != 2 {
		t.Errorf("answers of %v", seen)
	}
}

// TestMatching: header A/B, order of rules, every kind of match, and 404 for the rest.
func TestMatching(t *testing.T) {
	s := store(t, "127.0.32", nil)
	s.route(t, `[
	 {"matches":[{"headers":[{"name":"x-user","value":{"exact":"jason"}}]}], "forward":{"backends":[{$reviews,"subset":"v2","weight":1}]}},
	 {"matches":[{"path":{"exact":"/exact"}}], "direct":{"status":201}},
	 {"matches":[{"path":{"segments":"/seg/"}}], "direct":{"status":202}},
	 {"matches":[{"path":{"prefix":"/pre"}}], "direct":{"status":203}},
	 {"matches":[{"path":{"regex":"/re/[0-9]+"}}], "direct":{"status":204}},
	 {"matches":[{"path":{"exact":"/CASE","ignoreCase":true}}], "direct":{"status":205}},
	 {"matches":[{"path":{"prefix":"/q"},"query":[{"name":"v","value":{"exact":"2"}}]}], "direct":{"status":206}},
	 {"matches":[{"path":{"prefix":"/m"},"method":{"exact":"DELETE"}}], "direct":{"status":207}},
	 {"matches":[{"path":{"prefix":"/a"},"authority":{"prefix":"shop."}}], "direct":{"status":208}},
	 {"matches":[{"path":{"prefix":"/ns"},"sourceNamespaces":["other"]}], "direct":{"status":209}},
	 {"matches":[{"path":{"prefix":"/inv"},"headers":[{"name":"x-no","value":{"exact":"1"},"invert":true}]}], "direct":{"status":210}},
	 {"matches":[{"path":{"prefix":"/has"},"headers":[{"name":"x-it","value":{"present":true}}]}], "direct":{"status":211}},
	 {"matches":[{"path":{"prefix":"/claim"},"claims":[{"path":["sub"],"value":{"exact":"x"}}]}], "direct":{"status":212}},
	 {"matches":[{"path":{"prefix":"/v1"}}], "forward":{"backends":[{$reviews,"subset":"v1","weight":1}]}}
	]`)
	c := s.client()
	for _, x := range []struct {
		method, path string
		status       int
		app          string
		header       []string
	}{
		{"GET", "/anything", 200, "v2", []string{"x-user", "jason"}},
		{"GET", "/v1", 200, "v2", []string{"x-user", "jason"}},
		{"GET", "/v1", 200, "v1", []string{"x-user", "jasonx"}},
		{"GET", "/exact", 201, "", nil}, {"GET", "/exact?q=1", 201, "", nil}, {"GET", "/exact/", 404, "", nil},
		{"GET", "/seg", 202, "", nil}, {"GET", "/seg/x", 202, "", nil}, {"GET", "/segment", 404, "", nil},
		{"GET", "/prefix", 203, "", nil},
		{"GET", "/re/12", 204, "", nil}, {"GET", "/re/12x", 404, "", nil},
		{"GET", "/case", 205, "", nil},
		{"GET", "/q?v=2", 206, "", nil}, {"GET", "/q?v=3", 404, "", nil},
		{"DELETE", "/m", 207, "", nil}, {"GET", "/m", 404, "", nil},
		{"GET", "/ns", 404, "", nil}, // the client is in default
		{"GET", "/inv", 210, "", nil}, {"GET", "/inv", 210, "", []string{"x-no", "2"}}, {"GET", "/inv", 404, "", []string{"x-no", "1"}},
		{"GET", "/has", 211, "", []string{"x-it", ""}}, {"GET", "/has", 404, "", nil},
		{"GET", "/claim", 404, "", nil},
		{"GET", "/", 404, "", nil},
	} {
		resp, echo := exchange(t, c, x.method, "http://reviews"+x.path, nil, x.header...)
		if resp.StatusCode != x.status || echo.App != x.app {
			t.Errorf("%s %s %v: %d of %q (%s), want %d of %q", x.method, x.path, x.header, resp.StatusCode, echo.App, echo.Body, x.status, x.app)
		}
		if resp.StatusCode == 404 && resp.Header.Get("x-ambit-reason") == "" {
			t.Errorf("%s %s: 404 without a reason", x.method, x.path)
		}
	}
	if resp, _ := exchange(t, c, "GET", "http://shop.example/a", nil); resp.StatusCode != 208 {
		t.Errorf("by host: %d", resp.StatusCode)
	}
	if resp, _ := exchange(t, s.proxy.Peer(idOther).Client("10.96.1.1:80"), "GET", "http://reviews/ns", nil); resp.StatusCode != 209 {
		t.Errorf("by namespace: %d", resp.StatusCode)
	}
}

// TestShares: 90/10 is 90/10, backends that are not there answer for their share, and a backend's own path rewrite does not
// change how many requests it gets.
func TestShares(t *testing.T) {
	s := store(t, "127.0.33", nil)
	s.route(t, `[
	 {"matches":[{"path":{"segments":"/split"}}], "forward":{"backends":[{$reviews,"subset":"v1","weight":90},{$reviews,"subset":"v2","weight":10},{$other,"weight":0}]}},
	 {"matches":[{"path":{"segments":"/missing"}}], "forward":{"backends":[{$reviews,"subset":"v1","weight":1},{"hostname":"gone","weight":1,"broken":"Service default/gone does not exist"}]}},
	 {"matches":[{"path":{"segments":"/own"}}], "forward":{"backends":[{$reviews,"subset":"v1","weight":3,"rewrite":{"prefix":"/mine"}},{$other,"weight":1},{"hostname":"gone","weight":1,"broken":"gone"}]}},
	 {"matches":[{"path":{"segments":"/all"}}], "forward":{"backends":[{"hostname":"gone","weight":1,"broken":"Service default/gone does not exist"}]}}
	]`)
	c := s.client()
	count := func(path string, n int) map[string]int {
		seen := map[string]int{}
		for range n {
			resp, echo := exchange(t, c, "GET", "http://reviews"+path, nil)
			who := echo.App + echo.Path
			if resp.StatusCode != 200 {
				who = fmt.Sprint(resp.StatusCode, resp.Header.Get("x-ambit-reason"))
			}
			seen[who]++
		}
		return seen
	}
	check := func(path string, n int, want map[string]int) {
		t.Helper()
		got := count(path, n)
		for who, w := range want {
			// Five standard deviations of the binomial distribution.
			slack := 5 * math.Sqrt(float64(w)*(1-float64(w)/float64(n)))
			if d := float64(got[who] - w); d > slack || d < -slack {
				t.Errorf("%s: %v of %d, want about %v", path, got, n, want)
				return
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	check("/split", 500, map[string]int{"v1/split": 450, "v2/split": 50})
	check("/missing", 200, map[string]int{"v1/missing": 100, "500Service default/gone does not exist": 100})
	check("/own", 500, map[string]int{"v1/mine": 300, "other/own": 100, "500gone": 100})
	check("/all", 3, map[string]int{"500Service default/gone does not exist": 3})
}

// TestChanging: rewrites, header edits, redirects, mirrors, CORS.
func TestChanging(t *testing.T) {
	s := store(t, "127.0.34", nil)
	s.route(t, `[
	 {"matches":[{"path":{"segments":"/full"}}], "rewrite":{"path":"/new/100%25","authority":"other.example"}, "forward":{"backends":[{$reviews,"weight":1}]}},
	 {"matches":[{"path":{"segments":"/strip"}}], "rewrite":{"prefix":"/"}, "forward":{"backends":[{$reviews,"weight":1}]}},
	 {"matches":[{"path":{"segments":"/sub"}}], "rewrite":{"prefix":"/xyz/"}, "forward":{"backends":[{$reviews,"weight":1}]}},
	 {"matches":[{"path":{"prefix":"/service/"}}], "rewrite":{"regex":"^/service/([^/]+)(/.*)$","substitution":"\\2/instance/\\1"}, "forward":{"backends":[{$reviews,"weight":1}]}},
	 {"matches":[{"path":{"segments":"/edit"}}], "requestHeaders":{"set":[{"name":"x-set","value":"50% of %REQ(x-a)%"},{"name":"Host","value":"edited.example"}],"add":[{"name":"x-add","value":"two"}],"remove":["x-remove"]},
	  "responseHeaders":{"set":[{"name":"x-app","value":"%ENVIRONMENT(HOME)%"}],"remove":["content-type"]}, "forward":{"backends":[{$reviews,"weight":1,"requestHeaders":{"set":[{"name":"x-backend","value":"b"}]}}]}},
	 {"matches":[{"path":{"segments":"/old"}}], "redirect":{"hostname":"new.example","prefix":"/new","status":301}},
	 {"matches":[{"path":{"segments":"/bare"}}], "redirect":{"prefix":"/","status":302}},
	 {"matches":[{"path":{"segments":"/tls"}}], "redirect":{"scheme":"https","defaultPort":true,"status":302}},
	 {"matches":[{"path":{"segments":"/port"}}], "redirect":{"port":8080,"defaultPort":true,"status":307}},
	 {"matches":[{"path":{"segments":"/mirror"}}], "mirrors":[{"to":{$other}}], "forward":{"backends":[{$reviews,"weight":1}]}},
	 {"matches":[{"path":{"segments":"/cors"},"method":{"exact":"POST"}}], "cors":{"origins":[{"suffix":".example"}],"methods":["POST"],"maxAge":"60s"}, "forward":{"backends":[{$reviews,"weight":1}]}}
	]`)
	c := s.client()
	for path, want := range map[string]string{
		"/full/x?q=1": "/new/100%?q=1", "/strip": "/?", "/strip/": "/?", "/strip/a": "/a?", "/sub": "/xyz?", "/sub/a": "/xyz/a?",
		"/service/foo/v1": "/v1/instance/foo?",
	} {
		if _, echo := exchange(t, c, "GET", "http://reviews"+path, nil); echo.Path+"?"+echo.Query != want {
			t.Errorf("%s became %s?%s, want %s", path, echo.Path, echo.Query, want)
		} else if path == "/full/x?q=1" && echo.Host != "other.example" {
			t.Errorf("host %q", echo.Host)
		}
	}
	resp, echo := exchange(t, c, "GET", "http://reviews/edit", nil, "x-a", "all", "x-add", "one", "x-remove", "r")
	if h := echo.Header; h.Get("x-set") != "50% of all" || strings.Join(h.Values("x-add"), " ") != "one two" || h.Get("x-remove") != "" ||
		h.Get("x-backend") != "b" || echo.Host != "edited.example" {
		t.Errorf("edited request: %s %v", echo.Host, h)
	}
	if resp.Header.Get("x-app") != "%ENVIRONMENT(HOME)%" || resp.Header.Get("content-type") != "" {
		t.Errorf("edited response: %v", resp.Header)
	}
	for url, want := range map[string]string{
		"http://reviews/old/a?q=1":     "301 http://new.example/new/a?q=1",
		"http://reviews/bare/a":        "302 http://reviews/a",
		"http://reviews/bare":          "302 http://reviews/",
		"http://reviews/tls":           "302 https://reviews/tls",
		"http://reviews:8080/tls":      "302 https://reviews:443/tls",
		"http://reviews/port":          "307 http://reviews:8080/port",
		"http://reviews:9/port/x?q#no": "307 http://reviews:8080/port/x?q",
	} {
		resp, _ := exchange(t, c, "GET", url, nil)
		if got := fmt.Sprintf("%d %s", resp.StatusCode, resp.Header.Get("location")); got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
	resp, _ = exchange(t, c, "OPTIONS", "http://reviews/cors", nil, "Origin", "https://a.example", "Access-Control-Request-Method", "POST")
	if resp.StatusCode != 200 || resp.Header.Get("Access-Control-Allow-Origin") != "https://a.example" || resp.Header.Get("Access-Control-Max-Age") != "60" {
		t.Errorf("preflight: %d %v", resp.StatusCode, resp.Header)
	}
	s.mirrored(t, c)
}

// mirrored: the other service gets a copy, the client sees nothing of it.
func (s *bookstore) mirrored(t *testing.T, c *http.Client) {
	t.Helper()
	resp, echo := exchange(t, c, "POST", "http://reviews/mirror", strings.NewReader("copy me"))
	if resp.StatusCode != 200 || echo.App == "other" || echo.Body != "copy me" {
		t.Errorf("mirrored request: %d %+v", resp.StatusCode, echo)
	}
	s.proxy.Await("the copy", func() error {
		if s.hosts(t, "other", "rq_success") == 0 {
			return fmt.Errorf("nothing arrived")
		}
		return nil
	})
}

// hosts sums a counter over the endpoints of a service.
func (s *bookstore) hosts(t *testing.T, service, counter string) int {
	t.Helper()
	var text strings.Builder
	if err := s.proxy.Admin(http.MethodGet, "/clusters", &text); err != nil {
		t.Fatal(err)
	}
	sum := 0
	for line := range strings.Lines(text.String()) {
		var n int
		if _, after, ok := strings.Cut(line, "::"+counter+"::"); ok && strings.Contains(line, "|"+service+".") {
			_, _ = fmt.Sscan(after, &n)
			sum += n
		}
	}
	return sum
}
