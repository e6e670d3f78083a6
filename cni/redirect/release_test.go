package redirect

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/netns"
)

// TestRelease lets go of a pod in two steps. After the first, what was captured goes on, the way from the application back
// to the proxy included, and what is new goes where it would go without a mesh. Without that step, removal tears what is
// open, which this test would show as well.
func TestRelease(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		w := newWire(t)
		w.servers()
		o := Options{IPv6: true, DNS: true}
		if err := b.Apply(w.pod, o); err != nil {
			t.Fatal(err)
		}
		open := map[string]*conversation{}
		for _, c := range []struct {
			name          string
			from          *netns.Netns
			local, remote netip.AddrPort
			mark          int
			want          string
		}{
			{"out v4", w.pod, nobody, on(node4, 8080), 0, "outbound"}, {"out v6", w.pod, nobody, on(node6, 8080), 0, "outbound"},
			{"in v4", w.node, nobody, on(pod4, 8080), 0, "inbound"}, {"in v6", w.node, nobody, on(pod6, 8080), 0, "inbound"},
			{"app v4", w.pod, on(node4, 20001), on(pod4, 8080), mesh.MarkProxy, "app"}, {"app v6", w.pod, on(node6, 20001), on(pod6, 8080), mesh.MarkProxy, "app"},
		} {
			conv, err := w.dial(c.from, c.local, c.remote, c.mark)
			if err != nil {
				t.Fatal(c.name, err)
			}
			if got := conv.ask("hi"); !strings.HasPrefix(got, c.want+" ") {
				t.Fatalf("%s reached %q, want %q", c.name, got, c.want)
			}
			open[c.name] = conv
		}
		if err := b.Release(w.pod, o); err != nil {
			t.Fatal(err)
		}
		for name, c := range open {
			if got := c.ask("released"); !strings.Contains(got, " released ") {
				t.Errorf("connection %q: %s", name, got)
			}
		}
		if got := w.reaches(w.pod, nobody, on(node4, 8080), 0); !strings.HasPrefix(got, "peer") {
			t.Errorf("a new connection out reached %q", got)
		}
		if got := w.reaches(w.node, nobody, on(pod6, 8080), 0); !strings.HasPrefix(got, "app") {
			t.Errorf("a new connection in reached %q", got)
		}
		if err := b.Verify(w.pod, o); !errors.Is(err, ErrDrift) {
			t.Errorf("a released pod counts as captured: %v", err)
		}
		// It may come back, and go for good.
		if err := b.Apply(w.pod, o); err != nil {
			t.Fatal(err)
		}
		if err := b.Verify(w.pod, o); err != nil {
			t.Error(err)
		}
		if err := errors.Join(b.Release(w.pod, o), b.Release(w.pod, o), b.Remove(w.pod)); err != nil {
			t.Error(err)
		}
		assertEmpty(t, w.pod)
	})
}
