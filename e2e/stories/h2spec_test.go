package stories

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"

	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/client"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/e2e/conformance/h2spec"
	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
	"github.com/ambit-mesh/ambit/e2e/mesh"
)

// svid gets a certificate as the node proxy of a node does.
func (w *world) svid(node string, id identity.ID) *certs.SVID {
	w.Helper()
	n, _ := w.Node(node)
	ca := client.New(client.Config{
		Address: net.JoinHostPort(w.Control.Addresses[0], "15013"), ServerName: "ambit-ca.ambit-system.svc",
		RootCA: client.RootFile(filepath.Join(w.Dir, "mesh", "roots.pem")),
		Token:  client.TokenFile(filepath.Join(w.Dir, "mesh", "ztunnel-"+node+".token")),
		Self:   identity.ID{TrustDomain: "cluster.local", Namespace: "ambit-system", ServiceAccount: "ztunnel"},
		DialContext: func(_ context.Context, addr string) (c net.Conn, err error) {
			err = netspace.Do(n.Netns, func() (err error) { c, err = net.DialTimeout("tcp", addr, patience); return err })
			return c, err
		},
	})
	defer ca.Close()
	svid, err := ca.Sign(w.soon(), id)
	w.must(err)
	return svid
}

// TestH2spec runs the HTTP/2 conformance suite against port 15008 of a pod, through mutual TLS that a relay adds.
func TestH2spec(t *testing.T) {
	// One case sends a little more than the default frame size and wants that refused, so that is all we announce.
	w := start(t, options{nodes: 1, mesh: mesh.Options{ZtunnelEnv: []string{"HTTP2_FRAME_SIZE=16384"}}})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "web", "node1")
	w.serve("shop", "web", 8080)
	w.protocol("shop", "HBONE")
	id := func(sa string) identity.ID {
		return identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: sa}
	}
	cfg := certs.ClientConfig(w.svid("node1", id("client")), []identity.ID{id("web")})
	addr := w.relayTLS(net.JoinHostPort(w.podIP("shop", "web"), "15008"), cfg)
	t.Run("cases", func(t *testing.T) {
		h2spec.Run(t, func(string) *config.Config {
			return &config.Config{
				Host: addr.IP.String(), Port: addr.Port, Path: "/", Timeout: 2 * time.Second, MaxHeaderLen: 4000, Strict: true,
			}
		})
	})
}

// relayTLS listens on loopback and carries what comes to an address behind the node, inside TLS.
func (w *world) relayTLS(to string, cfg *tls.Config) *net.TCPAddr {
	w.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	n, _ := w.Node("node1")
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				var up net.Conn
				err := netspace.Do(n.Netns, func() (err error) { up, err = net.DialTimeout("tcp", to, patience); return err })
				if err != nil {
					return
				}
				s := tls.Client(up, cfg)
				defer s.Close()
				wg.Go(func() {
					_, _ = io.Copy(s, c)
					_ = s.CloseWrite()
				})
				_, _ = io.Copy(c, s)
			})
		}
	})
	w.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().(*net.TCPAddr)
}
