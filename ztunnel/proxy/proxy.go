// Package proxy carries the connections of the pods on this node: outbound to 15001, HBONE to 15008, plaintext to 15006,
// each on listeners inside the pod's own network namespace.
//
// It is the thin shell around the pure cores: package route decides where a connection goes, package authz whether it may,
// and proxy opens sockets, moves bytes (packages hbone and relay) and accounts for the outcome (package telemetry). It does
// not know Kubernetes, xDS or how certificates are issued.
//
// A Proxy owns its pods; a pod owns its listeners, its tunnels and every connection accepted on them, and waits for all of
// them when it stops. Run ends when every pod has. Start reading at pod.go, then outbound.go and inbound.go.
package proxy

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/dns"
	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/ambit-mesh/ambit/ztunnel/inpod"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// Config is what does not change while the proxy runs.
type Config struct {
	ClusterID     string
	ClusterDomain string
	TrustDomain   string
	Network       string
	// PreferredNamespace wins when several services share an address or hostname.
	PreferredNamespace string
	// Mark is on every socket the proxy opens inside a pod.
	Mark uint32
	// OriginalSource lets applications see the address of the real client.
	OriginalSource bool
	IPv6           bool
	PortReuse      bool
	DNS            bool
	// SOCKS5 lets applications of a pod name hosts themselves, on loopback.
	SOCKS5          bool
	ResponseBaggage bool
	// SameNode connects pods of this node inside the process instead of through a tunnel to itself.
	SameNode bool
	// AppTunnelByAddress reaches an application that ends tunnels itself by the pod's address instead of over loopback.
	AppTunnelByAddress bool
	// LogPolicy tells of every decision which policy made it.
	LogPolicy bool
	TLS       certs.Policy
	HBONE     hbone.Config
	// PoolIdle is how long an unused tunnel is kept, MaxStreams how many connections share one.
	PoolIdle   time.Duration
	MaxStreams int
	// MaxConnections and MaxTunnels bound what one pod may hold open, each way.
	MaxConnections int
	MaxTunnels     int
	Keepalive      Keepalive
}

// Keepalive is how TCP finds out that a peer is gone.
type Keepalive struct {
	Idle, Interval time.Duration
	Count          int
}

// Certificates gives the certificate of an identity; *client.Manager of ca/client is the real one.
type Certificates interface {
	Get(ctx context.Context, id identity.ID) (*certs.SVID, error)
	Hold(id identity.ID) (release func())
}

// Deps are the stages the proxy stands on.
type Deps struct {
	State        *state.State
	Certificates Certificates
	Recorder     *telemetry.Recorder
	// Synced is closed once the control plane has answered for the first time.
	Synced <-chan struct{}
	// Demand fetches what one connection needs, where the control plane is not asked for everything; else nil.
	Demand *state.Demand
	// Resolver looks up workloads that are known by hostname only.
	Resolver Resolver
	// Upstream answers the pods' questions about names outside the mesh.
	Upstream  dns.Upstream
	Logger    *slog.Logger
	DNSLogger *slog.Logger
}

// Resolver looks up hostnames outside the mesh.
type Resolver interface {
	Resolve(ctx context.Context, host string) ([]netip.Addr, error)
}

// Proxy serves the pods of a node.
type Proxy struct {
	cfg Config
	Deps
	drain chan struct{} // closed by Drain

	mu       sync.Mutex
	pods     map[string]*pod // guarded by mu; by the uid the agent uses
	byUID    map[string]*pod // guarded by mu; by the uid the control plane uses
	ended    sync.WaitGroup
	draining bool // guarded by mu
}

// New starts nothing.
func New(cfg Config, deps Deps) *Proxy {
	return &Proxy{cfg: cfg, Deps: deps, drain: make(chan struct{}), pods: map[string]*pod{}, byUID: map[string]*pod{}}
}

// Run re-checks open connections whenever policy or workloads change. When ctx ends it stops every pod at once and returns
// when the last of their connections is gone; call Drain before to give them time.
func (p *Proxy) Run(ctx context.Context) error {
	for {
		snap := p.State.Current()
		for _, pd := range p.all() {
			pd.recheck(snap)
		}
		select {
		case <-snap.Superseded():
		case <-ctx.Done():
			p.stopAll()
			p.ended.Wait()
			return nil
		}
		// A burst of updates is one re-check: policies are few, connections may be many.
		select {
		case <-time.After(recheckPause):
		case <-ctx.Done():
		}
	}
}

// recheckPause bounds how often open connections are re-checked, and so how late a revocation may take effect.
const recheckPause = 20 * time.Millisecond

// Start opens a pod's listeners. It implements inpod.Pods.
func (p *Proxy) Start(ctx context.Context, in inpod.Pod) error {
	pd := newPod(p, in)
	if err := pd.listen(ctx); err != nil {
		pd.closeListeners()
		return fmt.Errorf("pod %s: %w", in.Info, err)
	}
	return p.begin(pd)
}

// begin serves a pod whose listeners are open.
func (p *Proxy) begin(pd *pod) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.draining {
		pd.closeListeners()
		return fmt.Errorf("pod %s: this proxy is stopping", pd.info)
	}
	if old := p.pods[pd.uid]; old != nil {
		old.stop(errPodRemoved)
	}
	p.pods[pd.uid] = pd
	if !pd.own() {
		p.byUID[pd.workloadUID()] = pd
		p.Recorder.ProxiesStarted.Inc()
		p.Recorder.ActiveProxies.Inc()
	}
	p.ended.Add(1)
	go func() {
		defer p.ended.Done()
		pd.run()
		p.forget(pd)
		if !pd.own() {
			p.Recorder.ProxiesStopped.Inc()
			p.Recorder.ActiveProxies.Dec()
		}
	}()
	return nil
}

// Stop ends a pod's proxy at once. It implements inpod.Pods.
func (p *Proxy) Stop(uid string) {
	p.mu.Lock()
	pd := p.pods[uid]
	p.mu.Unlock()
	if pd != nil {
		p.forget(pd)
		pd.stop(errPodRemoved)
	}
}

// Revoke ends the tunnels, from either side, of peers whose certificates are revoked by now, and has new connections to
// others shake hands anew. Handshakes ask the same function themselves.
func (p *Proxy) Revoke(revoked func(*x509.Certificate) bool) {
	for _, pd := range p.all() {
		pd.peers.revoke(revoked, p.Recorder.CRLRejections.Inc)
		pd.pool.Cut(func(c net.Conn) error { return pd.unrevoked(c, revoked) })
		pd.pool.Evict(func(hbone.Key) bool { return true })
	}
}

// Drain leaves new connections to the next proxy and asks peers to move on; what is open stays until it ends by itself, ctx
// ends, or Run is stopped. It returns when nothing is open any more or ctx ended.
func (p *Proxy) Drain(ctx context.Context) {
	p.mu.Lock()
	first := !p.draining
	p.draining = true
	p.mu.Unlock()
	pods := p.all()
	for _, pd := range pods {
		pd.leave()
	}
	if first {
		close(p.drain) // after the ports are the next proxy's: whom this sends elsewhere is to find that one
	}
	if len(pods) > 0 {
		linger(ctx)
	}
	// The pools stay usable: connections that were accepted a moment ago are still on their way to them.
	for _, pd := range pods {
		pd.refuse()
	}
	for _, pd := range pods {
		if !pd.conns.wait(ctx) || !pd.dns.wait(ctx) {
			return
		}
	}
}

// linger takes who is on the way here: for lastCallers, or half of the time there is.
func linger(ctx context.Context) {
	pause := lastCallers
	if end, ok := ctx.Deadline(); ok {
		pause = min(pause, time.Until(end)/2)
	}
	select {
	case <-time.After(pause):
	case <-ctx.Done():
	}
}

func (p *Proxy) all() []*pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*pod, 0, len(p.pods))
	for _, pd := range p.pods {
		out = append(out, pd)
	}
	return out
}

func (p *Proxy) stopAll() {
	for _, pd := range p.all() {
		pd.stop(errDraining)
	}
}

func (p *Proxy) forget(pd *pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pods[pd.uid] == pd {
		delete(p.pods, pd.uid)
	}
	if uid := pd.workloadUID(); p.byUID[uid] == pd {
		delete(p.byUID, uid)
	}
}

// local finds the pod of this node that a workload is, nil when it is not served here.
func (p *Proxy) local(w *state.Workload) *pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byUID[w.UID]
}

var (
	errPodRemoved = telemetry.Fail(telemetry.PodRemoved, "", nil)
	errDraining   = telemetry.Fail(telemetry.Draining, "", nil)
)

// Address families of a listener.
func anyAddr(v6 bool) netip.Addr {
	if v6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

func podWorkloadUID(cluster string, info inpod.Info) string {
	return mesh.PodUID(cluster, info.Namespace, info.Name)
}
