package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/ambit-mesh/ambit/api/auth"
	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/ca/catest"
	"github.com/ambit-mesh/ambit/ca/certs"
)

// authority answers the agent's requests for certificates. It asks nobody who they are: it is alone with the agent.
type authority struct {
	auth.UnimplementedIstioCertificateServiceServer
	ca *catest.CA
}

// CreateCertificate implements the service of Istio's authority.
func (a authority) CreateCertificate(_ context.Context, r *auth.IstioCertificateRequest) (*auth.IstioCertificateResponse, error) {
	block, _ := pem.Decode([]byte(r.GetCsr()))
	if block == nil {
		return nil, errors.New("no PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	names := &x509.Certificate{URIs: []*url.URL{{Scheme: "spiffe", Host: mesh.DefaultTrustDomain, Path: "/ns/" + namespace + "/sa/" + gatewayName}}}
	return &auth.IstioCertificateResponse{CertChain: a.ca.Issue(csr.PublicKey, names)}, nil
}

func serveAuthority(ca *catest.CA) (addr string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	g := grpc.NewServer()
	auth.RegisterIstioCertificateServiceServer(g, authority{ca: ca})
	go g.Serve(l) // ends with Stop
	return l.Addr().String(), g.Stop, nil
}

// nodes are the node proxies of all pods at once, and the pods: whatever a tunnel asks for is answered here, with the
// address it asked for. Its certificate is that of the pod that was spoken to.
type nodes struct {
	ca *catest.CA

	mu    sync.Mutex
	svids map[int]*certs.SVID // by service
}

func serveNodes(ca *catest.CA) (stop func(), err error) {
	n := &nodes{ca: ca, svids: map[int]*certs.SVID{}}
	l, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", nodesPort))
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, GetConfigForClient: n.config,
	}
	go func() { // ends with the listener; what it accepted ends with the process
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				secure := tls.Server(c, config)
				if err := secure.Handshake(); err != nil {
					c.Close()
					return
				}
				(&http2.Server{MaxConcurrentStreams: 1000}).ServeConn(secure, &http2.ServeConnOpts{Handler: http.HandlerFunc(tunnel)})
			}()
		}
	}()
	return func() { l.Close() }, nil
}

func (n *nodes) config(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	s, err := spokenTo(hello.Conn.(*net.TCPConn))
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	svid := n.svids[s]
	if svid == nil {
		svid = n.ca.MustSVID(fmt.Sprintf("spiffe://%s/ns/%s/sa/app-%d", mesh.DefaultTrustDomain, namespace, s))
		n.svids[s] = svid
	}
	return &tls.Config{
		Certificates: []tls.Certificate{svid.TLS}, ClientCAs: svid.Roots, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
	}, nil
}

// spokenTo is the service whose pod a connection was opened to, before it was redirected here.
func spokenTo(c *net.TCPConn) (s int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(fd uintptr) {
		// The answer is a sockaddr_in of 16 bytes; this wrapper has room for it.
		var at *unix.IPv6Mreq
		if at, err = unix.GetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IP, unix.SO_ORIGINAL_DST); err == nil {
			s = serviceOf(at.Multiaddr[4:8])
		}
	})
	return s, errors.Join(cerr, err)
}

// tunnel is one connection of an application: HTTP/1.1, answered with the address that was asked for.
func tunnel(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	if out.Flush() != nil {
		return
	}
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nx-pod: %s\r\ncontent-length: 2\r\n\r\nok", r.Host)
	in := newHeads(r.Body)
	for in.next() == nil {
		if _, err := w.Write(answer); err != nil || out.Flush() != nil {
			return
		}
	}
}

// caller is the client's node proxy: one connection to the waypoint, one tunnel for each connection of the application.
type caller struct {
	config *tls.Config
	at     string
	mu     sync.Mutex
	conn   *http2.ClientConn
}

func newCaller(ca *catest.CA, at string) *caller {
	svid := ca.MustSVID(clientID)
	return &caller{at: at, config: &tls.Config{
		Certificates: []tls.Certificate{svid.TLS}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		InsecureSkipVerify: true, // whom it speaks to is not what is measured
	}}
}

func (c *caller) connect(ctx context.Context) (*http2.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil && c.conn.CanTakeNewRequest() {
		return c.conn, nil
	}
	d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 1, 1, 1)}}
	raw, err := d.DialContext(ctx, "tcp", c.at)
	if err != nil {
		return nil, err
	}
	secure := tls.Client(raw, c.config)
	if err := secure.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	if c.conn, err = (&http2.Transport{}).NewClientConn(secure); err != nil {
		raw.Close()
	}
	return c.conn, err
}

// dial opens a tunnel to an address.
func (c *caller) dial(ctx context.Context, to string) (io.ReadWriteCloser, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	req, err := http.NewRequest(http.MethodConnect, "https://"+to, r)
	if err != nil {
		return nil, err
	}
	resp, err := conn.RoundTrip(req)
	if err != nil {
		w.Close()
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		w.Close()
		resp.Body.Close()
		return nil, fmt.Errorf("CONNECT answered %d", resp.StatusCode)
	}
	return &tunnelled{resp.Body, w}, nil
}

type tunnelled struct {
	io.ReadCloser
	w *io.PipeWriter
}

func (t *tunnelled) Write(b []byte) (int, error) { return t.w.Write(b) }
func (t *tunnelled) Close() error                { return errors.Join(t.w.Close(), t.ReadCloser.Close()) }
