package daemon

import (
	"context"
	"crypto"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ca/client"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ca/token"
)

// lab is a folder with a token key and the configuration of a daemon in it.
type lab struct {
	dir string
	key crypto.Signer
	cfg Config
}

func newLab(t *testing.T) *lab {
	t.Helper()
	dir := t.TempDir()
	key, _, err := token.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	jwks, err := token.PublicKeys(key.Public()).JWKS()
	if err != nil {
		t.Fatal(err)
	}
	cfg := Default()
	cfg.Listen = "127.0.0.1:0"
	cfg.Admin = "unix:" + filepath.Join(dir, "a.sock")
	cfg.Issuer = filepath.Join(dir, "issuer")
	cfg.RootsFile = filepath.Join(dir, "roots.pem")
	cfg.TokenKeys = filepath.Join(dir, "keys.json")
	cfg.Serving = []ServingDir{{filepath.Join(dir, "control"), []string{"localhost"}}}
	if err := os.WriteFile(cfg.TokenKeys, jwks, 0o600); err != nil {
		t.Fatal(err)
	}
	return &lab{dir, key, cfg}
}

// start runs a daemon until the returned function is called.
func (l *lab) start(t *testing.T) (d *Daemon, stop func()) {
	t.Helper()
	d, err := New(l.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	select {
	case <-d.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	return d, func() {
		t.Helper()
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("Run does not end")
		}
	}
}

func (l *lab) client(t *testing.T, addr string, c token.Claims) *client.Client {
	t.Helper()
	c.Expiry = time.Now().Add(time.Hour)
	raw, err := token.Mint(l.key, c)
	if err != nil {
		t.Fatal(err)
	}
	cl := client.New(client.Config{Address: addr, ServerName: "localhost", RootCA: client.RootFile(l.cfg.RootsFile), Token: func() (string, error) { return raw, nil }})
	t.Cleanup(func() { _ = cl.Close() })
	return cl
}

func (l *lab) get(t *testing.T, path string) string {
	t.Helper()
	sock := strings.TrimPrefix(l.cfg.Admin, "unix:")
	hc := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", sock)
	}}}
	var last error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		resp, err := hc.Get("http://admin" + path)
		if err != nil {
			last = err // the socket may not be there yet
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	t.Fatal(last)
	return ""
}

// controlPlane serves one pod of default/alice on node n1, over TLS as the folder --serving-cert filled says.
func (l *lab) controlPlane(t *testing.T, addr string) {
	t.Helper()
	body, err := proto.Marshal(&workload.Address{Type: &workload.Address_Workload{Workload: &workload.Workload{
		Uid: "Kubernetes//Pod/default/alice-1", Name: "alice-1", Namespace: "default", ServiceAccount: "alice", Node: "n1"}}})
	if err != nil {
		t.Fatal(err)
	}
	addresses := xds.NewCollection(mesh.TypeAddress)
	addresses.Apply([]*xds.Resource{{Name: "Kubernetes//Pod/default/alice-1", Version: "1", Body: body, Node: "n1"}}, nil)
	srv := xds.NewServer(xds.ServerConfig{}, addresses)
	cert, err := tls.LoadX509KeyPair(filepath.Join(l.dir, "control", "tls.crt"), filepath.Join(l.dir, "control", "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(append(srv.Options(), grpc.Creds(credentials.NewServerTLSFromCert(&cert)))...)
	srv.Register(g)
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(listener) }()
	t.Cleanup(func() { g.Stop(); <-done; srv.Wait() })
}

var (
	alice   = identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "alice"}
	ztunnel = token.Claims{Namespace: "ambit-system", ServiceAccount: "ztunnel", PodName: "zt", PodUID: "u", Node: "n1"}
)

// The authority comes first, serves whom it can, and learns the rest once the control plane is there.
func TestControlPlaneComesLater(t *testing.T) {
	l := newLab(t)
	reserved, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	control := reserved.Addr().String()
	reserved.Close()
	l.cfg.XDSAddress, l.cfg.XDSServerName = "https://"+control, "localhost"
	d, stop := l.start(t)
	defer stop()
	addr := d.Addr().String()

	// A client that does not say who it is may still ask, by name, for what it is.
	if _, err := l.client(t, addr, token.Claims{Namespace: "default", ServiceAccount: "alice"}).Sign(t.Context(), alice); err != nil {
		t.Errorf("own identity: %v", err)
	}
	zt := l.client(t, addr, ztunnel)
	if _, err := zt.Sign(t.Context(), alice); err == nil || !strings.Contains(err.Error(), "has not been reached since this authority started") {
		t.Errorf("impersonation before the control plane: %v", err)
	}
	if ready := l.get(t, "/readyz"); !strings.HasPrefix(ready, "ready\n") || !strings.Contains(ready, "not been reached yet") {
		t.Errorf("readyz: %q", ready)
	}

	l.controlPlane(t, control)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		_, err := zt.Sign(ctx, alice)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("impersonation with the control plane there: %v", err)
		}
	}
	if _, err := zt.Sign(ctx, identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "bob"}); err == nil || !strings.Contains(err.Error(), "no pod of service account default/bob runs on node n1") {
		t.Errorf("nobody's identity: %v", err)
	}
	if metrics := l.get(t, "/metrics"); !strings.Contains(metrics, `ambit_ca_requests_total{code="OK"} 2`) || !strings.Contains(metrics, "ambit_ca_issuer_seconds_to_expiry 3.15") {
		t.Errorf("metrics lack what was done:\n%s", grep(metrics, "ambit_ca"))
	}
	if dump := l.get(t, "/config_dump"); !strings.Contains(dump, `"pods": 1`) {
		t.Errorf("config_dump: %s", dump)
	}
}

func grep(text, what string) string {
	var out []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, what) && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// After a restart the same root signs, and the client that was there before goes on without being told.
func TestRestartAndRotate(t *testing.T) {
	l := newLab(t)
	d, stop := l.start(t)
	l.cfg.Listen = d.Addr().String()
	cl := l.client(t, d.Addr().String(), token.Claims{Namespace: "default", ServiceAccount: "alice"})
	first, err := cl.Sign(t.Context(), alice)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := cl.Sign(t.Context(), alice); err == nil {
		t.Error("signed by nobody")
	}
	d, stop = l.start(t)
	defer stop()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	second, err := cl.Sign(ctx, alice)
	for err != nil && ctx.Err() == nil {
		second, err = cl.Sign(ctx, alice)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !second.Bundle().Equal(first.Bundle()) {
		t.Error("another root after a restart")
	}
	before := d.serving[1].Certificate()
	if err := d.issuer.Rotate(); err != nil {
		t.Fatal(err)
	}
	for d.serving[1].Certificate() == before || fileRoots(t, l.cfg.RootsFile) != 2 {
		if ctx.Err() != nil {
			t.Fatalf("serving certificate or roots file not renewed after a rotation (%d roots)", fileRoots(t, l.cfg.RootsFile))
		}
		time.Sleep(10 * time.Millisecond)
	}
	third, err := cl.Sign(ctx, alice)
	if err != nil || len(third.RootCerts) != 2 {
		t.Errorf("after a rotation: %v", err)
	}
}

func fileRoots(t *testing.T, path string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(data), "BEGIN CERTIFICATE")
}

// A loopback port is everybody's on the machine: it shows, but does not change.
func TestAdminOnLoopbackIsReadOnly(t *testing.T) {
	l := newLab(t)
	l.cfg.Admin = "127.0.0.1:0"
	d, err := New(l.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	d.admin().ServeHTTP(w, httptest.NewRequest("POST", "/rotate", nil))
	if w.Code != http.StatusForbidden || len(d.issuer.Bundle().Certificates()) != 1 {
		t.Errorf("POST /rotate: %d", w.Code)
	}
	w = httptest.NewRecorder()
	d.admin().ServeHTTP(w, httptest.NewRequest("GET", "/roots", nil))
	if w.Body.String() != string(d.issuer.Bundle().PEM()) {
		t.Errorf("GET /roots: %d", w.Code)
	}
}

func TestConfig(t *testing.T) {
	good := func() Config {
		c := Default()
		c.Issuer = "x"
		return c
	}
	for name, c := range map[string]struct {
		change func(*Config)
		text   string
	}{
		"good":            {func(*Config) {}, ""},
		"no issuer":       {func(c *Config) { c.Issuer = "" }, "--cacerts"},
		"public admin":    {func(c *Config) { c.Admin = "0.0.0.0:15014" }, "not a loopback address"},
		"named admin":     {func(c *Config) { c.Admin = "localhost:15014" }, "loopback"},
		"no admin":        {func(c *Config) { c.Admin = "" }, ""},
		"no serving name": {func(c *Config) { c.ServingNames = nil }, "--serving-dns"},
	} {
		cfg := good()
		c.change(&cfg)
		err := cfg.Validate()
		if (err == nil) != (c.text == "") || err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	env := map[string]string{"DEFAULT_WORKLOAD_CERT_TTL": "1h", "CA_TRUSTED_NODE_ACCOUNTS": "a/b, c/d", "TRUST_DOMAIN": "td"}
	cfg := good()
	if err := cfg.FromEnv(func(k string) string { return env[k] }); err != nil || cfg.DefaultTTL != time.Hour || len(cfg.TrustedNodeAccounts) != 2 || cfg.TrustDomain != "td" {
		t.Errorf("environment: %+v, %v", cfg, err)
	}
	if err := cfg.FromEnv(func(string) string { return "soon" }); err == nil {
		t.Error("accepted a lifetime of \"soon\"")
	}
	for _, bad := range []string{"", "x", "=a", "x="} {
		if _, err := ParseServingDir(bad); err == nil {
			t.Errorf("--serving-cert %q accepted", bad)
		}
	}
}
