//go:build kind

package kind

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
)

// pods lists the pods of a namespace that a label selector finds and that are not going away.
func (c *cluster) pods(ns, selector string) []corev1.Pod {
	c.Helper()
	list, err := c.client.CoreV1().Pods(ns).List(c.ctx, metav1.ListOptions{LabelSelector: selector})
	c.must(err)
	var out []corev1.Pod
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			out = append(out, p)
		}
	}
	return out
}

// ready waits until a selector finds at least one pod and all it finds are ready.
func (c *cluster) ready(ns, selector string) []corev1.Pod {
	c.Helper()
	var out []corev1.Pod
	c.within(2*soon, fmt.Sprintf("pods %s in %s are ready", selector, ns), func() error {
		out = c.pods(ns, selector)
		if len(out) == 0 {
			return fmt.Errorf("no pod yet")
		}
		for _, p := range out {
			if !isReady(&p) {
				return fmt.Errorf("%s is not (%s%s)", p.Name, p.Status.Phase, why(&p))
			}
		}
		return nil
	})
	return out
}

func isReady(p *corev1.Pod) bool {
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.PodReady {
			return cond.Status == corev1.ConditionTrue
		}
	}
	return false
}

func why(p *corev1.Pod) string {
	for _, s := range p.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil {
			return ", " + s.Name + ": " + w.Reason + " " + w.Message
		}
	}
	return ""
}

// rollout waits until a Deployment, StatefulSet or DaemonSet runs what its spec says, everywhere.
func (c *cluster) rollout(kind, ns, name string) {
	c.Helper()
	c.within(3*soon, fmt.Sprintf("%s %s/%s is rolled out", kind, ns, name), func() error {
		o, err := c.get(kind+".apps", ns, name)
		if err != nil {
			return err
		}
		n := func(fields ...string) int64 {
			v, _, _ := unstructured.NestedInt64(o.Object, fields...)
			return v
		}
		if n("status", "observedGeneration") < o.GetGeneration() {
			return fmt.Errorf("generation %d is not observed", o.GetGeneration())
		}
		want, updated, total, available := n("spec", "replicas"), n("status", "updatedReplicas"), n("status", "replicas"), n("status", "availableReplicas")
		if kind == "DaemonSet" {
			want, updated = n("status", "desiredNumberScheduled"), n("status", "updatedNumberScheduled")
			total, available = n("status", "currentNumberScheduled"), n("status", "numberAvailable")
		}
		if updated != want || total != want || available != want {
			return fmt.Errorf("%d wanted, %d updated, %d in all, %d available", want, updated, total, available)
		}
		return nil
	})
}

// restart rolls a Deployment, StatefulSet or DaemonSet over, as kubectl rollout restart does, and waits.
func (c *cluster) restart(kind, ns, name string) {
	c.Helper()
	c.patch(kind+".apps", ns, name, fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":%q}}}}}`, time.Now().Format(time.RFC3339Nano)))
	c.rollout(kind, ns, name)
}

// exec runs a command in a pod's first container and returns what it printed. An exit code other than 0 is an error.
func (c *cluster) exec(ns, pod string, command ...string) (string, error) {
	return c.execIn(c.ctx, ns, pod, "", nil, command...)
}

func (c *cluster) execIn(ctx context.Context, ns, pod, container string, stdin io.Reader, command ...string) (string, error) {
	req := c.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: command, Stdin: stdin != nil, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	x, err := remotecommand.NewSPDYExecutor(c.config, "POST", req.URL())
	if err != nil {
		return "", err
	}
	var out, errs bytes.Buffer
	if err := x.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: &out, Stderr: &errs}); err != nil {
		return out.String(), fmt.Errorf("%s in %s/%s: %w: %s", strings.Join(command, " "), ns, pod, err, strings.TrimSpace(errs.String()+out.String()))
	}
	return out.String(), nil
}

// fetch asks a URL once from a pod of the echo image, with further flags of `ambit-echo get`.
func (c *cluster) fetch(ns, pod, url string, flags ...string) (string, error) {
	return c.exec(ns, pod, append([]string{"ambit-echo", "get", url}, flags...)...)
}

// refused expects that a URL is not to be had from a pod.
func (c *cluster) refused(ns, pod, url string, flags ...string) {
	c.Helper()
	c.eventually(url+" is refused to "+pod, func() error {
		if out, err := c.fetch(ns, pod, url, flags...); err == nil {
			return fmt.Errorf("answered: %s", strings.TrimSpace(out))
		}
		return nil
	})
}

// answers expects that a URL is to be had from a pod, soon, and returns the answer.
func (c *cluster) answers(ns, pod, url string, flags ...string) string {
	c.Helper()
	var out string
	c.eventually(url+" answers "+pod, func() (err error) {
		out, err = c.fetch(ns, pod, url, flags...)
		return err
	})
	return out
}

// A report is what `ambit-echo loop -o json` says at its end.
type report struct {
	Requests int            `json:"requests"`
	Errors   int            `json:"errors"`
	Kinds    map[string]int `json:"kinds"`
	Pods     map[string]int `json:"pods"`
	Gap      time.Duration  `json:"gap"`
}

// load asks a URL from a pod at a rate, each time over a new connection unless flags say --reuse, until the function it
// returns is called, which gives the report. It goes on for five seconds at the least, so that it says something.
func (c *cluster) load(ns, pod, url string, rate int, flags ...string) func() report {
	c.Helper()
	type end struct {
		out string
		err error
	}
	done := make(chan end, 1)
	// Only a line of input ends the loop: closing an exec leaves its process running.
	in, stop := io.Pipe()
	command := append([]string{"ambit-echo", "loop", url, "--rate", fmt.Sprint(rate), "--workers", "8", "--duration", "30m", "--allow-errors", "1000000000",
		"--until-eof", "-q", "-o", "json"}, flags...)
	ctx, cancel := context.WithCancel(c.ctx)
	go func() {
		out, err := c.execIn(ctx, ns, pod, "", in, command...)
		done <- end{out, err}
	}()
	c.Cleanup(cancel)
	enough := time.After(5 * time.Second)
	return func() report {
		c.Helper()
		<-enough
		stop.Close()
		select {
		case e := <-done:
			c.must(e.err)
			var r report
			if err := json.Unmarshal([]byte(e.out), &r); err != nil {
				c.Fatalf("report of the load: %v: %s", err, e.out)
			}
			if r.Requests == 0 {
				c.Fatal("the load made no request")
			}
			return r
		case <-time.After(soon):
			cancel()
			c.Fatal("the load does not end")
			panic("unreachable")
		}
	}
}

// unharmed ends a load and expects that no request failed.
func (c *cluster) unharmed(stop func() report) {
	c.Helper()
	r := stop()
	c.Logf("%d requests, %d errors, longest gap %s", r.Requests, r.Errors, r.Gap.Round(time.Millisecond))
	if r.Errors > 0 {
		c.Errorf("%d of %d requests failed: %v", r.Errors, r.Requests, r.Kinds)
	}
}

// telling is what of a log may explain a failure: the last warnings, and its end.
func telling(log string) string {
	const end, warnings = 12, 20
	lines := strings.Split(strings.TrimSpace(log), "\n")
	last := lines[max(0, len(lines)-end):]
	bad := slices.DeleteFunc(slices.Clone(lines[:len(lines)-len(last)]), func(line string) bool {
		return !strings.Contains(line, "level=WARN") && !strings.Contains(line, "level=ERROR") && !strings.Contains(line, "\twarn\t") && !strings.Contains(line, "\terror\t")
	})
	return strings.Join(append(bad[max(0, len(bad)-warnings):], last...), "\n")
}

// diagnose prints what explains a failure: pods, events and the last lines of logs of a namespace.
func (c *cluster) diagnose(ns string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	pods, err := c.client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		c.Logf("diagnose %s: %v", ns, err)
		return
	}
	lines, since := int64(1000), metav1.NewTime(c.began)
	for _, p := range pods.Items {
		c.Logf("pod %s/%s on %s: %s ready=%t %v%s", ns, p.Name, p.Spec.NodeName, p.Status.Phase, isReady(&p), p.Annotations["ambient.istio.io/redirection"], why(&p))
		for _, ctr := range p.Spec.Containers {
			log, err := c.client.CoreV1().Pods(ns).GetLogs(p.Name, &corev1.PodLogOptions{Container: ctr.Name, TailLines: &lines, SinceTime: &since}).DoRaw(ctx)
			if err == nil && len(log) > 0 {
				c.Logf("log of %s/%s %s:\n%s", ns, p.Name, ctr.Name, telling(string(log)))
			}
		}
	}
	events, err := c.client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	// Of what was said of an object again and again, the last time is enough.
	said := map[string]corev1.Event{}
	for _, e := range events.Items {
		key := e.InvolvedObject.Kind + " " + e.InvolvedObject.Name + ": " + e.Reason
		if e.Type == corev1.EventTypeWarning && e.LastTimestamp.After(c.began) && e.LastTimestamp.After(said[key].LastTimestamp.Time) {
			said[key] = e
		}
	}
	for _, key := range slices.Sorted(maps.Keys(said)) {
		c.Logf("event %s: %s", key, said[key].Message)
	}
}
