package stories

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/e2e/mesh"
)

// networkPolicy writes one; ingress is YAML of spec.ingress, empty to let nobody in.
func networkPolicy(ns, name, selector, ingress string) string {
	return fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: %s, namespace: %s}
spec: {podSelector: {%s}, policyTypes: [Ingress], ingress: [%s]}
---
`, name, ns, selector, ingress)
}

// TestNetworkPolicy has Kubernetes NetworkPolicies enforced inside the mesh and for plaintext: by default nobody, then by
// namespace, by labels of pods that share an account, by port and by address; and open connections end with the right to them.
func TestNetworkPolicy(t *testing.T) {
	w := start(t, options{nodes: 2, mesh: mesh.Options{ControlArgs: []string{"--network-policies"}}})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.namespace("red", "istio.io/dataplane-mode: ambient", "team: red")
	w.namespace("outside")
	w.pod("shop", "web", "web", "node2")
	w.pod("red", "client", "client", "node1")
	w.pod("outside", "stranger", "stranger", "node1")
	// Two pods of one account: labels alone tell them apart.
	for _, name := range []string{"friend", "foe"} {
		w.pod("shop", "caller", name, "node1")
		w.label("Pod", "shop", name, "role="+name)
	}
	vip := w.service("shop", "web", 80, 8080)
	w.serve("shop", "web", 8080)
	w.serve("shop", "web", 9090)
	w.protocol("shop", "HBONE")
	w.protocol("red", "HBONE")
	direct := w.podIP("shop", "web") + ":8080"
	other := w.podIP("shop", "web") + ":9090"
	callers := map[string]string{"friend": "shop", "foe": "shop", "client": "red", "stranger": "outside"}
	only := func(what, addr string, in ...string) {
		w.Helper()
		for pod, ns := range callers {
			allowed := false
			for _, p := range in {
				allowed = allowed || p == pod
			}
			if _, err := w.call(ns, pod, addr, "hi"); (err == nil) != allowed {
				w.Errorf("%s: %s/%s to %s: %v, should be let in: %v", what, ns, pod, addr, err, allowed)
			}
		}
	}
	only("without a policy", vip, "friend", "foe", "client", "stranger")

	open, err := w.dial("shop", "friend", vip)
	w.must(err)
	defer open.Close()
	_, err = say(open, "before")
	w.must(err)
	w.now(networkPolicy("shop", "nobody", "", ""))
	if _, err := say(open, "after"); err == nil {
		t.Error("the open connection goes on after its end")
	}
	only("nobody", vip)
	only("nobody, past the service", direct)
	w.logged("node2", "connection complete", "explicitly denied by: shop/networkpolicy:nobody", "sa/caller")

	w.now(networkPolicy("shop", "red-team", "matchLabels: {app: web}", "{from: [{namespaceSelector: {matchLabels: {team: red}}}], ports: [{port: 8080}]}"))
	only("a namespace", vip, "client")
	only("a namespace, another port", other)
	w.now(networkPolicy("shop", "friends", "matchLabels: {app: web}", "{from: [{podSelector: {matchLabels: {role: friend}}}]}"))
	only("and labels of pods", vip, "client", "friend")
	only("and labels of pods, another port", other, "friend")
	w.label("Pod", "shop", "foe", "role=friend")
	only("after a change of labels", vip, "client", "friend", "foe")
	w.label("Pod", "shop", "foe", "role=foe")

	// Plaintext is known by its address, and by its namespace's or its own labels.
	w.now(networkPolicy("shop", "by-name", "matchLabels: {app: web}", "{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: outside}}, podSelector: {matchLabels: {app: stranger}}}], ports: [{port: 9000, endPort: 9100}]}"))
	only("a pod outside the mesh", vip, "client", "friend")
	only("a pod outside the mesh, its ports", other, "friend", "stranger")
	w.remove(networkPolicy("shop", "by-name", "", ""))
	w.synced()
	only("taken back", other, "friend")
	block := "{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [" + w.podIP("shop", "foe") + "/32]}}]}"
	w.now(networkPolicy("shop", "by-address", "matchLabels: {app: web}", block))
	only("addresses", vip, "client", "friend", "stranger")

	// A pod that comes later is a member at once, with the account that is all its own.
	w.now(networkPolicy("shop", "by-address", "matchLabels: {app: web}", "{from: [{podSelector: {matchLabels: {app: late}}}]}"))
	w.pod("shop", "late", "late", "node1")
	w.synced()
	w.want("shop", "late", vip, "web "+w.podIP("shop", "late"))
	for _, name := range []string{"nobody", "red-team", "friends", "by-address"} {
		w.remove(networkPolicy("shop", name, "", ""))
	}
	w.synced()
	only("without a policy again", vip, "friend", "foe", "client", "stranger")

	// Other policies are asked besides.
	w.now(onlyFriends + "---" + networkPolicy("shop", "all", "", "{}"))
	only("an AuthorizationPolicy and a NetworkPolicy for all", vip)
}

// TestNetworkPolicyWaypoint: behind a waypoint it is still the client that a NetworkPolicy is about.
func TestNetworkPolicyWaypoint(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2, mesh: mesh.Options{ControlArgs: []string{"--network-policies"}}})
	w.guardedShop()
	w.pod("shop", "foe", "foe", "node1")
	w.synced()
	web := "http://" + w.vip("shop", "web") + "/"
	w.through("shop", "client", web, "shop/wp")
	w.through("shop", "foe", web, "shop/wp")
	w.now(networkPolicy("shop", "client", "matchLabels: {app: web}", "{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 8080}]}"))
	w.through("shop", "client", web, "shop/wp")
	if a, err := w.fetch("shop", "foe", web); err == nil && a.Status < http.StatusInternalServerError {
		t.Errorf("somebody else through the waypoint: %d from %q", a.Status, a.Pod)
	}
	line := w.logged("node2", "explicitly denied by: shop/networkpolicy:client", "sa/wp")
	if !strings.Contains(line, "sa/foe") {
		t.Errorf("the log does not say for whom: %s", line)
	}
	w.now(networkPolicy("shop", "client", "matchLabels: {app: web}", "{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 8081}]}"))
	if a, err := w.fetch("shop", "client", web); err == nil && a.Status < http.StatusInternalServerError {
		t.Errorf("to another port through the waypoint: %d from %q", a.Status, a.Pod)
	}
	w.now(networkPolicy("shop", "client", "matchLabels: {app: web}", "{ports: [{port: 8080}]}"))
	w.through("shop", "foe", web, "shop/wp")
}
