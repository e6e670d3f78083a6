package daemon

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/api/netns/netnstest"
	"github.com/ambit-mesh/ambit/cni/redirect"
)

func TestDeparture(t *testing.T) {
	const grace, limit = 500 * time.Millisecond, time.Minute
	t0 := time.Unix(1e9, 0)
	never := time.Duration(-1)
	for name, c := range map[string]struct {
		limit         time.Duration
		released, now time.Duration // after it left; never: not released
		open          int
		want          step
		pause         time.Duration
	}{
		"just told":                {limit, never, 0, 0, stay, grace},
		"peers may not know yet":   {limit, never, 400 * time.Millisecond, 0, stay, 100 * time.Millisecond},
		"peers know":               {limit, never, grace, 0, release, 0},
		"late, but not released":   {limit, never, time.Hour, 3, release, 0},
		"just released":            {limit, grace, grace, 0, stay, grace},
		"on its way to the proxy":  {limit, grace, 900 * time.Millisecond, 0, stay, 100 * time.Millisecond},
		"nothing open":             {limit, grace, 2 * grace, 0, finish, 0},
		"one open":                 {limit, grace, 2 * grace, 1, stay, firstCount},
		"one open for long":        {limit, grace, grace + 20*time.Second, 1, stay, 5 * time.Second},
		"limit is near":            {limit, grace, grace + 58*time.Second, 1, stay, 2 * time.Second},
		"limit is over":            {limit, grace, grace + limit, 1, finish, 0},
		"closed after the limit":   {limit, grace, grace + 2*limit, 0, finish, 0},
		"an hour: not asked often": {time.Hour, grace, 10 * time.Minute, 1, stay, lastCount},
		"no waiting wanted":        {0, grace, 2 * grace, 5, finish, 0},
		"the grace is always kept": {0, grace, grace + 1, 5, stay, grace - 1},
	} {
		released := time.Time{}
		if c.released != never {
			released = t0.Add(c.released)
		}
		do, pause := departure{grace, c.limit}.next(t0, released, c.open, t0.Add(c.now))
		if do != c.want || pause != c.pause {
			t.Errorf("%s: step %d after %s, want %d after %s", name, do, pause, c.want, c.pause)
		}
	}
}

// TestDepartureEnds follows one pod from count to count: however long its connections stay open, it is looked at a bounded
// number of times and is out when the limit is over, not later.
func TestDepartureEnds(t *testing.T) {
	left := time.Unix(1e9, 0)
	now, released := left, time.Time{}
	d := departure{500 * time.Millisecond, time.Hour}
	for looks := range 1000 {
		do, pause := d.next(left, released, 1, now)
		switch {
		case do == finish:
			if took := now.Sub(released); took != d.limit {
				t.Errorf("out after %s, want %s", took, d.limit)
			}
			t.Logf("looked at %d times", looks)
			return
		case do == release:
			released = now
		case pause <= 0:
			t.Fatalf("no pause %s after it was released", now.Sub(released))
		}
		now = now.Add(pause)
	}
	t.Error("it never left")
}

func TestUnderWay(t *testing.T) {
	open := []redirect.Connection{{Quiet: 0}, {Quiet: quietTime - 1}, {Quiet: quietTime}, {Quiet: time.Hour}}
	if n := underWay(open); n != 2 {
		t.Errorf("%d under way, want 2", n)
	}
}

// through opens a connection in a pod as if it had been captured: its other end is a socket of the proxy's.
func through(t *testing.T, ns *netns.Netns) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), mesh.PortOutbound)
	ln, err := ns.Listen(ctx, "tcp", at, func(_, _ string, rc syscall.RawConn) (err error) {
		cerr := rc.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mesh.MarkProxy)
		})
		if err == nil {
			err = cerr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := ns.Dial(ctx, "tcp", netip.AddrPort{}, at, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	other, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	return both{c, other}
}

// both ends of a connection.
type both struct {
	net.Conn
	other net.Conn
}

func (b both) Close() error {
	b.other.Close()
	return b.Conn.Close()
}

// remains waits for a pod to be captured no more, with (or without) the way back for what is open.
func (w *world) remains(ns *netns.Netns, want bool) {
	w.t.Helper()
	w.eventually("not captured any more", func() bool {
		there, err := redirect.Remains(ns)
		if err != nil {
			w.t.Fatal(err)
		}
		return there == want && redirect.NFTables{}.Verify(ns, w.options()) != nil
	})
}

// reason is what /pods says of the one pod there is.
func (w *world) reason() string {
	rec := &recorder{}
	w.agent.dump(rec, nil)
	return rec.text
}

func TestOpenConnectionsOutlastTheLabel(t *testing.T) {
	w := newWorld(t)
	w.cfg.LeaveGrace = 100 * time.Millisecond
	ns := netnstest.Make(t)
	w.namespace("shop", "ambient")
	w.pod("web", ns, "")
	stop := w.run()
	p := w.proxy()
	w.annotated("web", "enabled")
	open := through(t, ns)

	w.namespace("shop", "none")
	w.annotated("web", "")
	w.remains(ns, true)
	w.probed()
	w.eventually("the agent says why", func() bool {
		return strings.Contains(w.reason(), "1 of its connections still go through the proxy")
	})
	waitFor(t.Context(), nil, 5*w.cfg.LeaveGrace)
	if !p.has("uid-web", ns.ID()) {
		t.Fatal("the proxy has lost a pod with an open connection")
	}
	w.remains(ns, true)

	// Another agent does not cut it, nor captures anything anew.
	stop()
	stop = w.run()
	p = w.proxy()
	w.eventually("snapshot", p.snapshot)
	if !p.has("uid-web", ns.ID()) {
		t.Fatal("the first snapshot of the next agent lacks a pod with an open connection")
	}
	w.remains(ns, true)

	// Back in, while it is still open.
	w.namespace("shop", "ambient")
	w.annotated("web", "enabled")
	w.captured(ns, true)
	w.probed("10.1.0.9")
	waitFor(t.Context(), nil, 5*w.cfg.LeaveGrace)
	w.captured(ns, true)

	// And back in while no agent is there.
	w.namespace("shop", "none")
	w.annotated("web", "")
	w.remains(ns, true)
	stop()
	w.namespace("shop", "ambient")
	w.run()
	p = w.proxy()
	w.eventually("snapshot", p.snapshot)
	if !p.has("uid-web", ns.ID()) {
		t.Fatal("the first snapshot lacks a pod that came back")
	}
	w.annotated("web", "enabled")
	w.captured(ns, true)

	// Out for good when it has ended.
	w.namespace("shop", "none")
	w.annotated("web", "")
	w.remains(ns, true)
	open.Close()
	w.remains(ns, false)
	w.eventually("proxy drops the pod", func() bool { return p.lacks("uid-web") })
}

// leaving starts an agent for a running pod, shop/web, opens a connection through its proxy, and takes its namespace out.
func (w *world) leaving(t *testing.T) (*netns.Netns, *proxy) {
	t.Helper()
	ns := netnstest.Make(t)
	w.namespace("shop", "ambient")
	w.pod("web", ns, "")
	w.run()
	p := w.proxy()
	w.annotated("web", "enabled")
	through(t, ns)
	w.namespace("shop", "none")
	w.remains(ns, true)
	return ns, p
}

func TestConnectionsAreCutAtTheLimit(t *testing.T) {
	w := newWorld(t)
	w.cfg.LeaveGrace, w.cfg.LeaveLimit = 50*time.Millisecond, 600*time.Millisecond
	ns, p := w.leaving(t)
	since := time.Now()
	w.remains(ns, false)
	if took := time.Since(since); took < w.cfg.LeaveLimit/2 {
		t.Errorf("cut after %s, want %s", took, w.cfg.LeaveLimit)
	}
	w.eventually("proxy drops the pod", func() bool { return p.lacks("uid-web") })
}

func TestPodGoesWhileItLeaves(t *testing.T) {
	w := newWorld(t)
	w.cfg.LeaveGrace = 50 * time.Millisecond
	_, p := w.leaving(t)
	if err := folder.Remove(w.dir, podFile("web")); err != nil {
		t.Fatal(err)
	}
	w.eventually("proxy drops the pod", func() bool { return p.lacks("uid-web") })
	w.eventually("the agent forgets it", func() bool { return len(w.agent.enrolled()) == 0 })
}

// TestEndAwaitsAnswers takes the mesh off a node while something is said: rules go when it has been quiet for a while.
func TestEndAwaitsAnswers(t *testing.T) {
	c := newCluster(t)
	c.successor = false
	c.cfg.LeaveGrace = 50 * time.Millisecond
	ns, stop := c.enrolled(t)
	talk := through(t, ns)
	const talkTime = time.Second
	done := make(chan time.Time)
	go func() {
		for began := time.Now(); time.Since(began) < talkTime; waitFor(t.Context(), nil, 50*time.Millisecond) {
			if _, err := talk.Write([]byte("x")); err != nil {
				t.Error(err)
				break
			}
		}
		done <- time.Now()
	}()
	stop()
	quiet := time.Since(<-done)
	c.remains(ns, false)
	if quiet < quietTime-talkTime || quiet > leaveTime-removeTime {
		t.Errorf("the agent ended %s after the last word, want about %s", quiet, quietTime)
	}
}
