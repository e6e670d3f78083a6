package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/ambit-mesh/ambit/ztunnel/inpod"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// pod is the proxy of one pod: listeners inside its namespace, tunnels dialed from there, and all connections on either.
type pod struct {
	// immutable after newPod
	proxy *Proxy
	uid   string
	info  inpod.Info
	id    identity.ID
	netns *inpod.Netns
	log   *slog.Logger
	ctx   context.Context
	stop  context.CancelCauseFunc
	pool  *hbone.Pool
	only  uint16 // set on the proxy's own pod, see StartOwn
	conns *registry
	peers peers
	// handshakes and tunnels are the HBONE connections: of strangers so far, and of proven peers.
	handshakes handshakes
	tunnels    atomic.Int64
	crowded    telemetry.Gate // of the warnings that there are too many
	// served says that anybody, or any question, was sent here: it is or was this proxy's turn.
	served atomic.Bool

	// written by listen, before anything runs
	outboundL, plaintextL, hboneL net.Listener
	socksL                        []net.Listener
	dns                           dnsSockets
	v6                            bool

	refusing sync.Once
}

func newPod(p *Proxy, in inpod.Pod) *pod {
	pd := &pod{
		proxy: p, uid: in.UID, info: in.Info, netns: in.Netns,
		id: identity.ID{
			TrustDomain: p.cfg.TrustDomain, Namespace: in.Info.Namespace, ServiceAccount: in.Info.ServiceAccount,
		},
		log:   p.Logger.With("pod", in.Info.String()),
		conns: newRegistry(),
		dns:   dnsSockets{answered: make(chan struct{})},
	}
	pd.ctx, pd.stop = context.WithCancelCause(context.Background())
	pd.pool = hbone.NewPool(hbone.PoolConfig{
		Dial: pd.dialTunnel, Usable: func(c net.Conn) error { return pd.unrevoked(c, p.cfg.TLS.Revoked) }, Config: p.cfg.HBONE, IdleTimeout: p.cfg.PoolIdle, MaxStreamsPerConn: p.cfg.MaxStreams,
	})
	return pd
}

func (pd *pod) workloadUID() string { return podWorkloadUID(pd.proxy.cfg.ClusterID, pd.info) }

// listen opens every listener or none. They are opened before the agent is answered: from then on the rules may point
// traffic here.
func (pd *pod) listen(ctx context.Context) error {
	cfg := pd.proxy.cfg
	pd.v6 = cfg.IPv6 && pd.netns.HasIPv6()
	opts := []func(int) error{marked(cfg.Mark), answersAsOthers}
	if cfg.PortReuse {
		opts = append(opts, reusePort)
	}
	all := []struct {
		to   *net.Listener
		port uint16
	}{{&pd.hboneL, mesh.PortHBONE}, {&pd.outboundL, mesh.PortOutbound}, {&pd.plaintextL, mesh.PortInboundPlaintext}}
	if pd.own() {
		all = all[:1]
	}
	for _, l := range all {
		ln, err := pd.netns.Listen(ctx, "tcp", netip.AddrPortFrom(anyAddr(pd.v6), l.port), sockopts(opts...))
		if err != nil {
			return fmt.Errorf("listen on port %d, which the mesh needs inside the pod: %w", l.port, err)
		}
		*l.to = ln
		take(ln)
	}
	if pd.own() {
		return nil
	}
	if cfg.SOCKS5 {
		if err := pd.listenSOCKS(ctx, sockopts(opts...)); err != nil {
			return err
		}
	}
	if !cfg.DNS {
		return nil
	}
	return pd.listenDNS(ctx, sockopts(opts...))
}

// listeners are those that are open.
func (pd *pod) listeners() []net.Listener {
	all := slices.Concat([]net.Listener{pd.outboundL, pd.plaintextL, pd.hboneL}, pd.socksL, pd.dns.streams)
	return slices.DeleteFunc(all, func(l net.Listener) bool { return l == nil })
}

// leave gives what comes from now on to the next proxy, if there is one. What was sent here before is still taken. A proxy to
// which nothing was sent has nothing to give: it may be the next one itself, started and taken back, and would take everything.
func (pd *pod) leave() {
	served := pd.served.Load()
	if served {
		for _, l := range pd.listeners() {
			leave(l)
		}
	}
	pd.dns.leave(served)
}

// refuse takes no more connections. Questions that were sent here as datagrams are still answered.
func (pd *pod) refuse() {
	pd.refusing.Do(func() {
		for _, l := range pd.listeners() {
			l.Close()
		}
	})
}

// closeListeners takes nothing more.
func (pd *pod) closeListeners() {
	pd.refuse()
	pd.dns.close()
}

// run serves until stop, then waits for everything it started.
func (pd *pod) run() {
	defer pd.netns.Close()
	if !pd.own() {
		defer pd.proxy.Certificates.Hold(pd.id)()
		pd.log.Info("pod is in the mesh", "identity", pd.id.String())
		defer func() { pd.log.Info("pod left the mesh", "reason", context.Cause(pd.ctx).Error()) }()
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := pd.pool.Run(pd.ctx); err != nil {
			pd.log.Error("tunnel pool ended", "error", err)
		}
	})
	wg.Go(func() { pd.accept(pd.hboneL, &wg, pd.hbone) })
	if !pd.own() {
		wg.Go(func() { pd.accept(pd.outboundL, &wg, pd.outbound) })
		wg.Go(func() { pd.accept(pd.plaintextL, &wg, pd.plaintext) })
	}
	wg.Go(pd.serveDNS)
	for _, l := range pd.socksL {
		wg.Go(func() { pd.accept(l, &wg, pd.socks) })
	}
	<-pd.ctx.Done()
	pd.closeListeners()
	wg.Wait()
}

// serve notes that something was sent here.
func (pd *pod) serve() {
	if !pd.served.Load() {
		pd.served.Store(true)
	}
}

// accept hands each connection to a goroutine of its own, as many as the pod may have.
func (pd *pod) accept(l net.Listener, wg *sync.WaitGroup, handle func(context.Context, *net.TCPConn)) {
	pause := time.Duration(0)
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || pd.ctx.Err() != nil {
				return
			}
			// Out of descriptors or memory, most likely: others may free some.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			pd.log.Error("accept", "listener", l.Addr().String(), "error", err, "retry", pause)
			select {
			case <-time.After(pause):
			case <-pd.ctx.Done():
			}
			continue
		}
		pause = 0
		pd.serve()
		tcp := c.(*net.TCPConn)
		done, ok := pd.conns.accept(pd.proxy.cfg.MaxConnections)
		if !ok {
			if missed, ok := pd.crowded.Pass(); ok {
				pd.log.Warn("connection refused: the pod has too many open", "limit", pd.proxy.cfg.MaxConnections, "src", c.RemoteAddr().String(), "suppressed", missed)
			}
			abort(tcp)
			continue
		}
		wg.Go(func() {
			pd.proxy.Recorder.Sockets.Inc()
			defer pd.proxy.Recorder.Sockets.Dec()
			defer done()
			handle(pd.ctx, tcp)
		})
	}
}

// self is the pod as the control plane describes it. Right after it started the control plane may not have heard of it;
// what the agent told us together with the namespace is enough to be a client, so outbound connections do not wait.
func (pd *pod) self(s *state.Snapshot, addr netip.Addr) *state.Workload {
	if w := pd.described(s); w != nil {
		return w
	}
	return &state.Workload{
		UID: pd.workloadUID(), Name: pd.info.Name, Namespace: pd.info.Namespace, ServiceAccount: pd.info.ServiceAccount,
		TrustDomain: pd.id.TrustDomain, Network: pd.proxy.cfg.Network, ClusterID: pd.proxy.cfg.ClusterID,
		Addrs: []netip.Addr{addr}, Tunnel: state.HBONE, Capacity: 1, Healthy: true,
		CanonicalName: pd.info.Name, WorkloadName: pd.info.Name, Type: state.Pod,
	}
}

// described is what the control plane says of the pod, nil while it says nothing. A pod of the same name but with another
// service account is another pod, one that is gone: what is said of it, its policies included, does not apply.
// istio/ztunnel src/state.rs WorkloadInfo::matches.
func (pd *pod) described(s *state.Snapshot) *state.Workload {
	w := s.Workload(pd.workloadUID())
	if w == nil || w.ServiceAccount != pd.info.ServiceAccount {
		return nil
	}
	return w
}

// destination is the pod as policies see it. Unlike a client, a server whose policies are not known must not be reached:
// it waits for the control plane, and fails closed. Workloads and policies come in separate answers, so that the pod is
// described does not mean that its policies are.
func (pd *pod) destination(ctx context.Context, own netip.Addr) (*state.Snapshot, *state.Workload, error) {
	if err := pd.synced(ctx, telemetry.UnknownDestination, "the policies of pod "+pd.info.String()+" are unknown"); err != nil {
		return nil, nil, err
	}
	if err := pd.demand(ctx, own, false); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, workloadWait)
	defer cancel()
	for {
		s := pd.proxy.State.Current()
		if w := pd.described(s); w != nil {
			return s, w, nil
		}
		select {
		case <-s.Superseded():
		case <-ctx.Done():
			return nil, nil, telemetry.Fail(telemetry.UnknownDestination,
				fmt.Sprintf("the control plane has not described pod %s, so its policies are unknown", pd.info), nil)
		}
	}
}

// workloadWait is how long a connection waits for the control plane to describe its pod.
// istio/ztunnel src/proxy/outbound.rs.
const workloadWait = 5 * time.Second

// abort closes a connection with a RST, so that the peer learns at once and nothing lingers.
func abort(c *net.TCPConn) {
	_ = c.SetLinger(0) // closing is all that is left to do
	c.Close()
}
