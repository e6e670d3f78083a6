package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"

	"github.com/ambit-mesh/ambit/cni/enroll"
)

func clientConfig(url string) *rest.Config { return &rest.Config{Host: url} }

func (c *Cluster) closeIdle() {
	for _, r := range []rest.Interface{c.core, c.apps} {
		r.(*rest.RESTClient).Client.CloseIdleConnections()
	}
}

// sink writes down what it is told.
type sink struct {
	mu     sync.Mutex
	lines  []string
	synced bool
}

func (s *sink) add(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

func (s *sink) SetPod(p enroll.Pod)    { s.add("pod %s %s %v %v", p.Key(), p.Phase, p.IPs, p.Annotations) }
func (s *sink) DeletePod(k enroll.Key) { s.add("delete %s", k) }
func (s *sink) SetNamespace(name string, labels map[string]string) {
	s.add("namespace %s %v", name, labels)
}
func (s *sink) DeleteNamespace(name string) { s.add("delete namespace %s", name) }
func (s *sink) Synced()                     { s.add("synced") }

// take waits until something was told that contains all of want, and forgets everything told so far.
func (s *sink) take(t *testing.T, want ...string) []string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		s.mu.Lock()
		missing := slices.DeleteFunc(slices.Clone(want), func(w string) bool { return slices.Contains(s.lines, w) })
		if len(missing) == 0 {
			out := s.lines
			s.lines = nil
			s.mu.Unlock()
			return out
		}
		lines := slices.Clone(s.lines)
		s.mu.Unlock()
		if time.Now().After(deadline) {
			t.Fatalf("not told: %q\ntold: %q", missing, lines)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

const podPath = "/api/v1/namespaces/shop/pods/web"

func pod(uid, phase string, extra doc) doc {
	return doc{
		"kind": "Pod", "apiVersion": "v1",
		"metadata": doc{"name": "web", "namespace": "shop", "uid": uid, "labels": doc{"app": "web"}, "annotations": extra, "managedFields": []any{}},
		"spec":     doc{"nodeName": "node-1", "serviceAccountName": "till", "containers": []any{doc{"name": "c", "image": "x"}}},
		"status":   doc{"phase": phase, "podIP": "10.1.0.9", "podIPs": []any{doc{"ip": "10.1.0.9"}, doc{"ip": "fd00::9"}}},
	}
}

func namespace(labels doc) doc {
	return doc{"kind": "Namespace", "apiVersion": "v1", "metadata": doc{"name": "shop", "labels": labels}}
}

func runSource(t *testing.T, c *Cluster) (*Source, *sink) {
	t.Helper()
	s, to := NewSource(c, "node-1"), &sink{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, to) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, to
}

func TestSource(t *testing.T) {
	api, c := newServer(t)
	api.set("/api/v1/namespaces/shop", namespace(doc{"istio.io/dataplane-mode": "ambient"}))
	api.set(podPath, pod("u1", "Running", doc{"ambient.istio.io/redirection": "enabled", "noise": "yes"}))
	_, to := runSource(t, c)
	told := to.take(t, "synced")
	if told[len(told)-1] != "synced" || len(told) != 3 ||
		!slices.Contains(told, "pod shop/web Running [10.1.0.9 fd00::9] map[ambient.istio.io/redirection:enabled]") ||
		!slices.Contains(told, "namespace shop map[istio.io/dataplane-mode:ambient]") {
		t.Errorf("told %q", told)
	}
	api.mu.Lock()
	if q := api.queries["/api/v1/pods"]; !strings.Contains(q[0], "fieldSelector=spec.nodeName%3Dnode-1") {
		t.Errorf("asked for the pods of %q", q)
	}
	api.mu.Unlock()

	// What enrolment does not look at is not told.
	api.set(podPath, pod("u1", "Running", doc{"ambient.istio.io/redirection": "enabled", "noise": "no"}))
	api.set("/api/v1/namespaces/shop", namespace(nil))
	if told := to.take(t, "namespace shop map[]"); len(told) != 1 {
		t.Errorf("told %q", told)
	}
	api.set(podPath, pod("u1", "Succeeded", nil))
	to.take(t, "pod shop/web Succeeded [10.1.0.9 fd00::9] map[]")
	api.set(podPath, nil)
	api.set("/api/v1/namespaces/shop", nil)
	to.take(t, "delete shop/web", "delete namespace shop")
}

// An API server that is away takes nothing back, and what happened meanwhile is told when it returns.
func TestSourceSurvivesTheAPIServer(t *testing.T) {
	api, c := newServer(t)
	api.fail(func(*http.Request) int { return 403 })
	_, to := runSource(t, c)
	api.set(podPath, pod("u1", "Running", nil))
	time.Sleep(50 * time.Millisecond)
	to.mu.Lock()
	if len(to.lines) > 0 {
		t.Errorf("told %q by an API server that refuses", to.lines)
	}
	to.mu.Unlock()
	api.fail(nil)
	to.take(t, "synced", "pod shop/web Running [10.1.0.9 fd00::9] map[]")
}

func TestGet(t *testing.T) {
	api, c := newServer(t)
	s := NewSource(c, "node-1")
	k := enroll.Key{Namespace: "shop", Name: "web"}
	if _, _, err := s.Get(t.Context(), k); !errors.Is(err, enroll.ErrNoPod) {
		t.Errorf("a pod that is not there: %v", err)
	}
	api.set(podPath, pod("u1", "Pending", nil))
	api.set("/api/v1/namespaces/shop", namespace(doc{"a": "b"}))
	p, labels, err := s.Get(t.Context(), k)
	want := enroll.Pod{
		UID: "u1", Namespace: "shop", Name: "web", ServiceAccount: "till", Node: "node-1", Phase: "Pending", Labels: map[string]string{"app": "web"},
		IPs: []netip.Addr{netip.MustParseAddr("10.1.0.9"), netip.MustParseAddr("fd00::9")},
	}
	if diff := cmp.Diff(want, p, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || err != nil || labels["a"] != "b" {
		t.Errorf("%v %v %s", err, labels, diff)
	}
	if _, _, err := NewSource(c, "node-2").Get(t.Context(), k); err == nil || !strings.Contains(err.Error(), `not on node node-2 but on "node-1"`) {
		t.Errorf("a pod of another node: %v", err)
	}
}

func TestAnnotate(t *testing.T) {
	api, c := newServer(t)
	s := NewSource(c, "node-1")
	api.set(podPath, pod("u1", "Running", doc{"mine": "1"}))
	annotations := func() any { return api.get(podPath)["metadata"].(doc)["annotations"] }
	p := enroll.Pod{UID: "u1", Namespace: "shop", Name: "web"}
	for _, step := range []struct {
		value string
		want  doc
	}{{"enabled", doc{"mine": "1", "ambient.istio.io/redirection": "enabled"}}, {"", doc{"mine": "1"}}} {
		if err := s.Annotate(t.Context(), p, step.value); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(any(step.want), annotations()); diff != "" {
			t.Error(diff)
		}
	}
	if api.asked["PATCH "+podPath+"/status"] != 2 {
		t.Errorf("asked %v", api.asked)
	}
	// Another pod of that name, and none.
	p.UID = "u0"
	if err := s.Annotate(t.Context(), p, "enabled"); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(any(doc{"mine": "1"}), annotations()); diff != "" {
		t.Error(diff)
	}
	p.Name = "gone"
	if err := s.Annotate(t.Context(), p, "enabled"); err != nil {
		t.Error(err)
	}
	api.fail(func(*http.Request) int { return 403 })
	if err := s.Annotate(t.Context(), p, "enabled"); err == nil {
		t.Error("a refusal is no error")
	}
}

func TestTell(t *testing.T) {
	api, c := newServer(t)
	s := NewSource(c, "node-1")
	p := enroll.Pod{UID: "u1", Namespace: "shop", Name: "web"}
	events := func() (out []doc) {
		api.mu.Lock()
		defer api.mu.Unlock()
		for path, o := range api.objects {
			if strings.HasPrefix(path, "/api/v1/namespaces/shop/events/web.") {
				out = append(out, o)
			}
		}
		return out
	}
	tell := func(text string) doc {
		t.Helper()
		if err := s.Tell(t.Context(), p, true, "MeshCaptureFailed", text); err != nil {
			t.Fatal(err)
		}
		all := events()
		if len(all) != 1 {
			t.Fatalf("%d events", len(all))
		}
		return all[0]
	}
	e := tell("no ztunnel")
	about := e["involvedObject"].(doc)
	if e["type"] != "Warning" || e["reason"] != "MeshCaptureFailed" || e["message"] != "no ztunnel" || about["uid"] != "u1" || about["name"] != "web" {
		t.Errorf("event %v", e)
	}
	if e = tell("still no ztunnel"); e["count"] != 2.0 || e["message"] != "still no ztunnel" {
		t.Errorf("event %v", e)
	}
	// The API server forgets events after an hour.
	for path := range api.objects {
		api.set(path, nil)
	}
	if e = tell(strings.Repeat("x", 5000)); len(e["message"].(string)) != messageMost {
		t.Errorf("event %v", e)
	}
}
