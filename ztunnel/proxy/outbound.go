package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/ambit-mesh/ambit/ztunnel/relay"
	"github.com/ambit-mesh/ambit/ztunnel/route"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// Tries of one outbound connection: when an endpoint cannot be reached, no byte of the application has gone anywhere yet,
// and the service may have another one. retryWithin keeps slow failures from adding up.
const (
	maxTries    = 3
	retryWithin = 5 * time.Second
)

// outbound serves a connection the pod's application makes.
func (pd *pod) outbound(ctx context.Context, c *net.TCPConn) {
	defer c.Close()
	pd.keepalive(c)
	src := addrPort(c.RemoteAddr())
	dst, err := originalDst(c)
	if err != nil {
		pd.proxy.Recorder.Refused(telemetry.ConnInfo{Src: src, Source: pd.self(pd.proxy.State.Current(), src.Addr())},
			telemetry.Fail(telemetry.Internal, "", err))
		abort(c)
		return
	}
	pd.carry(ctx, c, src, dst, func(error) error { return nil })
}

// carry takes a connection of the pod's application where it is to go. answer is told whether there is a way before anything
// is copied; it is for protocols in which the application waits for that.
func (pd *pod) carry(ctx context.Context, c *net.TCPConn, src, dst netip.AddrPort, answer func(error) error) {
	up, d, info, err := pd.reach(ctx, src, dst)
	if err != nil {
		// Without a decision there is no more to say than that it failed; with one, it is a connection like any other.
		if d.Addr.IsValid() {
			pd.proxy.Recorder.Failed(info, err)
		} else {
			pd.proxy.Recorder.Refused(info, err)
		}
		if answer(err) != nil {
			return
		}
		abort(c)
		return
	}
	if err := answer(nil); err != nil {
		up.Close()
		up.close(err)
		pd.proxy.Recorder.Failed(info, telemetry.Fail(telemetry.PeerReset, "", err))
		return
	}
	conn := &connection{src: src, original: dst, actual: d.Addr, protocol: protocol(d)}
	defer pd.conns.add(conn)()
	tracked := pd.proxy.Recorder.Open(info)
	_, err = relay.Copy(up.ctx, c, up.Duplex, relay.Options{
		OnAtoB: func(n int) { tracked.AddRequest(int64(n)); up.request(n) },
		OnBtoA: func(n int) { tracked.AddResponse(int64(n)); up.response(n) },
	})
	err = relayError(err)
	tracked.Close(err)
	up.close(err)
}

func protocol(d route.Decision) string {
	if d.Kind == route.HBONE {
		return "HBONE"
	}
	return "TCP"
}

// reach decides where a connection goes and opens the way there. Whatever happens, info describes the last try.
func (pd *pod) reach(ctx context.Context, src, dst netip.AddrPort) (*way, route.Decision, telemetry.ConnInfo, error) {
	info := telemetry.ConnInfo{Direction: telemetry.Outbound, Src: src, Dst: dst, Since: time.Now()}
	if err := pd.synced(ctx, telemetry.UnknownSource, "nothing is known about any destination"); err != nil {
		info.Source = pd.self(pd.proxy.State.Current(), src.Addr())
		return nil, route.Decision{}, info, err
	}
	if err := pd.demand(ctx, dst.Addr(), true); err != nil {
		info.Source = pd.self(pd.proxy.State.Current(), src.Addr())
		return nil, route.Decision{}, info, err
	}
	began := time.Now()
	var avoid []string
	var lastErr error
	for try := 1; ; try++ {
		s := pd.proxy.State.Current()
		req := route.Request{
			Source: pd.self(s, src.Addr()), SourceAddr: src.Addr(), Dst: dst, Network: pd.proxy.cfg.Network,
			PreferredNamespace: pd.proxy.cfg.PreferredNamespace, Avoid: avoid,
		}
		info.Source = req.Source
		d, err := pd.decide(ctx, s, req)
		if err != nil {
			pd.bypassed(d.Bypass, info)
			// That no other endpoint is left is less telling than what was wrong with those there were.
			return nil, d, info, cmp.Or(lastErr, err)
		}
		pd.describe(&info, d)
		up, err := pd.open(ctx, s, req.Source, d, src)
		if err == nil {
			// Handed over inside the process: no TLS was spoken, and the record says so.
			info.MutualTLS = info.MutualTLS && up.arrival == nil
			pd.bypassed(d.Bypass, info)
			return up, d, info, nil
		}
		again := d.Workload != nil && (d.Service != nil || d.Waypoint) && elsewhere(err)
		if !again || try == maxTries || time.Since(began) > retryWithin || ctx.Err() != nil {
			return nil, d, info, err
		}
		avoid, lastErr = append(avoid, d.Workload.UID), err
	}
}

// synced waits for the first complete answer of the control plane: before it everything would look unknown, and what is
// unknown goes out in plaintext and is kept out by no policy.
func (pd *pod) synced(ctx context.Context, reason telemetry.Reason, so string) error {
	select {
	case <-pd.proxy.Synced:
		return nil
	default:
	}
	t := time.NewTimer(workloadWait)
	defer t.Stop()
	select {
	case <-pd.proxy.Synced:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return telemetry.Fail(reason, "no answer from the control plane yet, so "+so, nil)
	}
}

// demand waits until the control plane has said what an address is, and what is in front of it if that matters. Where
// everything is known anyway it does nothing.
func (pd *pod) demand(ctx context.Context, a netip.Addr, outbound bool) error {
	d := pd.proxy.Demand
	if d == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, workloadWait)
	defer cancel()
	at := state.NetAddr{Network: pd.proxy.cfg.Network, Addr: a}
	ask := d.Addr
	if outbound {
		ask = d.Outbound
	}
	if err := ask(ctx, at); err != nil {
		return telemetry.Fail(telemetry.UnknownDestination, "the control plane has not said what "+a.String()+" is", err)
	}
	return nil
}

func (pd *pod) decide(ctx context.Context, s *state.Snapshot, req route.Request) (route.Decision, error) {
	d, err := route.Outbound(s, req, nil)
	if err != nil || d.Resolve == "" {
		return d, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	pd.proxy.Recorder.OnDemandDNS.Inc()
	answers, err := pd.proxy.Resolver.Resolve(ctx, d.Resolve)
	if err != nil {
		return d, telemetry.Fail(telemetry.Unresolvable, "resolve "+d.Resolve, err)
	}
	return d.Resolved(answers, nil)
}

// describe fills in what a decision says about the other end.
func (pd *pod) describe(info *telemetry.ConnInfo, d route.Decision) {
	info.Dst, info.Destination, info.Service = d.Addr, d.Workload, d.Service
	info.HBONEAddr, info.MutualTLS = d.Authority, d.Kind == route.HBONE
	info.SourceID, info.DestID = identity.ID{}, identity.ID{}
	if info.MutualTLS {
		info.SourceID = pd.id
		if d.Workload != nil {
			info.DestID = d.Workload.Identity()
		}
	}
}

// open makes the way a decision describes.
func (pd *pod) open(ctx context.Context, s *state.Snapshot, self *state.Workload, d route.Decision, src netip.AddrPort) (*way, error) {
	if d.Kind != route.HBONE {
		c, err := pd.dial(ctx, d.Addr)
		if err != nil {
			return nil, err
		}
		return &way{Duplex: c, ctx: ctx}, nil
	}
	if pd.proxy.cfg.SameNode && !d.Waypoint {
		if to := pd.proxy.local(d.Workload); to != nil && slices.Contains(d.Accept, to.id) {
			return pd.handOver(ctx, s, d, to, src)
		}
	}
	open, cancel := context.WithTimeout(ctx, 2*connectTimeout)
	defer cancel()
	key := hbone.Key{Source: pd.id, Accept: joinAccept(d.Accept), Addr: d.Addr, SourceIP: src.Addr(), Dest: d.Workload.UID}
	stream, err := pd.pool.Open(open, key, d.Authority, pd.requestHeaders(self, d, src))
	if err != nil {
		return nil, tunnelError(d, err)
	}
	return &way{Duplex: stream, ctx: ctx}, nil
}

// tunnelError finds the reason a tunnel could not be opened.
func tunnelError(d route.Decision, err error) error {
	var status *hbone.StatusError
	var classified *telemetry.Error
	switch {
	case errors.As(err, &status) && status.Code == 401 && refusal(status) != "":
		return telemetry.Fail(telemetry.WaypointRequired, "the other mesh proxy refused the connection: "+refusal(status), nil)
	case errors.As(err, &status) && status.Code == 401:
		return telemetry.Fail(telemetry.PeerDenied, "", err)
	case errors.As(err, &status):
		return telemetry.Fail(telemetry.TunnelRefused, "", err)
	case errors.As(err, &classified):
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return telemetry.Fail(telemetry.ConnectTimeout, fmt.Sprintf("tunnel to %s", d.Addr), err)
	}
	return telemetry.Fail(telemetry.HandshakeFailed, fmt.Sprintf("tunnel to %s", d.Addr), err)
}

// refusal is what the peer says about having gone around a waypoint; empty when it refused for other reasons.
func refusal(err *hbone.StatusError) string {
	for _, h := range err.Headers {
		if h.Name == mesh.HeaderRefusal {
			text, _ := strings.CutPrefix(h.Value[:min(len(h.Value), maxRefusal)], telemetry.WaypointRequired.String()+": ")
			return text
		}
	}
	return ""
}

// elsewhere reports whether another endpoint may do better: the failure was this one's, and it was before any byte.
func elsewhere(err error) bool {
	switch telemetry.ReasonOf(err) {
	case telemetry.ConnectRefused, telemetry.ConnectFailed, telemetry.ConnectTimeout, telemetry.PortBlocked,
		telemetry.TLSFailed, telemetry.PeerIdentity, telemetry.HandshakeFailed, telemetry.TunnelRefused:
		return true
	}
	return false
}

// relayError finds the reason an open connection ended.
func relayError(err error) error {
	var classified *telemetry.Error
	var reset *hbone.ResetError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &classified):
		return classified
	case errors.As(err, &reset), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return telemetry.Fail(telemetry.PeerReset, "", err)
	}
	return telemetry.Fail(telemetry.TransportLost, "", err)
}
