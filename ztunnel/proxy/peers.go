package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"slices"
	"sync"

	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// peers are the tunnel connections other proxies have open to a pod.
type peers struct {
	mu   sync.Mutex
	open map[*peerConn]struct{} // guarded by mu
}

// peerConn is one of them: what the peer proved itself with, and how to end it.
type peerConn struct {
	chain  []*x509.Certificate
	cancel context.CancelCauseFunc
}

// add keeps a connection until the returned function is called.
func (p *peers) add(c *peerConn) (remove func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		p.open = map[*peerConn]struct{}{}
	}
	p.open[c] = struct{}{}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.open, c)
	}
}

// revoke ends the connections of peers one of whose certificates is revoked.
func (p *peers) revoke(revoked func(*x509.Certificate) bool, count func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		if slices.ContainsFunc(c.chain, revoked) {
			count()
			c.cancel(telemetry.Fail(telemetry.CertificateRevoked, "", nil))
		}
	}
}

// unrevoked is an error, and counted, if the other end of a tunnel we dialed has a revoked certificate.
func (pd *pod) unrevoked(c net.Conn, list func(*x509.Certificate) bool) error {
	conn, ok := c.(*tls.Conn)
	if !ok || !anyRevoked(conn.ConnectionState().PeerCertificates, list) {
		return nil
	}
	pd.proxy.Recorder.CRLRejections.Inc()
	return telemetry.Fail(telemetry.CertificateRevoked, "", nil)
}

// anyRevoked reports whether a chain has a certificate that is on the list by now; without a list, none is.
func anyRevoked(chain []*x509.Certificate, list func(*x509.Certificate) bool) bool {
	return list != nil && slices.ContainsFunc(chain, list)
}
