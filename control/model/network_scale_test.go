package model

import (
	"fmt"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/control/object"
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
