package ctl

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/install/admin"
	"github.com/ambit-mesh/ambit/install/cluster"
)

// untar reads a report, without the name of its folder.
func untar(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("a report is for its owner only: %v, %v", st.Mode(), err)
	}
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(h.Name, "/")
		out[name] = string(data)
	}
}

// TestBugReport gathers about a mesh of which one proxy does not answer, and in which secrets stand everywhere.
func TestBugReport(t *testing.T) {
	labRoot(t)
	dir := t.TempDir()
	control := filepath.Join(dir, "c")
	serve(t, control, answers{
		"/debug/clients": `[]`, "/debug/refusals": `{"entries":[]}`, "/version": `{"version":"1.2.3"}`,
		"/config_dump": `{"note": "Authorization: Bearer hunter2hunter2"}`,
	})
	waypoint := map[string]any{"gateway.networking.k8s.io/gateway-name": "edge"}
	m := &fakeMesh{
		Cluster: &fakeCluster{objects: []cluster.Object{
			namespace("shop", nil), namespace("other", nil),
			{"kind": "Secret", "metadata": map[string]any{"name": "key", "namespace": "ambit-system"}, "data": map[string]any{"ca-key.pem": "aHVudGVyMg=="}},
			{"kind": "Secret", "metadata": map[string]any{"name": "theirs", "namespace": "shop"}, "data": map[string]any{"x": "aHVudGVyMg=="}},
			{"kind": "Pod", "metadata": map[string]any{"name": "edge-1", "namespace": "shop", "labels": waypoint}},
			{"kind": "Pod", "metadata": map[string]any{"name": "app", "namespace": "shop"}, "spec": map[string]any{"containers": []any{map[string]any{"name": "c", "args": []any{"--password=hunter2"}}}}},
			{"kind": "Pod", "metadata": map[string]any{"name": "app", "namespace": "other"}},
		}},
		parts: map[cluster.Kind][]cluster.Part{
			cluster.Control:   {{Kind: cluster.Control, Namespace: "ambit-system", Pod: "ambitd-1", Container: "ambitd", Endpoint: admin.Endpoint{What: "control plane", Address: "unix:" + control}}},
			cluster.NodeProxy: {{Kind: cluster.NodeProxy, Namespace: "ambit-system", Pod: "zt-1", Node: "n1", Restarts: 1, Endpoint: admin.Endpoint{What: "ztunnel of n1", Address: "unix:" + dir + "/gone"}}},
		},
		logs: "level=info token=eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJodW50ZXIyIn0.c2ln started\n",
	}
	with := func(e *Env) { e.Mesh = m }
	file := filepath.Join(dir, "r.tar.gz")
	r := run(t, []string{"bug-report", "--output", file, "-n", "shop"}, with)
	if r.code != 0 || !strings.Contains(r.out, "Secrets are left out") || !strings.Contains(r.err, "could not be had") {
		t.Fatalf("%d %s%s", r.code, r.out, r.err)
	}
	got := untar(t, file)
	for name, text := range got {
		if strings.Contains(text, "hunter2") || strings.Contains(text, "aHVudGVyMg") || strings.Contains(text, "eyJzdWIi") {
			t.Errorf("%s holds a secret: %s", name, text)
		}
	}
	for name, want := range map[string]string{
		"README.txt": "context fake", "summary/version.txt": "1.2.3", "summary/proxy-status.txt": "$ ambitctl proxy-status -v 1\nNo proxy is connected.",
		"objects/Secret.json": "ca-key.pem", "objects/Pod.json": `"edge-1"`, "components/control-plane/ambit-system_ambitd-1_ambitd/config_dump.json": "(redacted)",
		"logs/ambit-system_zt-1.log": "started", "logs/ambit-system_zt-1.PREVIOUS.log": "started", "errors.txt": ": ztunnel of n1 at unix:",
		"index.txt": "objects/Pod.json", "logs/shop_edge-1.log": "started",
	} {
		if !strings.Contains(got[name], want) {
			t.Errorf("%s has no %q: %q", name, want, got[name])
		}
	}
	if strings.Contains(got["objects/Pod.json"], `"other"`) || strings.Contains(got["objects/Secret.json"], "theirs") {
		t.Errorf("objects of namespaces nobody asked for:\n%s\n%s", got["objects/Pod.json"], got["objects/Secret.json"])
	}
	if n := strings.Count(got["errors.txt"], "components/ztunnel/ambit-system_zt-1/"); n < 1 || n > 4 { // as many as ask at once
		t.Errorf("that a proxy does not run is said %d times", n)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".ambit*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if r := run(t, []string{"bug-report", "--dry-run"}, with); r.code != 0 || !strings.Contains(r.out, "objects/Gateway.json\n") {
		t.Errorf("%d %s%s", r.code, r.out, r.err)
	}
	if r := run(t, []string{"bug-report", "--output", filepath.Join(dir, "absent", "x")}, with); r.code != exitError || !strings.Contains(r.err, "write the report") {
		t.Errorf("%d %s%s", r.code, r.out, r.err)
	}
}
