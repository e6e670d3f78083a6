package workloads

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/e2e/lab/resource"
)

func object(t *testing.T, kind, version string, spec string) resource.Object {
	t.Helper()
	doc := fmt.Sprintf(`{apiVersion: apps/v1, kind: %s, metadata: {name: web, namespace: shop, uid: u1}, spec: {selector: {matchLabels: {app: web}}, %s
  template: {metadata: {labels: {app: web, version: %s}}, spec: {containers: [{name: c, command: [sleep]}]}}}}`, kind, spec, version)
	o, err := resource.Parse([]byte(doc), "default")
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(o); err != nil {
		t.Fatal(err)
	}
	return o
}

// world is a naive cluster: created pods get ready when told to, deleted ones go when told to.
type world struct {
	pods []Pod
	made int
}

func (w *world) step(o resource.Object, nodes ...string) Steps {
	s := Decide(o, w.pods, nodes, w.made)
	for _, p := range s.Create {
		w.pods = append(w.pods, Pod{Namespace: p.Namespace(), Name: p.Name(), Node: p.Text("spec", "nodeName"), Hash: p.Labels()[LabelHash], Order: w.made})
		w.made++
	}
	for _, name := range s.Delete {
		for i := range w.pods {
			if w.pods[i].Name == name {
				w.pods[i].Ending, w.pods[i].Ready = true, false
			}
		}
	}
	return s
}

func (w *world) settle() {
	kept := w.pods[:0]
	for _, p := range w.pods {
		if !p.Ending {
			p.Ready = true
			kept = append(kept, p)
		}
	}
	w.pods = kept
}

func (w *world) ready() (n int) {
	for _, p := range w.pods {
		if p.Ready {
			n++
		}
	}
	return n
}

func TestRollingUpdateNeverDropsBelow(t *testing.T) {
	for _, replicas := range []int{1, 2, 3, 5} {
		spec := fmt.Sprintf("replicas: %d, ", replicas)
		w := &world{}
		w.step(object(t, "Deployment", "v1", spec))
		w.settle()
		if w.ready() != replicas {
			t.Fatalf("%d replicas wanted, %d ready", replicas, w.ready())
		}
		v2 := object(t, "Deployment", "v2", spec)
		least := replicas - replicas/4
		for i := range 40 {
			w.step(v2)
			if w.ready() < least {
				t.Fatalf("replicas %d step %d: only %d ready", replicas, i, w.ready())
			}
			w.settle()
			if Settled(v2, w.pods, nil) {
				break
			}
		}
		if !Settled(v2, w.pods, nil) {
			t.Errorf("%d replicas never settled: %+v", replicas, w.pods)
		}
		if again := w.step(v2); len(again.Create)+len(again.Delete) != 0 {
			t.Errorf("a settled deployment wants %+v", again)
		}
	}
}

func TestBrokenTemplateKeepsOldPods(t *testing.T) {
	w := &world{}
	w.step(object(t, "Deployment", "v1", "replicas: 3, "))
	w.settle()
	bad := object(t, "Deployment", "bad", "replicas: 3, ")
	for range 10 {
		w.step(bad) // the new pods never get ready
	}
	if w.ready() != 3 {
		t.Errorf("%d old pods left, want 3", w.ready())
	}
}

func TestNamesAndOwners(t *testing.T) {
	w := &world{}
	s := w.step(object(t, "Deployment", "v1", ""))
	p := s.Create[0]
	owner := p.At("metadata", "ownerReferences").([]any)[0].(map[string]any)
	if owner["kind"] != "ReplicaSet" || !strings.HasPrefix(p.Name(), owner["name"].(string)+"-") {
		t.Errorf("pod %s is owned by %v", p.Name(), owner)
	}
	if again := Decide(object(t, "Deployment", "v1", ""), nil, nil, 0).Create[0].Name(); again != p.Name() {
		t.Errorf("same input, another name: %s and %s", p.Name(), again)
	}
	if later := Decide(object(t, "Deployment", "v1", ""), nil, nil, 1).Create[0].Name(); later == p.Name() {
		t.Error("a name was used twice")
	}
}

func TestStatefulSetGoesInOrder(t *testing.T) {
	w := &world{}
	o := object(t, "StatefulSet", "v1", "replicas: 2, serviceName: web, ")
	if s := w.step(o); len(s.Create) != 1 || s.Create[0].Name() != "web-0" || s.Create[0].Text("spec", "subdomain") != "web" {
		t.Fatalf("first step %+v", s)
	}
	if s := w.step(o); len(s.Create) != 0 {
		t.Fatal("web-1 did not wait for web-0")
	}
	w.settle()
	w.step(o)
	w.settle()
	v2 := object(t, "StatefulSet", "v2", "replicas: 2, serviceName: web, ")
	if s := w.step(v2); len(s.Delete) != 1 || s.Delete[0] != "web-1" {
		t.Fatalf("update starts with %+v", s)
	}
}

func TestDaemonSetAndJob(t *testing.T) {
	w := &world{}
	if s := w.step(object(t, "DaemonSet", "v1", ""), "a", "b"); len(s.Create) != 2 {
		t.Fatalf("daemon set on two nodes: %+v", s)
	}
	w.settle()
	if s := w.step(object(t, "DaemonSet", "v2", ""), "a", "b"); len(s.Delete) != 1 {
		t.Fatalf("update takes one node at a time, got %+v", s)
	}
	job := object(t, "Job", "v1", "completions: 2, ")
	w = &world{}
	w.step(job)
	w.pods[0].Succeeded = true
	if s := w.step(job); len(s.Create) != 1 {
		t.Fatalf("second completion: %+v", s)
	}
	w.pods[1].Succeeded = true
	if s := w.step(job); len(s.Create) != 0 || !Settled(job, w.pods, nil) {
		t.Fatalf("a complete job wants %+v", s)
	}
}

func TestPlaceSpreads(t *testing.T) {
	nodes := []Node{
		{Name: "a", Ready: true, Pods: 3, Owned: map[string]int{"web": 1}},
		{Name: "b", Ready: true, Pods: 9, Labels: map[string]string{"disk": "ssd"}},
		{Name: "c", Ready: false},
	}
	for want, spec := range map[string]*resource.PodSpec{
		"b": {}, "a": {NodeName: "a"}, "": {NodeName: "c"},
	} {
		if got := Place(spec, "web", nodes); got != want {
			t.Errorf("Place(%+v) = %q, want %q", spec, got, want)
		}
	}
}
