package stories

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/cni/redirect/bpf"
	"github.com/ambit-mesh/ambit/e2e/mesh"
)

// TestLeaveKeepsConnections takes a namespace out of the mesh while connections go through the proxy: from a pod that
// leaves to another by HBONE, and into one from outside in plaintext. They go on, over the death of the agent as well; what
// is new goes past the proxy; and when they have ended nothing of the mesh is left in the pods.
func TestLeaveKeepsConnections(t *testing.T) {
	for _, backend := range []string{"nftables", "iptables", "ebpf"} {
		t.Run(backend, func(t *testing.T) {
			if backend == "ebpf" {
				if err := bpf.Supported(); err != nil {
					t.Skip(err)
				}
			}
			leaveWithConnections(t, backend)
		})
	}
}

func leaveWithConnections(t *testing.T, backend string) {
	w := start(t, options{nodes: 2, mesh: mesh.Options{Redirection: backend}})
	for _, ns := range []string{"shop", "outside"} {
		w.namespace(ns)
	}
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "web", "node2")
	w.pod("outside", "caller", "caller", "node1")
	vip := w.service("shop", "web", 80, 8080)
	w.serve("shop", "web", 8080)
	w.enrol("shop")
	answer := "web " + w.podIP("shop", "client")
	w.want("shop", "client", vip, answer)
	ends := map[string]func() error{"inside": w.held("shop", "client", vip), "from outside": w.held("outside", "caller", vip)}
	w.want("shop", "client", vip, answer)

	w.must(w.Label(w.soon(), "Namespace", "", "shop", nil, "istio.io/dataplane-mode"))
	w.protocol("shop", "TCP")
	w.released("node1", "shop/client")
	w.released("node2", "shop/web")
	w.captured("client", 1)
	w.captured("web", 2)
	// Past the proxy from here on.
	ends["new"] = w.held("shop", "client", vip)
	ends["new, from outside"] = w.held("outside", "caller", vip)
	for _, node := range []string{"node1", "node2"} {
		w.must(w.Signal(w.soon(), "ambit-cni-agent@"+node, syscall.SIGKILL))
	}
	w.must(w.DaemonsReady(w.soon(), nil))
	w.lasts(3*time.Second, func() {
		w.captured("client", 1)
		w.captured("web", 2)
	})
	w.want("shop", "client", vip, answer)

	// In again, and out again, with a connection more.
	w.enrol("shop")
	ends["of the second time"] = w.held("shop", "client", vip)
	w.captured("client", 2)
	w.captured("web", 3)
	w.must(w.Label(w.soon(), "Namespace", "", "shop", nil, "istio.io/dataplane-mode"))
	w.protocol("shop", "TCP")
	w.captured("client", 2)
	w.captured("web", 3)

	for name, end := range ends {
		if err := end(); err != nil {
			t.Errorf("the connection %s: %v", name, err)
		}
	}
	for _, pod := range []string{"client", "web"} {
		w.eventually("nothing to be left in "+pod, func() error {
			var there bool
			err := w.inPod("shop", pod, func(ns *netns.Netns) (err error) {
				there, err = redirect.Remains(ns)
				return err
			})
			if err == nil && there {
				err = errNotYet
			}
			return err
		})
	}
	w.eventually("the proxies to let go of the pods", func() error {
		for _, node := range []string{"node1", "node2"} {
			d, err := w.dump(node)
			if err != nil {
				return err
			}
			for _, s := range d.WorkloadState {
				if s.Info.Namespace == "shop" {
					return fmt.Errorf("%s serves %s", node, s.Info.Name)
				}
			}
		}
		return nil
	})
	w.want("shop", "client", vip, answer)
}

// released waits until a node's agent has said that it captures a pod no more.
func (w *world) released(node, pod string) {
	w.Helper()
	w.eventually(pod+" to be released", func() error {
		log, err := w.DaemonLog("ambit-cni-agent@" + node)
		if err == nil && !strings.Contains(string(log), `msg="pod's traffic is not captured any more" pod=`+pod) {
			err = errNotYet
		}
		return err
	})
}

// captured waits until so many of a pod's connections go through the proxy, by what the kernel says of its sockets.
func (w *world) captured(pod string, want int) {
	w.Helper()
	w.eventually(fmt.Sprintf("%d connections of %s through the proxy", want, pod), func() error {
		return w.inPod("shop", pod, func(ns *netns.Netns) error {
			open, err := redirect.Open(ns)
			if err == nil && len(open) != want {
				err = fmt.Errorf("%d: %v", len(open), open)
			}
			return err
		})
	})
}

// inPod looks into a pod's network namespace.
func (w *world) inPod(ns, pod string, look func(*netns.Netns) error) error {
	p, err := w.Pod(w.ctx, ns, pod)
	if err != nil {
		return err
	}
	n, err := netns.Open(p.Netns)
	if err != nil {
		return err
	}
	defer n.Close()
	return look(n)
}

// lasts checks something again and again for a time.
func (w *world) lasts(d time.Duration, check func()) {
	w.Helper()
	tick := time.NewTicker(d / 10)
	defer tick.Stop()
	for range 10 {
		<-tick.C
		check()
	}
}
