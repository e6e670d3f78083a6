package model

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// TestNetworkPoliciesAtScale has 100 namespaces with five policies and 20 pods each, a fifth of the policies with peers in
// namespaces chosen by labels. Where accounts tell who is a peer, pods come and go without a word about policies, which
// every node would have to hear; where they do not, those policies alone are handed out that the pod is a peer of.
func TestNetworkPoliciesAtScale(t *testing.T) {
	m, rec := New(Config{NetworkPolicies: true}), newRecorder(t)
	var events []object.Event
	next := 0
	pod := func(ns string, i int, role string) *object.Pod {
		next++
		p := runningPod(ns, fmt.Sprint("pod-", i), fmt.Sprintf("10.1.%d.%d", next/250, next%250+1), "app", fmt.Sprint("a", i%5), "role", role)
		p.ServiceAccount, p.Annotations = fmt.Sprint("a", i%5), object.LabelsOf(mesh.AnnotationRedirection, mesh.RedirectionEnabled)
		return p
	}
	role := func(i int) string { return fmt.Sprint("r", i%5%2) }
	for n := range 100 {
		ns := fmt.Sprint("ns-", n)
		events = append(events, object.Put(&object.Namespace{Meta: object.Meta{Name: ns, Labels: object.LabelsOf("team", fmt.Sprint("t", n%10))}}))
		for i := range 20 {
			events = append(events, object.Put(pod(ns, i, role(i))))
		}
		for i := range 5 {
			peer := object.NetworkPeer{Pods: selectorOf("role", "r1")}
			if i == 0 {
				peer.Namespaces = selectorOf("team", fmt.Sprint("t", n%10))
			}
			events = append(events, object.Put(&object.NetworkPolicy{Meta: object.Meta{Namespace: ns, Name: fmt.Sprint("p", i)}, Ingress: true,
				Pods: *selectorOf("app", fmt.Sprint("a", i)), Rules: []object.NetworkRule{{From: []object.NetworkPeer{peer}, Ports: []object.NetworkPort{{Port: 80}}}}}))
		}
	}
	begin := time.Now()
	m.Apply(events)
	m.Flush(rec)
	t.Logf("at once: %s", time.Since(begin))
	if len(rec.policies) != 500 {
		t.Fatalf("%d policies", len(rec.policies))
	}
	put := func(p *object.Pod) (handed int) {
		before := rec.calls
		m.Apply([]object.Event{object.Put(p)})
		m.Flush(rec)
		return rec.calls - before - 1 // the pod's own workload
	}
	for i := range 10 {
		if n := put(pod("ns-7", 1000+i, role(1000+i))); n != 0 {
			t.Errorf("one more pod of an account that is known: %d policies are handed out again", n)
		}
	}
	// Account a1 is not the peer's alone any more: four policies of the namespace, and those ten that look at it from others.
	if n := put(pod("ns-7", 2001, "other")); n != 4+10 {
		t.Errorf("a pod that is no peer of an account that was: %d policies", n)
	}
}

// TestNetworkPoliciesTooLarge: a tenant's policies cost what they are long, not how much they stand for, and what is too
// much to tell a node proxy admits nothing and says so; what fits before it holds.
func TestNetworkPoliciesTooLarge(t *testing.T) {
	m, rec := New(Config{NetworkPolicies: true}), newRecorder(t)
	p := runningPod("shop", "web", "10.2.0.1", "app", "web")
	p.Annotations = object.LabelsOf(mesh.AnnotationRedirection, mesh.RedirectionEnabled)
	from := func(cidr string) []object.NetworkPeer {
		return []object.NetworkPeer{{Block: netip.MustParsePrefix(cidr)}}
	}
	policy := func(name string, rules ...object.NetworkRule) *object.NetworkPolicy {
		return &object.NetworkPolicy{Meta: object.Meta{Namespace: "shop", Name: name}, Ingress: true, Pods: *selectorOf("app", "web"), Rules: rules}
	}
	small := policy("a", object.NetworkRule{From: from("10.9.0.0/16"), Ports: []object.NetworkPort{{Port: 80}}})
	var rules []object.NetworkRule
	for range 20_000 {
		rules = append(rules, object.NetworkRule{From: from("10.8.0.0/16"), Ports: []object.NetworkPort{{Port: 1000, End: 5000}}})
	}
	begin := time.Now()
	m.Apply([]object.Event{object.Put(&object.Namespace{Meta: object.Meta{Name: "shop"}}), object.Put(p), object.Put(small), object.Put(policy("b", rules...))})
	m.Flush(rec)
	t.Logf("with 20,000 rules: %s", time.Since(begin))
	warned := func(name string) bool {
		return slices.ContainsFunc(rec.reports[object.Key{Kind: object.KindNetworkPolicy, Namespace: "shop", Name: name}].Warnings, func(w Warning) bool { return w.Code == status.NetworkPolicyTooLarge })
	}
	if len(rec.policies) != 1 || warned("a") || !warned("b") {
		t.Fatalf("%d policies, told of a: %t, of b: %t", len(rec.policies), warned("a"), warned("b"))
	}
	for _, rule := range rec.policies {
		if n := size(rule.Rules[0].Clauses); n > maxRule {
			t.Errorf("it has %d entries", n)
		}
		for ip, denied := range map[string]bool{"10.9.0.1": false, "10.8.0.1": true} {
			if got := denies(t, rule, connection{ip: netip.MustParseAddr(ip), port: 80}); got != denied {
				t.Errorf("from %s: denied %t", ip, got)
			}
		}
		if !denies(t, rule, connection{ip: netip.MustParseAddr("10.8.0.1"), port: 2000}) {
			t.Error("what was too much is admitted")
		}
	}
	m.Apply([]object.Event{object.Put(policy("b", rules[:10]...))})
	m.Flush(rec)
	if warned("b") {
		t.Error("told of a policy that was made smaller")
	}
}
