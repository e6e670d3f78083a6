package stories

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
)

// TestRestartOrders restarts a node's agent and its ztunnel, one after the other in both orders and both at once, while
// pods come and go: whoever is there afterwards talks, by mutual TLS, and nobody is left over.
func TestRestartOrders(t *testing.T) {
	w := start(t, options{nodes: 2})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "web", "node2")
	vip := w.service("shop", "web", 80, 8080)
	w.serve("shop", "web", 8080)
	w.protocol("shop", "HBONE")
	w.pod("shop", "old", "old", "node2")

	const agent, proxy = "ambit-cni-agent@node2", "ztunnel@node2"
	for i, order := range [][]string{{agent, proxy}, {proxy, agent}, {agent}, {proxy}} {
		name := fmt.Sprintf("new%d", i)
		var wg sync.WaitGroup
		wg.Go(func() {
			for _, d := range order {
				if err := w.Signal(w.ctx, d, syscall.SIGKILL); err != nil {
					t.Error(err)
				}
			}
		})
		// A pod is made and another one goes while nobody is there to hear of it.
		w.pod("shop", name, name, "node2")
		w.must(w.DeleteObject(w.soon(), "Pod", "shop", "old", 0))
		w.gone("shop", "old")
		wg.Wait()
		w.must(w.DaemonsReady(w.soon(), nil))
		w.serve("shop", name, 8080)
		w.protocol("shop", "HBONE")
		w.eventually(fmt.Sprintf("%v: all to answer", order), func() error {
			for _, addr := range []string{vip, w.podIP("shop", name) + ":8080"} {
				if _, err := w.call("shop", "client", addr, "hi"); err != nil {
					return err
				}
			}
			_, err := w.call("shop", name, vip, "hi")
			return err
		})
		w.logged("node2", "connection complete", `dst.workload="`+name+`"`, `src.identity="spiffe://cluster.local/ns/shop/sa/client"`)
		w.eventually("ztunnel to hold just the node's pods", func() error {
			d, err := w.dump("node2")
			if err != nil {
				return err
			}
			held := map[string]bool{}
			for _, p := range d.WorkloadState {
				held[p.Info.Name] = p.State == "Up"
			}
			if !held["web"] || !held[name] || held["old"] || len(held) != i+2 {
				return fmt.Errorf("it holds %v", held)
			}
			return nil
		})
		// The next one has one to lose, too.
		w.pod("shop", "old", "old", "node2")
		w.protocol("shop", "HBONE")
	}
}

// TestEnrolUnderLoad takes a namespace into the mesh and out of it again and again: no new connection fails, and one that
// was opened before the first time lives through all of it.
func TestEnrolUnderLoad(t *testing.T) {
	w := start(t, options{nodes: 2})
	w.namespace("shop")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "near", "near", "node1")
	w.pod("shop", "web", "web", "node2")
	vip := w.service("shop", "web", 80, 8080)
	w.serve("shop", "web", 8080)
	w.protocol("shop", "TCP")
	w.want("shop", "client", vip, "web "+w.podIP("shop", "client"))

	open := w.held("shop", "client", vip)
	var stops []func() load
	for range 3 {
		stops = append(stops, w.load("shop", "client", vip))
	}
	for range 6 {
		w.enrol("shop")
		w.logged("node2", "connection complete", `src.identity="spiffe://cluster.local/ns/shop/sa/client"`)
		w.must(w.Label(w.soon(), "Namespace", "", "shop", nil, "istio.io/dataplane-mode"))
		w.protocol("shop", "TCP")
	}
	calls := 0
	for _, stop := range stops {
		got := stop()
		calls += got.Calls
		if len(got.Errors) > 0 {
			t.Error(got)
		}
	}
	if err := open(); err != nil {
		t.Errorf("the connection from before: %v", err)
	}
	t.Logf("%d connections", calls)
}
