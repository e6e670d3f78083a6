package stories

import (
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/e2e/mesh"
)

// TestSameNode hands connections between pods of one node over inside the proxy, as an operator may ask for: the same
// policy, the same original address, both records, an open connection cut by policy, and no tunnel.
func TestSameNode(t *testing.T) {
	w := start(t, options{nodes: 2, mesh: mesh.Options{ZtunnelEnv: []string{"AMBIT_SAME_NODE_FAST_PATH=true"}}})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "friend", "friend", "node1")
	w.pod("shop", "foe", "foe", "node1")
	w.pod("shop", "web", "web", "node1")
	vip := w.service("shop", "web", 80, 8080)
	w.serve("shop", "web", 8080)
	w.protocol("shop", "HBONE")
	w.want("shop", "friend", vip, "web "+w.podIP("shop", "friend"))
	const friend, web = `src.identity="spiffe://cluster.local/ns/shop/sa/friend"`, `dst.identity="spiffe://cluster.local/ns/shop/sa/web"`
	w.logged("node1", "connection complete", friend, web, `direction="inbound"`)
	w.logged("node1", "connection complete", web, `direction="outbound"`)

	cut, err := w.dial("shop", "foe", vip)
	w.must(err)
	defer cut.Close()
	_, err = say(cut, "before")
	w.must(err)
	w.apply(onlyFriends)
	w.must(cut.SetReadDeadline(time.Now().Add(patience)))
	if _, err := cut.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the open connection of foe was not cut: %v", err)
	}
	w.refused("shop", "foe", vip)
	w.logged("node1", "sa/foe", "allow policies exist, but none allowed", `direction="inbound"`)
	w.want("shop", "friend", vip, "web "+w.podIP("shop", "friend"))
}
