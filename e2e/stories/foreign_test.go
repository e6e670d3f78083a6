package stories

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/e2e/lab"
	"github.com/ambit-mesh/ambit/e2e/mesh"
)

// TestForeignZtunnel puts another implementation's ztunnel on one node, under our control plane, CA and CNI agent, and
// talks with it both ways. PEER_ZTUNNEL names the binary; it is started as Istio's pod template starts it.
func TestForeignZtunnel(t *testing.T) {
	peer := os.Getenv("PEER_ZTUNNEL")
	if peer == "" {
		t.Skip("PEER_ZTUNNEL does not name another ztunnel's binary")
	}
	var foreign lab.Daemon
	w := start(t, options{change: func(daemons []lab.Daemon) []lab.Daemon {
		return slices.DeleteFunc(daemons, func(d lab.Daemon) bool {
			if d.Name != "ztunnel@node2" {
				return false
			}
			foreign = d
			return true
		})
	}})
	// It reads the roots once, when it starts, so they must be there by then.
	foreign.Args = []string{peer, "proxy", "ztunnel"}
	foreign.Env = append(foreign.Env, "ISTIO_META_CLUSTER_ID=Kubernetes")
	w.must(w.Lab.Run(w.soon(), foreign))
	w.must(w.DaemonsReady(w.soon(), nil))
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "ours", "ours", "node1")
	w.pod("shop", "theirs", "theirs", "node2")
	w.pod("shop", "neighbour", "neighbour", "node2")
	oursVIP, theirsVIP := w.service("shop", "ours", 80, 8080), w.service("shop", "theirs", 80, 8080)
	w.serve("shop", "ours", 8080)
	w.serve("shop", "theirs", 8080)
	w.eventually("enrolment", func() error { return w.enrolled("shop", 3) })
	w.must(w.seesHBONE("node1", "shop", 3))

	for range 20 {
		w.want("shop", "ours", theirsVIP, "theirs "+w.podIP("shop", "ours"))
		w.want("shop", "theirs", oursVIP, "ours "+w.podIP("shop", "theirs"))
		w.want("shop", "neighbour", theirsVIP, "theirs "+w.podIP("shop", "neighbour"))
	}
	w.logged("node1", "connection complete", `dst.identity="spiffe://cluster.local/ns/shop/sa/theirs"`, `direction="outbound"`)
	w.logged("node1", "connection complete", `src.identity="spiffe://cluster.local/ns/shop/sa/theirs"`, `direction="inbound"`)

	// Policy that our control plane wrote, enforced there; STRICT too.
	w.apply(strings.NewReplacer("only-friends", "only-neighbours", "app: web", "app: theirs", "sa/friend", "sa/neighbour").Replace(onlyFriends))
	w.eventually("the foreign proxy to refuse", func() error {
		if _, err := w.call("shop", "ours", theirsVIP, "hi"); err == nil {
			return errNotYet
		}
		return nil
	})
	w.logged("node1", "reason=\"peer-denied\"", "sa/theirs")
	w.want("shop", "neighbour", theirsVIP, "theirs "+w.podIP("shop", "neighbour"))
}

// TestForeignZtunnelAtWaypoint has a client behind another implementation's ztunnel: it finds the waypoint, and what goes
// around it is refused by ours in front of the destination. That proxy in front of a destination refuses nothing: it
// ignores what it does not know.
func TestForeignZtunnelAtWaypoint(t *testing.T) {
	peer := os.Getenv("PEER_ZTUNNEL")
	if peer == "" {
		t.Skip("PEER_ZTUNNEL does not name another ztunnel's binary")
	}
	w := startWaypoints(t, options{nodes: 2})
	daemons, err := mesh.DaemonsWith(w.Lab, mesh.Options{Ztunnel: []string{peer, "proxy", "ztunnel"}})
	w.must(err)
	w.must(w.Stop(w.soon(), "ztunnel@node1"))
	for _, d := range daemons {
		if d.Name == "ztunnel@node1" {
			d.Env = append(d.Env, "ISTIO_META_CLUSTER_ID=Kubernetes")
			w.must(w.Lab.Run(w.soon(), d))
		}
	}
	w.must(w.DaemonsReady(w.soon(), nil))
	w.guardedShop()
	w.pod("shop", "theirs", "theirs", "node1")
	w.web("shop", "theirs", 8080)
	w.now(httpService("shop", "theirs", "theirs", 80, 8080) + getOnly("shop", "web"))
	service, pod, theirs := "http://"+w.vip("shop", "web")+"/", "http://"+w.podIP("shop", "web")+":8080/", "http://"+w.vip("shop", "theirs")+"/"
	w.eventually("the client to be in the mesh", func() error {
		a, err := w.fetch("shop", "client", service)
		if err == nil && a.by() != "shop/wp" {
			err = errNotYet
		}
		return err
	})
	a := w.through("shop", "client", service, "shop/wp")
	if got := a.Header.Get("X-Forwarded-Client-Cert"); !strings.HasSuffix(got, ";URI=spiffe://cluster.local/ns/shop/sa/client") || a.Header.Get("X-Forwarded-For") != w.podIP("shop", "client") {
		t.Errorf("the application sees %v", a.Header)
	}
	w.status("shop", "client", "POST "+service, 403)
	w.status("shop", "client", pod, 0)
	w.logged("node2", "waypoint-required", "sa/client")
	// From our waypoint to their proxy.
	for range 20 {
		w.through("shop", "client", theirs, "shop/wp")
		w.through("shop", "web", "POST "+theirs, "shop/wp")
	}
	w.remove(waypointYAML("shop", "wp", "service"))
	w.synced()
	w.eventually("the client to find no way", func() error {
		if a, err := w.fetch("shop", "client", service); err == nil && a.Status < 400 {
			return errAnswered
		}
		return nil
	})
	w.through("shop", "client", theirs, "")
}
