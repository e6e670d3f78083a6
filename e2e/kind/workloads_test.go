//go:build kind

package kind

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestStatefulSet reaches the pods of a headless service by their own names, and a restarted one under its old name.
func TestStatefulSet(t *testing.T) {
	c := open(t)
	c.shop("stateful")
	c.apply("stateful", `
apiVersion: v1
kind: ServiceAccount
metadata: {name: db}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{name: http, port: 8080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      serviceAccountName: db
      terminationGracePeriodSeconds: 1
      containers:
      - name: db
        image: ambit/echo
        imagePullPolicy: IfNotPresent
        command: [ambit-echo, serve]
        readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
---
# Only the client's certificate opens the database: that the names lead through the mesh is thereby shown.
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: db}
spec:
  selector: {matchLabels: {app: db}}
  rules: [{from: [{source: {principals: [cluster.local/ns/stateful/sa/client]}}]}]
`)
	c.rollout("StatefulSet", "stateful", "db")
	c.captured("stateful", "app=db")
	for i := range 2 {
		pod := fmt.Sprintf("db-%d", i)
		out := c.answers("stateful", "client", fmt.Sprintf("http://%s.db.stateful:8080", pod))
		if !strings.Contains(out, pod) {
			t.Errorf("%s did not answer itself: %s", pod, out)
		}
	}
	c.answers("stateful", "client", "http://db.stateful:8080")
	old := c.pods("stateful", "statefulset.kubernetes.io/pod-name=db-0")[0].UID
	c.must(c.deleteNow("Pod", "stateful", "db-0"))
	c.eventually("db-0 is another pod", func() error {
		for _, p := range c.pods("stateful", "statefulset.kubernetes.io/pod-name=db-0") {
			if p.UID != old && isReady(&p) {
				return nil
			}
		}
		return fmt.Errorf("not yet")
	})
	c.answers("stateful", "client", "http://db-0.db.stateful:8080")
}

// TestJobs runs jobs in the mesh that end: nothing of the mesh keeps a finished pod alive, and their first request works.
func TestJobs(t *testing.T) {
	c := open(t)
	url := c.shop("jobs")
	c.apply("jobs", fmt.Sprintf(`
apiVersion: batch/v1
kind: CronJob
metadata: {name: often}
spec:
  schedule: "* * * * *"
  jobTemplate:
    spec:
      backoffLimit: 0
      template:
        spec:
          restartPolicy: Never
          serviceAccountName: client
          containers:
          - {name: get, image: ambit/echo, imagePullPolicy: IfNotPresent, command: [ambit-echo, get, %q]}
`, url))
	for i := range 6 {
		// Each run is one more race of a first packet with the rules.
		c.apply("jobs", fmt.Sprintf(`
apiVersion: batch/v1
kind: Job
metadata: {name: race-%d}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      serviceAccountName: client
      containers:
      - {name: get, image: ambit/echo, imagePullPolicy: IfNotPresent, command: [ambit-echo, get, %q]}
`, i, url))
	}
	c.within(3*soon, "the jobs are complete", func() error {
		jobs, err := c.client.BatchV1().Jobs("jobs").List(c.ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		cron := false
		for _, j := range jobs.Items {
			cron = cron || len(j.OwnerReferences) > 0
			if j.Status.Failed > 0 {
				t.Fatalf("job %s failed", j.Name)
			}
			if j.Status.Succeeded == 0 {
				return fmt.Errorf("%s runs", j.Name)
			}
		}
		if !cron {
			return fmt.Errorf("the CronJob has not run")
		}
		return nil
	})
}

// TestHostPort reaches a captured pod by a port of its node.
func TestHostPort(t *testing.T) {
	c := open(t)
	c.shop("hostport")
	c.apply("hostport", `
apiVersion: v1
kind: Pod
metadata: {name: front, labels: {app: front}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: front
    image: ambit/echo
    imagePullPolicy: IfNotPresent
    command: [ambit-echo, serve]
    ports: [{containerPort: 8080, hostPort: 31999}]
    readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
`)
	front := c.ready("hostport", "app=front")[0]
	if got := front.Annotations["ambient.istio.io/redirection"]; got != "enabled" {
		t.Errorf("redirection is %q", got)
	}
	c.namespace("hostport-outside")
	c.apply("hostport-outside", plain("visitor"))
	c.ready("hostport-outside", "role=client")
	out := c.answers("hostport-outside", "visitor", "http://"+net.JoinHostPort(front.Status.HostIP, "31999"))
	if !strings.Contains(out, "front") {
		t.Errorf("somebody else answered: %s", out)
	}
}

// plain is a pod that does what it is told.
func plain(name string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {role: client}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: client, image: ambit/echo, imagePullPolicy: IfNotPresent, command: [ambit-echo, idle]}
`, name)
}

// TestExternalName follows a service that is another name for one in the mesh.
func TestExternalName(t *testing.T) {
	c := open(t)
	c.shop("named")
	c.apply("named", `
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: web.named.svc.cluster.local}
`)
	c.answers("named", "client", "http://alias.named")
}

// TestHostNetwork leaves pods of the node's own network alone: they are never captured, and reach the mesh as anybody
// outside does.
func TestHostNetwork(t *testing.T) {
	c := open(t)
	url := c.shop("hostnet")
	c.apply("hostnet", strings.Replace(plain("onhost"), "spec:", "spec:\n  hostNetwork: true\n  dnsPolicy: ClusterFirstWithHostNet", 1))
	c.ready("hostnet", "role=client")
	c.answers("hostnet", "onhost", url)
	for _, p := range c.pods("hostnet", "") {
		if p.Name == "onhost" && p.Annotations["ambient.istio.io/redirection"] != "" {
			t.Errorf("a pod of the host's network was captured: %v", p.Annotations)
		}
	}
}

// TestProbes keeps every kind of probe working where nobody without a certificate may speak.
func TestProbes(t *testing.T) {
	c := open(t)
	c.shop("probes")
	c.apply("probes", `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec: {}
`)
	kinds := map[string]string{
		"http": "httpGet: {path: /ready, port: 8080}",
		"tcp":  "tcpSocket: {port: 9000}",
		"exec": `exec: {command: [ambit-echo, get, "http://127.0.0.1:8080/ready"]}`,
		"grpc": "grpc: {port: 9004}",
	}
	for kind, probe := range kinds {
		c.apply("probes", fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: probed-%s, labels: {probed: yes-%s}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: ambit/echo
    imagePullPolicy: IfNotPresent
    command: [ambit-echo, serve]
    startupProbe: {%s, periodSeconds: 1, failureThreshold: 30}
    readinessProbe: {%s, periodSeconds: 1}
    livenessProbe: {%s, periodSeconds: 1, failureThreshold: 2}
`, kind, kind, probe, probe, probe))
	}
	for kind := range kinds {
		c.ready("probes", "probed=yes-"+kind)
	}
	c.captured("probes", "probed")
	c.refused("probes", "client", "http://"+net.JoinHostPort(c.pods("probes", "probed=yes-http")[0].Status.PodIP, "8080"))
	// Liveness was asked many times meanwhile; a failing one would have restarted its container.
	c.eventually("ten seconds of probes", func() error {
		for _, p := range c.pods("probes", "probed") {
			for _, s := range p.Status.ContainerStatuses {
				if s.RestartCount > 0 {
					t.Fatalf("%s was restarted: %v", p.Name, s.LastTerminationState)
				}
				if s.State.Running == nil || time.Since(s.State.Running.StartedAt.Time) < 10*time.Second {
					return fmt.Errorf("%s has not run for ten seconds", p.Name)
				}
			}
			if p.Status.Phase != corev1.PodRunning || !isReady(&p) {
				return fmt.Errorf("%s: %s", p.Name, p.Status.Phase)
			}
		}
		return nil
	})
}
