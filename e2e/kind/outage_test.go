//go:build kind

package kind

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// apart asks a URL from a pod of its own for a while, each time over a new connection. Unlike load it needs no API server while
// it runs. The function it returns waits for the end and gives the report.
func (c *cluster) apart(ns, url string, rate int, d time.Duration) func() report {
	c.Helper()
	name := fmt.Sprintf("load-%d", time.Now().UnixNano())
	c.apply(ns, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {role: load}}
spec:
  serviceAccountName: client
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: load
    image: ambit/echo
    imagePullPolicy: IfNotPresent
    command: [ambit-echo, loop, "%s", --rate, "%d", --workers, "8", --duration, %s, --allow-errors, "1000000000", -q, -o, json]
`, name, url, rate, d))
	c.eventually("the load runs", func() error {
		for _, p := range c.pods(ns, "role=load") {
			if p.Name == name && p.Status.Phase == corev1.PodRunning {
				return nil
			}
		}
		return fmt.Errorf("%s does not run", name)
	})
	return func() report {
		c.Helper()
		c.within(d+2*soon, "the load ends", func() error {
			p, err := c.client.CoreV1().Pods(ns).Get(c.ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if p.Status.Phase != corev1.PodSucceeded {
				return fmt.Errorf("%s is %s", name, p.Status.Phase)
			}
			return nil
		})
		raw, err := c.client.CoreV1().Pods(ns).GetLogs(name, &corev1.PodLogOptions{}).DoRaw(c.ctx)
		c.must(err)
		var r report
		if err := json.Unmarshal(raw, &r); err != nil || r.Requests == 0 {
			c.Fatalf("report of the load: %v: %s", err, raw)
		}
		return r
	}
}

// machines is how to run a command on a node, as root. A story that needs it is skipped where nodes are no containers.
func (c *cluster) machines() func(args ...string) string {
	c.Helper()
	docker := func(args ...string) (string, error) {
		out, err := exec.CommandContext(c.ctx, "docker", args...).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return string(out), nil
	}
	if _, err := docker("inspect", c.worker()); err != nil {
		c.Skipf("the nodes are no containers of a Docker within reach: %v", err)
	}
	return func(args ...string) string {
		c.Helper()
		out, err := docker(args...)
		c.must(err)
		return out
	}
}

// controlPlane is the node with the API server.
func (c *cluster) controlPlane() string {
	c.Helper()
	nodes, err := c.client.CoreV1().Nodes().List(c.ctx, metav1.ListOptions{LabelSelector: "node-role.kubernetes.io/control-plane"})
	c.must(err)
	if len(nodes.Items) != 1 {
		c.Skipf("the story is about one control plane, here are %d", len(nodes.Items))
	}
	return nodes.Items[0].Name
}

// restarts counts how often containers of the mesh itself were started again.
func (c *cluster) restarts() map[string]int32 {
	c.Helper()
	out := map[string]int32{}
	for _, p := range c.pods(system, "") {
		for _, s := range p.Status.ContainerStatuses {
			out[p.Name+"/"+s.Name] = s.RestartCount
		}
	}
	return out
}

// sameAs expects the mesh's containers to be those of before: it came back by itself.
func (c *cluster) sameAs(before map[string]int32) {
	c.Helper()
	for name, n := range c.restarts() {
		if was, ok := before[name]; !ok || was != n {
			c.Errorf("%s was started again (%d times before, %d now)", name, was, n)
		}
	}
}

// works expects the mesh to do its work: a new pod gets in, and a new policy is in force.
func (c *cluster) works(ns, url string) {
	c.Helper()
	c.restart("Deployment", ns, "web")
	c.captured(ns, "app=web")
	c.apply(ns, denial)
	c.refused(ns, "client", url)
	c.delete(ns, denial)
	c.answers(ns, "client", url)
}

const denial = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec: {}
`

// unreadable waits until every control plane says of how many kinds it goes on with what it knew; -1 is any number but none. That
// is what the alert AmbitKindsUnreadable asks for.
func (c *cluster) unreadable(want float64) {
	c.Helper()
	c.eventually(fmt.Sprintf("%v kinds are unreadable, by ambit_control_unreadable_kinds", want), func() error {
		for _, p := range c.ready(system, "app=ambitd") {
			if n, err := c.gauge(p.Name, "ambit_control_unreadable_kinds"); err != nil || n != want && (want >= 0 || n == 0) {
				return fmt.Errorf("%s: %v, %v", p.Name, n, err)
			}
		}
		return nil
	})
}

// TestKubelet kills the kubelet of the node that has the client, which is nobody's business but new pods'.
func TestKubelet(t *testing.T) {
	c := open(t)
	docker := c.machines()
	url := c.shop("kubelet")
	node := c.pods("kubelet", "role=client")[0].Spec.NodeName
	load := c.apart("kubelet", url, 50, 20*time.Second)
	was := strings.TrimSpace(docker("exec", node, "pgrep", "-x", "kubelet"))
	docker("exec", node, "kill", "-9", was)
	c.eventually("another kubelet runs", func() error {
		out, err := exec.CommandContext(c.ctx, "docker", "exec", node, "pgrep", "-x", "kubelet").CombinedOutput()
		if now := strings.TrimSpace(string(out)); err != nil || now == was {
			return fmt.Errorf("%s, %v", now, err)
		}
		return nil
	})
	c.unharmed(load)
	c.apply("kubelet", onNode("late", node, ""))
	c.ready("kubelet", "app=late")
	c.captured("kubelet", "app=late")
}

// TestAPIServerAway takes the API server away for half a minute: what runs goes on to open connections by the policies it had,
// and when the API server is back the mesh follows it again without a restart.
func TestAPIServerAway(t *testing.T) {
	c := open(t)
	docker := c.machines()
	node := c.controlPlane()
	url := c.shop("away")
	c.apply("away", `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
`)
	c.answers("away", "client", url)
	before := c.restarts()
	var planes []string
	for _, p := range c.ready(system, "app=ambitd") {
		planes = append(planes, net.JoinHostPort(p.Status.PodIP, "15014"))
	}
	const manifest, shelf = "/etc/kubernetes/manifests/kube-apiserver.yaml", "/etc/kubernetes/kube-apiserver.yaml"
	load := c.apart("away", url, 50, 75*time.Second)
	docker("exec", node, "mv", manifest, shelf)
	t.Cleanup(func() {
		_ = exec.Command("docker", "exec", node, "sh", "-c", "[ ! -e "+shelf+" ] || mv "+shelf+" "+manifest).Run()
	})
	c.eventually("the API server is away", func() error {
		if _, err := c.client.Discovery().ServerVersion(); err == nil {
			return fmt.Errorf("it answers")
		}
		return nil
	})
	gone := time.Now()
	// Nobody can ask the mesh through an API server that is away, but whoever collects metrics asks the control planes themselves.
	if _, stderr, err := c.try("check"); err == nil || strings.TrimSpace(stderr) == "" {
		t.Errorf("ambitctl check without an API server: %v, %q", err, stderr)
	}
	for _, addr := range planes {
		c.eventually("the control plane at "+addr+" says that it cannot read", func() error {
			out, err := exec.CommandContext(c.ctx, "docker", "exec", node, "curl", "-sS", "--max-time", "5", "http://"+addr+"/metrics").CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			for line := range strings.Lines(string(out)) {
				if n, ok := strings.CutPrefix(line, "ambit_control_unreadable_kinds "); ok && strings.TrimSpace(n) != "0" {
					return nil
				}
			}
			return fmt.Errorf("it does not")
		})
	}
	t.Logf("it is told after %s", time.Since(gone).Round(time.Second))
	<-time.After(time.Until(gone.Add(30 * time.Second))) // the length of the outage, which nothing signals
	docker("exec", node, "mv", shelf, manifest)
	c.within(2*soon, "the API server is back", func() error {
		_, err := c.client.Discovery().ServerVersion()
		return err
	})
	t.Logf("the API server was away for %s", time.Since(gone).Round(time.Second))
	c.unharmed(load)
	c.unreadable(0)
	c.works("away", url)
	c.sameAs(before)
}

// restartAPIServer ends the API server's process, and with it every watch, and waits until another one answers.
func (c *cluster) restartAPIServer() {
	c.Helper()
	docker := c.machines()
	node := c.controlPlane()
	was := strings.TrimSpace(docker("exec", node, "pgrep", "-x", "kube-apiserver"))
	docker("exec", node, "kill", was)
	c.within(2*soon, "another API server answers", func() error {
		out, err := exec.CommandContext(c.ctx, "docker", "exec", node, "pgrep", "-x", "kube-apiserver").CombinedOutput()
		if now := strings.TrimSpace(string(out)); err != nil || now == was {
			return fmt.Errorf("%q runs, %v", now, err)
		}
		_, err = c.client.CoreV1().Namespaces().Get(c.ctx, system, metav1.GetOptions{})
		return err
	})
}

// TestControlPlaneFrozen stops everything on the control plane's node in the middle of what it does, for half a minute: the API
// server neither answers nor refuses.
func TestControlPlaneFrozen(t *testing.T) {
	c := open(t)
	docker := c.machines()
	node := c.controlPlane()
	url := c.shop("frozen")
	for _, p := range c.pods("frozen", "") {
		if p.Spec.NodeName == node {
			t.Skip("pods run on the control plane's node")
		}
	}
	load := c.apart("frozen", url, 50, 60*time.Second)
	docker("pause", node)
	t.Cleanup(func() { _ = exec.Command("docker", "unpause", node).Run() })
	<-time.After(30 * time.Second) // the length of the outage
	docker("unpause", node)
	c.within(2*soon, "the API server answers", func() error {
		_, err := c.client.Discovery().ServerVersion()
		return err
	})
	c.unharmed(load)
	c.works("frozen", url)
}

// TestRightsTaken takes the control plane's rights away: traffic goes on, everybody is told what cannot be read any more and which
// rights are lacking, and when they are given back so does the mesh, without a restart.
func TestRightsTaken(t *testing.T) {
	c := open(t)
	url := c.shop("rights")
	list, err := c.client.RbacV1().ClusterRoleBindings().List(c.ctx, metav1.ListOptions{})
	c.must(err)
	var taken []rbacv1.ClusterRoleBinding
	for _, b := range list.Items {
		if slices.ContainsFunc(b.Subjects, func(s rbacv1.Subject) bool { return s.Namespace == system && s.Name == "ambitd" }) {
			taken = append(taken, b)
		}
	}
	if len(taken) == 0 {
		t.Fatal("nothing gives ambitd its rights")
	}
	before := c.restarts()
	give := sync.OnceFunc(func() {
		for _, b := range taken {
			fresh := rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: b.Name, Labels: b.Labels, Annotations: b.Annotations}, RoleRef: b.RoleRef, Subjects: b.Subjects}
			if _, err := c.client.RbacV1().ClusterRoleBindings().Create(context.Background(), &fresh, metav1.CreateOptions{}); err != nil {
				t.Errorf("give %s back: %v", b.Name, err)
			}
		}
	})
	t.Cleanup(give)
	load := c.apart("rights", url, 50, 90*time.Second)
	for _, b := range taken {
		c.must(c.client.RbacV1().ClusterRoleBindings().Delete(c.ctx, b.Name, metav1.DeleteOptions{}))
	}
	gone := time.Now()
	// The control plane notices when it next lists or watches, which is some minutes away, or when its watches end.
	if !t.Run("it is told", func(t *testing.T) {
		c := c.in(t)
		c.restartAPIServer()
		c.unreadable(-1)
		c.says("config refused", "cannot be read from the API server", "AuthorizationPolicy", "give the control plane's service account the verbs list and watch for it", "stays in force")
		c.says("check", "documents are refused, or have no effect", "ambitctl config refused")
		for _, p := range c.pods(system, "app=ambitd") {
			log, err := c.client.CoreV1().Pods(system).GetLogs(p.Name, &corev1.PodLogOptions{SinceTime: &metav1.Time{Time: c.began}}).DoRaw(c.ctx)
			c.must(err)
			if !strings.Contains(string(log), "the API server does not let the control plane read a kind") {
				t.Errorf("%s does not say so in its log: %s", p.Name, telling(string(log)))
			}
		}
	}) {
		t.Error("nobody was told")
	}
	<-time.After(time.Until(gone.Add(20 * time.Second))) // where no watch can be ended
	give()
	c.unharmed(load)
	c.unreadable(0)
	c.works("rights", url)
	c.sameAs(before)
}
