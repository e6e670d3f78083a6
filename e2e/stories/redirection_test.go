package stories

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/ambit-mesh/ambit/cni/redirect/bpf"
	"github.com/ambit-mesh/ambit/e2e/lab"
	"github.com/ambit-mesh/ambit/e2e/mesh"
)

// TestRedirections takes live nodes from nftables to BPF programs and back. Connections of every age go on, no new one
// fails, and between the two the mesh does what it does with nftables: identities, names, agents that die, proxies that
// are away. The stories about traffic run with BPF programs throughout when AMBIT_REDIRECTION=ebpf.
func TestRedirections(t *testing.T) {
	if err := bpf.Supported(); err != nil {
		t.Skip(err)
	}
	agents := map[string]lab.Daemon{}
	w := start(t, options{nodes: 2, mesh: mesh.Options{Redirection: "nftables"}, change: func(all []lab.Daemon) []lab.Daemon {
		for _, d := range all {
			if d.Kind == "cni" {
				agents[d.Host] = d
			}
		}
		return all
	}})
	use := func(backend string) {
		t.Helper()
		for _, d := range agents {
			d.Args = append(append([]string{}, d.Args...), "--redirection", backend)
			w.must(w.Lab.Run(w.ctx, d))
			w.must(w.DaemonsReady(w.soon(), nil, d.Name))
		}
	}
	w.namespace("shop")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "web", "node2")
	vip := w.service("shop", "web", 80, 8080)
	w.serve("shop", "web", 8080)
	answer := "web " + w.podIP("shop", "client")
	w.want("shop", "client", vip, answer)

	open := map[string]func() error{"from before": w.held("shop", "client", vip)}
	w.enrol("shop")
	open["of nftables"] = w.held("shop", "client", vip)
	stop := w.load("shop", "client", vip)
	use("ebpf")
	w.want("shop", "client", vip, answer)
	open["of ebpf"] = w.held("shop", "client", vip)
	if m, err := w.ask("udp", "shop", "client", "web.shop.svc.cluster.local.", dns.TypeA); err != nil || len(m.Answer) != 1 {
		t.Errorf("the proxy's answer to a question by UDP: %v, %v", m, err)
	}
	use("nftables")
	w.want("shop", "client", vip, answer)
	use("ebpf")
	if got := stop(); len(got.Errors) > 0 {
		t.Error(got)
	}

	// A pod that is made under BPF programs, and an agent that is not there.
	w.pod("shop", "late", "late", "node1")
	w.serve("shop", "late", 8080)
	w.protocol("shop", "HBONE")
	w.want("shop", "client", w.podIP("shop", "late")+":8080", "late "+w.podIP("shop", "client"))
	w.logged("node1", "connection complete", `dst.workload="late"`, `src.identity="spiffe://cluster.local/ns/shop/sa/client"`)
	agent := agents["node1"].Name
	w.must(w.Stop(w.soon(), agent))
	w.want("shop", "client", vip, answer)
	use("ebpf")

	for name, end := range open {
		if err := end(); err != nil {
			t.Errorf("the connection %s: %v", name, err)
		}
	}

	// Without the proxy nothing gets out, whoever redirects.
	w.must(w.Stop(w.soon(), "ztunnel@node1"))
	if got, err := w.call("shop", "client", vip, "hi"); err == nil {
		t.Errorf("without a proxy: %q", got)
	}
	use("nftables")
	for node := range agents {
		if _, err := os.Stat(filepath.Join(w.Dir, "bpf", node, "v1")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s still has BPF programs (%v)", node, err)
		}
	}
	if got, err := w.call("shop", "client", vip, "hi"); err == nil && strings.HasPrefix(got, "web") {
		t.Errorf("without a proxy, under nftables: %q", got)
	}
}
