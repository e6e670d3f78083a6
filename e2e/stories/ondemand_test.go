package stories

import (
	"testing"

	"github.com/ambit-mesh/ambit/e2e/mesh"
)

// TestOnDemand runs proxies that ask the control plane for nothing but what they need: connections and policy are as
// ever, and a proxy knows its own node and whom it talked to, not the mesh.
func TestOnDemand(t *testing.T) {
	w := start(t, options{mesh: mesh.Options{ZtunnelEnv: []string{"XDS_ON_DEMAND=true", "DNS_PROXY=false"}}})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "friend", "friend", "node1")
	w.pod("shop", "foe", "foe", "node1")
	w.pod("shop", "web", "web", "node2")
	w.pod("shop", "far", "far", "node3")
	vip := w.service("shop", "web", 80, 8080)
	w.serve("shop", "web", 8080)
	w.eventually("enrolment", func() error { return w.enrolled("shop", 4) })
	w.want("shop", "friend", vip, "web "+w.podIP("shop", "friend"))
	w.logged("node1", "connection complete", `dst.identity="spiffe://cluster.local/ns/shop/sa/web"`, `direction="outbound"`)
	w.apply(onlyFriends)
	w.eventually("foe to be refused", func() error {
		if _, err := w.call("shop", "foe", vip, "hi"); err == nil {
			return errNotYet
		}
		return nil
	})
	w.want("shop", "friend", vip, "web "+w.podIP("shop", "friend"))
	d, err := w.dump("node1")
	w.must(err)
	for _, wl := range d.Workloads {
		if wl.Name == "far" {
			t.Error("node1 knows a pod nobody there talked to")
		}
	}
}
