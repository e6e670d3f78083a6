package folder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// mirror keeps what a watcher was told.
type mirror struct {
	mu    sync.Mutex
	calls int
	files map[string]string // content, or "error: …"
	// every content that was ever told, by path
	told map[string][]string
}

func (m *mirror) apply(cs []Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	for _, c := range cs {
		switch {
		case c.Removed:
			delete(m.files, c.Path)
			m.told[c.Path] = append(m.told[c.Path], "removed")
		case c.Err != nil:
			m.files[c.Path] = "error: " + c.Err.Error()
		default:
			m.files[c.Path] = string(c.Data)
			m.told[c.Path] = append(m.told[c.Path], string(c.Data))
		}
	}
	return nil
}

func (m *mirror) get(p string) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.files[p]
	return s, ok
}

// eventually polls a real process for a state, with a deadline.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within ten seconds: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// start watches root until the test ends and waits for the first call.
func start(t *testing.T, root string, opts Options) *mirror {
	t.Helper()
	m := &mirror{files: map[string]string{}, told: map[string][]string{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Watch(ctx, root, opts, m.apply) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch returned %v", err)
		}
	})
	eventually(t, "first call", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.calls > 0 })
	return m
}

func (m *mirror) wait(t *testing.T, p, want string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s is %.60q", p, want), func() bool { s, ok := m.get(p); return ok && s == want })
}

func (m *mirror) waitGone(t *testing.T, p string) {
	t.Helper()
	eventually(t, p+" is gone", func() bool { _, ok := m.get(p); return !ok })
}

// never is a rescan period that tests do not live to see: what they observe came by notification.
var never = Options{Rescan: time.Hour}

func put(t *testing.T, name, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFirstCallHasEverythingAndNothingElse(t *testing.T) {
	root := t.TempDir()
	put(t, filepath.Join(root, "a.yaml"), "a")
	put(t, filepath.Join(root, "deep/er/b.yml"), "b")
	put(t, filepath.Join(root, "c.json"), "{}")
	put(t, filepath.Join(root, "README.md"), "no")
	put(t, filepath.Join(root, ".hidden.yaml"), "no")
	put(t, filepath.Join(root, ".git/x.yaml"), "no")
	got, err := Scan(root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, c := range got {
		paths = append(paths, c.Path)
	}
	if want := "a.yaml c.json deep/er/b.yml"; strings.Join(paths, " ") != want {
		t.Errorf("got %q, want %q", paths, want)
	}
}

func TestEmptyFolderStillCalls(t *testing.T) {
	start(t, t.TempDir(), never) // start waits for the call
}

func TestMissingFolderIsAnError(t *testing.T) {
	err := Watch(t.Context(), filepath.Join(t.TempDir(), "nope"), Options{}, func([]Change) error { return nil })
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "nope") {
		t.Errorf("got %v", err)
	}
}

func TestErrorOfCallbackEndsWatch(t *testing.T) {
	stop := errors.New("enough")
	if err := Watch(t.Context(), t.TempDir(), Options{}, func([]Change) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

func TestChunksBeforeSynced(t *testing.T) {
	root := t.TempDir()
	for i := range 10 {
		put(t, filepath.Join(root, fmt.Sprintf("%d.yaml", i)), "0123456789")
	}
	synced := errors.New("synced")
	calls, files := 0, 0
	err := Watch(t.Context(), root, Options{Chunk: 25, Synced: func() error { return synced }}, func(cs []Change) error {
		calls++
		files += len(cs)
		return nil
	})
	if !errors.Is(err, synced) || files != 10 || calls != 4 {
		t.Errorf("err %v, %d files in %d calls", err, files, calls)
	}
}

func TestFollowsChanges(t *testing.T) {
	root := t.TempDir()
	m := start(t, root, never)
	if err := Write(root, "pods/a.yaml", []byte("1")); err != nil {
		t.Fatal(err)
	}
	m.wait(t, "pods/a.yaml", "1")
	if err := Write(root, "pods/a.yaml", []byte("2")); err != nil {
		t.Fatal(err)
	}
	m.wait(t, "pods/a.yaml", "2")
	put(t, filepath.Join(root, "in/place.yaml"), "3")
	m.wait(t, "in/place.yaml", "3")
	if err := Remove(root, "pods/a.yaml"); err != nil {
		t.Fatal(err)
	}
	m.waitGone(t, "pods/a.yaml")
	if err := os.RemoveAll(filepath.Join(root, "in")); err != nil {
		t.Fatal(err)
	}
	m.waitGone(t, "in/place.yaml")
}

func TestRenamedDirectoryKeepsReporting(t *testing.T) {
	root := t.TempDir()
	put(t, filepath.Join(root, "a/b/x.yaml"), "1")
	m := start(t, root, never)
	m.wait(t, "a/b/x.yaml", "1")
	if err := os.Rename(filepath.Join(root, "a"), filepath.Join(root, "z")); err != nil {
		t.Fatal(err)
	}
	m.wait(t, "z/b/x.yaml", "1")
	m.waitGone(t, "a/b/x.yaml")
	put(t, filepath.Join(root, "z/b/x.yaml"), "2")
	m.wait(t, "z/b/x.yaml", "2")
	put(t, filepath.Join(root, "a/b/x.yaml"), "3")
	m.wait(t, "a/b/x.yaml", "3")
}

func TestVanishedRootKeepsStateAndReturns(t *testing.T) {
	parent := t.TempDir()
	root := filepath.Join(parent, "conf")
	put(t, filepath.Join(root, "a.yaml"), "1")
	put(t, filepath.Join(root, "b.yaml"), "1")
	m := start(t, root, never)
	if err := os.Rename(root, root+".old"); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(root+".new", "a.yaml"), "2")
	put(t, filepath.Join(root+".new", "c/d.yaml"), "2")
	if err := os.Rename(root+".new", root); err != nil {
		t.Fatal(err)
	}
	m.wait(t, "a.yaml", "2")
	m.wait(t, "c/d.yaml", "2")
	m.waitGone(t, "b.yaml")
	put(t, filepath.Join(root, "c/d.yaml"), "3") // the new folder is watched, too
	m.wait(t, "c/d.yaml", "3")

	if err := os.Rename(root, root+".away"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * goneRetry) // nothing to wait for: this is about what does not happen
	if s, ok := m.get("a.yaml"); !ok || s != "2" {
		t.Errorf("content was taken back when the folder disappeared: %q %v", s, ok)
	}
}

func TestRescanFindsWhatNotificationsMissed(t *testing.T) {
	root := t.TempDir()
	tr := newTree(Options{}.withDefaults())
	var got []Change
	tr.emit = func(c Change) error { got = append(got, c); return nil }
	scan := func() []Change {
		t.Helper()
		got = nil
		if err := errors.Join(tr.open(root), tr.scan()); err != nil {
			t.Fatal(err)
		}
		return got
	}
	put(t, filepath.Join(root, "d/a.yaml"), "1")
	if cs := scan(); len(cs) != 1 || string(cs[0].Data) != "1" {
		t.Fatalf("first: %v", cs)
	}
	if cs := scan(); len(cs) != 0 {
		t.Fatalf("unchanged: %v", cs)
	}
	now := time.Now().Add(time.Minute)
	if err := os.Chtimes(filepath.Join(root, "d/a.yaml"), now, now); err != nil {
		t.Fatal(err)
	}
	if cs := scan(); len(cs) != 0 {
		t.Fatalf("touched but equal: %v", cs)
	}
	put(t, filepath.Join(root, "d/a.yaml"), "22")
	if cs := scan(); len(cs) != 1 || string(cs[0].Data) != "22" {
		t.Fatalf("changed: %v", cs)
	}
	os.RemoveAll(filepath.Join(root, "d"))
	if cs := scan(); len(cs) != 1 || !cs[0].Removed {
		t.Fatalf("removed: %v", cs)
	}
	tr.close()
}

func TestUnusableFiles(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	put(t, filepath.Join(outside, "secret.yaml"), "secret")
	put(t, filepath.Join(root, "real.yaml"), "r")
	put(t, filepath.Join(root, "big.yaml"), strings.Repeat("x", 101))
	for link, target := range map[string]string{
		"out.yaml": filepath.Join(outside, "secret.yaml"), "up.yaml": "../../../../etc/hostname",
		"in.yaml": "real.yaml", "dangling.yaml": "nowhere.yaml", "loop.yaml": "loop.yaml", "dir": outside, "dir.yaml": outside,
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(root, "pipe.yaml"), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := Scan(root, Options{MaxSize: 100})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]error{
		"out.yaml": ErrOutside, "up.yaml": ErrOutside, "dir.yaml": ErrOutside, "big.yaml": ErrTooLarge, "pipe.yaml": ErrNotRegular,
		"dangling.yaml": os.ErrNotExist, "loop.yaml": nil,
	}
	for _, c := range got {
		wantErr, bad := want[c.Path]
		delete(want, c.Path)
		switch {
		case !bad && (c.Err != nil || string(c.Data) != "r"):
			t.Errorf("%s: %q %v", c.Path, c.Data, c.Err)
		case bad && c.Err == nil, wantErr != nil && !errors.Is(c.Err, wantErr):
			t.Errorf("%s: error %v, want %v", c.Path, c.Err, wantErr)
		}
		if strings.HasPrefix(c.Path, "dir/") {
			t.Errorf("a linked directory was followed: %s", c.Path)
		}
	}
	if len(want) > 0 {
		t.Errorf("not reported: %v", want)
	}
}

func TestTooManyFilesIsSaidOnce(t *testing.T) {
	root := t.TempDir()
	for i := range 5 {
		put(t, filepath.Join(root, fmt.Sprintf("%d.yaml", i)), "x")
	}
	got, err := Scan(root, Options{MaxFiles: 3})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 4 || !errors.Is(got[3].Err, ErrTooMany) {
		t.Errorf("got %v", got)
	}
}

// A renamed file does not wait for the settling time, which is longer than this test.
func TestRenamedFileIsReadAtOnce(t *testing.T) {
	root := t.TempDir()
	m := start(t, root, Options{Settle: time.Minute, Rescan: time.Hour})
	for _, content := range []string{"a: 1\n", "a: 2\n"} {
		if err := Write(root, "x.yaml", []byte(content)); err != nil {
			t.Fatal(err)
		}
		m.wait(t, "x.yaml", content)
	}
}
