package envoytest

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// Arrival is a CONNECT as it came to a Node.
type Arrival struct {
	// Peer is the SPIFFE id of who sent it.
	Peer      string
	Authority string
	Header    http.Header
}

// Node accepts HBONE at an address of loopback and relays to applications, as the node proxy of a server does.
type Node struct {
	arrivals record[Arrival]
	listener net.Listener
	done     sync.WaitGroup
	mu       sync.Mutex
	conns    map[net.Conn]bool
	tap      func(Arrival, []byte)
}

// Tap has fn called with what comes out of every tunnel from now on.
func (n *Node) Tap(fn func(Arrival, []byte)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tap = fn
}

// tapped is what a tunnel brings, with a look at it.
func (n *Node) tapped(a Arrival, r io.Reader) io.Reader {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.tap == nil {
		return r
	}
	fn := n.tap
	return io.TeeReader(r, writerFunc(func(b []byte) (int, error) {
		fn(a, b)
		return len(b), nil
	}))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// Arrivals are the CONNECTs so far.
func (n *Node) Arrivals() []Arrival { return n.arrivals.list() }

// Node starts one at an address with the certificate of id. It relays every CONNECT to the address it names, or where
// relay says.
func (p *Proxy) Node(ip, id string, relay ...func(authority string) string) *Node {
	return StartNode(p.t, p, fmt.Sprintf("%s:%d", ip, p.Options.PeerHBONEPort), id, relay...)
}

// StartNode is Proxy.Node at any address.
func StartNode(t testing.TB, p *Proxy, at, id string, relay ...func(authority string) string) *Node {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	svid := p.CA.MustSVID(id)
	config := &tls.Config{
		Certificates: []tls.Certificate{svid.TLS}, ClientCAs: svid.Roots, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
	}
	n := &Node{listener: l, conns: map[net.Conn]bool{}}
	to := func(authority string) string { return authority }
	if len(relay) > 0 {
		to = relay[0]
	}
	n.done.Go(func() { n.accept(config, to) })
	t.Cleanup(n.close)
	return n
}

func (n *Node) close() {
	n.listener.Close()
	n.mu.Lock()
	for c := range n.conns {
		c.Close()
	}
	n.mu.Unlock()
	n.done.Wait()
}

func (n *Node) accept(config *tls.Config, to func(string) string) {
	for {
		raw, err := n.listener.Accept()
		if err != nil {
			return
		}
		n.mu.Lock()
		n.conns[raw] = true
		n.mu.Unlock()
		n.done.Go(func() {
			defer func() {
				raw.Close()
				n.mu.Lock()
				delete(n.conns, raw)
				n.mu.Unlock()
			}()
			conn := tls.Server(raw, config)
			if conn.Handshake() != nil {
				return
			}
			peer := conn.ConnectionState().PeerCertificates[0].URIs[0].String()
			(&http2.Server{MaxConcurrentStreams: 1000}).ServeConn(conn, &http2.ServeConnOpts{
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { n.serve(w, r, peer, to) }),
			})
		})
	}
}

func (n *Node) serve(w http.ResponseWriter, r *http.Request, peer string, to func(string) string) {
	arrival := Arrival{Peer: peer, Authority: r.Host, Header: r.Header.Clone()}
	n.arrivals.add(arrival)
	if r.Method != http.MethodConnect {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	app, err := net.DialTimeout("tcp", to(r.Host), time.Second)
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer app.Close()
	w.WriteHeader(http.StatusOK)
	out := flusher{w, http.NewResponseController(w)}
	_ = out.Flush()
	var sending sync.WaitGroup
	sending.Go(func() {
		_, _ = io.Copy(app, n.tapped(arrival, r.Body))
		_ = app.(*net.TCPConn).CloseWrite()
	})
	_, _ = io.Copy(out, app)
	r.Body.Close()
	app.Close()
	sending.Wait()
}

type flusher struct {
	http.ResponseWriter
	*http.ResponseController
}

func (f flusher) Write(b []byte) (int, error) {
	n, err := f.ResponseWriter.Write(b)
	if err == nil {
		err = f.Flush()
	}
	return n, err
}

// verify checks a server's chain and that it is who it should be.
func verify(roots *x509.CertPool, id string) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errors.New("no certificate")
		}
		pool := x509.NewCertPool()
		for _, c := range s.PeerCertificates[1:] {
			pool.AddCert(c)
		}
		leaf := s.PeerCertificates[0]
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
			return err
		}
		if len(leaf.URIs) != 1 || leaf.URIs[0].String() != id {
			return fmt.Errorf("server is %v, not %s", leaf.URIs, id)
		}
		return nil
	}
}
