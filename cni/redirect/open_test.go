package redirect

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/api/netns/netnstest"
)

// TestOpen counts what applications have open with the proxy, before and after Release, and nothing else.
func TestOpen(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		w := newWire(t)
		w.servers()
		dial := func(name string, from *netns.Netns, local, remote netip.AddrPort, mark int, want string) *conversation {
			t.Helper()
			c, err := w.dial(from, local, remote, mark)
			if err != nil {
				t.Fatal(name, err)
			}
			if got := c.ask("hi"); !strings.HasPrefix(got, want+" ") {
				t.Fatalf("%s reached %q, want %q", name, got, want)
			}
			return c
		}
		// Made before there was a mesh.
		dial("older, out", w.pod, nobody, on(node4, 8080), 0, "peer")
		dial("older, in", w.node, nobody, on(pod4, 8080), 0, "app")
		o := Options{IPv6: true, DNS: true}
		if there, err := Remains(w.pod); there || err != nil {
			t.Errorf("before the mesh something remains: %v, %v", there, err)
		}
		if err := b.Apply(w.pod, o); err != nil {
			t.Fatal(err)
		}
		w.open("before any")
		// Tunnels that peers keep for later, and what the application says to itself.
		dial("a tunnel from a peer", w.node, nobody, on(pod4, mesh.PortHBONE), 0, "hbone")
		dial("a tunnel to a peer", w.pod, nobody, on(node4, mesh.PortHBONE), mesh.MarkProxy, "peer-hbone")
		dial("the proxy, outward", w.pod, nobody, on(node4, 8080), mesh.MarkProxy, "peer")
		dial("the app to itself", w.pod, nobody, on(pod4, 8080), 0, "app")
		w.open("tunnels")

		apps := []*conversation{
			dial("out v4", w.pod, nobody, on(node4, 8080), 0, "outbound"), dial("out v6", w.pod, nobody, on(node6, 8080), 0, "outbound"),
			dial("in v4", w.pod, on(node4, 20001), on(pod4, 8080), mesh.MarkProxy, "app"), dial("in v6", w.pod, on(node6, 20001), on(pod6, 8080), mesh.MarkProxy, "app"),
			dial("in by loopback", w.pod, nobody, on(netip.MustParseAddr("127.0.0.1"), 8080), mesh.MarkProxy, "app"),
		}
		// Caught on its way in, it counts where the proxy hands it on.
		dial("in, plaintext", w.node, nobody, on(pod4, 8080), 0, "inbound")
		w.open("captured", pod4, pod6, pod4, pod6, netip.MustParseAddr("127.0.0.1"))
		if err := b.Release(w.pod, o); err != nil {
			t.Fatal(err)
		}
		dial("out, past the mesh", w.pod, nobody, on(node4, 8080), 0, "peer")
		w.open("released", pod4, pod6, pod4, pod6, netip.MustParseAddr("127.0.0.1"))
		if there, err := Remains(w.pod); !there || err != nil {
			t.Errorf("released, but nothing remains: %v", err)
		}
		for _, c := range apps[1:] {
			c.c.Close()
		}
		w.open("closed", pod4)
		apps[0].c.Close()
		w.open("all closed")
		if err := b.Remove(w.pod); err != nil {
			t.Fatal(err)
		}
		if there, err := Remains(w.pod); there || err != nil {
			t.Errorf("removed, but something remains: %v", err)
		}
	})
}

// open waits for the applications' ends of captured connections to be at these addresses.
func (w *wire) open(when string, want ...netip.Addr) {
	w.t.Helper()
	slices.SortFunc(want, netip.Addr.Compare)
	var got []netip.Addr
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		all, err := Open(w.pod)
		if err != nil {
			w.t.Fatal(err)
		}
		got = nil
		for _, c := range all {
			got = append(got, c.Remote.Addr())
		}
		if slices.SortFunc(got, netip.Addr.Compare); slices.Equal(got, want) {
			return
		}
	}
	w.t.Errorf("%s: open with %v, want %v", when, got, want)
}

// TestQuiet reads from the kernel for how long nothing was said.
func TestQuiet(t *testing.T) {
	w := newWire(t)
	w.servers()
	c, err := w.dial(w.pod, nobody, on(netip.MustParseAddr("127.0.0.1"), 8080), mesh.MarkProxy)
	if err != nil {
		t.Fatal(err)
	}
	age := func() time.Duration {
		t.Helper()
		all, err := Open(w.pod)
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		return all[0].Quiet
	}
	began := time.Now()
	c.ask("hi")
	for age() < 300*time.Millisecond {
		if time.Since(began) > 5*time.Second {
			t.Fatal("never quiet")
		}
		time.Sleep(10 * time.Millisecond)
	}
	began = time.Now()
	c.ask("again")
	if got := age(); got > time.Since(began)+20*time.Millisecond {
		t.Errorf("quiet for %s right after a word", got)
	}
}

// TestRetire lets go of pods that an agent with another setting captured, and removes all of it.
func TestRetire(t *testing.T) {
	all := backends(t)
	for _, before := range all {
		for _, after := range all {
			t.Run(before.Name()+" to "+after.Name(), func(t *testing.T) {
				w := newWire(t)
				w.servers()
				o, at := Options{IPv6: true, DNS: true}, place(t)
				before, after := before, after
				if _, ok := before.(*EBPF); ok {
					e, err := NewEBPF(at)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { e.Close() })
					if after == before {
						after = e
					}
					before = e
				}
				if err := before.Apply(w.pod, o); err != nil {
					t.Fatal(err)
				}
				c, err := w.dial(w.pod, nobody, on(node4, 8080), 0)
				if err != nil {
					t.Fatal(err)
				}
				if err := Retire(after, w.pod, o, at); err != nil {
					t.Fatal(err)
				}
				if got := w.reaches(w.pod, nobody, on(node4, 8080), 0); !strings.HasPrefix(got, "peer") {
					t.Errorf("a new connection reached %q", got)
				}
				if got := c.ask("still"); !strings.HasPrefix(got, "outbound still") {
					t.Errorf("the open connection: %q", got)
				}
				if err := after.Remove(w.pod); err != nil {
					t.Fatal(err)
				}
				assertEmpty(t, w.pod)
			})
		}
	}
}

func TestParseSocket(t *testing.T) {
	if _, err := parseSocket(make([]byte, diagMessageSize-1)); err == nil {
		t.Error("a short message was read")
	}
	m := make([]byte, diagMessageSize)
	m[0] = unix.AF_INET
	if s, err := parseSocket(m); err != nil || s.mark != 0 || s.Quiet != 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := Open(netnstest.Make(t)); err != nil {
		t.Error(err)
	}
}
