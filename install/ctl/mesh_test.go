package ctl

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/install/admin"
	"github.com/ambit-mesh/ambit/install/cluster"
)

// TestWhichMesh goes through the order of whichMesh. The API server of the kubeconfig does not exist: that it is asked shows
// in the error.
func TestWhichMesh(t *testing.T) {
	labRoot(t)
	config := filepath.Join(t.TempDir(), "config")
	text := `{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}], contexts: [{name: far, context: {cluster: c}}, {name: near, context: {cluster: c}}], current-context: far}`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	check := func(args, lab string, code int, want ...string) {
		t.Helper()
		r := run(t, strings.Fields(args), func(e *Env) { e.Getenv = func(k string) string { return map[string]string{"AMBIT_LAB": lab}[k] } })
		for _, w := range want {
			if r.code != code || !strings.Contains(r.out+r.err, w) {
				t.Errorf("%s: exit code %d, want %d with %q\n%s%s", args, r.code, code, w, r.out, r.err)
			}
		}
	}
	check("ps", "", exitError, "no lab is running on this machine, and no kubeconfig names a cluster")
	check("ps --kubeconfig "+config, "", exitError, "API server of context far does not answer")
	check("ps --context near --kubeconfig "+config, "", exitError, "API server of context near does not answer")
	check("ps --context gone --kubeconfig "+config, "", exitError, `context "gone" does not exist`)
	t.Setenv("KUBECONFIG", config)
	check("ps", "", exitError, "API server of context far does not answer")
	check("ps", "one", exitError, "no such lab")
	newFakeLab(t, "one")
	check("ps", "one", exitOK, "zt-node1")
	check("ps --lab one", "", exitOK, "zt-node1")
	check("ps", "", exitOK, "zt-node1", "looking at lab one, because it is running here; --context far looks at that cluster")
	check("ps --context far", "one", exitError, "API server of context far does not answer")
	check("ps --context far --lab one", "", exitUsage, "leave one of them out")
	check("waypoint delete x", "", exitUsage, "which mesh? lab one is running here, and the current context of the kubeconfig is far: say --lab one, or --context far")
	check("zc log --level debug", "", exitUsage, "which mesh?")
	check("zc log --level debug --lab one", "", exitError, "node3")
	check("ca rotate", "", exitUsage, "which mesh?")
	check("proxy-config log --level debug", "", exitUsage, "which mesh?")
	newFakeLab(t, "two")
	check("ps", "", exitError, "several labs are running (one, two)")
}

// fakeMesh is a mesh whose parts are on sockets.
type fakeMesh struct {
	cluster.Cluster
	parts map[cluster.Kind][]cluster.Part
	logs  string
	// proxies are the sockets of waypoints, by pod.
	proxies map[string]string
}

func (f *fakeMesh) String() string           { return "context fake" }
func (f *fakeMesh) DefaultNamespace() string { return "team" }
func (f *fakeMesh) Words() cluster.Words {
	return cluster.Words{Logs: func(ns, pod string) string { return "kubectl logs -n " + ns + " " + pod }, Pods: "kubectl get pods -A", Health: "kubectl get pods", Start: "ambitctl install"}
}
func (f *fakeMesh) Parts(_ context.Context, kind cluster.Kind) ([]cluster.Part, error) {
	return f.parts[kind], nil
}
func (f *fakeMesh) Proxy(pod cluster.Object) cluster.Part {
	return cluster.Part{Kind: cluster.Gateway, Namespace: pod.Namespace(), Pod: pod.Name(), Endpoint: admin.Endpoint{What: "waypoint pod " + pod.Name(), Address: "unix:" + cmp.Or(f.proxies[pod.Name()], "/nowhere")}}
}
func (f *fakeMesh) Logs(_ context.Context, of cluster.Part, _ cluster.LogRange) (io.ReadCloser, error) {
	if f.logs == "" {
		return nil, fmt.Errorf("logs of %s: %w", of.Pod, cluster.ErrNotFound)
	}
	return io.NopCloser(strings.NewReader(f.logs)), nil
}

// TestReplicas asks a control plane of which each replica knows its own proxies, and one does not answer.
func TestReplicas(t *testing.T) {
	dir := t.TempDir()
	m := &fakeMesh{Cluster: &fakeCluster{}, parts: map[cluster.Kind][]cluster.Part{}}
	for i, files := range []map[string]string{
		{"/debug/clients": `[{"nodeId":"ztunnel~1~zt-a.ambit-system~x","server":"ambitd-1","version":"1.2.3"}]`,
			"/debug/refusals": `{"entries":[{"severity":"refused","kind":"Gateway","namespace":"x","name":"y","problem":"no","since":"1"},{"severity":"warning","problem":"only here"}]}`},
		{"/debug/clients": `[{"nodeId":"ztunnel~1~zt-b.ambit-system~x","server":"ambitd-2","version":"1.2.4"}]`,
			"/debug/refusals": `{"entries":[{"severity":"refused","kind":"Gateway","namespace":"x","name":"y","problem":"no","since":"2"}]}`},
	} {
		socket := filepath.Join(dir, fmt.Sprint(i))
		serve(t, socket, answers(files))
		m.parts[cluster.Control] = append(m.parts[cluster.Control], cluster.Part{Endpoint: admin.Endpoint{What: fmt.Sprint("control plane ", i), Address: "unix:" + socket}})
	}
	m.parts[cluster.Control] = append(m.parts[cluster.Control], cluster.Part{Endpoint: admin.Endpoint{What: "control plane 3", Address: "unix:" + dir + "/gone"}})
	with := func(e *Env) { e.Mesh = m }
	r := run(t, []string{"ps"}, with)
	if r.code != 0 || !strings.Contains(r.out, "zt-a.ambit-system  Kubernetes  ambitd-1  1.2.3") || !strings.Contains(r.out, "zt-b.ambit-system  Kubernetes  ambitd-2  1.2.4") || !strings.Contains(r.err, "control plane 3") {
		t.Errorf("%d %s%s", r.code, r.out, r.err)
	}
	r = run(t, []string{"config", "refused"}, with)
	if r.code != 0 || strings.Count(r.out, "Gateway x/y") != 1 || strings.Count(r.out, "only here") != 1 {
		t.Errorf("%d %s%s", r.code, r.out, r.err)
	}
	if r := run(t, strings.Fields("zc w"), with); r.code != exitError || !strings.Contains(r.err, `context fake runs no ztunnel; see "kubectl get pods", or start one with "ambitctl install"`) {
		t.Errorf("%d %s", r.code, r.err)
	}
}

// answers are what a daemon says at each path.
type answers map[string]string

func (a answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, ok := a[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	fmt.Fprint(w, text)
}
