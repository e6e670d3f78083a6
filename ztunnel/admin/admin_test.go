package admin_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/ca/catest"
	"github.com/ambit-mesh/ambit/ca/client"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/admin"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

var update = flag.Bool("update", false, "rewrite golden files")

func get(t *testing.T, h http.Handler, method, target string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return w.Code, w.Body.String()
}

func world(t *testing.T) *state.State {
	cart := In(Pod("shop", "cart", "cart-sa", "10.0.0.1", "fd00::1"), "shop/cart.shop.svc.cluster.local", 80, 8080)
	cart.Waypoint, cart.AuthorizationPolicies = WaypointAt("10.96.0.20"), []string{"shop/selected"}
	cart.Locality = &workload.Locality{Region: "r", Zone: "z"}
	cart.ApplicationTunnel = &workload.ApplicationTunnel{Protocol: workload.ApplicationTunnel_PROXY, Port: 15088}
	cart = Guarded(cart, &waypoint.Guards{Waypoints: []string{"spiffe://cluster.local/ns/shop/sa/wp"}, Guards: []*waypoint.Guard{{
		Ports: []uint32{8080}, Waypoints: []string{"spiffe://cluster.local/ns/shop/sa/wp"}, Gateway: "shop/wp", Service: "shop/cart.shop.svc.cluster.local",
		Policies: []string{"AuthorizationPolicy shop/readers"}, Open: true,
	}}})
	staged := In(Pod("shop", "early", "sa", "10.0.0.2"), "shop/late.shop.svc.cluster.local", 1, 2)
	staged.Status, staged.TunnelProtocol, staged.NetworkMode = workload.WorkloadStatus_UNHEALTHY, workload.TunnelProtocol_NONE, workload.NetworkMode_HOST_NETWORK
	svc := Service("shop", "cart", []string{"10.96.0.1", "10.97.0.0/16"}, 80, 8080)
	svc.Waypoint = Waypoint("shop", "waypoint.shop.svc.cluster.local")
	svc.WeightedWaypoints = []*workload.WeightedWaypoint{{Destination: Waypoint("shop", "canary.shop.svc.cluster.local"), Weight: 10}}
	svc.SubjectAltNames = []string{"spiffe://cluster.local/ns/shop/sa/cart-sa"}
	svc.IpFamilies = workload.IPFamilies_DUAL
	svc.LoadBalancing = &workload.LoadBalancing{
		Mode: workload.LoadBalancing_FAILOVER, HealthPolicy: workload.LoadBalancing_ALLOW_ALL,
		RoutingPreference: []workload.LoadBalancing_Scope{workload.LoadBalancing_NETWORK, workload.LoadBalancing_REGION, workload.LoadBalancing_ZONE},
	}
	text := func(v string) []*security.StringMatch {
		return []*security.StringMatch{
			{MatchType: &security.StringMatch_Exact{Exact: v}}, {MatchType: &security.StringMatch_Prefix{Prefix: v}},
			{MatchType: &security.StringMatch_Suffix{Suffix: v}}, {MatchType: &security.StringMatch_Presence{Presence: &security.Empty{}}},
		}
	}
	ips := []*security.Address{{Address: []byte{10, 0, 0, 0}, Length: 8}}
	accounts := []*security.ServiceAccountMatch{{Namespace: "shop", ServiceAccount: "web"}}
	policy := &security.Authorization{Name: "selected", Namespace: "shop", Scope: security.Scope_WORKLOAD_SELECTOR, Action: security.Action_DENY, DryRun: true,
		Rules: []*security.Rule{{Clauses: []*security.Clause{{Matches: []*security.Match{
			{Namespaces: text("a"), Principals: text("b"), SourceIps: ips, DestinationIps: ips, DestinationPorts: []uint32{80}, ServiceAccounts: accounts},
			{NotNamespaces: text("a"), NotPrincipals: text("b"), NotSourceIps: ips, NotDestinationIps: ips, NotDestinationPorts: []uint32{80}, NotServiceAccounts: accounts},
		}}}}}}
	return World(t, cart, staged, svc, policy)
}

func TestConfigDumpGolden(t *testing.T) {
	st := world(t)
	h := admin.Handler(admin.Sources{
		Version: "1.2.3", Config: map[string]string{"network": "n1"}, State: st.Current,
		Certificates: func() []client.Status {
			return []client.Status{
				{ID: identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web"}, State: client.StateUnavailable, Err: "no authority"},
				{ID: identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "cart-sa"}, State: client.StateInitializing},
			}
		},
		Pods: func() []admin.Pod {
			return []admin.Pod{{UID: "8e1f", State: "Up", Name: "cart", Namespace: "shop", ServiceAccount: "cart-sa",
				Inbound: []admin.Connection{{Src: "10.0.0.9:4711", OriginalDst: "10.0.0.1:8080", ActualDst: "10.0.0.1:8080", Protocol: "HBONE"}}}}
		},
	})
	code, got := get(t, h, "GET", "/config_dump")
	if code != 200 || !json.Valid([]byte(got)) {
		t.Fatalf("status %d, body %s", code, got)
	}
	got = regexp.MustCompile(`"(golangVersion|buildStatus)": "[^"]*"`).ReplaceAllString(got, `"$1": "…"`)
	const file = "testdata/config_dump.json"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("config_dump changed (-want +got):\n%s", diff)
	}
}

func TestConfigDumpOfNothing(t *testing.T) {
	code, got := get(t, admin.Handler(admin.Sources{}), "GET", "/config_dump")
	if code != 200 || !json.Valid([]byte(got)) || !strings.Contains(got, `"workloads": []`) {
		t.Fatalf("status %d, body %s", code, got)
	}
}

func TestConfigDumpCertificates(t *testing.T) {
	id := identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web"}
	svid := catest.New().MustSVID(id.String())
	_, body := get(t, admin.Handler(admin.Sources{Certificates: func() []client.Status {
		return []client.Status{{ID: id, State: client.StateAvailable, SVID: svid}}
	}}), "GET", "/config_dump")
	type cert struct{ PEM, SerialNumber, ValidFrom, ExpirationTime string }
	var dump struct {
		Certificates []struct {
			Identity, State      string
			CertChain, RootCerts []cert
		}
	}
	if err := json.Unmarshal([]byte(body), &dump); err != nil {
		t.Fatal(err)
	}
	c := dump.Certificates[0]
	if c.Identity != id.String() || c.State != "Available" || len(c.CertChain) != len(svid.TLS.Certificate) || len(c.RootCerts) == 0 {
		t.Fatalf("certificates = %+v", c)
	}
	leaf := c.CertChain[0]
	text, err := base64.StdEncoding.DecodeString(leaf.PEM)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil || !bytes.Equal(block.Bytes, svid.TLS.Certificate[0]) || leaf.SerialNumber != svid.TLS.Leaf.SerialNumber.String() {
		t.Fatalf("leaf = %+v", leaf)
	}
	if at, err := time.Parse(time.RFC3339, leaf.ExpirationTime); err != nil || !at.Equal(svid.TLS.Leaf.NotAfter) {
		t.Fatalf("expires %s, %v", leaf.ExpirationTime, err)
	}
	if strings.Contains(body, "PRIVATE KEY") {
		t.Fatal("the dump shows a private key")
	}
}

func TestReadiness(t *testing.T) {
	var pending []string
	h := admin.ReadinessHandler(admin.Sources{Blockers: func() []string { return pending }})
	if code, body := get(t, h, "GET", "/healthz/ready"); code != 200 || body != "ready" {
		t.Errorf("%d %q", code, body)
	}
	pending = []string{"a", "b"}
	if code, body := get(t, h, "GET", "/healthz/ready"); code != 500 || body != "not ready, pending: a, b" {
		t.Errorf("%d %q", code, body)
	}
}

func TestLogging(t *testing.T) {
	levels, err := telemetry.NewLevels("info,dns=off")
	if err != nil {
		t.Fatal(err)
	}
	h := admin.Handler(admin.Sources{Levels: levels})
	for _, step := range []struct {
		method, target string
		code           int
		body           string
	}{
		{"GET", "/logging", 200, "current log level is dns=off,info\n"},
		{"GET", "/logging?level=debug", 200, "current log level is dns=off,info\n"},
		{"POST", "/logging?level=debug", 200, "current log level is dns=off,debug\n"},
		{"POST", "/logging?level=access:warn", 200, "current log level is access=warn,dns=off,debug\n"},
		{"POST", "/logging?level=loud", 400, "log level \"loud\" is none of off, error, warn, info, debug, trace\n"},
		{"POST", "/logging", 400, "say ?level=info, ?level=info,access=debug or ?reset\n"},
		{"POST", "/logging?reset", 200, "current log level is dns=off,info\n"},
		{"POST", "/logging?reset&level=warn", 200, "current log level is dns=off,warn\n"},
		{"DELETE", "/logging", 405, "method not allowed\n"},
	} {
		if code, body := get(t, h, step.method, step.target); code != step.code || body != step.body {
			t.Errorf("%s %s: %d %q, want %d %q", step.method, step.target, code, body, step.code, step.body)
		}
	}
}

func TestQuit(t *testing.T) {
	quits := 0
	h := admin.Handler(admin.Sources{Quit: func() { quits++ }})
	if code, _ := get(t, h, "GET", "/quitquitquit"); code != 405 || quits != 0 {
		t.Errorf("GET: %d, %d quits", code, quits)
	}
	if code, body := get(t, h, "POST", "/quitquitquit"); code != 200 || body != "shutdown now\n" || quits != 1 {
		t.Errorf("POST: %d %q, %d quits", code, body, quits)
	}
}

func TestPages(t *testing.T) {
	rec := telemetry.New(telemetry.Options{Version: "1.2.3"})
	s := admin.Sources{Version: "<1.2.3>", Metrics: rec.Registry()}
	h := admin.Handler(s)
	for target, want := range map[string]string{
		"/": "ztunnel &lt;1.2.3&gt;", "/debug/pprof/heap?debug=1": "heap profile", "/debug/pprof/": "goroutine", "/debug/pprof/goroutine?debug=1": "goroutine profile",
		"/metrics": "istio_build", "/stats/prometheus": `component="ztunnel",tag="1.2.3"`, "/healthz/ready": "ready",
	} {
		if code, body := get(t, h, "GET", target); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %.200q, want %q", target, code, body, want)
		}
	}
	if code, _ := get(t, h, "GET", "/nothing"); code != 404 {
		t.Errorf("/nothing: %d", code)
	}
	if code, _ := get(t, admin.MetricsHandler(s), "GET", "/config_dump"); code != 404 {
		t.Errorf("the metrics port shows the configuration: %d", code)
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/metrics", nil)
	r.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	admin.MetricsHandler(s).ServeHTTP(w, r)
	if got := w.Body.String(); !strings.HasSuffix(got, "# EOF\n") {
		t.Errorf("no OpenMetrics: %.100q", got)
	}
}

func TestServe(t *testing.T) {
	dir := t.TempDir()
	sock := filepath.Join(dir, "run", "admin.sock")
	// The metrics port is held by the proxy we replace, which lets go later.
	old, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	at := admin.Addresses{Socket: sock, Metrics: old.Addr().String()}
	go func() {
		ended <- admin.Serve(ctx, at, admin.Sources{Metrics: telemetry.New(telemetry.Options{}).Registry()}, slog.New(slog.DiscardHandler))
	}()
	unix := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", sock)
	}}}
	if body := fetch(t, unix, "http://ztunnel/healthz/ready"); body != "ready" {
		t.Errorf("over the socket: %q", body)
	}
	if info, err := os.Stat(sock); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "run", ".admin-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	old.Close()
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if body := fetch(t, plain, "http://"+at.Metrics+"/metrics"); !strings.Contains(body, "istio_build") {
		t.Errorf("metrics: %.100q", body)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// fetch polls until there is an answer or ten seconds have passed.
func fetch(t *testing.T, c *http.Client, url string) string {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		resp, err := c.Get(url)
		if err == nil {
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return string(body)
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestServeRefusesBadAddress(t *testing.T) {
	err := admin.Serve(t.Context(), admin.Addresses{Metrics: "256.0.0.1:1"}, admin.Sources{}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "listen on 256.0.0.1:1") {
		t.Errorf("err = %v", err)
	}
}

// slowMetrics are made as soon as the channel is closed.
type slowMetrics chan struct{}

func (slowMetrics) Describe(chan<- *prometheus.Desc)   {}
func (m slowMetrics) Collect(chan<- prometheus.Metric) { <-m }

// The metrics port is open to everybody who can reach the node.
func TestMetricsAreMadeForFewAtATime(t *testing.T) {
	slow, reg := make(slowMetrics), prometheus.NewRegistry()
	reg.MustRegister(slow)
	h := admin.MetricsHandler(admin.Sources{Metrics: reg})
	const scrapers = 20
	codes := make(chan int, scrapers)
	for range scrapers {
		go func() {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
			codes <- w.Code
		}()
	}
	for n := range scrapers {
		select {
		case code := <-codes:
			if code != http.StatusServiceUnavailable {
				t.Errorf("status %d, want 503", code)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("only %d of %d were turned away", n, scrapers)
		}
		if n == scrapers-5 {
			break
		}
	}
	close(slow)
	for range 4 {
		if code := <-codes; code != http.StatusOK {
			t.Errorf("status %d, want 200", code)
		}
	}
}
