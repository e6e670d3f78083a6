//go:build kind

package kind

import (
	"fmt"
	"testing"
)

// shop is a server of three pods and a client that does what it is told, in one namespace.
const shop = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: web}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: web
      terminationGracePeriodSeconds: 10
      containers:
      - name: web
        image: ambit/echo
        imagePullPolicy: IfNotPresent
        command: [ambit-echo, serve]
        readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
        # API servers before 1.30 know no preStop of the kind sleep.
        lifecycle: {preStop: {exec: {command: [ambit-echo, get, "http://127.0.0.1:8080/delay?d=3s"]}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: client}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {role: client}}
spec:
  serviceAccountName: client
  terminationGracePeriodSeconds: 1
  containers:
  - {name: client, image: ambit/echo, imagePullPolicy: IfNotPresent, command: [ambit-echo, idle]}
`

// shop makes a meshed namespace with the shop and returns the URL of its service.
func (c *cluster) shop(ns string) string {
	c.Helper()
	c.namespace(ns, "istio.io/dataplane-mode=ambient")
	c.apply(ns, shop)
	c.ready(ns, "app=web")
	c.ready(ns, "role=client")
	c.captured(ns, "")
	url := "http://web." + ns
	c.answers(ns, "client", url)
	return url
}

// TestRollout rolls an application over at 300 new connections a second, and no request fails.
func TestRollout(t *testing.T) {
	c := open(t)
	url := c.shop("rollout")
	load := c.load("rollout", "client", url, 300)
	for range 2 {
		c.restart("Deployment", "rollout", "web")
	}
	c.unharmed(load)
}

// TestMeshRollout restarts each part of the mesh under load: new connections never fail.
func TestMeshRollout(t *testing.T) {
	c := open(t)
	url := c.shop("upgrade")
	c.ambitctl("waypoint", "apply", "-n", "upgrade", "--enroll-namespace", "--wait")
	for _, part := range []struct{ kind, ns, name string }{
		{"DaemonSet", system, "ztunnel"}, {"DaemonSet", system, "ambit-cni-node"}, {"Deployment", system, "ambitd"}, {"Deployment", "upgrade", "waypoint"},
	} {
		t.Run(part.name, func(t *testing.T) {
			c := c.in(t)
			load := c.load("upgrade", "client", url, 100)
			c.restart(part.kind, part.ns, part.name)
			c.unharmed(load)
			// A pod that starts now gets into the mesh as any other.
			c.restart("Deployment", "upgrade", "web")
			c.captured("upgrade", "app=web")
		})
	}
}

// TestKills ends each part of the mesh without warning, one pod at a time, and expects that the mesh goes on by itself.
// A node proxy that is killed takes its connections along; no other part may cost a request.
func TestKills(t *testing.T) {
	c := open(t)
	url := c.shop("kills")
	for _, part := range []struct {
		selector string
		harmless bool
	}{{"app=ambitd", true}, {"k8s-app=ambit-cni-node", true}, {"app=ztunnel", false}} {
		t.Run(part.selector, func(t *testing.T) {
			c := c.in(t)
			load := c.load("kills", "client", url, 100)
			for _, p := range c.pods(system, part.selector) {
				c.must(c.deleteNow("Pod", system, p.Name))
			}
			c.ready(system, part.selector)
			c.answers("kills", "client", url)
			r := load()
			t.Logf("%d requests, %d errors %v, longest gap %s", r.Requests, r.Errors, r.Kinds, r.Gap)
			if part.harmless && r.Errors > 0 {
				t.Errorf("%d of %d requests failed: %v", r.Errors, r.Requests, r.Kinds)
			}
			c.eventually("traffic flows without error", func() error {
				stop := c.load("kills", "client", url, 50, "--requests", "100")
				if r := stop(); r.Errors > 0 {
					return fmt.Errorf("%v", r.Kinds)
				}
				return nil
			})
		})
	}
}
