package envoytest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/ambit-mesh/ambit/ca/catest"
	"github.com/ambit-mesh/ambit/ca/certs"
)

// Peer speaks HBONE to a proxy, as the node proxy of a client does: one connection with mTLS and HTTP/2, one CONNECT for
// each connection of the application.
type Peer struct {
	// Header goes with every CONNECT.
	Header http.Header

	config *tls.Config
	proxy  string
	local  net.Addr

	mu   sync.Mutex
	conn *http2.ClientConn
}

// Peer is a client with a certificate of the mesh for id.
func (p *Proxy) Peer(id string) *Peer { return p.PeerOf(p.CA, id) }

// PeerOf is a client with a certificate of another authority.
func (p *Proxy) PeerOf(ca *catest.CA, id string) *Peer { return p.PeerWith(ca.MustSVID(id)) }

// PeerWith is a client with this certificate, which trusts the mesh's roots of now.
func (p *Proxy) PeerWith(svid *certs.SVID) *Peer {
	roots := p.CA.MustSVID(Identity).Roots
	return p.peer(&tls.Config{
		Certificates: []tls.Certificate{svid.TLS}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		InsecureSkipVerify: true, // there is no name to verify; the identity is, below
		VerifyConnection:   verify(roots, Identity),
	})
}

// Stranger is a client without a certificate.
func (p *Proxy) Stranger() *Peer {
	return p.peer(&tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, InsecureSkipVerify: true})
}

func (p *Proxy) peer(config *tls.Config) *Peer {
	c := &Peer{config: config, proxy: fmt.Sprintf("127.0.0.1:%d", p.Options.HBONEPort), Header: http.Header{}}
	p.t.Cleanup(c.Close)
	return c
}

// From makes the peer's connections come from an address of loopback.
func (c *Peer) From(ip string) *Peer {
	c.local = &net.TCPAddr{IP: net.ParseIP(ip)}
	return c
}

// Close ends the peer's connection.
func (c *Peer) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

func (c *Peer) connect(ctx context.Context) (*http2.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil && c.conn.CanTakeNewRequest() {
		return c.conn, nil
	}
	raw, err := (&net.Dialer{LocalAddr: c.local, Timeout: patience}).DialContext(ctx, "tcp", c.proxy)
	if err != nil {
		return nil, err
	}
	secure := tls.Client(raw, c.config)
	if err := secure.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	conn, err := (&http2.Transport{}).NewClientConn(secure)
	if err != nil {
		raw.Close()
		return nil, err
	}
	c.conn = conn
	return conn, nil
}

// StatusError is the answer to a CONNECT that was not accepted.
type StatusError int

func (s StatusError) Error() string { return fmt.Sprintf("CONNECT answered %d", int(s)) }

// Dial opens one connection through the proxy.
func (c *Peer) Dial(ctx context.Context, authority string) (net.Conn, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	// The stream outlives the call; it ends with the connection.
	req, err := http.NewRequest(http.MethodConnect, "https://"+authority, r)
	if err != nil {
		return nil, err
	}
	for k, v := range c.Header {
		req.Header[k] = v
	}
	resp, err := conn.RoundTrip(req)
	if err != nil {
		w.Close()
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		w.Close()
		resp.Body.Close()
		return nil, StatusError(resp.StatusCode)
	}
	return &stream{r: resp.Body, w: w}, nil
}

// Client is an HTTP client all of whose connections go to authority through the proxy.
func (c *Peer) Client(authority string) *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		MaxIdleConnsPerHost: 8,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return c.Dial(ctx, authority)
		},
	}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// Client2 is Client with HTTP/2 that both sides know of beforehand.
func (c *Peer) Client2(authority string) *http.Client {
	return &http.Client{Timeout: patience, Transport: &http2.Transport{
		AllowHTTP: true,
		DialTLSContext: func(ctx context.Context, _, _ string, _ *tls.Config) (net.Conn, error) {
			return c.Dial(ctx, authority)
		},
	}}
}

// stream is a CONNECT stream as a connection.
type stream struct {
	r io.ReadCloser
	w *io.PipeWriter
}

func (s *stream) Read(b []byte) (int, error)  { return s.r.Read(b) }
func (s *stream) Write(b []byte) (int, error) { return s.w.Write(b) }
func (s *stream) Close() error                { return errors.Join(s.w.Close(), s.r.Close()) }

// CloseWrite ends the sending half.
func (s *stream) CloseWrite() error { return s.w.Close() }

func (*stream) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*stream) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (*stream) SetDeadline(time.Time) error      { return nil }
func (*stream) SetReadDeadline(time.Time) error  { return nil }
func (*stream) SetWriteDeadline(time.Time) error { return nil }

var _ testing.TB // the package is for tests
