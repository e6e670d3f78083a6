//go:build kind

package kind

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// peerProgram is where another implementation's ztunnel lies on the nodes.
const peerProgram = "/usr/local/bin/peer-ztunnel"

// TestForeignZtunnel has another implementation's ztunnel take over from ours on every node, under our control plane and CNI
// agent, and hand back again. PEER_ZTUNNEL names the binary; it is run in our DaemonSet, with the environment our chart has,
// on the libraries of the node.
func TestForeignZtunnel(t *testing.T) {
	peer := os.Getenv("PEER_ZTUNNEL")
	if peer == "" {
		t.Skip("PEER_ZTUNNEL does not name another ztunnel's binary")
	}
	const ns = "peer"
	c := open(t)
	docker := c.machines()
	for _, node := range c.nodes() {
		docker("cp", peer, node+":"+peerProgram)
		t.Cleanup(func() { _ = exec.Command("docker", "exec", node, "rm", "-f", peerProgram).Run() })
	}
	url := c.shop(ns)
	c.ambitctl("waypoint", "apply", "-n", ns, "--wait")

	load := c.load(ns, "client", url, 100)
	c.foreign()
	c.unharmed(load)

	// Pods of before and pods that start now are in the mesh, policies of both layers hold, and roll-overs cost nothing.
	c.captured(ns, "app=web")
	c.answers(ns, "client", url)
	load = c.load(ns, "client", url, 50)
	c.restart("Deployment", ns, "web")
	c.unharmed(load)
	c.captured(ns, "app=web")
	c.allOfAll()
	c.apply(ns, peerPolicy)
	c.refused(ns, "client", url)
	c.delete(ns, peerPolicy)
	c.answers(ns, "client", url)
	c.label("Service", ns, "web", "istio.io/use-waypoint=waypoint")
	c.eventually("web is behind the waypoint", func() error { return c.throughEnvoy(ns, "client", url) })
	c.apply(ns, peerMethods)
	c.eventually("POST is refused by the waypoint", func() error {
		if out, err := c.fetch(ns, "client", url, "-X", "POST"); err == nil {
			return fmt.Errorf("answered: %s", out)
		}
		return nil
	})
	c.answers(ns, "client", url)
	c.says("ztunnel-config workload", "web-", "HBONE")

	load = c.load(ns, "client", url, 100)
	c.ours()
	c.unharmed(load)
	c.answers(ns, "client", url)
}

// peerPolicy is about the one client there is.
const peerPolicy = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: client}
spec:
  selector: {matchLabels: {app: web}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/peer/sa/client]}}]}]
`

const peerMethods = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: methods}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  action: ALLOW
  rules: [{to: [{operation: {methods: [GET]}}]}]
`

// nodes are the names of all nodes.
func (c *cluster) nodes() []string {
	c.Helper()
	list, err := c.client.CoreV1().Nodes().List(c.ctx, metav1.ListOptions{})
	c.must(err)
	var out []string
	for _, n := range list.Items {
		out = append(out, n.Name)
	}
	return out
}

// foreign has the DaemonSet run the program on the nodes until the story ends.
func (c *cluster) foreign() {
	c.Helper()
	c.Cleanup(func() {
		back := *c
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		back.ctx = ctx
		back.ours()
	})
	c.proxies(func(p *corev1.PodSpec) {
		p.Containers[0].Command = []string{
			"/node/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "--library-path", "/node/usr/lib/x86_64-linux-gnu",
			"/node" + peerProgram, "proxy", "ztunnel",
		}
		p.Volumes = append(p.Volumes, corev1.Volume{Name: "node", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}})
		p.Containers[0].VolumeMounts = append(p.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "node", MountPath: "/node", ReadOnly: true})
	})
}

// ours undoes foreign; it may be called again.
func (c *cluster) ours() {
	c.Helper()
	c.proxies(func(p *corev1.PodSpec) {
		box := &p.Containers[0]
		if len(box.Command) == 0 {
			return
		}
		box.Command = nil
		p.Volumes, box.VolumeMounts = p.Volumes[:len(p.Volumes)-1], box.VolumeMounts[:len(box.VolumeMounts)-1]
	})
}

// proxies changes the pods of the node proxies' DaemonSet, and waits for it.
func (c *cluster) proxies(edit func(*corev1.PodSpec)) {
	c.Helper()
	c.changeSet("ztunnel", func(ds *appsv1.DaemonSet) { edit(&ds.Spec.Template.Spec) })
	c.rollout("DaemonSet", system, "ztunnel")
}
