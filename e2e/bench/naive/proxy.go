package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/client"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/inpod"
)

// node is all pods of a node.
type node struct {
	certs *client.Manager
	log   *slog.Logger

	mu   sync.Mutex
	pods map[string]*pod
}

// pod is the proxy of one pod.
type pod struct {
	netns   *inpod.Netns
	id      identity.ID
	certs   *client.Manager
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	tunnels map[netip.Addr]*http2.ClientConn
}

// Start implements inpod.Pods.
func (n *node) Start(ctx context.Context, p inpod.Pod) error {
	pd := &pod{
		netns: p.Netns, certs: n.certs, tunnels: map[netip.Addr]*http2.ClientConn{},
		id: identity.ID{TrustDomain: mesh.DefaultTrustDomain, Namespace: p.Info.Namespace, ServiceAccount: p.Info.ServiceAccount},
	}
	pd.ctx, pd.cancel = context.WithCancel(context.WithoutCancel(ctx))
	handlers := map[uint16]func(*net.TCPConn){
		mesh.PortOutbound: pd.outbound, mesh.PortInboundPlaintext: pd.plaintext, mesh.PortHBONE: pd.inbound,
	}
	for port, handle := range handlers {
		ln, err := pd.netns.Listen(ctx, "tcp", netip.AddrPortFrom(netip.IPv4Unspecified(), port), marked)
		if err != nil {
			pd.cancel()
			pd.running.Wait()
			return err
		}
		pd.running.Go(func() {
			defer context.AfterFunc(pd.ctx, func() { ln.Close() })()
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				pd.running.Go(func() { handle(c.(*net.TCPConn)) })
			}
		})
	}
	n.mu.Lock()
	n.pods[p.UID] = pd
	n.mu.Unlock()
	return nil
}

// Stop implements inpod.Pods.
func (n *node) Stop(uid string) {
	n.mu.Lock()
	pd := n.pods[uid]
	delete(n.pods, uid)
	n.mu.Unlock()
	pd.stop()
}

func (n *node) stopAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, pd := range n.pods {
		pd.stop()
	}
}

// stop ends the listeners; connections end with the process or their peers.
func (pd *pod) stop() { pd.cancel() }

func marked(_, _ string, c syscall.RawConn) error {
	var err error
	cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mesh.MarkProxy)
	})
	return errors.Join(cerr, err)
}

// originalDst is where the application meant to go. The bench is IPv4.
func originalDst(c *net.TCPConn) (netip.AddrPort, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var sa unix.RawSockaddrInet4
	size := uint32(unsafe.Sizeof(sa))
	cerr := raw.Control(func(fd uintptr) {
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_IP, unix.SO_ORIGINAL_DST,
			uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 {
			err = errno
		}
	})
	port := (*[2]byte)(unsafe.Pointer(&sa.Port))
	return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(port[0])<<8|uint16(port[1])), errors.Join(cerr, err)
}

func (pd *pod) dial(dst netip.AddrPort) (net.Conn, error) {
	return pd.netns.Dial(pd.ctx, "tcp", netip.AddrPort{}, dst, marked)
}

// outbound carries one connection of the application through a tunnel.
func (pd *pod) outbound(c *net.TCPConn) {
	defer c.Close()
	dst, err := originalDst(c)
	if err != nil {
		return
	}
	tunnel, err := pd.tunnel(dst.Addr())
	if err != nil {
		return
	}
	res, err := tunnel.RoundTrip(&http.Request{
		Method: http.MethodConnect, URL: &url.URL{Host: dst.String()}, Host: dst.String(), Body: io.NopCloser(c),
	})
	if err != nil {
		return
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusOK {
		io.Copy(struct{ io.Writer }{c}, res.Body)
	}
}

// tunnel returns a connection to a peer that has room for a stream.
func (pd *pod) tunnel(peer netip.Addr) (*http2.ClientConn, error) {
	pd.mu.Lock()
	defer pd.mu.Unlock()
	if cc := pd.tunnels[peer]; cc != nil && cc.CanTakeNewRequest() {
		return cc, nil
	}
	svid, err := pd.certs.Get(pd.ctx, pd.id)
	if err != nil {
		return nil, err
	}
	c, err := pd.dial(netip.AddrPortFrom(peer, mesh.PortHBONE))
	if err != nil {
		return nil, err
	}
	conn := tls.Client(c, &tls.Config{
		Certificates: []tls.Certificate{svid.TLS}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		InsecureSkipVerify: true, VerifyConnection: trusts(svid),
	})
	if err := conn.HandshakeContext(pd.ctx); err != nil {
		c.Close()
		return nil, err
	}
	cc, err := (&http2.Transport{MaxReadFrameSize: 1 << 20}).NewClientConn(conn)
	if err != nil {
		return nil, err
	}
	pd.tunnels[peer] = cc
	return cc, nil
}

func trusts(svid *certs.SVID) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return errors.New("no peer certificate")
		}
		between := x509.NewCertPool()
		for _, c := range cs.PeerCertificates[1:] {
			between.AddCert(c)
		}
		_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{
			Roots: svid.Roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		return err
	}
}

// inbound serves the tunnels of one peer.
func (pd *pod) inbound(c *net.TCPConn) {
	defer c.Close()
	svid, err := pd.certs.Get(pd.ctx, pd.id)
	if err != nil {
		return
	}
	conn := tls.Server(c, &tls.Config{
		Certificates: []tls.Certificate{svid.TLS}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		ClientAuth: tls.RequireAnyClientCert, VerifyConnection: trusts(svid), SessionTicketsDisabled: true,
	})
	if err := conn.HandshakeContext(pd.ctx); err != nil {
		return
	}
	srv := &http2.Server{
		MaxConcurrentStreams: 200, MaxReadFrameSize: 1 << 20,
		MaxUploadBufferPerConnection: 16 << 20, MaxUploadBufferPerStream: 4 << 20,
	}
	srv.ServeConn(conn, &http2.ServeConnOpts{BaseConfig: &http.Server{}, Handler: http.HandlerFunc(pd.connect)})
}

func (pd *pod) connect(w http.ResponseWriter, r *http.Request) {
	dst, err := netip.ParseAddrPort(r.Host)
	if r.Method != http.MethodConnect || err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	up, err := pd.dial(dst)
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer up.Close()
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	var request sync.WaitGroup
	request.Go(func() {
		io.Copy(struct{ io.Writer }{up}, r.Body)
		up.(*net.TCPConn).CloseWrite()
	})
	io.Copy(flushed{w}, up)
	r.Body.Close()
	request.Wait()
}

// flushed sends each piece at once, as a tunnel has to.
type flushed struct{ http.ResponseWriter }

func (f flushed) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	f.ResponseWriter.(http.Flusher).Flush()
	return n, err
}

// plaintext passes on what did not come through a tunnel.
func (pd *pod) plaintext(c *net.TCPConn) {
	defer c.Close()
	dst, err := originalDst(c)
	if err != nil {
		return
	}
	up, err := pd.dial(dst)
	if err != nil {
		fmt.Println("plaintext to", dst, err)
		return
	}
	defer up.Close()
	var request sync.WaitGroup
	request.Go(func() {
		io.Copy(up, c)
		up.(*net.TCPConn).CloseWrite()
	})
	io.Copy(c, up)
	c.CloseWrite()
	request.Wait()
}
