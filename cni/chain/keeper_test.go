package chain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is the folders of a node and the keeper at work on them.
type node struct {
	*testing.T
	conf, bin string
	cfg       Config
	keeper    *Keeper
	log       *lines
	token     string
}

// lines is a log to be read.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), s)
}

func newNode(t *testing.T) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{T: t, conf: filepath.Join(dir, "net.d"), bin: filepath.Join(dir, "bin"), log: &lines{}, token: "one"}
	program := filepath.Join(dir, "plugin")
	n.must(os.WriteFile(program, []byte("#!/bin/sh\nexit 0\n"), 0o755))
	n.cfg = Config{
		Settings: Settings{Entry: json.RawMessage(entry)}, ConfDir: n.conf, BinDir: n.bin, Program: program,
		Kubeconfig: filepath.Join(dir, "run/kubeconfig"), KubeconfigMode: 0o600, Every: time.Hour,
		Credentials: func() ([]byte, error) { return Kubeconfig("https://10.0.0.1:443", []byte("CA"), n.token, false) },
	}
	return n
}

func (n *node) must(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

func (n *node) run() (stop func()) {
	n.Helper()
	n.keeper = New(n.cfg, slog.New(slog.NewTextHandler(n.log, nil)), prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(n.Context())
	done := make(chan error, 1)
	go func() { done <- n.keeper.Run(ctx) }()
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); n.must(<-done) }) }
	n.Cleanup(stop)
	return stop
}

// write is how network plugins write: beside, then over.
func (n *node) write(name, data string) {
	n.Helper()
	n.must(os.MkdirAll(n.conf, 0o755))
	tmp := filepath.Join(n.conf, "."+name+".tmp")
	n.must(os.WriteFile(tmp, []byte(data), 0o600))
	n.must(os.Rename(tmp, filepath.Join(n.conf, name)))
}

func (n *node) read(path string) string {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.Fatal(err)
	}
	return string(data)
}

// soon waits for what is to happen within a second.
func (n *node) soon(what string, f func() bool) time.Duration {
	n.Helper()
	start := time.Now()
	for time.Since(start) < 5*time.Second {
		if f() {
			return time.Since(start)
		}
		time.Sleep(time.Millisecond)
	}
	n.Fatalf("%s: not after %s; the keeper says: %v", what, time.Since(start), n.keeper.Err())
	return 0
}

func (n *node) chained(name string) func() bool {
	return func() bool { return strings.Contains(n.read(filepath.Join(n.conf, name)), `"ambit-cni"`) }
}

func TestKeeper(t *testing.T) {
	n := newNode(t)
	stop := n.run()
	n.soon("it waits for a network", func() bool { err := n.keeper.Err(); return err != nil && errors.Is(err, ErrNoNetwork) })
	program := filepath.Join(n.bin, Type)
	if fi, err := os.Stat(program); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("program: %v %v", fi, err)
	}

	// The network plugin arrives, and comes again with another configuration.
	n.write("10-a.conflist", conflist(bridge))
	n.soon("chained", n.chained("10-a.conflist"))
	n.soon("no trouble", func() bool { return n.keeper.Err() == nil })
	if fi, err := os.Stat(filepath.Join(n.conf, "10-a.conflist")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode has changed: %v %v", fi, err)
	}
	n.write("10-a.conflist", conflist(`{"type":"calico"}`))
	if d := n.soon("chained again", n.chained("10-a.conflist")); d > time.Second {
		t.Errorf("healed after %s", d)
	}
	if !strings.Contains(n.read(filepath.Join(n.conf, "10-a.conflist")), "calico") {
		t.Error("the new configuration is lost")
	}
	// Another one comes first, and goes.
	n.write("05-b.conf", `{"name":"b","type":"b"}`)
	n.soon("chained to the first", n.chained("05-b.conflist"))
	// The list is there a moment before the file it stands for is put aside.
	saved := filepath.Join(n.conf, "05-b.conf.ambit-saved")
	n.soon("the single configuration is put aside", func() bool { return n.read(saved) != "" })
	n.must(os.Remove(saved))
	n.must(os.Remove(filepath.Join(n.conf, "05-b.conflist")))
	n.must(os.Remove(filepath.Join(n.conf, "10-a.conflist")))
	n.soon("trouble", func() bool { return n.keeper.Err() != nil })
	n.write("10-a.conflist", conflist(bridge))
	n.soon("chained", n.chained("10-a.conflist"))

	n.must(os.Remove(program))
	n.soon("the program is back", func() bool { return n.read(program) != "" })
	n.must(os.WriteFile(program, []byte("something else"), 0o755))
	n.soon("the program is ours", func() bool { return strings.HasPrefix(n.read(program), "#!/bin/sh") })
	if got := n.read(n.cfg.Kubeconfig); !strings.Contains(got, `"token": "one"`) || !strings.Contains(got, "10.0.0.1") {
		t.Errorf("kubeconfig: %s", got)
	}
	if testutil.ToFloat64(n.keeper.installs.WithLabelValues(resultOK)) < 3 {
		t.Error("installs are not counted")
	}

	stop()
	n.must(n.keeper.Remove())
	n.must(n.keeper.Remove())
	if n.read(n.cfg.Kubeconfig) != "" {
		t.Error("the kubeconfig is left")
	}
	// Runtimes call it for pods that were started with it.
	if n.read(program) == "" {
		t.Error("the program is gone")
	}
	files, err := read(n.conf)
	n.must(err)
	if len(files) != 1 || !same(files[0].Data, []byte(conflist(bridge))) {
		t.Errorf("left: %s", files)
	}
}

// Tokens are replaced without anything happening in the folders.
func TestKeeperRenewsTheToken(t *testing.T) {
	n := newNode(t)
	n.cfg.Every = 10 * time.Millisecond
	var mu sync.Mutex
	n.cfg.Credentials = func() ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		if n.token == "" {
			return nil, errors.New("no token")
		}
		return []byte(n.token), nil
	}
	n.write("10-a.conflist", conflist(bridge))
	n.run()
	n.soon("first", func() bool { return n.read(n.cfg.Kubeconfig) == "one" })
	set := func(token string) { mu.Lock(); n.token = token; mu.Unlock() }
	set("two")
	n.soon("second", func() bool { return n.read(n.cfg.Kubeconfig) == "two" })
	set("")
	n.soon("trouble", func() bool { return n.keeper.Err() != nil && strings.Contains(n.keeper.Err().Error(), "no token") })
	set("three")
	n.soon("third", func() bool { return n.keeper.Err() == nil && n.read(n.cfg.Kubeconfig) == "three" })
}

// What an agent that was killed has left half written is removed by the next one, and by an uninstall.
func TestKeeperClearsUp(t *testing.T) {
	n := newNode(t)
	dirs := []string{n.conf, n.bin, filepath.Dir(n.cfg.Kubeconfig)}
	litter := func() {
		for _, dir := range dirs {
			n.must(os.MkdirAll(dir, 0o755))
			for _, name := range []string{".ambit-1234.tmp", ".theirs.tmp"} {
				n.must(os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600))
			}
		}
	}
	clean := func() bool {
		for _, dir := range dirs {
			if n.read(filepath.Join(dir, ".theirs.tmp")) == "" {
				t.Errorf("somebody else's file is gone from %s", dir)
			}
			if n.read(filepath.Join(dir, ".ambit-1234.tmp")) != "" {
				return false
			}
		}
		return true
	}
	n.write("10-a.conflist", conflist(bridge))
	litter()
	stop := n.run()
	n.soon("chained", n.chained("10-a.conflist"))
	if !clean() {
		t.Error("a start leaves what was half written")
	}
	stop()
	litter()
	n.must(n.keeper.Remove())
	if !clean() {
		t.Error("an uninstall leaves what was half written")
	}
}

// A folder that is deleted under its mount never has anything in it again: the keeper ends, so that the agent starts anew.
func TestKeeperOfADeletedFolder(t *testing.T) {
	n := newNode(t)
	n.must(os.MkdirAll(n.conf, 0o755))
	// Like a mount, a descriptor leads to the folder and not to its name.
	dir, err := os.Open(n.conf)
	n.must(err)
	defer dir.Close()
	n.cfg.ConfDir = fmt.Sprintf("/proc/self/fd/%d", dir.Fd())
	n.cfg.Every = 10 * time.Millisecond
	n.write("10-a.conflist", conflist(bridge))
	n.keeper = New(n.cfg, slog.New(slog.NewTextHandler(n.log, nil)), prometheus.NewRegistry())
	done := make(chan error, 1)
	go func() { done <- n.keeper.Run(n.Context()) }()
	n.soon("chained", n.chained("10-a.conflist"))
	n.must(os.RemoveAll(n.conf))
	n.must(os.MkdirAll(n.conf, 0o755))
	if err := <-done; err == nil || !strings.Contains(err.Error(), "was deleted on the node") || n.keeper.Err() == nil {
		t.Errorf("%v, %v", err, n.keeper.Err())
	}
}

// Second-best credentials are kept as new as others, and are no reason not to be ready.
func TestKeeperWithoutItsToken(t *testing.T) {
	n := newNode(t)
	n.cfg.Every = 10 * time.Millisecond
	var mu sync.Mutex
	wanting := errors.New("no token")
	n.cfg.Credentials = func() ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		return []byte(n.token), wanting
	}
	n.must(os.MkdirAll(filepath.Dir(n.cfg.Kubeconfig), 0o755))
	n.must(os.WriteFile(n.cfg.Kubeconfig, []byte("of a pod that is gone"), 0o600))
	n.write("10-a.conflist", conflist(bridge))
	n.run()
	n.soon("the agent's own", func() bool { return n.read(n.cfg.Kubeconfig) == "one" })
	n.soon("chained and ready", func() bool { return n.chained("10-a.conflist")() && n.keeper.Err() == nil })
	mu.Lock()
	n.token = "two"
	mu.Unlock()
	n.soon("refreshed", func() bool { return n.read(n.cfg.Kubeconfig) == "two" })
	if w := n.keeper.Warning(); w == nil || !strings.Contains(w.Error(), "no token") || n.log.count("no token") != 1 {
		t.Errorf("warning %v, logged %d times", w, n.log.count("no token"))
	}
	mu.Lock()
	wanting = nil
	mu.Unlock()
	n.soon("no warning", func() bool { return n.keeper.Warning() == nil })
}

// A network plugin that wants to be alone is not fought with all of a core.
func TestKeeperKeepsCalm(t *testing.T) {
	n := newNode(t)
	n.write("10-a.conflist", conflist(bridge))
	n.run()
	n.soon("chained", n.chained("10-a.conflist"))
	for start := time.Now(); time.Since(start) < 3*time.Second; {
		if n.chained("10-a.conflist")() {
			n.write("10-a.conflist", conflist(bridge))
		}
		time.Sleep(time.Millisecond)
	}
	if writes := n.log.count("CNI configuration is changed"); writes > 5*often {
		t.Errorf("%d times in 3 s", writes)
	}
	if n.log.count("cni.exclusive") == 0 {
		t.Error("the operator is not told")
	}
	n.soon("chained in the end", n.chained("10-a.conflist"))
}

// What another writer says between our look and our change is not lost.
func TestApplyLosesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.conflist")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		change Change
		there  string
		err    error
		want   string
	}{
		"as it was":           {Change{Name: "a.conflist", Old: []byte("old"), New: []byte("new")}, "old", nil, "new"},
		"written meanwhile":   {Change{Name: "a.conflist", Old: []byte("old"), New: []byte("new")}, "theirs", errRaced, "theirs"},
		"made meanwhile":      {Change{Name: "a.conflist", New: []byte("new")}, "theirs", errRaced, "theirs"},
		"made":                {Change{Name: "a.conflist", New: []byte("new")}, "", nil, "new"},
		"gone":                {Change{Name: "a.conflist", Old: []byte("old")}, "old", nil, ""},
		"gone already":        {Change{Name: "a.conflist", Old: []byte("old")}, "", nil, ""},
		"theirs is not gone":  {Change{Name: "a.conflist", Old: []byte("old")}, "theirs", errRaced, "theirs"},
		"aside":               {Change{Name: "a.conflist", Old: []byte("old"), To: "a.conflist.ambit-saved"}, "old", nil, ""},
		"theirs is in effect": {Change{Name: "a.conflist", Old: []byte("old"), To: "a.conflist.ambit-saved"}, "theirs", errRaced, "theirs"},
		"back over theirs":    {Change{Name: "b.conflist", Old: []byte("old"), To: "a.conflist"}, "theirs", errRaced, "theirs"},
		"it goes and changes": {Change{Name: "a.conflist", Old: []byte("old"), New: []byte("new")}, "", fs.ErrNotExist, ""},
	} {
		_ = os.Remove(path)
		if err := os.WriteFile(filepath.Join(dir, "b.conflist"), []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
		if c.there != "" {
			write(c.there)
		}
		err := apply(dir, c.change)
		if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
			t.Errorf("%s: %v", name, err)
		}
		got, _ := os.ReadFile(path)
		if string(got) != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, ".ambit*")); len(left) > 0 {
			t.Errorf("%s: left %s", name, left)
		}
	}
}

func TestEntry(t *testing.T) {
	e := Entry{ExcludeNamespaces: []string{"kube-system"}, PodNamespace: "ambit-system", RunDir: "/var/run/istio-cni", LogLevel: "INFO", Kubeconfig: "/k"}
	got, err := e.JSON()
	want := `{"type":"ambit-cni","plugin_log_level":"info","ambient_enabled":true,"enablement_selectors":null,"exclude_namespaces":["kube-system"],` +
		`"pod_namespace":"ambit-system","cni_agent_run_dir":"/var/run/istio-cni","enable_ambient_detection_retry":false,"kubernetes":{"kubeconfig":"/k"}}`
	if err != nil || string(got) != want {
		t.Errorf("%v\ngot  %s\nwant %s", err, got, want)
	}
	k, err := Kubeconfig("https://x", nil, " t\n", true)
	if err != nil || !strings.Contains(fmt.Sprintf("%s", k), `"token": "t"`) || !strings.Contains(string(k), "insecure-skip-tls-verify") {
		t.Errorf("%v %s", err, k)
	}
	if got := KubeconfigToken(k); got != "t" || KubeconfigToken([]byte("users: []")) != "" {
		t.Errorf("token %q", got)
	}
}
