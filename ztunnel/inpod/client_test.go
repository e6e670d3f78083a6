package inpod

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/api/netns/netnstest"
	"github.com/ambit-mesh/ambit/api/zds"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newNetns is the descriptor of a namespace nobody else knows.
func newNetns(t *testing.T) *os.File { return netnstest.Make(t).File() }

// proxies is a Pods that records what happens to it.
type proxies struct {
	mu     sync.Mutex
	events []string
	fail   map[string]error // by pod name
	open   map[string]*Netns
}

func newProxies(t *testing.T) *proxies {
	p := &proxies{fail: map[string]error{}, open: map[string]*Netns{}}
	t.Cleanup(func() {
		for _, n := range p.open {
			n.Close()
		}
	})
	return p
}

func (p *proxies) Start(_ context.Context, pod Pod) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.fail[pod.Info.Name]; err != nil {
		p.events = append(p.events, "fail "+pod.UID)
		return err
	}
	p.events = append(p.events, "start "+pod.UID)
	p.open[pod.UID] = pod.Netns
	return nil
}

func (p *proxies) Stop(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, "stop "+uid)
	p.open[uid].Close()
	delete(p.open, uid)
}

func (p *proxies) setFail(name string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail[name] = err
}

// take returns what happened since the last call.
func (p *proxies) take() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := strings.Join(p.events, ", ")
	p.events = nil
	return out
}

// rig is a client against an agent's listener driven by the test.
type rig struct {
	t      *testing.T
	ln     *zds.Listener
	pods   *proxies
	client *Client
	ended  chan error
}

func start(t *testing.T) *rig {
	t.Helper()
	path := filepath.Join(t.TempDir(), "z.sock")
	ln, err := zds.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, ln: ln, pods: newProxies(t), ended: make(chan error, 1)}
	r.client = NewClient(Config{
		Socket: path, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), RetryPending: 10 * time.Millisecond,
	}, r.pods)
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() { defer close(stopped); r.ended <- r.client.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-stopped; ln.Close() })
	return r
}

func (r *rig) accept() *zds.AgentConn {
	r.t.Helper()
	conn, err := r.ln.Accept()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	if err := conn.Hello(); err != nil {
		r.t.Fatal(err)
	}
	return conn
}

func info(name string) *zds.WorkloadInfo {
	return &zds.WorkloadInfo{Name: name, Namespace: "shop", ServiceAccount: "till"}
}

func (r *rig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) happened(want string) {
	r.t.Helper()
	if got := r.pods.take(); got != want {
		r.t.Errorf("happened: %q, want %q", got, want)
	}
}

// until waits for the client's public view to satisfy fn.
func (r *rig) until(what string, fn func() bool) {
	r.t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		changed := r.client.Changed()
		if fn() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			r.t.Fatalf("%s: not within 10s; blockers %q", what, r.client.Blockers())
		}
	}
}

func TestSnapshotReconcile(t *testing.T) {
	r := start(t)
	a, b := newNetns(t), newNetns(t)
	conn := r.accept()
	r.until("connected", r.client.Connected)
	if got := r.client.Blockers(); len(got) != 1 || !strings.Contains(got[0], "snapshot") {
		t.Errorf("before the snapshot: blockers %q", got)
	}
	r.ok(conn.Add("a", info("a"), a))
	r.ok(conn.Add("b", info("b"), b))
	r.ok(conn.Add("c", info("c"), b))
	r.ok(conn.SnapshotSent())
	r.happened("start a, start b, start c")
	r.until("ready", func() bool { return len(r.client.Blockers()) == 0 })

	// The same again is nothing new; another namespace replaces.
	r.ok(conn.Add("a", info("a"), a))
	r.happened("")
	r.ok(conn.Add("a", info("a"), b))
	r.happened("stop a, start a")
	r.ok(conn.Del("b"))
	r.ok(conn.Del("b"))
	r.happened("stop b")

	// A new agent: a is named, c is kept, d was kept but is unknown here.
	conn.Close()
	r.until("disconnected", func() bool { return !r.client.Connected() })
	r.happened("")
	conn = r.accept()
	r.ok(conn.Keep("c"))
	r.ok(conn.Keep("d"))
	r.ok(conn.Add("a", info("a"), b))
	r.ok(conn.Add("e", info("e"), a))
	r.ok(conn.Del("e"))
	r.happened("start e")
	r.ok(conn.SnapshotSent())
	r.happened("stop e")

	// And one that names nothing.
	conn.Close()
	conn = r.accept()
	r.ok(conn.SnapshotSent())
	r.happened("stop a, stop c")
}

func TestPending(t *testing.T) {
	r := start(t)
	ns := newNetns(t)
	r.pods.setFail("a", errors.New("port 15008 is taken"))
	conn := r.accept()
	err := conn.Add("a", info("a"), ns)
	var refused *zds.AckError
	if !errors.As(err, &refused) || !strings.Contains(refused.Text, "port 15008 is taken") {
		t.Fatalf("ack of a failing pod: %v", err)
	}
	r.ok(conn.SnapshotSent())
	r.until("blocked", func() bool {
		b := r.client.Blockers()
		return len(b) == 1 && strings.Contains(b[0], "shop/a") && strings.Contains(b[0], "15008")
	})
	r.pods.setFail("a", nil)
	r.until("retried", func() bool { return len(r.client.Blockers()) == 0 })
	if got := r.pods.take(); !strings.HasSuffix(got, "fail a, start a") {
		t.Errorf("happened: %q", got)
	}

	// Pending is forgotten when a connection begins, and when the pod goes.
	r.pods.setFail("b", errors.New("no"))
	if err := conn.Add("b", info("b"), ns); err == nil {
		t.Error("failing pod was acked")
	}
	r.ok(conn.Del("b"))
	r.until("pending pod deleted", func() bool { return len(r.client.Blockers()) == 0 })
	_ = conn.Add("b", info("b"), ns)
	conn.Close()
	conn = r.accept()
	r.ok(conn.Add("a", info("a"), ns))
	r.ok(conn.SnapshotSent())
	if got := r.client.Blockers(); len(got) != 0 {
		t.Errorf("blockers of an earlier connection stay: %q", got)
	}
}

func TestProtocolErrorsEnd(t *testing.T) {
	for name, break_ := range map[string]func(*zds.AgentConn, *os.File) error{
		"keep after the snapshot": func(c *zds.AgentConn, _ *os.File) error { return c.Keep("a") },
		"second snapshot":         func(c *zds.AgentConn, _ *os.File) error { return c.SnapshotSent() },
		"add without a name":      func(c *zds.AgentConn, f *os.File) error { return c.Add("a", nil, f) },
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			conn := r.accept()
			r.ok(conn.SnapshotSent())
			var refused *zds.AckError
			if err := break_(conn, newNetns(t)); !errors.As(err, &refused) {
				t.Errorf("answer: %v", err)
			}
			if err := <-r.ended; !errors.Is(err, ErrProtocol) {
				t.Errorf("Run returned %v", err)
			}
		})
	}
}

func TestNotANamespace(t *testing.T) {
	r := start(t)
	conn := r.accept()
	for _, path := range []string{os.DevNull, "/proc/self/ns/uts"} {
		f, err := os.Open(path)
		r.ok(err)
		defer f.Close()
		var refused *zds.AckError
		if err := conn.Add("a", info("a"), f); !errors.As(err, &refused) || !strings.Contains(refused.Text, "network namespace") {
			t.Errorf("%s: %v", path, err)
		}
	}
	r.ok(conn.SnapshotSent())
	r.happened("")
}

func TestUnreadableRequestReconnects(t *testing.T) {
	r := start(t)
	conn := r.accept()
	var refused *zds.AckError
	// A descriptor is missing: refused, and the client comes back by itself.
	if err := conn.Add("a", info("a"), nil); !errors.As(err, &refused) {
		t.Errorf("answer: %v", err)
	}
	conn = r.accept()
	r.ok(conn.SnapshotSent())
}

func TestDump(t *testing.T) {
	r := start(t)
	ns := newNetns(t)
	conn := r.accept()
	for _, uid := range []string{"c", "a", "b"} {
		r.ok(conn.Add(uid, info("n"+uid), ns))
	}
	got := r.client.Dump()
	if !slices.IsSortedFunc(got, func(a, b Status) int { return strings.Compare(a.UID, b.UID) }) || len(got) != 3 {
		t.Errorf("dump: %v", got)
	}
	if want := (Info{"na", "shop", "till"}); got[0].Info != want {
		t.Errorf("info: %v", got[0].Info)
	}
}
