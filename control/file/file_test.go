package file

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// memory is a sink that keeps what is in force.
type memory struct {
	mu      sync.Mutex
	objects map[object.Key]object.Object
	events  []string // of the last batch
	all     int
	synced  bool
	twice   bool // a batch named a key twice
}

func (m *memory) Apply(es []object.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.objects == nil {
		m.objects = make(map[object.Key]object.Object)
	}
	m.events = nil
	m.all += len(es)
	seen := map[object.Key]bool{}
	for _, e := range es {
		m.twice = m.twice || seen[e.Key]
		seen[e.Key] = true
		if e.Object == nil {
			delete(m.objects, e.Key)
			m.events = append(m.events, "gone "+e.Key.String())
		} else {
			m.objects[e.Key] = e.Object
			m.events = append(m.events, "put "+e.Key.String())
		}
	}
}

func (m *memory) Synced() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.synced = true
}

// world is a source that is fed by hand.
type world struct {
	*testing.T
	src  *Source
	sink *memory
	reg  *status.Registry
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, sink: &memory{}, reg: status.New()}
	w.src = New(Config{Sink: w.sink, Status: w.reg})
	return w
}

// change is what a batch does to a file; an empty body removes it.
type change struct{ path, body string }

// apply takes a batch in and returns its events.
func (w *world) apply(cs ...change) string {
	w.sink.events = nil
	var in []folder.Change
	for _, c := range cs {
		in = append(in, folder.Change{Path: c.path, Data: []byte(c.body), Removed: c.body == ""})
	}
	w.src.apply(in)
	if w.sink.twice {
		w.Error("a batch named an object twice")
	}
	return strings.Join(w.sink.events, ", ")
}

func (w *world) want(got, want string) {
	w.Helper()
	if got != want {
		w.Errorf("got %q, want %q", got, want)
	}
}

// said is everything in the registry, one entry a line.
func (w *world) said() string {
	var lines []string
	for _, e := range w.reg.List() {
		lines = append(lines, e.String())
	}
	return strings.Join(lines, "\n")
}

func (w *world) hears(parts ...string) {
	w.Helper()
	said := w.said()
	for _, p := range parts {
		if !strings.Contains(said, p) {
			w.Errorf("nothing says %q; said is\n%s", p, said)
		}
	}
	if len(parts) == 0 && said != "" {
		w.Errorf("unexpected: %s", said)
	}
}

func sa(ns, name string, labels ...string) string {
	s := fmt.Sprintf("apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  namespace: %s\n  name: %s\n", ns, name)
	if len(labels) > 0 {
		s += "  labels: {v: " + labels[0] + "}\n"
	}
	return s
}

func TestOnlyWhatChangedIsEmitted(t *testing.T) {
	w := newWorld(t)
	w.want(w.apply(change{"a.yaml", sa("ns", "a") + "---\n" + sa("ns", "b")}), "put ServiceAccount ns/a, put ServiceAccount ns/b")
	w.want(w.apply(change{"a.yaml", sa("ns", "a") + "---\n" + sa("ns", "b")}), "")
	w.want(w.apply(change{"a.yaml", sa("ns", "a") + "---\n" + sa("ns", "b", "two")}), "put ServiceAccount ns/b")
	w.want(w.apply(change{"a.yaml", sa("ns", "b", "two") + "---\n" + sa("ns", "c")}), "put ServiceAccount ns/c, gone ServiceAccount ns/a")
	w.want(w.apply(change{"a.yaml", ""}), "gone ServiceAccount ns/b, gone ServiceAccount ns/c")
	w.hears()
	if st := w.src.Stats(); st.Files != 0 || st.Objects != 0 {
		t.Errorf("left over: %+v", st)
	}
}

func TestRefusedDocumentKeepsItsLastGoodVersion(t *testing.T) {
	w := newWorld(t)
	w.apply(change{"a.yaml", sa("ns", "a") + "---\n" + sa("ns", "b")})
	bad := strings.Replace(sa("ns", "a"), "metadata:", "metdata: {}\nmetadata:", 1)
	w.want(w.apply(change{"a.yaml", bad + "---\n" + sa("ns", "b", "two")}), "put ServiceAccount ns/b")
	w.hears("a.yaml:3: ServiceAccount ns/a: metdata: there is no field", "did you mean metadata?", "(the earlier version stays in force)")
	// Back to the good version: nothing was lost, so nothing is new.
	w.want(w.apply(change{"a.yaml", sa("ns", "a") + "---\n" + sa("ns", "b", "two")}), "")
	w.hears()
	// Removing the refused document does remove the object.
	w.apply(change{"a.yaml", bad + "---\n" + sa("ns", "b", "two")})
	w.want(w.apply(change{"a.yaml", sa("ns", "b", "two")}), "gone ServiceAccount ns/a")
}

func TestFileThatCannotBeUnderstoodKeepsEverything(t *testing.T) {
	w := newWorld(t)
	w.apply(change{"a.yaml", sa("ns", "a") + "---\n" + sa("ns", "b")})
	for _, broken := range []string{"{", "metadata: [\n", "a: b: c\n", "kind: ServiceAccount\n", "\t- x\n"} {
		w.want(w.apply(change{"a.yaml", broken}), "")
		w.hears("(2 objects the file had before cannot be found in it)", "(the earlier version stays in force)")
	}
	w.src.apply([]folder.Change{{Path: "a.yaml", Data: nil}})
	w.hears("the file is empty", "stays in force")
	w.src.apply([]folder.Change{{Path: "a.yaml", Err: fmt.Errorf("%w: 5000000 bytes", folder.ErrTooLarge)}})
	w.hears("a.yaml: file is too large", "split it", "stays in force")
	if len(w.sink.objects) != 2 {
		t.Errorf("in force: %v", w.sink.objects)
	}
	w.want(w.apply(change{"a.yaml", sa("ns", "a")}), "gone ServiceAccount ns/b")
	w.hears()
}

// Whatever beginning of a file is left, nothing that was in force may change but what stands complete in it.
func TestFileCutAnywhere(t *testing.T) {
	policy := "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\n  namespace: ns\nspec:\n  action: DENY\n  rules:\n  - from:\n    - source:\n        namespaces: [x]\n    to:\n    - operation:\n        ports: [\"80\"]\n"
	whole := sa("ns", "a") + "---\n" + policy + "---\n" + sa("ns", "b")
	ends := map[int]bool{}
	for i, c := range whole {
		if c == '\n' {
			ends[i+1] = true // cut after a line: reads like somebody's edit
			ends[i] = true
		}
	}
	for cut := 1; cut < len(whole); cut++ {
		if ends[cut] {
			continue
		}
		w := newWorld(t)
		w.apply(change{"a.yaml", whole})
		got := w.apply(change{"a.yaml", whole[:cut]})
		if got != "" {
			t.Errorf("cut at %d, after %q: %s", cut, whole[max(0, cut-30):cut], got)
		}
		if len(w.sink.objects) != 3 || w.said() == "" {
			t.Errorf("cut at %d: %d objects, said: %s", cut, len(w.sink.objects), w.said())
		}
		w.want(w.apply(change{"a.yaml", whole}), "")
		w.hears()
	}
}

func TestSameObjectInTwoFiles(t *testing.T) {
	w := newWorld(t)
	w.want(w.apply(change{"a.yaml", sa("ns", "x")}), "put ServiceAccount ns/x")
	w.want(w.apply(change{"b.yaml", sa("ns", "x", "two")}), "")
	w.hears("b.yaml:1: ServiceAccount ns/x: the object is also in a.yaml:1")
	w.want(w.apply(change{"c.yaml", sa("ns", "x", "three")}), "")
	// The one in force goes: the next one takes over without a gap, and the third learns of it.
	w.want(w.apply(change{"a.yaml", ""}), "put ServiceAccount ns/x")
	if o := w.sink.objects[object.Key{Kind: object.KindServiceAccount, Namespace: "ns", Name: "x"}]; o.Metadata().Labels.Get("v") != "two" {
		t.Errorf("the wrong version took over: %v", o.Metadata().Labels)
	}
	w.hears("c.yaml:1: ServiceAccount ns/x: the object is also in b.yaml:1")
	// One that only waits goes: nobody notices.
	w.want(w.apply(change{"c.yaml", ""}), "")
	w.hears()
	w.want(w.apply(change{"b.yaml", ""}), "gone ServiceAccount ns/x")
}

func TestSameObjectTwiceInOneFile(t *testing.T) {
	w := newWorld(t)
	w.want(w.apply(change{"a.yaml", sa("ns", "x") + "---\n" + sa("ns", "x", "two")}), "put ServiceAccount ns/x")
	w.hears("a.yaml:7: ServiceAccount ns/x: the object stands twice in this file, first on line 1")
}

func TestMoveBetweenFiles(t *testing.T) {
	w := newWorld(t)
	w.apply(change{"a.yaml", sa("ns", "x")})
	if got := w.apply(change{"b.yaml", sa("ns", "x")}, change{"a.yaml", ""}); strings.Contains(got, "gone") {
		t.Errorf("the object was missed in between: %s", got)
	}
	w.hears()
	w.want(w.apply(change{"a.yaml", ""}), "")
	w.want(w.apply(change{"b.yaml", ""}), "gone ServiceAccount ns/x")
}

func TestListsAreComparedByItem(t *testing.T) {
	item := func(name, label string) string {
		return "- {apiVersion: v1, kind: ServiceAccount, metadata: {namespace: ns, name: " + name + ", labels: {v: " + label + "}}}\n"
	}
	list := func(items ...string) string { return "apiVersion: v1\nkind: List\nitems:\n" + strings.Join(items, "") }
	w := newWorld(t)
	w.want(w.apply(change{"l.yaml", list(item("a", "x"), item("b", "x"))}), "put ServiceAccount ns/a, put ServiceAccount ns/b")
	// One item is refused and the other changes; then the list returns to what it was.
	w.want(w.apply(change{"l.yaml", list(item("a", "z"), item("b", "'*'"))}), "put ServiceAccount ns/a")
	w.hears("ServiceAccount ns/b: metadata.labels.v")
	w.want(w.apply(change{"l.yaml", list(item("a", "x"), item("b", "x"))}), "put ServiceAccount ns/a")
	w.hears()
}

func TestIgnoredKindsAreCounted(t *testing.T) {
	w := newWorld(t)
	w.apply(change{"a.yaml", "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: a}\n---\napiVersion: apps/v1\nkind: Deployment\nfoo: bar\n"},
		change{"b.yaml", "apiVersion: v1\nkind: ResourceQuota\n"})
	if d := cmp.Diff(map[string]int{"ResourceQuota": 2, "apps/Deployment": 1}, w.src.Stats().Ignored); d != "" {
		t.Error(d)
	}
	w.apply(change{"a.yaml", ""})
	if d := cmp.Diff(map[string]int{"ResourceQuota": 1}, w.src.Stats().Ignored); d != "" {
		t.Error(d)
	}
	w.hears()
}

// The whole way from a folder: everything at once and Synced, then changes.
func TestRun(t *testing.T) {
	root := t.TempDir()
	for i := range 100 {
		if err := os.WriteFile(filepath.Join(root, fmt.Sprintf("%d.yaml", i)), []byte(sa("ns", fmt.Sprint("x", i))), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sink, reg := &memory{}, status.New()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- New(Config{Root: root, Sink: sink, Status: reg}).Run(ctx) }()
	wait := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
			sink.mu.Lock()
			good := ok()
			sink.mu.Unlock()
			if good {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("not within ten seconds: %s", what)
			}
		}
	}
	wait("synced", func() bool { return sink.synced })
	if len(sink.objects) != 100 {
		t.Errorf("%d objects when synced", len(sink.objects))
	}
	if err := folder.Remove(root, "7.yaml"); err != nil {
		t.Fatal(err)
	}
	wait("removed", func() bool { return len(sink.objects) == 99 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
