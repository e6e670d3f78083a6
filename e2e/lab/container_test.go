package lab

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab/resource"
)

const lifeYAML = `
apiVersion: batch/v1
kind: Job
metadata: {name: sums}
spec:
  completions: 2
  template: {spec: {containers: [{name: c, command: [sh, -c, "echo $(A) $((40+2))"], env: [{name: A, value: answer}]}]}}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: sql, port: 5432}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      initContainers: [{name: prepare, command: [sh, -c, "test $(hostname) = db-0 || test $(hostname) = db-1"]}]
      containers:
      - name: c
        command: [testapp, serve, "5432", db]
        readinessProbe: {exec: {command: [testapp, get, "http://127.0.0.1:5432/"]}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: c, command: [testapp, serve, "7000", agent], readinessProbe: {tcpSocket: {port: 7000}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: broken}
spec: {containers: [{name: c, command: [sh, -c, "sleep 0.05; exit 7"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: stuck}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    command: [sleep, "3600"]
    livenessProbe: {tcpSocket: {port: 1}, periodSeconds: 1, failureThreshold: 1}
`

// TestLives runs every kind of controller, probe and end of a container.
func TestLives(t *testing.T) {
	l := up(t, "life", Spec{Nodes: 2})
	apply(t, l, lifeYAML)
	ctx := limit(t, 40*time.Second)
	for _, what := range [][2]string{{"job", "sums"}, {"statefulset", "db"}, {"daemonset", "agent"}} {
		if err := l.Settled(ctx, what[0], "default", what[1], nil); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, ctx, "the broken pod and the stuck one to be started again", l, func() bool {
		return restarts(t, l, "broken") >= 2 && restarts(t, l, "stuck") >= 1
	})
	nodes := map[string]bool{}
	for _, name := range strings.Fields(podNames(t, l)) {
		switch {
		case strings.HasPrefix(name, "agent-"):
			pods, err := l.Get(ctx, "pod", "default", name)
			if err != nil || len(pods) != 1 {
				t.Fatal(pods, err)
			}
			nodes[pods[0].Text("spec", "nodeName")] = true
		case strings.HasPrefix(name, "sums-"):
			if got := phase(t, l, name); got != "Succeeded" {
				t.Errorf("%s is %s", name, got)
			}
			log, err := os.ReadFile(filepath.Join(l.Dir, "logs", "pods", "default_"+name, "c.log"))
			if err != nil || string(log) != "answer 42\n" {
				t.Errorf("%s wrote %q, %v", name, log, err)
			}
		}
	}
	if len(nodes) != 2 {
		t.Errorf("the daemon set runs on %v", nodes)
	}
	// A member of a StatefulSet has a name of its own and keeps it.
	if got := get(t, l, "db-1", "http://db-0.db:5432/"); !strings.Contains(got, "db") {
		t.Errorf("db-0 answered %q", got)
	}
	if err := l.DeleteObject(ctx, "pod", "default", "db-0", -1); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "db-0 to come back", l, func() bool {
		return l.Settled(ctx, "sts", "default", "db", nil) == nil && phase(t, l, "db-0") == "Running"
	})
	if err := l.Scale(ctx, "StatefulSet", "default", "db", 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the set to be gone", l, func() bool { return !strings.Contains(podNames(t, l), "db-") })
}

func eventually(t *testing.T, ctx context.Context, what string, l *Lab, ok func() bool) {
	t.Helper()
	for !ok() {
		if err := l.poll(ctx, what); err != nil {
			t.Fatal(err)
		}
	}
}

func restarts(t *testing.T, l *Lab, pod string) int {
	t.Helper()
	pods, err := l.Get(t.Context(), "pod", "default", pod)
	if err != nil || len(pods) != 1 {
		t.Fatal(pods, err)
	}
	list, _ := pods[0].At("status", "containerStatuses").([]any)
	if len(list) == 0 {
		return 0
	}
	return resource.Object{"c": list[0]}.Number(0, "c", "restartCount")
}

// TestFolder edits the folder of applied objects directly, as a person with an editor does.
func TestFolder(t *testing.T) {
	l := up(t, "folder", Spec{Nodes: 1})
	ctx := limit(t, 20*time.Second)
	file := filepath.Join(l.ConfigDir, "applied", "mine.yaml")
	write := func(doc string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	vip := func() string {
		svc, err := l.Get(ctx, "svc", "default", "hand")
		if err != nil {
			t.Fatal(err)
		}
		if len(svc) == 0 {
			return ""
		}
		return svc[0].Text("spec", "clusterIP")
	}
	const service = "{apiVersion: v1, kind: Service, metadata: {name: hand, namespace: default}, spec: {selector: {a: b}, ports: [{port: 80}]}}"
	write(service)
	eventually(t, ctx, "the service to get an address", l, func() bool { return strings.HasPrefix(vip(), "10.96.") })
	data, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(data), "clusterIP: "+vip()) {
		t.Errorf("the address is not in the file: %s %v", data, err)
	}
	// Cut in half: the last good version stays.
	write(service[:60])
	write("{apiVersion: v1")
	if vip() == "" {
		t.Error("half a file took the service away")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the service to go", l, func() bool { return vip() == "" })
}
