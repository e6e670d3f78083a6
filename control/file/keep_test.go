package file

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

func denial(name, namespace string) string {
	return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: ns, name: " + name +
		"}\nspec: {action: DENY, rules: [{from: [{source: {namespaces: [" + namespace + "]}}]}]}\n"
}

// restart reads a folder with a new source until it is complete.
func restart(t *testing.T, root, keep string) *world {
	t.Helper()
	w := &world{T: t, sink: &memory{}, reg: status.New()}
	w.src = New(Config{Root: root, Keep: keep, Sink: w.sink, Status: w.reg})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	w.src.cfg.Sink = &stopper{memory: w.sink, stop: cancel}
	go func() { done <- w.src.Run(ctx) }()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return w
}

// stopper ends a source that has read everything.
type stopper struct {
	*memory
	stop context.CancelFunc
}

func (s *stopper) Synced() { s.memory.Synced(); s.stop() }

// TestLastGoodPolicyOutlivesTheProcess is a policy with a typing error, and a control plane that is restarted before
// anybody looks: it must not be open then to those whom the version before kept out.
func TestLastGoodPolicyOutlivesTheProcess(t *testing.T) {
	root, keep := t.TempDir(), filepath.Join(t.TempDir(), "state")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	from := func(w *world, name string) string {
		p, _ := w.sink.objects[object.Key{Kind: object.KindAuthorizationPolicy, Namespace: "ns", Name: name}].(*object.AuthorizationPolicy)
		if p == nil {
			return "nothing"
		}
		return strings.Join(p.Rules[0].From[0].Namespaces, ",")
	}
	bad := func(s string) string { return strings.Replace(s, "namespaces:", "namespace:", 1) }
	steps := []struct {
		what, text, a, b string
	}{
		{"two good ones", denial("a", "a1") + "---\n" + denial("b", "b1"), "a1", "b1"},
		{"one is changed, the other is broken", denial("a", "a2") + "---\n" + bad(denial("b", "b2")), "a2", "b1"},
		{"nothing changes", denial("a", "a2") + "---\n" + bad(denial("b", "b2")), "a2", "b1"},
		{"the changed one is broken too", bad(denial("a", "a3")) + "---\n" + bad(denial("b", "b2")), "a2", "b1"},
		{"nothing in it can be read", "kind: [\n", "a2", "b1"},
		{"it is empty", "", "a2", "b1"},
		{"one is mended, the other taken out", denial("a", "a4"), "a4", "nothing"},
		{"what was taken out comes back broken", denial("a", "a4") + "---\n" + bad(denial("b", "b3")), "a4", "nothing"},
	}
	for _, s := range steps {
		write("p.yaml", s.text)
		w := restart(t, root, keep)
		if a, b := from(w, "a"), from(w, "b"); a != s.a || b != s.b {
			t.Errorf("%s: in force are %s and %s, want %s and %s\n%s", s.what, a, b, s.a, s.b, w.said())
		}
	}
	if err := os.Remove(filepath.Join(root, "p.yaml")); err != nil {
		t.Fatal(err)
	}
	restart(t, root, keep)
	if _, err := os.Stat(filepath.Join(keep, "p.yaml")); !os.IsNotExist(err) {
		t.Errorf("a note stays about a file that is gone: %v", err)
	}
}

func TestOnlyFilesWithPoliciesAreNoted(t *testing.T) {
	root, keep := t.TempDir(), filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(filepath.Join(root, "sa.yaml"), []byte(sa("ns", "a")), 0o600); err != nil {
		t.Fatal(err)
	}
	restart(t, root, keep)
	if list, _ := filepath.Glob(filepath.Join(keep, "*.yaml")); len(list) > 0 {
		t.Errorf("noted: %v", list)
	}
}

// TestPlaceFollowsTheText asks where objects are written while they move up, down and to another file.
func TestPlaceFollowsTheText(t *testing.T) {
	w := newWorld(t)
	key := object.Key{Kind: object.KindServiceAccount, Namespace: "ns", Name: "b"}
	for _, s := range []struct {
		cs   []change
		path string
		line int
	}{
		{[]change{{"x.yaml", sa("ns", "a") + "---\n" + sa("ns", "b")}}, "x.yaml", 7},
		{[]change{{"x.yaml", sa("ns", "b") + "---\n" + sa("ns", "a")}}, "x.yaml", 1},
		{[]change{{"y.yaml", "\n\n" + sa("ns", "b")}}, "x.yaml", 1},
		{[]change{{"x.yaml", sa("ns", "a")}}, "y.yaml", 3},
		{[]change{{"y.yaml", ""}}, "", 0},
	} {
		w.apply(s.cs...)
		if path, line := w.src.Place(key); path != s.path || line != s.line {
			t.Errorf("after %q it is at %s:%d, want %s:%d", s.cs, path, line, s.path, s.line)
		}
	}
}
