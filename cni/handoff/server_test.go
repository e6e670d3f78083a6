package handoff

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/api/netns/netnstest"
	"github.com/ambit-mesh/ambit/api/zds"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a server that runs, and what it reported.
type rig struct {
	t    *testing.T
	s    *Server
	path string

	mu    sync.Mutex
	acked map[string]string // guarded by mu
}

func newRig(t *testing.T, before ...Pod) *rig {
	t.Helper()
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "z.sock"), acked: map[string]string{}}
	r.s = New(Config{Socket: r.path, Logger: slog.New(slog.DiscardHandler), Acked: func(uid string, err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.acked[uid] = fmt.Sprint(err)
	}})
	r.s.idle = 20 * time.Millisecond
	for _, p := range before {
		r.s.Enter(p)
	}
	ln, err := zds.Listen(r.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) eventually(what string, fn func() bool) {
	r.t.Helper()
	deadline := time.After(10 * time.Second)
	for !fn() {
		select {
		case <-deadline:
			r.t.Fatal("not within 10s:", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func pod(uid string, ns *netns.Netns) Pod {
	return Pod{UID: uid, Name: "n-" + uid, Namespace: "shop", ServiceAccount: "till", Netns: ns}
}

// proxy notes what it is told and answers with what its function says.
type proxy struct {
	conn *zds.ProxyConn
	done chan struct{}

	mu     sync.Mutex
	events []string
	answer func(*zds.Request) error
}

func (r *rig) proxy() *proxy {
	r.t.Helper()
	conn, err := zds.Dial(r.t.Context(), r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	p := &proxy{conn: conn, done: make(chan struct{})}
	if err := conn.Hello(); err != nil {
		r.t.Fatal(err)
	}
	go p.run()
	r.t.Cleanup(p.hangUp)
	r.eventually("snapshot", func() bool { return strings.Contains(p.seen(), "snapshot") })
	return p
}

func (p *proxy) hangUp() { p.conn.Close(); <-p.done }

func (p *proxy) run() {
	defer close(p.done)
	for {
		req, err := p.conn.Read(time.Time{})
		if err != nil {
			return
		}
		if p.conn.Ack(p.note(req)) != nil {
			return
		}
	}
}

func (p *proxy) note(req *zds.Request) error {
	defer req.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	event := "snapshot"
	switch {
	case req.GetAdd() != nil:
		event = "add " + req.GetAdd().GetUid()
	case req.GetKeep() != nil:
		event = "keep " + req.GetKeep().GetUid()
	case req.GetDel() != nil:
		event = "del " + req.GetDel().GetUid()
	}
	p.events = append(p.events, event)
	if p.answer != nil {
		return p.answer(req)
	}
	return nil
}

func (p *proxy) setAnswer(fn func(*zds.Request) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = fn
}

func (p *proxy) seen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.events, ", ")
}

func (p *proxy) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = nil
}

func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestSnapshotThenChanges(t *testing.T) {
	r := newRig(t, pod("a", netnstest.Make(t)), pod("b", nil), pod("c", netnstest.Make(t)))
	p := r.proxy()
	if got := p.seen(); got != "add a, keep b, add c, snapshot" {
		t.Errorf("snapshot: %s", got)
	}
	p.clear()
	ns := netnstest.Make(t)
	id := ns.ID()
	if err := r.s.Add(short(t), pod("d", ns)); err != nil {
		t.Error(err)
	}
	if !r.s.Acked("d", id) || r.s.Acked("d", netns.ID{}) || r.s.Acked("b", netns.ID{}) {
		t.Error("Acked is wrong about d or b")
	}
	// b's namespace is found after all.
	if err := r.s.Add(short(t), pod("b", netnstest.Make(t))); err != nil {
		t.Error(err)
	}
	r.s.Del(short(t), "a")
	r.s.Del(short(t), "unknown")
	if got := p.seen(); got != "add d, add b, del a" {
		t.Errorf("changes: %s", got)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, uid := range []string{"a", "b", "c", "d"} {
		if r.acked[uid] != "<nil>" {
			t.Errorf("ack of %s was reported as %q", uid, r.acked[uid])
		}
	}
}

func TestAddWaitsForAProxy(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := r.s.Add(ctx, pod("a", netnstest.Make(t))); !errors.Is(err, ErrNoProxy) {
		t.Errorf("got %v", err)
	}
	added := make(chan error, 1)
	go func() { added <- r.s.Add(short(t), pod("b", netnstest.Make(t))) }()
	r.eventually("b entered", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return r.s.pods["b"] != nil
	})
	p := r.proxy()
	if err := <-added; err != nil {
		t.Error(err)
	}
	if got := p.seen(); got != "add a, add b, snapshot" {
		t.Errorf("saw %s", got)
	}
}

func TestRefusal(t *testing.T) {
	r := newRig(t)
	p := r.proxy()
	no := true
	p.setAnswer(func(req *zds.Request) error {
		if no && req.GetAdd() != nil {
			return errors.New("port 15001 is taken")
		}
		return nil
	})
	ns := netnstest.Make(t)
	id := ns.ID()
	var refused *zds.AckError
	if err := r.s.Add(short(t), pod("a", ns)); !errors.As(err, &refused) || !strings.Contains(err.Error(), "shop/n-a") {
		t.Errorf("got %v", err)
	}
	if r.s.Acked("a", id) {
		t.Error("a refused pod counts as taken")
	}
	p.mu.Lock()
	no = false
	p.mu.Unlock()
	if err := r.s.Add(short(t), pod("a", netnstest.Make(t))); err != nil {
		t.Error(err)
	}
}

func TestTwoProxies(t *testing.T) {
	r := newRig(t, pod("a", netnstest.Make(t)))
	old := r.proxy()
	newer := r.proxy()
	old.clear()
	newer.clear()
	if r.s.Proxies() != 2 {
		t.Fatalf("%d proxies", r.s.Proxies())
	}
	if err := r.s.Add(short(t), pod("b", netnstest.Make(t))); err != nil {
		t.Error(err)
	}
	r.s.Del(short(t), "a")
	if got := old.seen(); got != "del a" {
		t.Errorf("old: %s", got)
	}
	if got := newer.seen(); got != "add b, del a" {
		t.Errorf("new: %s", got)
	}
	// The upgrade fails: the old one gets what it missed.
	newer.hangUp()
	r.eventually("the loss is noticed", func() bool { return r.s.Proxies() == 1 })
	r.eventually("the old proxy catches up", func() bool { return old.seen() == "del a, add b" })
	if err := r.s.Add(short(t), pod("c", netnstest.Make(t))); err != nil {
		t.Error(err)
	}
}

func TestProxyComesBack(t *testing.T) {
	r := newRig(t, pod("a", netnstest.Make(t)))
	for range 3 {
		p := r.proxy()
		if got := p.seen(); got != "add a, snapshot" {
			t.Errorf("saw %s", got)
		}
		p.hangUp()
		r.eventually("the loss is noticed", func() bool { return r.s.Proxies() == 0 })
	}
}

// TestSnapshotNamesAll connects proxies while a pod is handed over again and again, as it is after the agent has started:
// a proxy that has the pod takes a snapshot without it for the news that it is gone, and cuts its connections.
func TestSnapshotNamesAll(t *testing.T) {
	ns := netnstest.Make(t)
	first, err := ns.Dup()
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Logger: slog.New(slog.DiscardHandler)})
	defer s.closeAll()
	s.Enter(pod("a", first))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			again, err := ns.Dup()
			if err != nil {
				t.Error(err)
				return
			}
			s.Enter(pod("a", again))
		}
	})
	for range 500 {
		if got := oneSnapshot(t, s); got != "add a, snapshot" {
			t.Fatalf("snapshot: %s", got)
		}
	}
}

// oneSnapshot is what a proxy that connects is told first.
func oneSnapshot(t *testing.T, s *Server) string {
	t.Helper()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
		defer c.Close()
	}
	p := &proxy{conn: zds.NewProxyConn(ends[1]), done: make(chan struct{})}
	if err := p.conn.Hello(); err != nil {
		t.Fatal(err)
	}
	go p.run()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan struct{})
	go func() { defer close(served); s.serve(ctx, zds.NewAgentConn(ends[0])) }()
	for deadline := time.Now().Add(5 * time.Second); !strings.Contains(p.seen(), "snapshot") && time.Now().Before(deadline); {
		time.Sleep(50 * time.Microsecond)
	}
	got, _, _ := strings.Cut(p.seen(), "snapshot")
	cancel()
	<-served
	p.hangUp()
	return got + "snapshot"
}

// A proxy that speaks without being asked, or has nothing to say at first, is dropped; others are not affected.
func TestBadProxies(t *testing.T) {
	r := newRig(t)
	good := r.proxy()
	rude, err := zds.Dial(t.Context(), r.path)
	if err != nil {
		t.Fatal(err)
	}
	defer rude.Close()
	if err := rude.Ack(nil); err != nil { // instead of a hello
		t.Fatal(err)
	}
	if _, err := rude.Read(time.Now().Add(5 * time.Second)); err == nil {
		t.Error("was served without a hello")
	}
	chatty := r.proxy()
	if err := chatty.conn.Ack(nil); err != nil {
		t.Fatal(err)
	}
	<-chatty.done
	if err := r.s.Add(short(t), pod("a", netnstest.Make(t))); err != nil {
		t.Error(err)
	}
	if !strings.HasSuffix(good.seen(), "add a") {
		t.Errorf("the good proxy saw %s", good.seen())
	}
}

// Many pods come and go at once; what the proxy has in the end is what the list has.
func TestManyChanges(t *testing.T) {
	r := newRig(t)
	p := r.proxy()
	have := map[string]bool{}
	p.setAnswer(func(req *zds.Request) error {
		if req.GetAdd() != nil {
			have[req.GetAdd().GetUid()] = true
		} else if req.GetDel() != nil {
			delete(have, req.GetDel().GetUid())
		}
		return nil
	})
	ns := netnstest.Make(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			uid := fmt.Sprint("p", i)
			for range 5 {
				second, err := ns.Dup()
				if err != nil {
					t.Error(err)
					return
				}
				if err := r.s.Add(short(t), pod(uid, second)); err != nil {
					t.Error(err)
				}
				if i%2 == 0 {
					r.s.Del(short(t), uid)
				}
			}
		})
	}
	wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range 20 {
		if uid := fmt.Sprint("p", i); have[uid] != (i%2 == 1) {
			t.Errorf("%s: proxy has it: %v", uid, have[uid])
		}
	}
	if slices.Contains(p.events, "keep") {
		t.Error("keep after the snapshot")
	}
}

func TestLimiter(t *testing.T) {
	l := limiter{burst: acceptBurst, every: acceptEvery}
	now := time.Unix(1000, 0)
	var waits []time.Duration
	for range 8 {
		waits = append(waits, l.wait(now))
	}
	if want := []time.Duration{0, 0, 0, 0, 0, 200e6, 400e6, 600e6}; !slices.Equal(waits, want) {
		t.Errorf("burst: %v", waits)
	}
	now = now.Add(time.Hour)
	if d := l.wait(now); d != 0 {
		t.Errorf("after a rest: %v", d)
	}
}
