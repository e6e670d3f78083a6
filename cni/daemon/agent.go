package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/cni/enroll"
	"github.com/ambit-mesh/ambit/cni/handoff"
	"github.com/ambit-mesh/ambit/cni/redirect"
)

// workers is how many pods are worked on at a time.
const workers = 4

// Agent is one node's agent.
type Agent struct {
	cfg     Config
	parts   Parts
	log     *slog.Logger
	metrics *metrics
	source  Source
	backend redirect.Backend
	host    *netns.Netns
	node    *redirect.Node
	proxies *handoff.Server
	queue   *queue[enroll.Key]
	locks   *locks[enroll.Key]
	synced  chan struct{}
	ready   atomic.Bool
	// socket is the plugin's, as this agent made it; nil before. It is read when all else has ended.
	socket os.FileInfo

	mu sync.Mutex
	// Guarded by mu:
	pods       map[enroll.Key]enroll.Pod
	namespaces map[string]map[string]string
	records    map[enroll.Key]*record // what was done, replaced as a whole
	complaints map[enroll.Key]string  // what was logged about pods that could not be brought where they should be
}

// record is what was done for a pod. It is immutable; the next step stores another.
type record struct {
	pod     enroll.Pod
	ns      *netns.Netns
	options redirect.Options
	// cni is the addresses the plugin told, which are known before those of the pod's object.
	cni []netip.Addr
	// announced is when the plugin told of the pod's sandbox; zero if it never did.
	announced time.Time
	// untold is since when a pod is known that the source has not told of yet; zero if it has.
	untold time.Time
	// leaving is since when peers are told that the pod is not in the mesh; zero while it is.
	leaving time.Time
	// released is since when nothing of the pod is captured any more, while what was goes on; zero before. open is how many
	// captured connections there were when they were last counted.
	released time.Time
	open     int
}

// New prepares an agent for cfg; Run does the work. The registry also serves /metrics.
func New(cfg Config, parts Parts, log *slog.Logger, registry *prometheus.Registry) (*Agent, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &Agent{
		cfg: cfg, parts: parts, log: log, source: parts.Source, metrics: newMetrics(registry),
		queue: newQueue[enroll.Key](), locks: newLocks[enroll.Key](), synced: make(chan struct{}),
		pods: map[enroll.Key]enroll.Pod{}, namespaces: map[string]map[string]string{}, records: map[enroll.Key]*record{},
		complaints: map[enroll.Key]string{},
	}
	a.proxies = handoff.New(handoff.Config{Socket: cfg.ProxySocket, Logger: log, Registerer: registry, Acked: a.acked})
	a.countPods(registry)
	return a, nil
}

// Run works until ctx ends. What was done to pods stays, unless no agent will come after this one.
func (a *Agent) Run(parent context.Context) error {
	if err := a.prepare(); err != nil {
		return err
	}
	defer a.host.Close()
	defer a.dropRecords()
	g, ctx := errgroup.WithContext(parent)
	g.Go(func() error { return a.source.Run(ctx, sink{a}) })
	if a.parts.Installer != nil {
		g.Go(func() error { return a.parts.Installer.Run(ctx) })
		g.Go(func() error { a.watchInstaller(ctx); return nil })
	}
	for _, serve := range a.monitors() {
		g.Go(func() error { return serve(ctx) })
	}
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-a.synced:
		}
		return a.operate(ctx)
	})
	err := g.Wait()
	return errors.Join(err, a.end(context.WithoutCancel(parent)))
}

// prepare opens the node's namespace and puts the node's rules in place.
func (a *Agent) prepare() error {
	path := a.cfg.HostNetns
	if path == "" {
		path = "/proc/self/ns/net"
	}
	host, err := netns.Open(path)
	if err != nil {
		return fmt.Errorf("node's network namespace: %w", err)
	}
	a.host = host
	if a.backend, err = redirect.Detect(a.cfg.Backend, a.cfg.BPF, a.log); err != nil {
		return errors.Join(err, host.Close())
	}
	a.node = redirect.NewNode(host, redirect.NodeOptions{ProbeIPv4: a.cfg.ProbeIPv4, ProbeIPv6: a.cfg.ProbeIPv6, ProbeUser: a.cfg.ProbeUser})
	if err := a.node.Apply(); err != nil {
		if a.backend.Name() == "nftables" {
			return errors.Join(err, host.Close())
		}
		// Probes of pods under strict policy are the price.
		a.log.Warn("probes of the node reach pods like anybody's connections", "err", err)
		a.node.Disable()
	}
	for _, dir := range []string{a.cfg.RunDir, filepath.Dir(a.cfg.ProxySocket)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return errors.Join(fmt.Errorf("make folder of a socket: %w", err), host.Close())
		}
	}
	a.log.Info("redirecting", "backend", a.backend.Name(), "node", a.cfg.Node, "netns", host.ID(), "probes", a.node.Way())
	return nil
}

// operate begins when the source has told everything: recover what an earlier agent did, so that the first snapshot a
// proxy gets is complete, and only then open the sockets.
func (a *Agent) operate(ctx context.Context) error {
	a.recoverPods(ctx)
	if _, ok := a.backend.(*redirect.EBPF); !ok {
		if err := redirect.Clear(a.cfg.BPF); err != nil {
			a.log.Warn("BPF programs of an earlier agent stay", "err", err)
		}
	}
	plugin, err := listenUnix(a.cfg.PluginSocket())
	if err != nil {
		return err
	}
	if a.socket, err = os.Stat(a.cfg.PluginSocket()); err != nil {
		return errors.Join(fmt.Errorf("the plugin's socket: %w", err), plugin.Close())
	}
	logs, err := listenUnix(a.cfg.LogSocket())
	if err != nil {
		return errors.Join(err, plugin.Close())
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.proxies.Run(ctx) })
	g.Go(func() error { return serveHTTP(ctx, plugin, a.pluginHandler()) })
	g.Go(func() error { return serveHTTP(ctx, logs, a.logHandler()) })
	for range workers {
		g.Go(func() error { a.queue.Work(ctx, a.reconcile); return nil })
	}
	g.Go(func() error { a.resync(ctx); return nil })
	a.enqueueAll()
	a.ready.Store(true)
	defer a.ready.Store(false)
	return g.Wait()
}

// resync reads rules back now and then, and repairs them.
func (a *Agent) resync(ctx context.Context) {
	if a.cfg.Resync <= 0 {
		return
	}
	ticker := time.NewTicker(a.cfg.Resync)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := a.node.Verify(); errors.Is(err, redirect.ErrDrift) {
			a.log.Warn("repairing the node's probe rules", "err", err)
			if err := a.node.Apply(); err != nil {
				a.log.Error("the node's probe rules cannot be repaired", "err", err)
			}
		}
		for _, k := range a.enrolled() {
			if err := a.repair(ctx, k); err != nil && ctx.Err() == nil {
				a.log.Error("pod cannot be repaired", "pod", k, "err", err)
			}
		}
		// All of them: one that should be in the mesh and is not is looked for again.
		a.enqueueAll()
	}
}

// repair puts one pod's rules right.
func (a *Agent) repair(ctx context.Context, k enroll.Key) error {
	unlock, err := a.locks.Lock(ctx, k)
	if err != nil {
		return err
	}
	defer unlock()
	rec := a.record(k)
	if rec == nil {
		return nil
	}
	if err := a.follow(ctx, k); err != nil {
		return err
	}
	if rec = a.record(k); rec == nil || !rec.released.IsZero() {
		return nil
	}
	err = a.backend.Verify(rec.ns, rec.options)
	if !errors.Is(err, redirect.ErrDrift) {
		return err
	}
	a.log.Warn("repairing a pod's rules", "pod", k, "err", err)
	a.metrics.events.WithLabelValues("repair").Inc()
	return a.backend.Apply(rec.ns, rec.options)
}

// acked is called by the hand-off when a proxy has answered for a pod: the annotation may have to change.
func (a *Agent) acked(uid string, _ error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, rec := range a.records {
		if rec.pod.UID == uid {
			a.queue.Add(k)
			return
		}
	}
}

func (a *Agent) record(k enroll.Key) *record {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.records[k]
}

func (a *Agent) setRecord(k enroll.Key, rec *record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if rec == nil {
		delete(a.records, k)
		return
	}
	a.records[k] = rec
}

func (a *Agent) enrolled() []enroll.Key {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Keys(a.records))
}

func (a *Agent) dropRecords() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, rec := range a.records {
		rec.ns.Close()
		delete(a.records, k)
	}
}

// lookup returns the pod and its namespace's labels as the source has them.
func (a *Agent) lookup(k enroll.Key) (p enroll.Pod, namespaceLabels map[string]string, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p, ok = a.pods[k]
	return p, a.namespaces[k.Namespace], ok
}

func (a *Agent) enqueueAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k := range a.pods {
		a.queue.Add(k)
	}
}
