package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// connectTimeout bounds the TCP connect, and again the TLS handshake. Istio ambient wire contract, HBONE.
const connectTimeout = 10 * time.Second

// dial connects from inside the pod, exempt from redirection.
func (pd *pod) dial(ctx context.Context, dst netip.AddrPort) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	c, err := pd.netns.Dial(ctx, "tcp", netip.AddrPort{}, dst, sockopts(marked(pd.proxy.cfg.Mark)))
	if err != nil {
		return nil, connectError(dst, err)
	}
	tcp := c.(*net.TCPConn)
	pd.keepalive(tcp)
	return tcp, nil
}

// dialTunnel makes the connection under a pool key: TCP from inside the pod, then mutual TLS as the pod.
func (pd *pod) dialTunnel(ctx context.Context, key hbone.Key) (net.Conn, error) {
	svid, err := pd.proxy.Certificates.Get(ctx, pd.id)
	if err != nil {
		return nil, telemetry.Fail(telemetry.NoCertificate, fmt.Sprintf("no certificate for %s", pd.id), err)
	}
	accept, err := parseAccept(key.Accept)
	if err != nil {
		return nil, telemetry.Fail(telemetry.Internal, "pool key", err)
	}
	tcp, err := pd.dial(ctx, key.Addr)
	if err != nil {
		return nil, tunnelDialError(err)
	}
	conn := tls.Client(hbone.NewWire(tcp), pd.proxy.cfg.TLS.ClientConfig(svid, accept))
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		tcp.Close()
		return nil, handshakeError(key.Addr.String(), err)
	}
	return conn, nil
}

// dialApp connects to the application of this pod, from the client's own address if that is wanted.
func (pd *pod) dialApp(ctx context.Context, client netip.Addr, dst netip.AddrPort) (*net.TCPConn, error) {
	if !pd.proxy.cfg.OriginalSource || !client.IsValid() || client.IsLoopback() || client.Is4() != dst.Addr().Is4() {
		return pd.dial(ctx, dst)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	opts := sockopts(marked(pd.proxy.cfg.Mark), transparent, reuseAddr)
	var lastErr error
	for range sourcePortTries {
		from := netip.AddrPortFrom(client, sourcePort())
		c, err := pd.netns.Dial(ctx, "tcp", from, dst, opts)
		if err == nil {
			tcp := c.(*net.TCPConn)
			pd.keepalive(tcp)
			return tcp, nil
		}
		lastErr = err
		if !errors.Is(err, unix.EADDRINUSE) && !errors.Is(err, unix.EADDRNOTAVAIL) {
			break
		}
	}
	return nil, connectError(dst, lastErr)
}

// The source port of a connection to the application is chosen outside the range from which clients choose theirs (from
// 32768 up, unless they were told otherwise): with the client's address on it, an equal port would be the very 4-tuple of
// a connection that the client made in plaintext, and conntrack would mix up the two.
const (
	firstSourcePort = 16384
	lastSourcePort  = 32767
	sourcePortTries = 16
)

func sourcePort() uint16 { return uint16(firstSourcePort + rand.N(lastSourcePort-firstSourcePort+1)) }

// keepalive lets TCP notice peers that went away without a word.
func (pd *pod) keepalive(c *net.TCPConn) {
	k := pd.proxy.cfg.Keepalive
	if k.Idle == 0 {
		return
	}
	// Fails only on a connection that is already gone, which the next read will say.
	_ = c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: k.Idle, Interval: k.Interval, Count: k.Count})
}

// connectError finds the reason of a failed connect.
func connectError(dst netip.AddrPort, err error) error {
	var ne net.Error
	reason := telemetry.ConnectFailed
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		reason = telemetry.ConnectRefused
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		reason = telemetry.ConnectTimeout
	}
	return telemetry.Fail(reason, "connect to "+dst.String(), err)
}

// tunnelDialError: port 15008 of a mesh pod is always listened on, so silence points at something on the way.
func tunnelDialError(err error) error {
	if telemetry.ReasonOf(err) == telemetry.ConnectTimeout {
		return telemetry.Fail(telemetry.PortBlocked, "port 15008 did not answer (a NetworkPolicy may block it)", err)
	}
	return err
}

func handshakeError(peer string, err error) error {
	reason := telemetry.TLSFailed
	switch {
	case errors.Is(err, certs.ErrRevoked):
		reason = telemetry.CertificateRevoked
	case errors.Is(err, certs.ErrIdentity):
		reason = telemetry.PeerIdentity
	}
	return telemetry.Fail(reason, "TLS handshake with "+peer, err)
}
