package envoytest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ambit-mesh/ambit/ca/catest"
	"github.com/ambit-mesh/ambit/waypoint/envoy"
	"github.com/ambit-mesh/ambit/waypoint/fetch"
)

// Identity is the SPIFFE id of every Proxy.
const Identity = "spiffe://cluster.local/ns/default/sa/waypoint"

// patience is how long a real process may take for what normally takes a moment.
const patience = 30 * time.Second

// Proxy is a running Envoy with its control plane.
type Proxy struct {
	CA      *catest.CA
	Options envoy.Options
	// Log is what Envoy has written.
	Log *Buffer

	t       testing.TB
	control *control
}

// Start runs Envoy for the rest of the test with what the world expands to, and returns when it serves.
func Start(t testing.TB, w *World, change ...func(*envoy.Options)) *Proxy {
	t.Helper()
	binary, err := fetch.Envoy(t.Context(), fetch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: names of tests are longer than a socket's path may be.
	dir, err := os.MkdirTemp("", "envoy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ports := FreePorts(t, 5)
	p := &Proxy{CA: catest.New(), Log: &Buffer{}, t: t}
	p.Options = envoy.Options{
		NodeID: "waypoint~127.0.0.1~waypoint-0.default~default.svc.cluster.local", NodeCluster: "waypoint.default",
		Namespace: "default", Pod: "waypoint-0", Workload: "waypoint", ServiceAccount: "waypoint", TrustDomain: "cluster.local",
		Cluster: "Kubernetes", Node: "node1", Region: "r1", Zone: "z1",
		Bind:      netip.MustParseAddr("127.0.0.1"),
		HBONEPort: ports[0], PeerHBONEPort: ports[1], ReadyPort: ports[2], StatsPort: ports[3], AdminPort: ports[4],
		XDSSocket: filepath.Join(dir, "xds"), SDSSocket: filepath.Join(dir, "sds"),
	}
	for _, c := range change {
		c(&p.Options)
	}
	p.control = startControl(t, p.Options, p.CA)
	p.Apply(w)
	p.run(binary, dir)
	p.await("ready", func() error { return p.Admin(http.MethodGet, "/ready", nil) })
	p.control.settle(t)
	return p
}

// Apply expands the world anew and returns when Envoy has accepted it. Problems of the expansion and of Envoy fail the
// test.
func (p *Proxy) Apply(w *World) {
	p.t.Helper()
	for _, problem := range p.TryApply(w) {
		p.t.Errorf("%s: %s", problem.Object, problem.Text)
	}
}

// TryApply is Apply for worlds that have problems.
func (p *Proxy) TryApply(w *World) []envoy.Problem {
	p.t.Helper()
	for name, s := range w.Secrets {
		p.control.Secret(p.t, CertificateSecret(name, s.GetCertificateChain(), s.GetPrivateKey()))
	}
	problems := p.control.apply(p.t, w.Env(p.Options))
	p.control.settle(p.t)
	return problems
}

func (p *Proxy) run(binary, dir string) {
	p.t.Helper()
	bootstrap, err := envoy.Bootstrap(p.Options)
	if err != nil {
		p.t.Fatal(err)
	}
	text, err := protojson.Marshal(bootstrap)
	if err != nil {
		p.t.Fatal(err)
	}
	file := filepath.Join(dir, "bootstrap.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		p.t.Fatal(err)
	}
	level := os.Getenv("AMBIT_ENVOY_LOG")
	if level == "" {
		level = "warning"
	}
	cmd := exec.Command(binary, "-c", file, "--disable-hot-restart", "--concurrency", "2", "--log-level", level,
		"--drain-strategy", "immediate", "--drain-time-s", "1", "--use-dynamic-base-id")
	cmd.Stdout, cmd.Stderr = p.Log, p.Log
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		p.control.stop()
		if p.t.Failed() {
			p.t.Logf("Envoy wrote:\n%s", p.Log)
		}
	})
}

// Admin asks Envoy's admin port; into may be nil.
func (p *Proxy) Admin(method, path string, into io.Writer) error {
	ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Second)
	defer cancel()
	return get(ctx, method, fmt.Sprintf("http://127.0.0.1:%d%s", p.Options.AdminPort, path), into)
}

// Metrics is what Envoy would tell Prometheus.
func (p *Proxy) Metrics() string {
	p.t.Helper()
	var b bytes.Buffer
	if err := get(p.t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/stats/prometheus", p.Options.StatsPort), &b); err != nil {
		p.t.Fatal(err)
	}
	return b.String()
}

func get(ctx context.Context, method, url string, into io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if into == nil {
		into = io.Discard
	}
	if _, err := io.Copy(into, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s", method, url, resp.Status)
	}
	return nil
}

// Await polls until there is no error any more.
func (p *Proxy) Await(what string, check func() error) { p.t.Helper(); p.await(what, check) }

func (p *Proxy) await(what string, check func() error) {
	p.t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	p.t.Fatalf("%s: %v", what, err)
}

// FreePort is a port nobody listens on at the moment.
func FreePort(t testing.TB) uint32 {
	t.Helper()
	return FreePorts(t, 1)[0]
}

// FreePorts are several, each another one.
func FreePorts(t testing.TB, n int) []uint32 {
	t.Helper()
	var out []uint32
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // when all are chosen: the kernel may give a port that was let go once more
		out = append(out, uint32(l.Addr().(*net.TCPAddr).Port))
	}
	return out
}

// Buffer is text that one goroutine writes and others read.
type Buffer struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
