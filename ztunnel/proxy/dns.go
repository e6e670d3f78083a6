package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/ztunnel/dns"
	"github.com/ambit-mesh/ambit/ztunnel/state"
)

// dnsSockets are where the pod's questions arrive: UDP and TCP, on the loopback addresses, because that is where the rules
// in the pod redirect them to.
type dnsSockets struct {
	packets  []net.PacketConn
	streams  []net.Listener
	answered chan struct{} // closed when nothing is asked here any more
}

func (d *dnsSockets) close() {
	for _, c := range d.packets {
		c.Close()
	}
}

// lastQuestions is how long a datagram may be on its way from the kernel's choice of a socket into that socket's queue.
const lastQuestions = 50 * time.Millisecond

// leave gives new datagrams to the next proxy if they are this one's to give; those that are here are still answered by those who serve the sockets.
func (d *dnsSockets) leave(give bool) {
	for _, c := range d.packets {
		if give {
			leave(c)
		}
		_ = c.SetReadDeadline(time.Now().Add(lastQuestions))
	}
}

// wait reports whether everything was answered before ctx ended.
func (d *dnsSockets) wait(ctx context.Context) bool {
	select {
	case <-d.answered:
		return true
	case <-ctx.Done():
		return false
	}
}

func (pd *pod) listenDNS(ctx context.Context, opts control) error {
	addrs := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	if pd.v6 {
		addrs = append(addrs, netip.IPv6Loopback())
	}
	for _, a := range addrs {
		at := netip.AddrPortFrom(a, mesh.PortDNS)
		pc, err := pd.netns.ListenPacket(ctx, "udp", at, opts)
		if err != nil {
			return fmt.Errorf("listen on %s for DNS: %w", at, err)
		}
		pd.dns.packets = append(pd.dns.packets, pc)
		take(pc)
		l, err := pd.netns.Listen(ctx, "tcp", at, opts)
		if err != nil {
			return fmt.Errorf("listen on %s for DNS: %w", at, err)
		}
		pd.dns.streams = append(pd.dns.streams, l)
		take(l)
	}
	return nil
}

// resolver answers the pod's questions as the pod: names as its namespace sees them, and what it does not know it asks for
// from inside the pod, so that a NetworkPolicy judges the question as the pod's own.
func (pd *pod) resolver() *dns.Server {
	cfg := pd.proxy.cfg
	return dns.New(dns.Config{
		Zone:  dns.Zone{Domain: cfg.ClusterDomain, Network: cfg.Network, PreferredNamespace: cfg.PreferredNamespace, Search: pd.proxy.Upstream.Search},
		State: pd.proxy.State.Current,
		Client: func(s *state.Snapshot) *state.Workload {
			pd.serve()
			return pd.self(s, netip.Addr{})
		},
		Upstream: pd.proxy.Upstream,
		Dial: func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
			return pd.netns.Dial(ctx, network, netip.AddrPort{}, server, sockopts(marked(cfg.Mark)))
		},
		Metrics: pd.proxy.Recorder.DNS,
		Logger:  pd.proxy.DNSLogger,
	})
}

// serveDNS answers until all sockets have ended.
func (pd *pod) serveDNS() {
	defer close(pd.dns.answered)
	if len(pd.dns.packets) == 0 {
		return
	}
	server := pd.resolver()
	ended := func(err error) {
		if err != nil {
			pd.log.Error("DNS for the pod ended", "error", err)
		}
	}
	var wg sync.WaitGroup
	for _, pc := range pd.dns.packets {
		wg.Go(func() { ended(server.ServePacket(pd.ctx, pc)) })
	}
	for _, l := range pd.dns.streams {
		wg.Go(func() { ended(server.ServeStream(pd.ctx, l)) })
	}
	wg.Wait()
}
