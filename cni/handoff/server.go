package handoff

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/api/zds"
)

// ErrNoProxy says that no node proxy took the pod in time. The pod is in the next snapshot all the same.
var ErrNoProxy = errors.New("no node proxy answered; is ztunnel running on this node?")

// Pod is what a proxy is told.
type Pod struct {
	UID                             string
	Name, Namespace, ServiceAccount string
	// Netns is nil for a pod whose namespace cannot be opened; a proxy that has the pod keeps it.
	Netns *netns.Netns
}

func (p Pod) info() *zds.WorkloadInfo {
	return &zds.WorkloadInfo{Name: p.Name, Namespace: p.Namespace, ServiceAccount: p.ServiceAccount}
}

// Config is where to listen and whom to tell.
type Config struct {
	// Socket is the path the proxies connect to.
	Socket string
	// Logger is slog.Default unless given.
	Logger *slog.Logger
	// Registerer takes the metrics; nil leaves them out.
	Registerer prometheus.Registerer
	// Acked, if set, is called when a proxy has taken or refused a pod, in a snapshot or alone. It must not block.
	Acked func(uid string, err error)
}

// Server is the node's list of pods and the proxies that follow it.
type Server struct {
	cfg       Config
	log       *slog.Logger
	connected prometheus.Gauge
	idle      time.Duration // how long a connection may be silent before the agent looks whether the proxy is there

	mu sync.Mutex
	// Guarded by mu:
	pods  map[string]*entry
	conns []*conn // in the order they said hello; the last is the newest
}

// entry is one pod. A new entry replaces the old when the pod is added again.
type entry struct {
	pod Pod
	// Guarded by Server.mu:
	acked   bool          // by some proxy
	err     error         // the newest refusal
	changed chan struct{} // closed and replaced at each ack
}

// New prepares a server; Run opens it.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger.With("area", "handoff"), idle: idle, pods: map[string]*entry{},
		// istio/istio cni/pkg/nodeagent/metrics.go.
		connected: prometheus.NewGauge(prometheus.GaugeOpts{Name: "ztunnel_connected", Help: "number of connections to ztunnel"}),
	}
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(s.connected)
	}
	return s
}

// Enter puts a pod on the list without waiting for anybody. The server takes p.Netns over.
func (s *Server) Enter(p Pod) { s.enter(p) }

// enter returns the entry and what is closed at its first ack.
func (s *Server) enter(p Pod) (*entry, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.put(p)
	if n := len(s.conns); n > 0 {
		s.conns[n-1].enqueue(order{uid: p.UID})
	}
	return e, e.changed
}

// Add enters a pod and waits until a proxy has taken it: nil, or the proxy's refusal, or ErrNoProxy when ctx ends first.
// The server takes p.Netns over in any case.
func (s *Server) Add(ctx context.Context, p Pod) error {
	e, changed := s.enter(p)
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("hand pod %s/%s to the node proxy: %w", p.Namespace, p.Name, ErrNoProxy)
		case <-changed:
		}
		s.mu.Lock()
		acked, err, next := e.acked, e.err, e.changed
		s.mu.Unlock()
		if acked {
			return nil
		}
		if err != nil {
			return fmt.Errorf("hand pod %s/%s to the node proxy: %w", p.Namespace, p.Name, err)
		}
		changed = next
	}
}

// put replaces the entry. The caller holds mu.
func (s *Server) put(p Pod) *entry {
	if old := s.pods[p.UID]; old != nil && old.pod.Netns != nil && old.pod.Netns != p.Netns {
		old.pod.Netns.Close()
	}
	e := &entry{pod: p, changed: make(chan struct{})}
	s.pods[p.UID] = e
	return e
}

// Del removes a pod and tells every proxy. It returns when they have answered or hung up, or ctx ends; they are told
// either way.
func (s *Server) Del(ctx context.Context, uid string) {
	s.mu.Lock()
	e := s.pods[uid]
	if e == nil {
		s.mu.Unlock()
		return
	}
	delete(s.pods, uid)
	if e.pod.Netns != nil {
		e.pod.Netns.Close()
	}
	var waits []<-chan struct{}
	for _, c := range s.conns {
		done := make(chan struct{})
		c.enqueue(order{uid: uid, del: true, done: done})
		waits = append(waits, done)
	}
	s.mu.Unlock()
	for _, done := range waits {
		select {
		case <-done:
		case <-ctx.Done():
			return
		}
	}
}

// Acked reports whether a proxy has taken the pod with this namespace.
func (s *Server) Acked(uid string, id netns.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.pods[uid]
	return e != nil && e.acked && e.pod.Netns != nil && e.pod.Netns.ID() == id
}

// Proxies is how many node proxies are connected.
func (s *Server) Proxies() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Run listens until ctx ends. The list should be complete by then: the first proxy drops what its snapshot lacks.
func (s *Server) Run(ctx context.Context) error {
	ln, err := zds.Listen(s.cfg.Socket)
	if err != nil {
		return err
	}
	return s.Serve(ctx, ln)
}

// Serve is Run on a listener that is open already; it closes it.
func (s *Server) Serve(ctx context.Context, ln *zds.Listener) error {
	defer s.closeAll()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer ln.Close()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	limit := limiter{burst: acceptBurst, every: acceptEvery}
	for {
		zc, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				zc.Close()
			}
			return nil
		}
		if err != nil {
			// Out of descriptors, perhaps: that passes.
			s.log.Error("cannot accept a node proxy", "err", err)
			if !sleep(ctx, time.Second) {
				return nil
			}
			continue
		}
		if !sleep(ctx, limit.wait(time.Now())) {
			zc.Close()
			return nil
		}
		wg.Go(func() { s.serve(ctx, zc) })
	}
}

// closeAll lets go of the namespaces.
func (s *Server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uid, e := range s.pods {
		if e.pod.Netns != nil {
			e.pod.Netns.Close()
		}
		delete(s.pods, uid)
	}
}

// join registers a proxy and returns what its snapshot has to hold. From here on the connection's queue gets every
// change, so nothing falls between the snapshot and the first update.
func (s *Server) join(c *conn) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, c)
	s.connected.Set(float64(len(s.conns)))
	return slices.Sorted(maps.Keys(s.pods))
}

// leave forgets a proxy. If it was the newest, the one before it has missed what was added since.
func (s *Server) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.conns, c)
	if i < 0 {
		return
	}
	newest := i == len(s.conns)-1
	s.conns = slices.Delete(s.conns, i, i+1)
	s.connected.Set(float64(len(s.conns)))
	if newest && i > 0 {
		for uid := range s.pods {
			s.conns[i-1].enqueue(order{uid: uid})
		}
	}
}

// lend returns the pod as it is now, with a handle on its namespace of the caller's own: the pod may be replaced or removed
// while it is sent, and a snapshot has to name it all the same, because a proxy cuts the connections of those it does not.
func (s *Server) lend(uid string) (*entry, *netns.Netns, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.pods[uid]
	if e == nil || e.pod.Netns == nil {
		return e, nil, nil
	}
	ns, err := e.pod.Netns.Dup()
	return e, ns, err
}

// ack records a proxy's answer.
func (s *Server) ack(e *entry, err error) {
	s.mu.Lock()
	e.acked = e.acked || err == nil
	e.err = err
	close(e.changed)
	e.changed = make(chan struct{})
	s.mu.Unlock()
	if s.cfg.Acked != nil {
		s.cfg.Acked(e.pod.UID, err)
	}
}

// Connections are accepted at most five a second: istio/istio cni/pkg/nodeagent/ztunnelserver.go.
const (
	acceptBurst = 5
	acceptEvery = 200 * time.Millisecond
)

// limiter is a token bucket for one goroutine.
type limiter struct {
	burst int
	every time.Duration
	next  time.Time // when the bucket is full again, minus the burst
}

// wait takes a token and returns how long to wait for it.
func (l *limiter) wait(now time.Time) time.Duration {
	if full := now.Add(-time.Duration(l.burst-1) * l.every); l.next.Before(full) {
		l.next = full
	}
	d := l.next.Sub(now)
	l.next = l.next.Add(l.every)
	return max(d, 0)
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
