package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/authz"
	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/ambit-mesh/ambit/ztunnel/hbone/headers"
	"github.com/ambit-mesh/ambit/ztunnel/relay"
	"github.com/ambit-mesh/ambit/ztunnel/route"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// hbone serves a tunnel connection that a peer made to the pod.
func (pd *pod) hbone(ctx context.Context, c *net.TCPConn) {
	defer c.Close()
	src, local := addrPort(c.RemoteAddr()), addrPort(c.LocalAddr())
	if pd.tunnels.Load() >= int64(pd.proxy.cfg.MaxTunnels) {
		pd.refuseTunnel(c, src)
		return
	}
	proven := pd.handshakes.begin(c, pd.maxHandshakes())
	pd.keepalive(c)
	conn, peer, err := pd.handshake(ctx, c)
	if !proven() {
		err = pd.gaveWay()
	}
	if err != nil {
		// A probe that opens the port and leaves again is not worth a line.
		if !errors.Is(err, io.EOF) {
			pd.proxy.Recorder.Refused(pd.inboundInfo(pd.proxy.State.Current(), src, local), err)
		}
		return
	}
	defer pd.tunnels.Add(-1)
	if pd.tunnels.Add(1) > int64(pd.proxy.cfg.MaxTunnels) {
		pd.refuseTunnel(c, src)
		return
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer pd.peers.add(&peerConn{chain: conn.ConnectionState().PeerCertificates, cancel: cancel})()
	if anyRevoked(conn.ConnectionState().PeerCertificates, pd.proxy.cfg.TLS.Revoked) {
		// The list changed between the handshake and the line above.
		return
	}
	err = hbone.Serve(ctx, conn, pd.serverConfig(), func(ctx context.Context, in *hbone.Incoming) {
		pd.tunnel(ctx, in, peer, src, local)
	})
	if err != nil {
		pd.log.Debug("tunnel connection ended", "peer", peer.String(), "src", src.String(), "error", err)
	}
}

func (pd *pod) refuseTunnel(c *net.TCPConn, src netip.AddrPort) {
	if missed, ok := pd.crowded.Pass(); ok {
		pd.log.Warn("tunnel refused: the pod has too many open", "limit", pd.proxy.cfg.MaxTunnels, "src", src.String(), "suppressed", missed)
	}
	abort(c)
}

func (pd *pod) serverConfig() hbone.Config {
	cfg := pd.proxy.cfg.HBONE
	cfg.Drain = pd.proxy.drain
	return cfg
}

func (pd *pod) handshake(ctx context.Context, c *net.TCPConn) (*tls.Conn, identity.ID, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	current := func() (*certs.SVID, error) {
		svid, err := pd.proxy.Certificates.Get(ctx, pd.id)
		if err != nil {
			return nil, telemetry.Fail(telemetry.NoCertificate, "no certificate for "+pd.id.String(), err)
		}
		return svid, nil
	}
	conn := tls.Server(hbone.NewWire(c), pd.proxy.cfg.TLS.ServerConfig(current, pd.id.TrustDomain))
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, identity.ID{}, handshakeError(c.RemoteAddr().String(), err)
	}
	peer, err := certs.PeerID(conn.ConnectionState())
	if err != nil {
		return nil, identity.ID{}, telemetry.Fail(telemetry.PeerIdentity, "", err)
	}
	return conn, peer, nil
}

// tunnel serves one CONNECT request: one connection of one application to ours.
func (pd *pod) tunnel(ctx context.Context, in *hbone.Incoming, peer identity.ID, src, local netip.AddrPort) {
	info := pd.inboundInfo(pd.proxy.State.Current(), src, local)
	info.SourceID, info.DestID, info.MutualTLS, info.HBONEAddr = peer, pd.id, true, clip(in.Authority())
	answer := func(err error) { _ = in.Reject(route.Status(err), refusalFields(err)...) } // the peer may be gone, which is no news to it
	refuse := func(err error) {
		pd.proxy.Recorder.Refused(info, err)
		answer(err)
	}
	if in.Method() != "CONNECT" {
		refuse(telemetry.Fail(telemetry.BadMethod, "method "+clip(in.Method())+", want CONNECT", nil))
		return
	}
	s, w, err := pd.destination(ctx, local.Addr())
	if err != nil {
		refuse(err)
		return
	}
	pd.identifySource(&info, s, peer, in)
	d, err := route.Inbound(s, route.InboundRequest{
		Authority: in.Authority(), Local: local.Addr(), Workload: w, Network: pd.proxy.cfg.Network,
		ForwardedHost: forwardedHost(in), LoopbackTunnel: !pd.proxy.cfg.AppTunnelByAddress, PreferredNamespace: pd.proxy.cfg.PreferredNamespace,
	})
	if err != nil {
		refuse(err)
		return
	}
	if err := pd.admits(d); err != nil {
		refuse(err)
		return
	}
	client, err := pd.originalClient(w, in, peer)
	if err != nil {
		refuse(err)
		return
	}
	info.Dst, info.Destination, info.Service = d.Addr, w, d.Service
	info.ClientID, info.ClientIP = client.id, client.ip
	pd.deliver(ctx, info, d, authz.Connection{
		Source: peer, SourceIP: src.Addr(), DestIP: d.Policy.Addr(), DestPort: d.Policy.Port(), Client: client.id, ClientIP: client.ip,
	}, delivery{
		protocol: "HBONE", refuse: answer, client: src,
		accept: func() (hbone.Duplex, error) { return in.Accept(200, pd.responseHeaders(w)...) },
	})
}

// plaintext serves a connection that reached the pod outside the mesh.
func (pd *pod) plaintext(ctx context.Context, c *net.TCPConn) {
	defer c.Close()
	pd.keepalive(c)
	src := addrPort(c.RemoteAddr())
	dst, err := originalDst(c)
	info := pd.inboundInfo(pd.proxy.State.Current(), src, dst)
	refuse := func(err error) {
		pd.proxy.Recorder.Refused(info, err)
		abort(c)
	}
	if err != nil {
		refuse(telemetry.Fail(telemetry.Internal, "", err))
		return
	}
	s, w, err := pd.destination(ctx, dst.Addr())
	if err != nil {
		refuse(err)
		return
	}
	d, err := route.InboundPlaintext(s, w, dst)
	if err != nil {
		refuse(err)
		return
	}
	info.Source, info.Destination, info.Service = s.WorkloadAt(state.NetAddr{Network: pd.proxy.cfg.Network, Addr: src.Addr()}), w, d.Service
	pd.deliver(ctx, info, d, authz.Connection{SourceIP: src.Addr(), DestIP: d.Policy.Addr(), DestPort: d.Policy.Port()}, delivery{
		protocol: "TCP", refuse: func(error) { abort(c) }, client: src,
		accept: func() (hbone.Duplex, error) { return c, nil },
	})
}

// delivery is what the ways into a pod differ in.
type delivery struct {
	protocol string
	// client is who the application is told is calling.
	client netip.AddrPort
	// refuse tells the client that it gets no connection, and why as far as the protocol has words for it.
	refuse func(error)
	// accept gives the other side, once the application is connected.
	accept func() (hbone.Duplex, error)
}

// deliver is the common end of every way into the pod: ask policy, connect to the application, carry the bytes, and keep
// asking policy while the connection is open.
func (pd *pod) deliver(ctx context.Context, info telemetry.ConnInfo, d route.InboundDecision, check authz.Connection, way delivery) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn := &connection{
		inbound: true, src: info.Src, original: d.Target, actual: d.Addr, protocol: way.protocol, check: check, cancel: cancel,
	}
	// Registered before policy is asked: a policy that changes in between finds the connection, or is already in the
	// snapshot we ask.
	defer pd.conns.add(conn)()
	if err := pd.authorize(info, check); err != nil {
		pd.proxy.Recorder.Failed(info, err)
		way.refuse(err)
		return
	}
	app, err := pd.dialDelivered(ctx, d, way.client, check.Source)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		pd.proxy.Recorder.Failed(info, err)
		way.refuse(err)
		return
	}
	peer, err := way.accept()
	if err != nil {
		abort(app)
		pd.proxy.Recorder.Failed(info, telemetry.Fail(telemetry.TransportLost, "", err))
		return
	}
	tracked := pd.proxy.Recorder.Open(info)
	_, err = relay.Copy(ctx, peer, app, relay.Options{
		OnAtoB: func(n int) { tracked.AddRequest(int64(n)) },
		OnBtoA: func(n int) { tracked.AddResponse(int64(n)) },
	})
	tracked.Close(relayError(err))
}

// authorize asks the policies as they are now.
func (pd *pod) authorize(info telemetry.ConnInfo, check authz.Connection) error {
	s := pd.proxy.State.Current()
	w := pd.described(s)
	if w == nil {
		w = info.Destination
	}
	v := authz.Check(s, w, check)
	for _, m := range v.DryRun {
		pd.log.Info("dry run: policy matches", "policy", m.Policy, "deny", m.Deny, "src", info.Src.String(), "identity", check.Source.String(), "dst", info.Dst.String())
	}
	if pd.proxy.cfg.LogPolicy && v.Policy != "" {
		pd.log.Info("policy decided", "policy", v.Policy, "allow", v.Allow, "src", info.Src.String(), "identity", check.Source.String(), "dst", info.Dst.String())
	}
	if !v.Allow {
		return v.Error()
	}
	p := authz.Guard(w.Guards, check.Source, check.DestPort)
	pd.bypassed(p, info)
	return p.Error()
}

// bypassed accounts for a connection that went around a waypoint, whether or not it is let through.
func (pd *pod) bypassed(p authz.Passage, info telemetry.ConnInfo) {
	if p.Guard == nil {
		return
	}
	pd.proxy.Recorder.Bypassed(p.Guard.Gateway, p.Guard.Service, p.Open)
	if p.Open {
		pd.proxy.Recorder.Tolerated(info, p.String())
	}
}

// revised is the reason to cut a connection that was allowed when it opened, nil while it still is.
func revised(s *state.Snapshot, dst *state.Workload, check authz.Connection) error {
	const text = "policy changed while the connection was open"
	if v := authz.Check(s, dst, check); !v.Allow {
		return telemetry.Fail(telemetry.PolicyChanged, text, v.Error())
	}
	if p := authz.Guard(dst.Guards, check.Source, check.DestPort); p.Error() != nil {
		return telemetry.Fail(telemetry.WaypointRequired, text, p.Error())
	}
	return nil
}

// dialDelivered connects to where the decision points inside the pod.
func (pd *pod) dialDelivered(ctx context.Context, d route.InboundDecision, client netip.AddrPort, source identity.ID) (*net.TCPConn, error) {
	if !d.ProxyProtocol {
		return pd.dialApp(ctx, pd.source(client.Addr()), d.Addr)
	}
	from := client.Addr()
	if d.Loopback {
		from = netip.Addr{}
	}
	c, err := pd.dialApp(ctx, from, d.Addr)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write(proxyHeader(client, d.Target, source)); err != nil {
		c.Close()
		return nil, connectError(d.Addr, err)
	}
	return c, nil
}

// inboundInfo is what is known of any connection that reaches the pod.
func (pd *pod) inboundInfo(s *state.Snapshot, src, dst netip.AddrPort) telemetry.ConnInfo {
	return telemetry.ConnInfo{Direction: telemetry.Inbound, Src: src, Dst: dst, Destination: pd.self(s, dst.Addr()), Since: time.Now()}
}

// identifySource finds the workload at the other end of a tunnel. The identity is proven, the address is not: an address
// that moved on to another pod says nothing, and then what the peer says of itself in baggage is the better guess.
func (pd *pod) identifySource(info *telemetry.ConnInfo, s *state.Snapshot, peer identity.ID, in *hbone.Incoming) {
	from := in.Header(headers.ForwardedNetwork)
	if from == "" || from == pd.proxy.cfg.Network {
		w := s.WorkloadAt(state.NetAddr{Network: pd.proxy.cfg.Network, Addr: info.Src.Addr()})
		if w != nil && w.Identity() == peer {
			info.Source = w
			return
		}
	}
	info.Peer = peerOf(in, peer)
}
