package stories

import (
	"os"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/e2e/mesh"
)

// TestForeignGuard has another implementation's ztunnel on the node of pods with guards: ambitctl says what it lets in. The
// same proxy enforces NetworkPolicies, which are policies like any other to it.
func TestForeignGuard(t *testing.T) {
	peer := os.Getenv("PEER_ZTUNNEL")
	if peer == "" {
		t.Skip("PEER_ZTUNNEL does not name another ztunnel's binary")
	}
	o := mesh.Options{ControlArgs: []string{"--network-policies"}}
	w := startWaypoints(t, options{nodes: 2, mesh: o})
	o.Ztunnel = []string{peer, "proxy", "ztunnel"}
	daemons, err := mesh.DaemonsWith(w.Lab, o)
	w.must(err)
	w.must(w.Stop(w.soon(), "ztunnel@node2"))
	for _, d := range daemons {
		if d.Name == "ztunnel@node2" {
			d.Env = append(d.Env, "ISTIO_META_CLUSTER_ID=Kubernetes")
			w.must(w.Lab.Run(w.soon(), d))
		}
	}
	w.must(w.DaemonsReady(w.soon(), nil))
	w.namespace("shop", "istio.io/dataplane-mode: ambient", "istio.io/use-waypoint: wp")
	for pod, node := range map[string]string{"client": "node1", "foe": "node1", "web": "node2"} {
		w.pod("shop", pod, pod, node)
	}
	w.web("shop", "web", 8080)
	w.apply(waypointYAML("shop", "wp", "service") + httpService("shop", "web", "web", 80, 8080))
	url := "http://" + w.vip("shop", "web") + "/"
	w.eventually("a way through the waypoint", func() error {
		if a, err := w.fetch("shop", "client", url); err != nil || a.by() != "shop/wp" {
			return errNotYet
		}
		return nil
	})
	if out := w.ambitctl("analyze", "--fail-on", "never"); strings.Contains(out, "AMB408") {
		t.Errorf("there is no guard, and yet:\n%s", out)
	}
	w.apply(onlyClient)
	w.eventually("the policy", func() error {
		if a, err := w.fetch("shop", "foe", url); err != nil || a.Status != 403 {
			return errNotYet
		}
		return nil
	})
	var out string
	w.eventually("the finding", func() error {
		if out = w.ambitctl("analyze", "--fail-on", "never"); !strings.Contains(out, "AMB408") {
			return errNotYet
		}
		return nil
	})
	for _, want := range []string{"error [AMB408 ForeignProxy]", "node node2", "around waypoint shop/wp reaches pod shop/web", "AuthorizationPolicy shop/only-client", "fix: run Ambit's ztunnel on node node2"} {
		if !strings.Contains(out, want) {
			t.Errorf("ambitctl does not say %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "node1") {
		t.Errorf("ours is complained about:\n%s", out)
	}
	// And so it is.
	direct := "http://" + w.podIP("shop", "web") + ":8080/"
	if a, err := w.fetch("shop", "foe", direct); err != nil || a.Status != 200 {
		t.Errorf("around the waypoint: %d, %v: then there is nothing to complain about", a.Status, err)
	}

	// It does enforce a NetworkPolicy, and lets the waypoint through.
	w.apply(networkPolicy("shop", "client", "matchLabels: {app: web}", "{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 8080}]}"))
	w.eventually("the NetworkPolicy", func() error {
		if _, err := w.fetch("shop", "foe", direct); err == nil {
			return errNotYet
		}
		return nil
	})
	w.through("shop", "client", direct, "")
	w.through("shop", "client", url, "shop/wp")
	w.apply(networkPolicy("shop", "client", "matchLabels: {app: web}", "{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 8081}]}"))
	w.eventually("the NetworkPolicy's port", func() error {
		if _, err := w.fetch("shop", "client", direct); err == nil {
			return errNotYet
		}
		return nil
	})
	w.apply(networkPolicy("shop", "client", "matchLabels: {app: web}", "{from: [{namespaceSelector: {}}]}"))
	w.eventually("whole namespaces", func() error { _, err := w.fetch("shop", "foe", direct); return err })
	w.apply(networkPolicy("shop", "client", "matchLabels: {app: web}", ""))
	w.eventually("nobody", func() error {
		if _, err := w.fetch("shop", "client", direct); err == nil {
			return errNotYet
		}
		return nil
	})
}
