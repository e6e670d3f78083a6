package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/xds"
)

const town = `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 10.1.0.5, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: shop}
spec: {action: DENY, rules: [{from: [{source: {namespaces: [x]}}]}]}
`

// plane is a control plane under test.
type plane struct {
	t      *testing.T
	cfg    Config
	cancel context.CancelFunc
	done   chan error
}

func newPlane(t *testing.T) *plane {
	dir := t.TempDir()
	cfg := Default()
	cfg.ConfigDir = filepath.Join(dir, "config")
	if err := os.Mkdir(cfg.ConfigDir, 0o755); err != nil {
		t.Fatal(err)
	}
	cfg.Listen, cfg.AdminAddress = "", ""
	cfg.Plaintext = "unix:" + filepath.Join(dir, "xds.sock")
	cfg.AdminSocket = filepath.Join(dir, "admin.sock")
	return &plane{t: t, cfg: cfg}
}

func (p *plane) write(name, text string) {
	p.t.Helper()
	tmp := filepath.Join(p.cfg.ConfigDir, "."+name)
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(p.cfg.ConfigDir, name)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plane) start() {
	p.t.Helper()
	d, err := New(p.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.done = cancel, make(chan error, 1)
	go func() { p.done <- d.Run(ctx) }()
	p.await("ready", func() bool { code, _ := p.get("/readyz"); return code == 200 })
}

func (p *plane) stop() {
	p.t.Helper()
	p.cancel()
	if err := <-p.done; err != nil {
		p.t.Error(err)
	}
}

func (p *plane) get(path string) (int, string) {
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", p.cfg.AdminSocket)
	}}}
	r, err := c.Get("http://admin" + path)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	b, _ := io.ReadAll(r.Body)
	return r.StatusCode, string(b)
}

func (p *plane) await(what string, ok func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: did not happen", what)
		}
	}
}

// proxy is a node proxy that keeps what it is sent and a log of it.
type proxy struct {
	mu   sync.Mutex
	have map[string]string
	body map[string][]byte // nil: not kept
	log  []string
}

func (x *proxy) Apply(_ string, upserts []xds.Raw, removed []string) []xds.Rejected {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, u := range upserts {
		x.have[u.Name] = u.Version
		if x.body != nil {
			x.body[u.Name] = u.Body
		}
		x.log = append(x.log, "+"+u.Name)
	}
	for _, n := range removed {
		delete(x.have, n)
		x.log = append(x.log, "-"+n)
	}
	return nil
}

func (x *proxy) names() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var names []string
	for n := range x.have {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func (x *proxy) drain() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	l := x.log
	x.log = nil
	return l
}

func (p *plane) connect() *proxy {
	return p.connectAs(&corev3.Node{Id: "ztunnel~10.0.0.1~zt.ambit-system~ambit-system.svc.cluster.local"})
}

func (p *plane) connectAs(node *corev3.Node) *proxy {
	x := &proxy{have: map[string]string{}}
	c := xds.NewClient(xds.ClientConfig{
		Target: "control",
		Dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(p.cfg.Plaintext, "unix:"))
		},
		Node: node,
	}, x, mesh.TypeAddress, mesh.TypeAuthorization)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	p.t.Cleanup(func() { cancel(); <-done })
	select {
	case <-c.Synced():
	case <-time.After(20 * time.Second):
		p.t.Fatal("the client never had a complete answer")
	}
	return x
}

var whole = []string{"Kubernetes//Pod/shop/web", "shop/deny", "shop/web.shop.svc.cluster.local"}

func TestFolderToProxy(t *testing.T) {
	p := newPlane(t)
	p.write("town.yaml", town)
	p.start()
	defer p.stop()
	x := p.connect()
	if got := x.names(); !slices.Equal(got, whole) {
		t.Fatalf("served %v", got)
	}

	// A mistake is refused alone; what was good stays.
	p.write("town.yaml", strings.Replace(town, "podIP: 10.1.0.5", "podIP: 10.1.0.555", 1))
	p.await("the refusal", func() bool { _, b := p.get("/debug/refusals"); return strings.Contains(b, "10.1.0.555") })
	if got := x.names(); !slices.Equal(got, whole) {
		t.Errorf("after a mistake %v is left", got)
	}
	p.write("town.yaml", town)
	p.await("all clear", func() bool {
		_, b := p.get("/debug/refusals")
		var r Refusals
		return json.Unmarshal([]byte(b), &r) == nil && len(r.Entries) == 0
	})

	if err := os.Remove(filepath.Join(p.cfg.ConfigDir, "town.yaml")); err != nil {
		t.Fatal(err)
	}
	p.await("the removal", func() bool { return len(x.names()) == 0 })

	if st, err := os.Stat(p.cfg.AdminSocket); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("admin socket %v %v", st, err)
	}
	for path, want := range map[string]string{
		"/": "/config_dump", "/metrics": "ambit_control_pushes_total", "/debug/clients": "ztunnel~10.0.0.1", "/config_dump": `"workloads"`, "/debug/pprof/": "goroutine",
	} {
		if code, b := p.get(path); code != 200 || !strings.Contains(b, want) {
			t.Errorf("%s: %d %.200s", path, code, b)
		}
	}
}

// TestRestart is what a node proxy must not notice: the versions it has are still good, and nothing is taken away while
// the folder is being read.
func TestRestart(t *testing.T) {
	p := newPlane(t)
	p.write("town.yaml", town)
	p.start()
	x := p.connect()
	x.drain()
	p.stop()
	for i := range 50 {
		p.write(fmt.Sprintf("more-%d.yaml", i), fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: n%d}\n", i))
	}
	p.start()
	defer p.stop()
	p.await("the client is back", func() bool { _, b := p.get("/debug/clients"); return strings.Contains(b, "ztunnel~10.0.0.1") })
	p.write("new.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: new, namespace: shop}\nspec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}\n")
	p.await("a change after the restart", func() bool { return slices.Contains(x.names(), "shop/new.shop.svc.cluster.local") })
	for _, l := range x.drain() {
		// Policies have no versions and are always sent again.
		if l != "+shop/new.shop.svc.cluster.local" && l != "+shop/deny" {
			t.Errorf("the client was told %s", l)
		}
	}
}

func TestConfig(t *testing.T) {
	good := Default()
	good.ConfigDir, good.Listen, good.Plaintext = t.TempDir(), "", "127.0.0.1:15010"
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		"--config-dir is missing":              func(c *Config) { c.ConfigDir = "" },
		"--config-dir: stat":                   func(c *Config) { c.ConfigDir += "/none" },
		"nothing to serve on":                  func(c *Config) { c.Plaintext = "" },
		"needs --tls-dir":                      func(c *Config) { c.Listen = ":15012" },
		"could be reached from other machines": func(c *Config) { c.Plaintext = "0.0.0.0:15010" },
		"must be a loopback address":           func(c *Config) { c.AdminAddress = ":8080" },
		"--trust-domain is empty":              func(c *Config) { c.TrustDomain = "" },
		"--window":                             func(c *Config) { c.Window = time.Second },
		"--revisions (REVISION) is empty":      func(c *Config) { c.Revisions = nil },
		`--revisions (REVISION) has "a b"`:     func(c *Config) { c.Revisions = []string{"default", "a b"} },
		"--service-entry-visibility \"own\"":   func(c *Config) { c.ServiceEntryVisibility = "own" },
		"--gateway-pull-policy \"never\"":      func(c *Config) { c.GatewayPullPolicy = "never" },
		"--gateway-xds-address \"control:15\"": func(c *Config) { c.GatewayXDS = "control:15" },
		"--gateway-ca-address \"https://ca\"":  func(c *Config) { c.GatewayCA = "https://ca" },
		"--gateway-log-level \"loud\"":         func(c *Config) { c.GatewayLogLevel = "loud" },
		"cannot be negative":                   func(c *Config) { c.Waypoints.CPU = -1 },
		"is more than --waypoint-max-replicas": func(c *Config) { c.Waypoints = Waypoints{MinReplicas: 3, MaxReplicas: 2} },
		"with --waypoint-max-replicas":         func(c *Config) { c.Waypoints.MinReplicas = 2 },
		"DEFAULT_WORKLOAD_CERT_TTL 24h0m0s is": func(c *Config) { c.DefaultTTL, c.MaxTTL = 24*time.Hour, 12*time.Hour },
	} {
		c := good
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	env := map[string]string{"TRUST_DOMAIN": "td", "CLUSTER_ID": "c2", "NETWORK": "n", "AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY": "true", "PILOT_ENABLE_IP_AUTOALLOCATE": "false",
		"REVISION": "blue,stable", "AMBIT_SERVICE_ENTRY_VISIBILITY": "namespace"}
	c, err := Default().FromEnv(func(k string) string { return env[k] })
	if err != nil || c.TrustDomain != "td" || c.ClusterID != "c2" || c.Network != "n" || !c.DryRunPolicies || c.AutoAllocate ||
		!slices.Equal(c.Revisions, []string{"blue", "stable"}) || c.ServiceEntryVisibility != VisibilityNamespace {
		t.Errorf("%+v %v", c, err)
	}
	env["PILOT_ENABLE_IP_AUTOALLOCATE"] = "perhaps"
	lifetimes := map[string]string{"DEFAULT_WORKLOAD_CERT_TTL": "2h", "MAX_WORKLOAD_CERT_TTL": "48h", "CITADEL_SELF_SIGNED_CA_CERT_TTL": "8760h", "POD_NAMESPACE": "mesh"}
	if c, err := Default().FromEnv(func(k string) string { return lifetimes[k] }); err != nil || c.DefaultTTL != 2*time.Hour || c.MaxTTL != 48*time.Hour || c.RootTTL != 8760*time.Hour || c.own() != "mesh" {
		t.Errorf("%+v, %v", c, err)
	}
	lifetimes["MAX_WORKLOAD_CERT_TTL"] = "-1h"
	if _, err := Default().FromEnv(func(k string) string { return lifetimes[k] }); err == nil || !strings.Contains(err.Error(), `MAX_WORKLOAD_CERT_TTL is "-1h"`) {
		t.Errorf("%v", err)
	}
	if _, err := Default().FromEnv(func(k string) string { return env[k] }); err == nil || !strings.Contains(err.Error(), "perhaps") {
		t.Errorf("%v", err)
	}
}
