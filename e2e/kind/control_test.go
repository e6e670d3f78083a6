//go:build kind

package kind

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// replicas gives the control plane so many pods for the rest of the story. It returns how many there were.
func (c *cluster) replicas(n int) int {
	c.Helper()
	d, err := c.client.AppsV1().Deployments(system).Get(c.ctx, "ambitd", metav1.GetOptions{})
	c.must(err)
	before := int32(1)
	if d.Spec.Replicas != nil {
		before = *d.Spec.Replicas
	}
	scale := func(n int32) { c.patch("Deployment", system, "ambitd", fmt.Sprintf(`{"spec":{"replicas":%d}}`, n)) }
	if before != int32(n) {
		scale(int32(n))
		c.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			_, _ = c.client.AppsV1().Deployments(system).Patch(ctx, "ambitd", "application/merge-patch+json", fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, before), metav1.PatchOptions{})
		})
	}
	c.rollout("Deployment", system, "ambitd")
	return int(before)
}

// leader is the pod that writes.
func (c *cluster) leader() string {
	c.Helper()
	lease, err := c.client.CoordinationV1().Leases(system).Get(c.ctx, "ambitd", metav1.GetOptions{})
	c.must(err)
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	name, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
	return name
}

// condition is "status reason" of an object's condition, empty if it has none of the type.
func (c *cluster) condition(kind, ns, name, typ string) string {
	o, err := c.get(kind, ns, name)
	if err != nil {
		return err.Error()
	}
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, v := range list {
		if m, _ := v.(map[string]any); m["type"] == typ {
			return fmt.Sprintf("%v %v", m["status"], m["reason"])
		}
	}
	return ""
}

const nobody = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec: {action: DENY, rules: [{}]}
`

// TestReplicaKilled ends the replica that leads. Both had served before; the other one takes over the writing, and nobody
// notices: no request fails, pods that start get certificates, policies act and say so.
func TestReplicaKilled(t *testing.T) {
	c := open(t)
	c.replicas(2)
	url := c.shop("replicas")
	var leader string
	c.eventually("one of the replicas leads", func() error {
		leader = c.leader()
		for _, p := range c.pods(system, "app=ambitd") {
			if p.Name == leader {
				return nil
			}
		}
		return fmt.Errorf("%q holds the lease", leader)
	})
	load := c.load("replicas", "client", url, 100)
	c.must(c.deleteNow("Pod", system, leader))
	c.restart("Deployment", "replicas", "web")
	c.captured("replicas", "app=web")
	c.unharmed(load)
	c.apply("replicas", nobody)
	c.refused("replicas", "client", url)
	c.eventually("the other replica leads", func() error {
		if now := c.leader(); now == leader || now == "" {
			return fmt.Errorf("%q holds the lease", now)
		}
		return nil
	})
	c.eventually("the policy says that it is in force", func() error {
		if got := c.condition("AuthorizationPolicy", "replicas", "nobody", "ZtunnelAccepted"); !strings.HasPrefix(got, "True") {
			return fmt.Errorf("ZtunnelAccepted is %q", got)
		}
		return nil
	})
	c.delete("replicas", nobody)
	c.answers("replicas", "client", url)
}

// seven is the shop once more, as a service behind the namespace's waypoint.
const seven = `
apiVersion: v1
kind: Service
metadata: {name: web7, labels: {istio.io/use-waypoint: waypoint}}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
`

// TestNoControlPlane takes all control planes away, under load that goes straight to a service and through a waypoint: none of it
// fails, and everybody says what is away. A pod that starts meanwhile is captured and ready, and has to wait to be known: what it
// asks for and whoever asks it is refused, and a line says why. When a control plane is back proxies find it by themselves, the pod
// is one of the mesh, and what was changed meanwhile acts.
func TestNoControlPlane(t *testing.T) {
	const ns = "headless"
	c := open(t)
	url := c.shop(ns)
	c.ambitctl("waypoint", "apply", "-n", ns, "--wait")
	c.apply(ns, seven)
	through := "http://web7." + ns
	c.eventually("web7 is behind the waypoint", func() error { return c.throughEnvoy(ns, "client", through) })
	node := c.pods(ns, "role=client")[0].Spec.NodeName
	c.apply(ns, "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: late}\n")

	straight, behind := c.load(ns, "client", url, 50), c.load(ns, "client", through, 50)
	was := c.replicas(0)
	c.eventually("no control plane runs", func() error {
		list, err := c.client.CoreV1().Pods(system).List(c.ctx, metav1.ListOptions{LabelSelector: "app=ambitd"})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d do", len(list.Items))
		}
		return err
	})
	others := c.restarts()
	c.fails("check", "the control plane does not answer")
	c.says("status", "the control plane does not answer")

	since := metav1.Now()
	c.apply(ns, strings.Replace(onNode("late", node, ""), "spec:\n", "spec:\n  serviceAccountName: late\n", 1))
	c.ready(ns, "app=late")
	c.redirection(ns, "late", "enabled")
	late := "http://" + net.JoinHostPort(c.pods(ns, "app=late")[0].Status.PodIP, "8080")
	// It has no certificate, and nobody knows which policies guard it.
	for reason, ask := range map[string][2]string{"no-certificate": {"late", url}, "unknown-destination": {"client", late}} {
		if out, err := c.fetch(ns, ask[0], ask[1], "--timeout", "20s"); err == nil {
			t.Errorf("%s was answered by %s: %s", ask[0], ask[1], out)
		}
		c.eventually("the node proxy says "+reason, func() error {
			for _, p := range c.pods(system, "app=ztunnel") {
				if p.Spec.NodeName != node {
					continue
				}
				log, err := c.client.CoreV1().Pods(system).GetLogs(p.Name, &corev1.PodLogOptions{SinceTime: &since}).DoRaw(c.ctx)
				if err != nil {
					return err
				}
				if !strings.Contains(string(log), reason) {
					return fmt.Errorf("%s does not: %s", p.Name, telling(string(log)))
				}
			}
			return nil
		})
	}
	// Somebody changes something that has to wait.
	c.apply(ns, nobodyToLate)
	c.answers(ns, "client", url)
	c.answers(ns, "client", through)

	c.patch("Deployment", system, "ambitd", fmt.Sprintf(`{"spec":{"replicas":%d}}`, was))
	c.rollout("Deployment", system, "ambitd")
	began := time.Now()
	c.within(20*time.Second, "every proxy is connected", func() error {
		out, stderr, err := c.try("proxy-status")
		for _, p := range append(c.pods(system, "app=ztunnel"), c.pods(ns, "gateway.networking.k8s.io/gateway-name=waypoint")...) {
			if err == nil && !connected(out, p.Name) {
				err = fmt.Errorf("%s is not: %s%s", p.Name, out, stderr)
			}
		}
		return err
	})
	t.Logf("every proxy is connected %s after the control plane is ready", time.Since(began).Round(100*time.Millisecond))
	c.answers(ns, "late", url)
	c.refused(ns, "client", late)
	c.delete(ns, nobodyToLate)
	c.answers(ns, "client", late)
	c.unharmed(straight)
	c.unharmed(behind)
	c.says("check", "ok")
	now := c.restarts()
	for name, n := range others {
		if m, ok := now[name]; !ok || m != n {
			t.Errorf("%s was started again (%d times before, %d now)", name, n, m)
		}
	}
	c.works(ns, url)
}

const nobodyToLate = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody-to-late}
spec: {selector: {matchLabels: {app: late}}}
`

// many is how many namespaces there are in TestManyNamespaces.
const many = 200

// TestManyNamespaces: with 200 namespaces that have policies of their own, each gets its root certificates and each policy
// its status, and a change of one of them acts as fast as ever.
func TestManyNamespaces(t *testing.T) {
	c := open(t)
	url := c.shop("many")
	name := func(i int) string { return fmt.Sprintf("many-%03d", i) }
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		for i := range many {
			_ = c.client.CoreV1().Namespaces().Delete(ctx, name(i), metav1.DeleteOptions{})
		}
	})
	began := time.Now()
	work := make(chan int)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for range 8 {
		wg.Go(func() {
			for i := range work {
				if err := c.populate(name(i)); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
				}
			}
		})
	}
	for i := range many {
		work <- i
	}
	close(work)
	wg.Wait()
	c.must(failed)
	t.Logf("made after %s", time.Since(began).Round(time.Second))
	c.within(3*time.Minute, "every namespace has the roots, and every policy its status", func() error {
		maps, err := c.client.CoreV1().ConfigMaps("").List(c.ctx, metav1.ListOptions{LabelSelector: "istio.io/config=true"})
		if err != nil {
			return err
		}
		roots := map[string]bool{}
		for _, m := range maps.Items {
			roots[m.Namespace] = m.Data["root-cert.pem"] != ""
		}
		r, err := c.resource("AuthorizationPolicy", "")
		if err != nil {
			return err
		}
		policies, err := r.List(c.ctx, metav1.ListOptions{LabelSelector: "story=many"})
		if err != nil {
			return err
		}
		said := map[string]bool{}
		for _, p := range policies.Items {
			list, _, _ := unstructured.NestedSlice(p.Object, "status", "conditions")
			for _, v := range list {
				m, _ := v.(map[string]any)
				said[p.GetNamespace()] = said[p.GetNamespace()] || m["type"] == "ZtunnelAccepted" && m["status"] == "True"
			}
		}
		for i := range many {
			if !roots[name(i)] || !said[name(i)] {
				return fmt.Errorf("%s: roots %t, status %t", name(i), roots[name(i)], said[name(i)])
			}
		}
		return nil
	})
	t.Logf("complete after %s", time.Since(began).Round(time.Second))
	for range 3 {
		began = time.Now()
		c.apply("many", nobody)
		c.refused("many", "client", url)
		t.Logf("a policy acts after %s", time.Since(began).Round(10*time.Millisecond))
		c.delete("many", nobody)
		c.answers("many", "client", url)
	}
}

// populate makes a namespace of the mesh with a service, somebody who may call it, and mutual TLS for all.
func (c *cluster) populate(name string) error {
	_, err := c.client.CoreV1().Namespaces().Create(c.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"istio.io/dataplane-mode": "ambient"},
	}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return c.each(name, `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, labels: {story: many}}
spec:
  selector: {matchLabels: {app: web}}
  rules: [{from: [{source: {principals: [cluster.local/ns/`+name+`/sa/client]}}]}]
`, c.applyObject)
}

// scaled is an overlay with an autoscaler and a budget. Without figures of the pods' load an autoscaler still keeps to its
// bounds.
func scaled(least, most int, extra string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: ConfigMap
metadata: {name: overlay}
data:
  horizontalPodAutoscaler: |
    spec: {minReplicas: %d, maxReplicas: %d}
  podDisruptionBudget: |
    spec: {minAvailable: 1}
  deployment: |
    metadata: {labels: {team: edge}}
%s`, least, most, extra)
}

// overlaidWaypoint is a waypoint for services whose Deployment is as the ConfigMap overlay says.
const overlaidWaypoint = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, labels: {istio.io/waypoint-for: service}}
spec:
  gatewayClassName: istio-waypoint
  infrastructure: {parametersRef: {group: "", kind: ConfigMap, name: overlay}}
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
`

// TestWaypointScales: a waypoint with an overlay of its own has an autoscaler and a budget; as many pods as the autoscaler
// wants, which the control plane does not dispute; and no request fails while they come and go. A bad overlay is told of and
// changes nothing; without the overlay, and without the Gateway, nothing is left over.
func TestWaypointScales(t *testing.T) {
	const ns = "scales"
	c := open(t)
	url := c.shop(ns)
	c.apply(ns, scaled(1, 3, ""))
	c.apply(ns, overlaidWaypoint)
	is := func(typ, want string) {
		t.Helper()
		c.eventually("the Gateway's condition "+typ, func() error {
			if got := c.condition("Gateway", ns, "waypoint", typ); !strings.HasPrefix(got, want) {
				return fmt.Errorf("it is %q, want %q", got, want)
			}
			return nil
		})
	}
	is("Programmed", "True")
	c.label("Namespace", "", ns, "istio.io/use-waypoint=waypoint")
	c.answers(ns, "client", url)
	pods := func(want int) {
		t.Helper()
		c.eventually(fmt.Sprintf("%d ready pods of the waypoint", want), func() error {
			list := c.pods(ns, "gateway.networking.k8s.io/gateway-name=waypoint")
			ready := 0
			for i := range list {
				if isReady(&list[i]) && list[i].DeletionTimestamp == nil {
					ready++
				}
			}
			if ready != want || len(list) != want {
				return fmt.Errorf("%d pods, %d of them ready", len(list), ready)
			}
			return nil
		})
	}
	pods(1)
	load := c.load(ns, "client", url, 50)
	c.apply(ns, scaled(3, 3, ""))
	pods(3)
	c.apply(ns, scaled(1, 1, ""))
	pods(1)
	c.unharmed(load)

	c.apply(ns, scaled(1, 1, "  sevrice: |\n    spec: {type: NodePort}\n"))
	is("Accepted", "False")
	c.answers(ns, "client", url)
	c.apply(ns, scaled(1, 1, ""))
	is("Accepted", "True")

	c.eventually("the budget counts the waypoint's pods", func() error {
		pdb, err := c.client.PolicyV1().PodDisruptionBudgets(ns).Get(c.ctx, "waypoint", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if pdb.Spec.MinAvailable == nil || pdb.Spec.MinAvailable.IntValue() != 1 || pdb.Status.CurrentHealthy != 1 {
			return fmt.Errorf("it is %+v, %+v", pdb.Spec, pdb.Status)
		}
		return nil
	})
	d, err := c.client.AppsV1().Deployments(ns).Get(c.ctx, "waypoint", metav1.GetOptions{})
	c.must(err)
	if d.Labels["team"] != "edge" {
		t.Errorf("the overlay's label is not there: %v", d.Labels)
	}
	left := func(kinds ...string) error {
		for _, k := range kinds {
			if o, err := c.get(k, ns, "waypoint"); err == nil {
				return fmt.Errorf("%s waypoint is there since %s", k, o.GetCreationTimestamp())
			}
		}
		return nil
	}
	c.patch("Gateway", ns, "waypoint", `{"spec":{"infrastructure":null}}`)
	c.eventually("autoscaler and budget go with the overlay", func() error { return left("HorizontalPodAutoscaler", "PodDisruptionBudget") })
	c.label("Namespace", "", ns, "istio.io/use-waypoint-")
	c.must(c.deleteNow("Gateway", ns, "waypoint"))
	c.eventually("everything goes with the Gateway", func() error { return left("Deployment", "Service", "ServiceAccount") })
	c.answers(ns, "client", url)
}
