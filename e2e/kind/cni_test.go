//go:build kind

package kind

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	agents     = "ambit-cni-node"
	agentLabel = "k8s-app=ambit-cni-node"
	redirected = "ambient.istio.io/redirection"
)

// onNode is a pod of the echo image on a node of the caller's choice.
func onNode(name, node, labels string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s%s}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  tolerations: [{operator: Exists}]
  containers:
  - {name: echo, image: ambit/echo, imagePullPolicy: IfNotPresent, command: [ambit-echo, serve], readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}}
`, name, name, labels, node)
}

// hand is a pod that reads and writes in the folders of a node, as a network plugin's does; it is root there.
func (c *cluster) hand(ns, node string) {
	c.Helper()
	c.apply(ns, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: hand, labels: {app: hand, istio.io/dataplane-mode: none}}
spec:
  nodeName: %s
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  tolerations: [{operator: Exists}]
  containers:
  - name: hand
    image: ambit/echo
    imagePullPolicy: IfNotPresent
    command: [ambit-echo, idle]
    securityContext: {runAsUser: 0, privileged: true}
    volumeMounts: [{name: node, mountPath: /node}]
  volumes: [{name: node, hostPath: {path: /}}]
`, node))
	c.ready(ns, "app=hand")
}

// worker is a node that pods may run on.
func (c *cluster) worker() string {
	c.Helper()
	nodes, err := c.client.CoreV1().Nodes().List(c.ctx, metav1.ListOptions{})
	c.must(err)
	for _, n := range nodes.Items {
		if len(n.Spec.Taints) == 0 {
			return n.Name
		}
	}
	c.Fatal("no node takes pods")
	return ""
}

// agentOf is the CNI agent's pod on a node; empty if none is ready.
func (c *cluster) agentOf(node string) string {
	c.Helper()
	for _, p := range c.pods(system, agentLabel) {
		if p.Spec.NodeName == node && isReady(&p) {
			return p.Name
		}
	}
	return ""
}

// change edits the agents' DaemonSet.
func (c *cluster) change(edit func(*appsv1.DaemonSet)) {
	c.Helper()
	c.changeSet(agents, edit)
}

// changeSet edits one of the mesh's DaemonSets.
func (c *cluster) changeSet(name string, edit func(*appsv1.DaemonSet)) {
	c.Helper()
	sets := c.client.AppsV1().DaemonSets(system)
	c.eventually("DaemonSet "+name+" is changed", func() error {
		ds, err := sets.Get(c.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		edit(ds)
		_, err = sets.Update(c.ctx, ds, metav1.UpdateOptions{})
		return err
	})
}

// restore puts the agents' DaemonSet back when the story ends, also when it is gone by then.
func (c *cluster) restore() {
	c.Helper()
	was, err := c.client.AppsV1().DaemonSets(system).Get(c.ctx, agents, metav1.GetOptions{})
	c.must(err)
	c.Cleanup(func() {
		back := *c
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		back.ctx = ctx
		ds, err := c.client.AppsV1().DaemonSets(system).Get(ctx, agents, metav1.GetOptions{})
		if err == nil {
			ds.Spec = was.Spec
			_, err = c.client.AppsV1().DaemonSets(system).Update(ctx, ds, metav1.UpdateOptions{})
		} else if apierrors.IsNotFound(err) {
			fresh := was.DeepCopy()
			fresh.ObjectMeta = metav1.ObjectMeta{Name: was.Name, Namespace: was.Namespace, Labels: was.Labels, Annotations: was.Annotations}
			_, err = c.client.AppsV1().DaemonSets(system).Create(ctx, fresh, metav1.CreateOptions{})
		}
		if err != nil {
			c.Errorf("the agents are not as they were: %v", err)
			return
		}
		back.rollout("DaemonSet", system, agents)
	})
}

// gauge reads one of an agent's metrics, through the API server.
func (c *cluster) gauge(pod, name string) (float64, error) {
	data, err := c.client.CoreV1().RESTClient().Get().Namespace(system).Resource("pods").Name(pod + ":15014").SubResource("proxy").Suffix("metrics").DoRaw(c.ctx)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("%s has no metric %s", pod, name)
}

// allOfAll waits until every agent says that all its pods are captured, and returns how many these are.
func (c *cluster) allOfAll() (total int) {
	c.Helper()
	c.eventually("N of N pods are captured on every node", func() error {
		total = 0
		for _, p := range c.pods(system, agentLabel) {
			var n [3]float64
			for i, name := range []string{"ambit_cni_pods_desired", "ambit_cni_pods_captured", "ambit_cni_pods_taken"} {
				var err error
				if n[i], err = c.gauge(p.Name, name); err != nil {
					return err
				}
			}
			if n[0] != n[1] || n[0] != n[2] {
				return fmt.Errorf("%s: %v wanted, %v captured, %v taken by the proxy", p.Spec.NodeName, n[0], n[1], n[2])
			}
			total += int(n[0])
		}
		return nil
	})
	return total
}

func (c *cluster) redirection(ns, pod, want string) {
	c.Helper()
	c.eventually(fmt.Sprintf("%s/%s is annotated %q", ns, pod, want), func() error {
		p, err := c.client.CoreV1().Pods(ns).Get(c.ctx, pod, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got := p.Annotations[redirected]; got != want {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
}

// hold keeps a TCP connection open from a pod for a while; the function it returns waits for its end and fails the story if
// the connection was cut.
func (c *cluster) hold(ns, pod, to string, d time.Duration) func() {
	c.Helper()
	return c.held(d+soon, nil, ns, pod, to, "--duration", d.String())
}

// keep is hold for as long as the story wants: until the function it returns is called.
func (c *cluster) keep(ns, pod, to string) func() {
	c.Helper()
	in, stop := io.Pipe()
	end := c.held(soon, in, ns, pod, to, "--duration", "30m", "--until-eof")
	c.Cleanup(func() { stop.Close() })
	return func() {
		c.Helper()
		stop.Close()
		end()
	}
}

func (c *cluster) held(patience time.Duration, in io.Reader, ns, pod, to string, flags ...string) func() {
	c.Helper()
	type end struct {
		out string
		err error
	}
	done := make(chan end, 1)
	go func() {
		out, err := c.execIn(c.ctx, ns, pod, "", in, append([]string{"ambit-echo", "hold", to}, flags...)...)
		done <- end{out, err}
	}()
	return func() {
		c.Helper()
		select {
		case e := <-done:
			if e.err != nil {
				c.Errorf("a connection that was open was cut: %v %s", e.err, e.out)
			} else {
				c.Log(strings.TrimSpace(e.out))
			}
		case <-time.After(patience):
			c.Error("the open connection does not end")
		}
	}
}

// carries waits until a node proxy says that it carries a connection from a namespace to an address.
func (c *cluster) carries(ns, to string) {
	c.Helper()
	c.eventually("a connection to "+to+" goes through the proxy", func() error {
		out, stderr, err := c.try("ztunnel-config", "connections", "--raw", "--workload-namespace", ns)
		if err == nil && !strings.Contains(out, to) {
			err = fmt.Errorf("%s%s", out, stderr)
		}
		return err
	})
}

// TestRunningPods brings pods that run into the mesh and out of it again: no restart, and what is open stays open, whether it
// was opened outside or inside.
func TestRunningPods(t *testing.T) {
	c := open(t)
	node := c.worker()
	c.namespace("running")
	c.apply("running", onNode("server", node, ""))
	c.apply("running", onNode("client", node, ""))
	c.apply("running", onNode("loner", node, ", istio.io/dataplane-mode: none"))
	c.ready("running", "app")
	ip := c.pods("running", "app=server")[0].Status.PodIP
	released := c.hold("running", "client", net.JoinHostPort(ip, "9000"), 25*time.Second)
	c.answers("running", "client", "http://"+net.JoinHostPort(ip, "8080"))

	c.label("Namespace", "", "running", "istio.io/dataplane-mode=ambient")
	c.redirection("running", "server", "enabled")
	c.redirection("running", "client", "enabled")
	c.redirection("running", "loner", "")
	if n := c.allOfAll(); n < 2 {
		t.Errorf("%d pods are captured", n)
	}
	c.apply("running", `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
`)
	c.refused("running", "loner", "http://"+net.JoinHostPort(ip, "8080"))
	c.answers("running", "client", "http://"+net.JoinHostPort(ip, "8080"))
	encrypted := c.hold("running", "client", net.JoinHostPort(ip, "9000"), 40*time.Second)
	c.carries("running", net.JoinHostPort(ip, "9000"))

	c.label("Namespace", "", "running", "istio.io/dataplane-mode-")
	c.redirection("running", "server", "")
	c.eventually("the agents wait for it", func() error {
		out, stderr, err := c.try("enrolment", "-n", "running")
		if err == nil && !strings.Contains(out, "1 of its connections still go through the proxy") {
			err = fmt.Errorf("%s%s", out, stderr)
		}
		return err
	})
	c.answers("running", "loner", "http://"+net.JoinHostPort(ip, "8080"))
	released()
	encrypted()
	for _, p := range c.pods("running", "app") {
		if n := p.Status.ContainerStatuses[0].RestartCount; n > 0 {
			t.Errorf("%s was restarted %d times", p.Name, n)
		}
	}
}

// TestAgentAway starts pods while a node has no CNI agent: those of the mesh wait and say why, all others start, and what
// runs goes on.
func TestAgentAway(t *testing.T) {
	c := open(t)
	url := c.shop("away")
	c.restore()
	tokens := c.tokensOf(agentLabel)
	c.change(func(ds *appsv1.DaemonSet) {
		ds.Spec.Template.Spec.Containers[0].Image = "ambit/there-is-no-such-image:1"
		ds.Spec.Template.Spec.Containers[0].ImagePullPolicy = corev1.PullNever
	})
	node := ""
	c.eventually("a node without an agent", func() error {
		for _, p := range c.pods(system, agentLabel) {
			if strings.HasPrefix(p.Spec.Containers[0].Image, "ambit/there-is-no") && p.Status.Phase == corev1.PodPending {
				node = p.Spec.NodeName
				return nil
			}
		}
		return fmt.Errorf("all have one")
	})
	// The API server knows a token for some seconds more than its pod.
	c.eventually("the token of the agent that was there is refused", func() error {
		r, err := c.client.AuthenticationV1().TokenReviews().Create(c.ctx, &authv1.TokenReview{Spec: authv1.TokenReviewSpec{Token: tokens[node]}}, metav1.CreateOptions{})
		if err == nil && r.Status.Authenticated {
			err = fmt.Errorf("it is %s's", r.Status.User.Username)
		}
		return err
	})
	c.namespace("away-outside")
	c.apply("away", onNode("late", node, ""))
	c.apply("away", onNode("optout", node, ", istio.io/dataplane-mode: none"))
	c.apply("away-outside", onNode("outsider", node, ""))
	c.apply("away-outside", onNode("volunteer", node, ", istio.io/dataplane-mode: ambient"))
	c.ready("away", "app=optout")
	c.ready("away-outside", "app=outsider")
	for ns, pod := range map[string]string{"away": "late", "away-outside": "volunteer"} {
		c.eventually("an event of "+pod+" says why it waits", func() error {
			events, err := c.client.CoreV1().Events(ns).List(c.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
			if err != nil {
				return err
			}
			for _, e := range events.Items {
				if e.Reason == "FailedCreatePodSandBox" && strings.Contains(e.Message, "waits to be captured, because it belongs to the mesh") &&
					strings.Contains(e.Message, agents) {
					return nil
				}
			}
			return fmt.Errorf("%d others", len(events.Items))
		})
		if p := c.pods(ns, "app="+pod); p[0].Status.Phase != corev1.PodPending || p[0].Status.PodIP != "" {
			t.Errorf("%s does not wait: %s %s", pod, p[0].Status.Phase, p[0].Status.PodIP)
		}
	}
	// What runs is not in need of the agent.
	c.answers("away", "client", url)

	c.change(func(ds *appsv1.DaemonSet) {
		// As it was; what is left to restore then is nothing.
		for _, p := range c.pods(system, agentLabel) {
			if isReady(&p) {
				ds.Spec.Template.Spec.Containers[0].Image = p.Spec.Containers[0].Image
				ds.Spec.Template.Spec.Containers[0].ImagePullPolicy = p.Spec.Containers[0].ImagePullPolicy
				return
			}
		}
	})
	c.ready("away", "app=late")
	c.redirection("away", "late", "enabled")
	c.ready("away-outside", "app=volunteer")
	c.redirection("away-outside", "volunteer", "enabled")
	c.redirection("away-outside", "outsider", "")
}

// tokensOf are the service account tokens that pods work with, by their nodes, as the nodes have them.
func (c *cluster) tokensOf(selector string) map[string]string {
	c.Helper()
	out := map[string]string{}
	for i, p := range c.pods(system, selector) {
		ns := fmt.Sprintf("tokens-%d", i)
		c.namespace(ns)
		c.hand(ns, p.Spec.NodeName)
		for _, v := range p.Spec.Volumes {
			if v.Projected == nil || !strings.HasPrefix(v.Name, "kube-api-access-") {
				continue
			}
			path := fmt.Sprintf("/node/var/lib/kubelet/pods/%s/volumes/kubernetes.io~projected/%s/token", p.UID, v.Name)
			token, err := c.exec(ns, "hand", "ambit-echo", "file", "read", path)
			c.must(err)
			out[p.Spec.NodeName] = strings.TrimSpace(token)
		}
		if out[p.Spec.NodeName] == "" {
			c.Fatalf("no token of %s", p.Name)
		}
	}
	return out
}

// effective is the name and content of the CNI configuration that a node's runtime reads.
func (c *cluster) effective(ns string) (name, text string) {
	c.Helper()
	const dir = "/node/etc/cni/net.d"
	out, err := c.exec(ns, "hand", "ambit-echo", "file", "list", dir)
	c.must(err)
	for _, name := range strings.Fields(out) {
		if strings.HasSuffix(name, ".conflist") {
			text, err := c.exec(ns, "hand", "ambit-echo", "file", "read", dir+"/"+name)
			c.must(err)
			return dir + "/" + name, text
		}
	}
	c.Fatalf("no .conflist in %s: %s", dir, out)
	return "", ""
}

const ourType = `"ambit-cni"`

// without is a configuration as another network plugin writes it, which knows nothing of the mesh's.
func without(t *testing.T, conflist string) string {
	t.Helper()
	var list map[string]any
	if err := json.Unmarshal([]byte(conflist), &list); err != nil {
		t.Fatalf("%v: %s", err, conflist)
	}
	list["plugins"] = slices.DeleteFunc(list["plugins"].([]any), func(p any) bool { return p.(map[string]any)["type"] == "ambit-cni" })
	out, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestForeignWriter is another network plugin that writes its configuration anew, which leaves the mesh's plugin out, and a
// pod that starts in just that moment.
func TestForeignWriter(t *testing.T) {
	c := open(t)
	node := c.worker()
	c.namespace("writer", "istio.io/dataplane-mode=ambient")
	c.hand("writer", node)
	name, text := c.effective("writer")
	if !strings.Contains(text, ourType) {
		t.Fatalf("the plugin is not in %s: %s", name, text)
	}
	foreign := without(t, text)
	for i := range 5 {
		out, err := c.execIn(c.ctx, "writer", "hand", "", strings.NewReader(foreign), "ambit-echo", "file", "write", name, "--until", ourType)
		c.must(err)
		healed, err := time.ParseDuration(strings.TrimSpace(out))
		c.must(err)
		t.Logf("healed after %s", healed)
		if healed > time.Second {
			t.Errorf("healed after %s", healed)
		}
		c.apply("writer", onNode(fmt.Sprintf("pod-%d", i), node, ""))
	}
	_, err := c.exec("writer", "hand", "ambit-echo", "file", "remove", "/node/opt/cni/bin/ambit-cni")
	c.must(err)
	c.within(10*time.Second, "the program is back", func() error {
		out, err := c.exec("writer", "hand", "ambit-echo", "file", "list", "/node/opt/cni/bin")
		if err == nil && !slices.Contains(strings.Fields(out), "ambit-cni") {
			err = fmt.Errorf("only %s", out)
		}
		return err
	})
	c.ready("writer", "app,app!=hand")
	c.captured("writer", "app,app!=hand")
	c.allOfAll()
}

// TestUncapturedSandbox is a pod whose sandbox was made without the plugin, because nobody called it: it is captured as it runs.
func TestUncapturedSandbox(t *testing.T) {
	c := open(t)
	c.restore()
	node := c.worker()
	c.namespace("bypass", "istio.io/dataplane-mode=ambient")
	c.hand("bypass", node)
	name, text := c.effective("bypass")
	foreign := without(t, text)
	// Nobody heals while there is no agent, and nobody calls the plugin then.
	var image string
	c.change(func(ds *appsv1.DaemonSet) {
		image = ds.Spec.Template.Spec.Containers[0].Image
		ds.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
		ds.Spec.Template.Spec.Containers[0].Image = "ambit/there-is-no-such-image:1"
		ds.Spec.Template.Spec.Containers[0].ImagePullPolicy = corev1.PullNever
	})
	c.must(c.client.CoreV1().Pods(system).Delete(c.ctx, c.agentOf(node), metav1.DeleteOptions{}))
	c.eventually("the agent is gone", func() error {
		if p := c.agentOf(node); p != "" {
			return fmt.Errorf("%s is there", p)
		}
		return nil
	})
	_, err := c.execIn(c.ctx, "bypass", "hand", "", strings.NewReader(foreign), "ambit-echo", "file", "write", name)
	c.must(err)
	c.apply("bypass", onNode("quick", node, ""))
	c.ready("bypass", "app=quick")
	c.redirection("bypass", "quick", "")
	c.change(func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.Containers[0].Image = image })
	for _, p := range c.pods(system, agentLabel) {
		if p.Spec.NodeName == node {
			c.must(c.deleteNow("Pod", system, p.Name))
		}
	}
	c.redirection("bypass", "quick", "enabled")
	if _, text := c.effective("bypass"); !strings.Contains(text, ourType) {
		t.Errorf("the plugin is not back: %s", text)
	}
	c.allOfAll()
	if n := c.pods("bypass", "app=quick")[0].Status.ContainerStatuses[0].RestartCount; n > 0 {
		t.Errorf("the pod was restarted")
	}
}

// TestNodeRestart takes the power from a node and gives it back: all its pods are in the mesh again.
func TestNodeRestart(t *testing.T) {
	c := open(t)
	node := c.worker()
	docker := func(args ...string) error {
		out, err := exec.CommandContext(c.ctx, "docker", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	if err := docker("inspect", node); err != nil {
		t.Skipf("the nodes are no containers of a Docker within reach: %v", err)
	}
	url := c.shop("power")
	c.apply("power", onNode("resident", node, ""))
	c.ready("power", "app=resident")
	c.redirection("power", "resident", "enabled")
	resident := func() corev1.Pod { return c.pods("power", "app=resident")[0] }
	c.must(docker("restart", "-t", "1", node))
	c.within(4*soon, "the pod runs again", func() error {
		p := resident()
		if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].RestartCount == 0 || !isReady(&p) {
			return fmt.Errorf("%s, ready %t", p.Status.Phase, isReady(&p))
		}
		return nil
	})
	c.rollout("DaemonSet", system, agents)
	c.rollout("DaemonSet", system, "ztunnel")
	c.redirection("power", "resident", "enabled")
	c.apply("power", `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
`)
	c.ready("power", "app=web")
	c.ready("power", "role=client")
	c.answers("power", "client", "http://"+net.JoinHostPort(resident().Status.PodIP, "8080"))
	c.answers("power", "resident", url)
	c.allOfAll()
}

// TestRedirections takes the nodes from one way of redirecting traffic to the next and back, under load, with a connection
// that stays open throughout: it was opened by the first way, goes on under the others, and under the first again.
func TestRedirections(t *testing.T) {
	c := open(t)
	url := c.shop("ways")
	c.restore()
	load := c.load("ways", "client", url, 50)
	open := net.JoinHostPort(c.pods("ways", "app=web")[0].Status.PodIP, "9000")
	var stays func()
	for i, way := range []string{"nftables", "iptables", "ebpf", "nftables"} {
		c.change(func(ds *appsv1.DaemonSet) { redirectBy(ds, way) })
		c.rollout("DaemonSet", system, agents)
		c.allOfAll()
		c.answers("ways", "client", url)
		fresh := fmt.Sprintf("new-%d-%s", i, way)
		c.apply("ways", onNode(fresh, c.worker(), ""))
		c.ready("ways", "app="+fresh)
		c.redirection("ways", fresh, "enabled")
		c.answers("ways", fresh, url)
		if stays == nil {
			stays = c.keep("ways", "client", open)
		}
		c.carries("ways", open)
	}
	stays()
	c.unharmed(load)
}

func redirectBy(ds *appsv1.DaemonSet, way string) {
	agent := &ds.Spec.Template.Spec.Containers[0]
	agent.Env = slices.DeleteFunc(agent.Env, func(e corev1.EnvVar) bool { return e.Name == "AMBIT_REDIRECTION" })
	agent.Env = append(agent.Env, corev1.EnvVar{Name: "AMBIT_REDIRECTION", Value: way})
	if way != "ebpf" {
		return
	}
	// As the chart does for cni.redirection=ebpf.
	yes, both := true, corev1.MountPropagationBidirectional
	agent.SecurityContext = &corev1.SecurityContext{Privileged: &yes}
	for i, m := range agent.VolumeMounts {
		if m.MountPath == "/sys/fs/bpf" {
			agent.VolumeMounts[i].MountPropagation = &both
		}
	}
}

// TestAgentsLeave deletes the agents for good: pods that run leave the mesh without a restart, and nothing is left on the
// node but the plugin's program; when the agents come back so does the mesh.
func TestAgentsLeave(t *testing.T) {
	c := open(t)
	url := c.shop("leave")
	node := c.worker()
	c.hand("leave", node)
	c.apply("leave", onNode("resident", node, ""))
	c.ready("leave", "app=resident")
	t.Run("without agents", func(t *testing.T) {
		c := c.in(t)
		c.restore()
		c.must(c.client.AppsV1().DaemonSets(system).Delete(c.ctx, agents, metav1.DeleteOptions{}))
		c.eventually("no agent runs", func() error {
			if n := len(c.pods(system, agentLabel)); n > 0 {
				return fmt.Errorf("%d do", n)
			}
			return nil
		})
		c.redirection("leave", "resident", "")
		c.redirection("leave", "client", "")
		c.eventually("nothing is left on the node but the program, for pods that were started with it", func() error {
			_, text := c.effective("leave")
			programs, err := c.exec("leave", "hand", "ambit-echo", "file", "list", "/node/opt/cni/bin")
			if err != nil {
				return err
			}
			run, err := c.exec("leave", "hand", "ambit-echo", "file", "list", "/node/var/run/istio-cni")
			if err != nil && !strings.Contains(err.Error(), "no such file") {
				return err
			}
			if strings.Contains(text, ourType) || !slices.Contains(strings.Fields(programs), "ambit-cni") || strings.TrimSpace(run) != "" {
				return fmt.Errorf("left: %s %s %s", text, programs, run)
			}
			return nil
		})
		c.answers("leave", "client", url)
		// Nothing holds back a new pod, although its namespace still has the label.
		c.apply("leave", onNode("late", node, ""))
		c.ready("leave", "app=late")
	})
	for _, pod := range []string{"resident", "late", "client"} {
		c.redirection("leave", pod, "enabled")
	}
	c.answers("leave", "client", url)
	c.allOfAll()
	for _, p := range c.pods("leave", "app") {
		if n := p.Status.ContainerStatuses[0].RestartCount; n > 0 {
			t.Errorf("%s was restarted %d times", p.Name, n)
		}
	}
}
