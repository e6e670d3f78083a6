package proxy

import (
	"context"
	"net/netip"

	"github.com/ambit-mesh/ambit/ztunnel/authz"
	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/ambit-mesh/ambit/ztunnel/route"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// way is an open path to the destination of an outbound connection.
type way struct {
	hbone.Duplex
	// ctx ends when the destination no longer allows the connection.
	ctx context.Context
	// arrival is the record of the destination when that is a pod of this proxy, reached without a tunnel; else nil.
	arrival *telemetry.Connection
	leave   func()
}

func (w *way) request(n int) {
	if w.arrival != nil {
		w.arrival.AddRequest(int64(n))
	}
}

func (w *way) response(n int) {
	if w.arrival != nil {
		w.arrival.AddResponse(int64(n))
	}
}

func (w *way) close(err error) {
	if w.arrival != nil {
		w.arrival.Close(err)
	}
	if w.leave != nil {
		w.leave()
	}
}

// handOver connects to a pod of this node inside the process: both ends of the tunnel would be this proxy, so there is
// nobody to hide the bytes from and nobody to prove anything to. Who both pods are was told by the CNI agent with their
// namespaces, which is where certificates get it from as well. Policy, the source address and both records are the same.
//
// It is opt-in: the bytes do not pass the pods' interfaces, so a NetworkPolicy that the cluster's network enforces there
// would not see them.
func (pd *pod) handOver(ctx context.Context, s *state.Snapshot, d route.Decision, to *pod, src netip.AddrPort) (*way, error) {
	local := netip.AddrPortFrom(d.Addr.Addr(), d.Addr.Port())
	info := to.inboundInfo(s, src, local)
	info.Source, info.SourceID, info.DestID, info.HBONEAddr = pd.self(s, src.Addr()), pd.id, to.id, d.Authority
	refuse := func(err error) error {
		pd.proxy.Recorder.Refused(info, err)
		return err
	}
	s, w, err := to.destination(ctx, local.Addr())
	if err != nil {
		return nil, refuse(err)
	}
	in, err := route.Inbound(s, route.InboundRequest{
		Authority: d.Authority, Local: local.Addr(), Workload: w, Network: pd.proxy.cfg.Network, LoopbackTunnel: !pd.proxy.cfg.AppTunnelByAddress,
		PreferredNamespace: pd.proxy.cfg.PreferredNamespace,
	})
	if err != nil {
		return nil, refuse(err)
	}
	info.Dst, info.Destination, info.Service = in.Addr, w, d.Service
	check := authz.Connection{Source: pd.id, SourceIP: src.Addr(), DestIP: in.Policy.Addr(), DestPort: in.Policy.Port()}
	wayCtx, cancel := context.WithCancelCause(ctx)
	conn := &connection{inbound: true, src: src, original: in.Target, actual: in.Addr, protocol: "HBONE", check: check, cancel: cancel}
	forget := to.conns.add(conn)
	stop := context.AfterFunc(to.ctx, func() { cancel(context.Cause(to.ctx)) })
	leave := func() {
		stop()
		forget()
		cancel(nil)
	}
	if err := to.authorize(info, check); err != nil {
		leave()
		pd.proxy.Recorder.Failed(info, err)
		return nil, err
	}
	app, err := to.dialDelivered(wayCtx, in, src, pd.id)
	if err != nil {
		leave()
		pd.proxy.Recorder.Failed(info, err)
		return nil, err
	}
	return &way{Duplex: app, ctx: wayCtx, arrival: pd.proxy.Recorder.Open(info), leave: leave}, nil
}
