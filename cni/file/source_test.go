package file

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/cni/enroll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink is a naive mirror.
type sink struct {
	mu         sync.Mutex
	pods       map[enroll.Key]enroll.Pod
	namespaces map[string]map[string]string
	synced     bool
}

func (s *sink) SetPod(p enroll.Pod)      { s.mu.Lock(); defer s.mu.Unlock(); s.pods[p.Key()] = p }
func (s *sink) DeletePod(k enroll.Key)   { s.mu.Lock(); defer s.mu.Unlock(); delete(s.pods, k) }
func (s *sink) DeleteNamespace(n string) { s.mu.Lock(); defer s.mu.Unlock(); delete(s.namespaces, n) }
func (s *sink) Synced()                  { s.mu.Lock(); defer s.mu.Unlock(); s.synced = true }
func (s *sink) SetNamespace(n string, l map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.namespaces[n] = l
}

func (s *sink) state() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for k, p := range s.pods {
		out = append(out, k.String()+"="+p.UID)
	}
	slices.Sort(out)
	for _, n := range slices.Sorted(maps.Keys(s.namespaces)) {
		out = append(out, n+"="+s.namespaces[n][mesh.LabelDataplaneMode])
	}
	return strings.Join(out, " ")
}

func start(t *testing.T) (*Source, *sink, string) {
	t.Helper()
	root := t.TempDir()
	src := New(root, "node-1", slog.New(slog.DiscardHandler))
	s := &sink{pods: map[enroll.Key]enroll.Pod{}, namespaces: map[string]map[string]string{}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- src.Run(ctx, s) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return src, s, root
}

func await(t *testing.T, s *sink, want string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for s.state() != want {
		select {
		case <-deadline:
			t.Fatalf("after 10s %q, want %q", s.state(), want)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func podText(name, uid, node string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: shop, uid: %s}\nspec: {nodeName: %s}\n", name, uid, node)
}

func TestFollowsTheFolder(t *testing.T) {
	_, s, root := start(t)
	put := func(rel, text string) {
		t.Helper()
		if err := folder.Write(root, rel, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	put("all.yaml", "kind: Namespace\nmetadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}\n---\n"+
		podText("web", "1", "node-1")+"---\n"+podText("far", "2", "node-2")+"---\nkind: Service\nmetadata: {name: Pod}\n---\nkind: ConfigMap\ndata: {about: Namespace}\n")
	await(t, s, "shop/web=1 shop=ambient")
	put("pods/db.yaml", podText("db", "3", "node-1"))
	await(t, s, "shop/db=3 shop/web=1 shop=ambient")

	// What cannot be read leaves everything of the file as it was.
	put("pods/db.yaml", "kind: Pod\nmetadata: {name: db, labels: [")
	put("pods/new.yaml", podText("new", "4", "node-1"))
	await(t, s, "shop/db=3 shop/new=4 shop/web=1 shop=ambient")

	// Moved to another file, to another node, and away.
	put("moved.yaml", podText("new", "4", "node-1"))
	if err := folder.Remove(root, "pods/new.yaml"); err != nil {
		t.Fatal(err)
	}
	put("pods/db.yaml", podText("db", "3", "node-2"))
	await(t, s, "shop/new=4 shop/web=1 shop=ambient")
	put("all.yaml", "")
	await(t, s, "shop/new=4")
}

func TestAnnotate(t *testing.T) {
	src, s, root := start(t)
	rel := "pods/shop_web.yaml"
	write := func(text string) {
		t.Helper()
		if err := folder.Write(root, rel, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	text := func() string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(root, rel))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	annotate := func(uid, value string) {
		t.Helper()
		if err := src.Annotate(t.Context(), enroll.Pod{UID: uid, Namespace: "shop", Name: "web"}, value); err != nil {
			t.Error(err)
		}
	}
	annotate("1", "enabled") // not there yet
	write(podText("web", "1", "node-1"))
	await(t, s, "shop/web=1")
	annotate("1", "enabled")
	if !strings.Contains(text(), mesh.AnnotationRedirection+": enabled") || !strings.Contains(text(), "nodeName: node-1") {
		t.Errorf("file is now:\n%s", text())
	}
	annotate("another", "pending")
	if strings.Contains(text(), "pending") {
		t.Error("annotated the successor of the pod that was meant")
	}
	before, _ := os.Stat(filepath.Join(root, rel))
	annotate("1", "enabled")
	if after, _ := os.Stat(filepath.Join(root, rel)); !os.SameFile(before, after) {
		t.Error("wrote what was there already")
	}
	annotate("1", "")
	if strings.Contains(text(), mesh.AnnotationRedirection) {
		t.Errorf("file is now:\n%s", text())
	}
	if err := folder.Remove(root, rel); err != nil {
		t.Fatal(err)
	}
	annotate("1", "enabled")
}

func TestParse(t *testing.T) {
	got, err := parse([]byte(`
kind: Pod
metadata:
  name: web
  labels: {app: web}
  annotations: {lab.ambit.io/netns: /run/netns/x}
spec: {nodeName: node-1, hostNetwork: true, serviceAccountName: till, containers: [{name: c, ports: [{containerPort: 80}]}]}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}, {ip: nonsense}]}
`), "node-1")
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	want := enroll.Pod{
		UID: "default/web", Namespace: "default", Name: "web", Node: "node-1", ServiceAccount: "till", HostNetwork: true, Phase: "Running",
		Labels: map[string]string{"app": "web"}, Annotations: map[string]string{AnnotationNetns: "/run/netns/x"}, Netns: "/run/netns/x",
		IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")},
	}
	if diff := cmp.Diff(want, *got[0].pod, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
	for _, text := range []string{"kind: Pod\nspec: {}\n", "kind: Pod\nmetadata: [\n", "kind: Namespace\nmetadata: {labels: 7, name: x}\n"} {
		if _, err := parse([]byte(text), "node-1"); err == nil {
			t.Errorf("accepted %q", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(podText("web", "1", "node-1")))
	f.Add([]byte("kind: Namespace\nmetadata: {name: x}\n---\nkind: Pod"))
	f.Fuzz(func(t *testing.T, b []byte) {
		objects, err := parse(b, "node-1")
		if err != nil {
			return
		}
		for _, o := range objects {
			if o.pod == nil && o.namespace == "" {
				t.Fatal("an object that is nothing")
			}
			if o.pod != nil && (o.pod.Name == "" || o.pod.UID == "" || o.pod.Namespace == "") {
				t.Fatalf("a pod without a name: %+v", o.pod)
			}
		}
	})
}
