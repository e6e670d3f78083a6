package redirect

import (
	"context"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// TestAppClosesFirst ends a connection so that the proxy's last word arrives when nothing but the kernel's memory is left of
// the application's socket. The acknowledgement has to reach the proxy, or its socket stays for minutes, and meets the next
// connection from the same port.
func TestAppClosesFirst(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		w := newWire(t)
		at := netip.AddrPortFrom(netip.IPv6Unspecified(), mesh.PortOutbound)
		ln, err := w.pod.Listen(context.Background(), "tcp", at, asProxy)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		if err := b.Apply(w.pod, Options{IPv6: true}); err != nil {
			t.Fatal(err)
		}
		for _, addr := range []netip.Addr{node4, node6} {
			app, err := w.dial(w.pod, nobody, on(addr, 8080), 0)
			if err != nil {
				t.Fatal(err)
			}
			proxy, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer proxy.Close()
			app.c.Close()
			proxy.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := io.ReadAll(proxy); err != nil {
				t.Fatal(err)
			}
			// The end of the application's side is acknowledged, late, and its socket is gone.
			for deadline := time.Now().Add(5 * time.Second); inside(t, w.pod, "ss", "-Htan", "state", "fin-wait-2") == ""; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the application's socket waits for an acknowledgement")
				}
			}
			proxy.Close()
		}
		w.open("both have closed")
	})
}
