package ctl

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ambit-mesh/ambit/api/labfile"
)

// fakeLab is a lab whose daemons are HTTP handlers on the sockets its descriptor names.
type fakeLab struct {
	mu      sync.Mutex
	posts   []string // guarded by mu
	logging string   // guarded by mu
}

// newFakeLab makes a lab of three nodes; the proxy of the third does not run.
func newFakeLab(t *testing.T, name string) *fakeLab {
	t.Helper()
	f := &fakeLab{logging: "info"}
	dir := labfile.Dir(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lab := &labfile.Lab{Name: name, Dir: dir}
	for _, node := range []string{"node1", "node2", "node3"} {
		lab.Nodes = append(lab.Nodes, labfile.Node{Name: node, ZtunnelAdmin: filepath.Join(dir, node+".sock")})
	}
	lab.Control.AdminSocket = filepath.Join(dir, "control.sock")
	if err := labfile.Write(lab); err != nil {
		t.Fatal(err)
	}
	file := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			http.ServeFile(w, r, filepath.Join("testdata", name))
		}
	}
	proxy, control := http.NewServeMux(), http.NewServeMux()
	proxy.HandleFunc("GET /config_dump", file("config_dump.json"))
	proxy.HandleFunc("/logging", f.log)
	control.HandleFunc("GET /debug/refusals", file("refusals.json"))
	control.HandleFunc("GET /debug/clients", file("clients.json"))
	serve(t, lab.Nodes[0].ZtunnelAdmin, proxy)
	serve(t, lab.Nodes[1].ZtunnelAdmin, proxy)
	serve(t, lab.Control.AdminSocket, control)
	return f
}

func (f *fakeLab) log(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Method == http.MethodPost {
		f.posts = append(f.posts, r.URL.RawQuery)
		if level := r.URL.Query().Get("level"); strings.Contains(level, "loud") {
			http.Error(w, "unknown level \"loud\"", http.StatusBadRequest)
			return
		} else if level != "" {
			f.logging = level
		} else {
			f.logging = "info"
		}
	}
	_, _ = w.Write([]byte("current log level is " + f.logging + "\n"))
}

func serve(t *testing.T, socket string, h http.Handler) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	var done sync.WaitGroup
	done.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() { srv.Close(); done.Wait() })
}

// labRoot is a short path: a unix socket's name has 108 bytes.
func labRoot(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv(labfile.EnvRoot, dir)
	t.Setenv("KUBECONFIG", filepath.Join(dir, "absent"))
}

func TestLab(t *testing.T) {
	labRoot(t)
	f := newFakeLab(t, "one")
	cmd := func(args string) result { return run(t, strings.Fields(args)) }

	for name, args := range map[string]string{
		"workloads":    "zc workloads",
		"certificates": "zc certs node2",
		"proxy-status": "ps",
		"refused":      "config refused",
	} {
		r := cmd(args)
		if r.code != 0 || r.err != "" {
			t.Errorf("%s: code %d, %s", args, r.code, r.err)
		}
		golden(t, name, r.out) // the same as from a file
	}

	r := cmd("zc certs")
	if r.code != 0 || !strings.Contains(r.err, "ztunnel of node3 at unix:") || !strings.Contains(r.err, `see "ambitctl lab status --lab one"`) {
		t.Errorf("certificates of all nodes: code %d, %s", r.code, r.err)
	}
	golden(t, "lab-certificates", r.out)
	r = cmd("zc cons -o json")
	if r.code != 0 || strings.Count(r.out, `"node": "node1"`) != 2 || strings.Count(r.out, `"node": "node2"`) != 2 {
		t.Errorf("connections of all nodes: %s", r.out)
	}
	for _, pod := range []string{"productpage-6c9", "pod/productpage-6c9.bookinfo", "ztunnel-node1", "node1"} {
		if r := cmd("zc certs " + pod); r.code != 0 || strings.Contains(r.out, "NODE") {
			t.Errorf("%s: code %d, %s%s", pod, r.code, r.err, r.out)
		}
	}
	for args, text := range map[string]string{
		"zc certs absent":      `neither a node of lab one nor a pod`,
		"zc w --node node9":    `no node "node9"; it has node1, node2, node3`,
		"zc certs node3":       "not running",
		"zc log --level loud":  `unknown level "loud"`,
		"zc w --lab elsewhere": "no such lab",
	} {
		if r := cmd(args); r.code != exitError || !strings.Contains(r.err, text) {
			t.Errorf("%s: code %d, %s; want %q", args, r.code, r.err, text)
		}
	}

	if r := cmd("zc log --level info,access:debug --node node1"); r.out != "node1: current log level is info,access=debug\n" {
		t.Errorf("log --level: %q, %s", r.out, r.err)
	}
	if r := cmd("zc log -r node2"); r.out != "node2: current log level is info\n" {
		t.Errorf("log -r: %q, %s", r.out, r.err)
	}
	f.mu.Lock()
	posts := len(f.posts)
	f.mu.Unlock()
	if r := cmd("zc log node2"); r.out != "node2: current log level is info\n" || posts != 4 {
		t.Errorf("log: %q after %d changes", r.out, posts)
	}
	if r := cmd("version"); !strings.Contains(r.out, "data plane version: 1.0.0 (3 proxies)") {
		t.Errorf("version: %q", r.out)
	}
}

func TestSeveralLabs(t *testing.T) {
	labRoot(t)
	newFakeLab(t, "one")
	newFakeLab(t, "two")
	if r := run(t, strings.Fields("zc w")); r.code != exitError || !strings.Contains(r.err, "several labs are running (one, two): name one with --lab") {
		t.Errorf("code %d, %s", r.code, r.err)
	}
	if r := run(t, strings.Fields("zc w --lab two")); r.code != 0 {
		t.Errorf("code %d, %s", r.code, r.err)
	}
	if r := run(t, []string{"__complete", "zc", "w", "--lab", "two", "--node", ""}); !strings.Contains(r.out, "node2") {
		t.Errorf("completion of --node: %q", r.out)
	}
	if r := run(t, []string{"__complete", "--lab", ""}); !strings.Contains(r.out, "one\ntwo") {
		t.Errorf("completion of --lab: %q", r.out)
	}
}
