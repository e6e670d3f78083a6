//go:build kind

package kind

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// behind is the shop behind the namespace's waypoint, and a budget for its pods.
const behind = seven + `---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec:
  minAvailable: 2
  selector: {matchLabels: {app: web}}
---` + overlaidWaypoint

// cordon keeps new pods from a node, until the story ends.
func (c *cluster) cordon(node string) {
	c.Helper()
	set := func(ctx context.Context, yes bool) error {
		_, err := c.client.CoreV1().Nodes().Patch(ctx, node, "application/merge-patch+json", fmt.Appendf(nil, `{"spec":{"unschedulable":%t}}`, yes), metav1.PatchOptions{})
		return err
	}
	c.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		if err := set(ctx, false); err != nil {
			c.Errorf("node %s still takes no pods: kubectl uncordon it: %v", node, err)
		}
	})
	c.must(set(c.ctx, true))
}

// drain evicts what runs on a node, as kubectl drain --ignore-daemonsets --force does: as fast as budgets allow.
func (c *cluster) drain(node string) {
	c.Helper()
	c.cordon(node)
	c.within(4*time.Minute, "node "+node+" is empty", func() error {
		list, err := c.client.CoreV1().Pods("").List(c.ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
		if err != nil {
			return err
		}
		var left []string
		for i := range list.Items {
			p := &list.Items[i]
			if stays(p) {
				continue
			}
			left = append(left, p.Namespace+"/"+p.Name)
			if p.DeletionTimestamp != nil {
				continue
			}
			err := c.client.PolicyV1().Evictions(p.Namespace).Evict(c.ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}})
			if err != nil && !apierrors.IsTooManyRequests(err) && !apierrors.IsNotFound(err) {
				return err
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("it runs %v", left)
		}
		return nil
	})
}

// stays says whether a drain leaves a pod where it is.
func stays(p *corev1.Pod) bool {
	owner := metav1.GetControllerOf(p)
	return owner != nil && owner.Kind == "DaemonSet" || p.Annotations[corev1.MirrorPodAnnotationKey] != "" ||
		p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// elsewhere is a worker other than one.
func (c *cluster) elsewhere(than string) string {
	c.Helper()
	nodes, err := c.client.CoreV1().Nodes().List(c.ctx, metav1.ListOptions{})
	c.must(err)
	for _, n := range nodes.Items {
		if n.Name != than && len(n.Spec.Taints) == 0 {
			return n.Name
		}
	}
	c.Skip("the story needs two nodes that take pods")
	return ""
}

// TestNodeDrain empties a node as for its maintenance, while a client on another one sends requests straight to a service and
// through a waypoint: none fails, and what ran on the node runs elsewhere, in the mesh.
func TestNodeDrain(t *testing.T) {
	const ns = "drain"
	c := open(t)
	url := c.shop(ns)
	client := c.pods(ns, "role=client")[0].Spec.NodeName
	c.apply(ns, scaled(2, 2, ""))
	c.apply(ns, behind)
	const gateway = "gateway.networking.k8s.io/gateway-name=waypoint"
	c.within(2*soon, "two pods of the waypoint", func() error {
		ready := 0
		for _, p := range c.pods(ns, gateway) {
			if isReady(&p) {
				ready++
			}
		}
		if ready != 2 {
			return fmt.Errorf("%d", ready)
		}
		return nil
	})
	through := "http://web7." + ns
	c.eventually("web7 is behind the waypoint", func() error { return c.throughEnvoy(ns, "client", through) })
	// A node with pods of the shop on it, which with three pods on two nodes every worker is.
	node := c.elsewhere(client)
	c.eventually("the shop is on "+node, func() error {
		for _, p := range c.pods(ns, "app=web") {
			if p.Spec.NodeName == node {
				return nil
			}
		}
		return fmt.Errorf("it is not")
	})
	straight, seven := c.load(ns, "client", url, 50), c.load(ns, "client", through, 50)
	c.drain(node)
	c.rollout("Deployment", ns, "web")
	c.rollout("Deployment", ns, "waypoint")
	c.rollout("Deployment", system, "ambitd")
	for _, p := range append(c.ready(ns, "app=web"), c.ready(ns, gateway)...) {
		if p.Spec.NodeName == node {
			t.Errorf("%s runs on the node that was drained", p.Name)
		}
	}
	c.captured(ns, "app=web")
	c.unharmed(straight)
	c.unharmed(seven)
	c.allOfAll()
}

// throughEnvoy says why an answer did not come through a waypoint.
func (c *cluster) throughEnvoy(ns, pod, url string) error {
	out, err := c.fetch(ns, pod, url, "-i")
	if err == nil && !strings.Contains(strings.ToLower(out), "server: istio-envoy") {
		err = fmt.Errorf("no trace of Envoy in %q", out)
	}
	return err
}
