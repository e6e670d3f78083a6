package stories

import (
	"syscall"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/e2e/mesh"
)

// TestDaemonsDie kills every daemon in turn, hard, under load: new connections succeed again within a second of the
// restart, and connections that were not on the killed process stay open.
func TestDaemonsDie(t *testing.T) {
	w := start(t, options{})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "other", "other", "node3")
	w.pod("shop", "web", "web", "node2")
	vip := w.service("shop", "web", 80, 8080)
	w.serve("shop", "web", 8080)
	w.protocol("shop", "HBONE")
	w.want("shop", "client", vip, "web "+w.podIP("shop", "client"))

	for _, victim := range []string{
		"ambitd", "ambit-ca", "ambit-cni-agent@node1", "ambit-cni-agent@node2", "ztunnel@node1", "ztunnel@node3",
	} {
		open := w.held("shop", "other", vip)
		stop := w.load("shop", "client", vip)
		w.must(w.Signal(w.soon(), victim, syscall.SIGKILL))
		w.must(w.DaemonsReady(w.soon(), nil))
		back := time.Now()
		w.eventually("a second of load", func() error {
			if time.Since(back) < 1200*time.Millisecond {
				return errNotYet
			}
			return nil
		})
		got := stop()
		if late := got.after(back.Add(time.Second)); len(late) > 0 {
			t.Errorf("%s: errors more than a second after it was back: %v", victim, late)
		}
		if victim != "ztunnel@node1" && victim != "ztunnel@node3" && len(got.Errors) > 0 {
			t.Errorf("%s is not in the path of the load, yet: %s", victim, got)
		}
		if err := open(); err != nil && victim != "ztunnel@node3" {
			t.Errorf("%s: the open connection from node3: %v", victim, err)
		}
		t.Logf("%s: %s", victim, got)
	}
}

// startDraining is a client and a server on two nodes, whose proxies drain for three seconds, and the service between them.
func startDraining(t *testing.T) (w *world, vip string) {
	t.Helper()
	w = start(t, options{nodes: 2, mesh: mesh.Options{ZtunnelEnv: []string{"CONNECTION_TERMINATION_DEADLINE=3s"}}})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "web", "node2")
	vip = w.service("shop", "web", 80, 8080)
	w.serve("shop", "web", 8080)
	w.protocol("shop", "HBONE")
	w.want("shop", "client", vip, "web "+w.podIP("shop", "client"))
	return w, vip
}

// flood is several clients at once and without pause, until the returned function is called: it wants no call to have failed, and
// returns how many there were.
func (w *world) flood(clients int, vip string) (stop func() int) {
	w.Helper()
	var stops []func() load
	for range clients {
		stops = append(stops, w.load("shop", "client", vip))
	}
	return func() (calls int) {
		w.Helper()
		for _, stop := range stops {
			got := stop()
			calls += got.Calls
			if len(got.Errors) > 0 {
				w.Errorf("%s", got)
			}
		}
		return calls
	}
}

// TestRestartUnnoticed replaces the ztunnels of both nodes in the path as a rolling update does, the new process beside
// the old: no connection fails, and what is open stays open until the drain's deadline.
func TestRestartUnnoticed(t *testing.T) {
	w, vip := startDraining(t)
	open := w.held("shop", "client", vip)
	// A connection that is just arriving when a listener closes must not be lost.
	stop := w.flood(8, vip)
	for _, node := range []string{"node1", "node2", "node1"} {
		w.must(mesh.RollZtunnel(w.soon(), w.Lab, node))
	}
	calls := stop()
	// The proxy it was on drained for as long as it was allowed to.
	if err := open(); err == nil {
		t.Error("the held connection outlived the process it was on")
	}
	t.Logf("%d connections during three restarts", calls)
}

// TestNextProxyLeaves takes back a node proxy that was started beside the one there is, as when an upgrade is broken off: no
// connection fails, and the one that stays serves alone.
func TestNextProxyLeaves(t *testing.T) {
	w, vip := startDraining(t)
	stop := w.flood(4, vip)
	for _, node := range []string{"node1", "node2"} {
		_, next, err := mesh.StartNextZtunnel(w.soon(), w.Lab, node)
		w.must(err)
		w.must(w.Lab.Stop(w.soon(), next))
	}
	calls := stop()
	w.want("shop", "client", vip, "web "+w.podIP("shop", "client"))
	t.Logf("%d connections", calls)
}
