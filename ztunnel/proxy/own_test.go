package proxy

import (
	"errors"
	"io"
	"net/netip"
	"testing"

	"crypto/tls"

	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/ambit-mesh/ambit/ztunnel/inpod"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
)

// The proxy's own metrics are reached over mutual TLS as a pod is, and nothing else of its pod is.
func TestOwnMetrics(t *testing.T) {
	st := cartWorld(t, Pod("ambit-system", "ztunnel-x", "ztunnel", "10.0.0.50"))
	w := start(t, st, nil)
	w.proxy.Stop("uid-1") // its listeners would be in the way: this is one network namespace
	w.until("the pod is gone", func() bool {
		c, err := w.tryDial("10.0.0.9", "10.0.0.50:15008")
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	own, err := w.ns.Dup()
	if err != nil {
		t.Fatal(err)
	}
	info := inpod.Info{Namespace: "ambit-system", Name: "ztunnel-x", ServiceAccount: "ztunnel"}
	if err := w.proxy.StartOwn(t.Context(), info, own, 15020); err != nil {
		t.Fatal(err)
	}
	metrics, admin := w.listen("10.0.0.50:15020"), w.listen("10.0.0.50:15000")
	id := identity.ID{TrustDomain: "cluster.local", Namespace: "ambit-system", ServiceAccount: "ztunnel"}
	open := func(authority string) (*hbone.Stream, error) {
		conn := tls.Client(w.dial("10.0.0.9", "10.0.0.50:15008"), certs.Policy{}.ClientConfig(w.ca.MustSVID("spiffe://cluster.local/ns/shop/sa/web-sa"), []identity.ID{id}))
		if err := conn.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		return w.open(w.client(conn), authority)
	}
	s, err := open("10.0.0.50:15020")
	if err != nil {
		t.Fatal(err)
	}
	c := metrics.next(t)
	// Nothing brings replies to a client's address back to this proxy, so it must not be used here.
	if c.from.Addr() == netip.MustParseAddr("10.0.0.9") {
		t.Errorf("called from %s", c.from)
	}
	go echo(c)
	if _, err := s.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	var se *hbone.StatusError
	if _, err := open("10.0.0.50:15000"); !errors.As(err, &se) || se.Code != 400 || len(admin.calls) != 0 {
		t.Errorf("admin: %v", err)
	}
	w.logged(`reason="wrong-destination"`, "of this proxy's own pod only port 15020 can be reached")
	if n := w.counted("workload_manager_proxies_started_total"); n != 1 {
		t.Errorf("%v pods counted", n)
	}
	for _, port := range []string{"15001", "15006"} {
		if c, err := w.tryDial("10.0.0.9", "10.0.0.50:"+port); err == nil {
			c.Close()
			t.Errorf("listens on %s", port)
		}
	}
	// A policy for the proxy's pod holds as for any other.
	deny := denyAccount("no-scrape", "web-sa")
	deny.Namespace = "ambit-system"
	Put(t, st, deny)
	if _, err := open("10.0.0.50:15020"); !errors.As(err, &se) || se.Code != 401 {
		t.Errorf("denied: %v", err)
	}
}
