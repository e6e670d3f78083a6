package stories

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/e2e/lab"
)

// TestLinkDown pulls a node's cable, briefly and then for longer than anybody waits: what is open outlives the short time,
// what is new fails in the long one and says why, and everything works again by itself.
func TestLinkDown(t *testing.T) {
	w := start(t, options{nodes: 2})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "web", "node2")
	w.pod("shop", "late", "late", "node2")
	vip := w.service("shop", "web", 80, 8080)
	w.serve("shop", "web", 8080)
	w.serve("shop", "late", 8080)
	w.protocol("shop", "HBONE")
	late := net.JoinHostPort(w.podIP("shop", "late"), "8080")
	w.want("shop", "client", vip, "web "+w.podIP("shop", "client"))

	open := w.held("shop", "client", vip)
	link := lab.Fault{Kind: "link", Host: "node2"}
	w.must(w.Fail(w.soon(), link))
	c, err := w.dial("shop", "client", vip)
	w.must(err)
	defer c.Close()
	w.must(c.SetReadDeadline(time.Now().Add(time.Second)))
	if n, err := c.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("with the link down: %d bytes, %v", n, err)
	}
	_, err = w.Heal(w.soon(), link)
	w.must(err)
	if got, err := say(c, "patient"); err != nil || !strings.HasSuffix(got, "patient") {
		t.Errorf("the connection opened meanwhile: %q, %v", got, err)
	}
	if err := open(); err != nil {
		t.Errorf("the connection from before: %v", err)
	}

	w.must(w.Fail(w.soon(), link))
	w.refused("shop", "client", late)
	w.logged("node1", `dst.workload="late"`, "port 15008 did not answer", `reason="port-blocked"`)
	_, err = w.Heal(w.soon(), link)
	w.must(err)
	for _, addr := range []string{late, vip} {
		w.eventually("an answer", func() error { _, err := w.call("shop", "client", addr, "hi"); return err })
	}
}

// TestReasons makes connections fail in the ways they do, and finds the reason in the logs of both ends.
func TestReasons(t *testing.T) {
	w := start(t, options{nodes: 2})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "web", "node2")
	vip := w.service("shop", "web", 80, 8080)
	w.apply("apiVersion: v1\nkind: Service\nmetadata: {name: empty, namespace: shop}\nspec: {selector: {app: nobody}, ports: [{name: tcp, port: 80}]}\n")
	w.protocol("shop", "HBONE")
	svc, err := w.Get(w.soon(), "Service", "shop", "empty")
	w.must(err)

	// The application does not listen.
	w.refused("shop", "client", vip)
	w.logged("node2", `direction="inbound"`, `reason="connect-refused"`)
	w.logged("node1", `direction="outbound"`, "503", `reason="tunnel-refused"`)
	// Nobody is behind the service.
	w.refused("shop", "client", net.JoinHostPort(svc[0].Text("spec", "clusterIP"), "80"))
	w.logged("node1", `reason="no-healthy-upstream"`, "empty.shop.svc.cluster.local")
	// The other node's proxy is gone.
	w.serve("shop", "web", 8080)
	w.want("shop", "client", vip, "web "+w.podIP("shop", "client"))
	w.must(w.Fail(w.soon(), lab.Fault{Kind: "ztunnel", Host: "node2"}))
	// The first ones may still meet the end of the tunnel that was open.
	w.eventually("connections to 15008 to be refused", func() error {
		if _, err := w.call("shop", "client", vip, "hi"); err == nil {
			return errNotYet
		}
		data, err := w.DaemonLog("ztunnel@node1")
		for line := range strings.Lines(string(data)) {
			if strings.Contains(line, `dst.workload="web"`) && strings.Contains(line, `reason="connect-refused"`) {
				return nil
			}
		}
		return errors.Join(err, errNotYet)
	})
	_, err = w.Heal(w.soon(), lab.Fault{Kind: "ztunnel", Host: "node2"})
	w.must(err)
	w.eventually("an answer", func() error { _, err := w.call("shop", "client", vip, "hi"); return err })
	// The way there is closed.
	w.pod("shop", "late", "late", "node2")
	w.serve("shop", "late", 8080)
	w.protocol("shop", "HBONE")
	late := w.podIP("shop", "late")
	w.must(w.In(w.ctx, "node1", func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: netlink.NewIPNet(net.ParseIP(late)), Type: syscall.RTN_UNREACHABLE})
	}))
	w.refused("shop", "client", net.JoinHostPort(late, "8080"))
	w.logged("node1", `dst.workload="late"`, "no route to host", `reason="connect-failed"`)
}

// TestLossyNetwork loses every twentieth packet that comes to a node: it is slow, and nothing fails.
func TestLossyNetwork(t *testing.T) {
	w := start(t, options{nodes: 2})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "web", "node2")
	vip := w.service("shop", "web", 80, 8080)
	w.serve("shop", "web", 8080)
	w.protocol("shop", "HBONE")
	w.want("shop", "client", vip, "web "+w.podIP("shop", "client"))
	w.must(w.In(w.ctx, "node2", func() error { return lose(20) }))
	open := w.held("shop", "client", vip)
	var stops []func() load
	for range 8 {
		stops = append(stops, w.load("shop", "client", vip))
	}
	w.eventually("some connections", func() error {
		data, err := w.DaemonLog("ztunnel@node2")
		if err == nil && strings.Count(string(data), "connection complete") < 200 {
			err = errNotYet
		}
		return err
	})
	for _, stop := range stops {
		if got := stop(); len(got.Errors) > 0 {
			t.Error(got)
		}
	}
	if err := open(); err != nil {
		t.Error(err)
	}
}

// lose drops one of n packets that come to this network namespace, at random.
func lose(n uint32) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "bad-weather"})
	chain := c.AddChain(&nftables.Chain{
		Name: "loss", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Numgen{Register: 1, Modulus: n, Type: unix.NFT_NG_RANDOM},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0, 0, 0, 0}},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	return c.Flush()
}
