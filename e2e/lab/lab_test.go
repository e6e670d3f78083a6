package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/labfile"
	"github.com/ambit-mesh/ambit/e2e/lab/capture"
	"github.com/ambit-mesh/ambit/e2e/lab/fabric"
	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
	"github.com/ambit-mesh/ambit/e2e/lab/sandbox"
)

func TestMain(m *testing.M) {
	if serveTestApp() {
		return
	}
	Main()
	dir, err := os.MkdirTemp("", "ambit-lab-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = os.Setenv(labfile.EnvRoot, dir)
	// The test binary is also the app that runs in pods.
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, filepath.Join(dir, "testapp"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// up starts a lab that ends with the test.
func up(t *testing.T, name string, spec Spec) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs CAP_SYS_ADMIN and CAP_NET_ADMIN to make network namespaces")
	}
	spec.Name = fmt.Sprintf("%s%d", name, os.Getpid()%100000)
	spec.Path = append(spec.Path, labfile.Root())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	l, err := Up(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			if log, err := os.ReadFile(filepath.Join(l.Dir, "supervisor.log")); err == nil {
				t.Logf("supervisor:\n%s", log)
			}
		}
		if err := Clean(spec.Name); err != nil {
			t.Error(err)
		}
		gone(t, spec.Name)
	})
	return l
}

// gone checks that nothing is left of a lab.
func gone(t *testing.T, name string) {
	t.Helper()
	if spaces, err := netspace.List(fabric.Prefix(id(name))); err != nil || len(spaces) > 0 {
		t.Errorf("namespaces left: %v %v", spaces, err)
	}
	if _, err := os.Stat(labfile.Dir(name)); err == nil {
		t.Errorf("folder left: %s", labfile.Dir(name))
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, p := range procs {
		if data, err := os.ReadFile(p); err == nil && strings.Contains(string(data), "AMBIT_TEST_LAB="+name+"\x00") {
			t.Errorf("process left: %s", filepath.Dir(p))
		}
	}
}

func limit(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func apply(t *testing.T, l *Lab, yaml string) {
	t.Helper()
	yaml = strings.ReplaceAll(yaml, "LABNAME", l.Name)
	if _, err := l.Apply(limit(t, 10*time.Second), []byte(yaml), "default"); err != nil {
		t.Fatal(err)
	}
}

func settled(t *testing.T, l *Lab) {
	t.Helper()
	if err := l.Settled(limit(t, 30*time.Second), "", "", "", nil); err != nil {
		t.Fatal(err)
	}
}

const webYAML = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-headless}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: web
        command: [testapp, serve, "8080", v1]
        env:
        - {name: AMBIT_TEST_LAB, value: LABNAME}
        - {name: WHO, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  nodeName: node1
  containers:
  - {name: c, command: [sleep, "3600"], env: [{name: AMBIT_TEST_LAB, value: LABNAME}]}
`

func get(t *testing.T, l *Lab, pod, url string) string {
	t.Helper()
	out, err := l.Output(limit(t, 10*time.Second), "default", pod, "testapp", "get", url)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// TestPlainPods walks the whole of a lab without a mesh: addresses, names, virtual addresses from pods and from nodes, a
// rolling update that nobody notices, and the end.
func TestPlainPods(t *testing.T) {
	l := up(t, "plain", Spec{Nodes: 2})
	apply(t, l, webYAML)
	settled(t, l)
	ctx := limit(t, 60*time.Second)
	pods, err := l.Get(ctx, "pods", "default", "")
	if err != nil || len(pods) != 3 {
		t.Fatalf("pods: %v, %v", pods, err)
	}
	nodes := map[string]bool{}
	for _, p := range pods {
		if p.Labels()["app"] == "web" {
			nodes[p.Text("spec", "nodeName")] = true
		}
	}
	if len(nodes) != 2 {
		t.Errorf("two replicas run on %v", nodes)
	}
	seen := map[string]bool{}
	for range 40 {
		seen[get(t, l, "client", "http://web/")] = true
	}
	if len(seen) != 2 {
		t.Errorf("the virtual address leads to %v", seen)
	}
	for _, name := range []string{"web.default", "web.default.svc.cluster.local", "web-headless:8080"} {
		if got := get(t, l, "client", "http://"+name+"/"); !strings.Contains(got, "v1") {
			t.Errorf("%s answered %q", name, got)
		}
	}
	// A pod reaches itself by its Service's address, and a node's process reaches the Service.
	web, err := l.PodsOf(ctx, "default", map[string]string{"app": "web"})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		get(t, l, web[0], "http://web/")
	}
	svc, err := l.Get(ctx, "svc", "default", "web")
	if err != nil || len(svc) != 1 {
		t.Fatalf("service: %v %v", svc, err)
	}
	fromNode := []string{filepath.Join(labfile.Root(), "testapp"), "get", "http://" + svc[0].Text("spec", "clusterIP") + "/"}
	if code, err := l.ExecHost(ctx, "node2", fromNode, sandbox.Stdio{}); err != nil || code != 0 {
		t.Errorf("from a node: status %d, %v", code, err)
	}
	rollingUpdate(t, l)
	if _, err := l.Delete(ctx, []byte(webYAML), "default"); err != nil {
		t.Fatal(err)
	}
	for {
		pods, err := l.Get(ctx, "pods", "default", "")
		if err != nil {
			t.Fatal(err)
		}
		if len(pods) == 0 {
			break
		}
		if err := l.poll(ctx, "pods to end"); err != nil {
			t.Fatal(err)
		}
	}
	if spaces, _ := netspace.List(fabric.Prefix(id(l.Name)) + "pod."); len(spaces) != 0 {
		t.Errorf("deleted pods left %v", spaces)
	}
}

// rollingUpdate replaces all pods while a client asks all the time; none of its requests may fail.
func rollingUpdate(t *testing.T, l *Lab) {
	t.Helper()
	ctx := limit(t, 30*time.Second)
	var out strings.Builder
	done := make(chan error, 1)
	go func() {
		code, err := l.Exec(ctx, "default", "client", "", []string{"testapp", "loop", "http://web/", "3s"}, sandbox.Stdio{Out: &out, Err: &out})
		if err == nil && code != 0 {
			err = fmt.Errorf("exit status %d", code)
		}
		done <- err
	}()
	apply(t, l, strings.ReplaceAll(webYAML, "v1]", "v2]"))
	if err := l.Settled(ctx, "deployment", "default", "web", nil); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("requests during a rolling update: %v: %s", err, out.String())
	}
	if got := get(t, l, "client", "http://web/"); !strings.Contains(got, "v2") {
		t.Errorf("after the update: %q", got)
	}
}

func TestDualStack(t *testing.T) {
	l := up(t, "dual", Spec{Nodes: 2, DualStack: true})
	apply(t, l, webYAML)
	settled(t, l)
	ctx := limit(t, 30*time.Second)
	svc, err := l.Get(ctx, "svc", "default", "web")
	if err != nil || len(svc) != 1 {
		t.Fatalf("service: %v %v", svc, err)
	}
	ips, _ := svc[0].At("spec", "clusterIPs").([]any)
	if len(ips) != 2 {
		t.Fatalf("clusterIPs = %v", ips)
	}
	for _, url := range []string{fmt.Sprintf("http://%v/", ips[0]), fmt.Sprintf("http://[%v]/", ips[1]), "http://web/"} {
		if got := get(t, l, "client", url); !strings.Contains(got, "v1") {
			t.Errorf("%s answered %q", url, got)
		}
	}
}

func TestParallelLabsAndCrash(t *testing.T) {
	var wg sync.WaitGroup
	labs := make([]*Lab, 2)
	for i := range labs {
		labs[i] = up(t, fmt.Sprintf("par%d-", i), Spec{Nodes: 1})
	}
	for _, l := range labs {
		wg.Go(func() {
			if _, err := l.Apply(t.Context(), []byte(strings.ReplaceAll(webYAML, "LABNAME", l.Name)), "default"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, l := range labs {
		settled(t, l)
		if got := get(t, l, "client", "http://web/"); !strings.Contains(got, "v1") {
			t.Errorf("lab %s answered %q", l.Name, got)
		}
	}
	if _, err := Up(t.Context(), Spec{Name: labs[0].Name}); err == nil {
		t.Error("a second lab of the same name came up")
	}
	// The supervisor of one dies; the other lab goes on, and what is left of the first can be removed.
	pid := supervisorPid(labs[0].Dir)
	if pid == 0 {
		t.Fatal("no supervisor")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := Clean(labs[0].Name); err != nil {
		t.Fatal(err)
	}
	gone(t, labs[0].Name)
	if got := get(t, labs[1], "client", "http://web/"); !strings.Contains(got, "v1") {
		t.Errorf("the other lab answered %q", got)
	}
}

// TestEarlyEnd deletes pods while they start: none may sit out its grace period because it was told too early.
func TestEarlyEnd(t *testing.T) {
	l := up(t, "early", Spec{Nodes: 1})
	ctx := limit(t, 20*time.Second)
	for i := range 10 {
		apply(t, l, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: p%d}
spec: {containers: [{name: c, command: [sleep, "3600"], env: [{name: AMBIT_TEST_LAB, value: LABNAME}]}]}
`, i))
		if err := l.DeleteObject(ctx, "pod", "default", fmt.Sprintf("p%d", i), -1); err != nil {
			t.Fatal(err)
		}
	}
	for podNames(t, l) != "" {
		if err := l.poll(ctx, "pods to end: "+podNames(t, l)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCommands checks what a command in a pod or on a host sees and how its end is told.
func TestCommands(t *testing.T) {
	l := up(t, "cmd", Spec{Nodes: 1, Names: map[string][]string{"www.example.com": {"172.30.0.2"}}})
	apply(t, l, webYAML)
	settled(t, l)
	ctx := limit(t, 20*time.Second)
	out, err := l.Output(ctx, "default", "client", "sh", "-c", "hostname; cat /proc/1/comm; cat /etc/resolv.conf; getent hosts www.example.com")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"client\n", "nameserver 10.96.0.10\n", "search default.svc.cluster.local", "172.30.0.2"} {
		if !strings.Contains(out, want) {
			t.Errorf("in a pod: no %q in\n%s", want, out)
		}
	}
	for want, script := range map[int]string{0: "true", 3: "exit 3", 137: "kill -9 $$"} {
		if code, err := l.Exec(ctx, "default", "client", "", []string{"sh", "-c", script}, sandbox.Stdio{}); err != nil || code != want {
			t.Errorf("%s: status %d, %v", script, code, err)
		}
	}
	if _, err := l.Exec(ctx, "default", "client", "", []string{"no-such-program"}, sandbox.Stdio{}); err == nil {
		t.Error("a program that is not there ran")
	}
	if _, err := l.Exec(ctx, "default", "web", "", []string{"true"}, sandbox.Stdio{}); err == nil || !strings.Contains(err.Error(), "there is default/web-") {
		t.Errorf("a name that is only the beginning of one: %v", err)
	}
	var host strings.Builder
	code, err := l.ExecHost(ctx, ControlHost, []string{"getent", "hosts", "web.default.svc.cluster.local"}, sandbox.Stdio{Out: &host})
	if err != nil || code != 0 || !strings.Contains(host.String(), "10.96.") {
		t.Errorf("on a host: %d %v %s", code, err, host.String())
	}
}

// TestCapture sees the words of plain pods on the link between two nodes.
func TestCapture(t *testing.T) {
	l := up(t, "cap", Spec{Nodes: 2})
	apply(t, l, webYAML)
	settled(t, l)
	tap, err := l.Tap("node1")
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	for range 10 {
		get(t, l, "client", "http://web/")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var r capture.Report
	if err := tap.Record(ctx, r.Add); err != nil {
		t.Fatal(err)
	}
	if !r.Contains("GET / HTTP/1.1") || !strings.Contains(r.String(), capture.HTTP) {
		t.Errorf("nothing readable on the wire:\n%s", &r)
	}
}

func TestBadInput(t *testing.T) {
	l := up(t, "bad", Spec{Nodes: 1})
	ctx := limit(t, 20*time.Second)
	for want, doc := range map[string]string{
		"kind is missing":     "{apiVersion: v1, metadata: {name: a}}",
		"not valid YAML":      "{apiVersion: v1",
		"metadata.name":       "{apiVersion: v1, kind: Service, metadata: {name: A_B}}",
		"does not exist":      "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: nope}, spec: {ports: [{port: 1}]}}",
		"spec.ports is empty": "{apiVersion: v1, kind: Service, metadata: {name: a}}",
		"1 to 65535":          "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 70000}]}}",
		"is taken by":         "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.10, ports: [{port: 1}]}}",
		"containers is empty": "{apiVersion: v1, kind: Pod, metadata: {name: a}}",
		"does not match":      "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {selector: {matchLabels: {a: b}}, template: {spec: {containers: [{name: a}]}}}}",
	} {
		// A good neighbour in the same file is applied all the same.
		good := "\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: good}}\n"
		results, err := l.Apply(ctx, []byte(doc+good), "default")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n got %v\nwant %s", doc, err, want)
		}
		applied := false
		for _, r := range results {
			applied = applied || r.Name == "good" && r.Error == ""
		}
		if !applied {
			t.Errorf("%s: the good document beside it: %+v", doc, results)
		}
	}
}
