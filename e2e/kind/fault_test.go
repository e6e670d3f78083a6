//go:build kind

package kind

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// A lost definition, with everything that went with it.
type lost struct {
	crd     *unstructured.Unstructured
	kind    string
	objects []unstructured.Unstructured
}

// bare takes from an object what only the API server writes.
func bare(o *unstructured.Unstructured) *unstructured.Unstructured {
	o = o.DeepCopy()
	for _, f := range []string{"resourceVersion", "uid", "creationTimestamp", "generation", "managedFields"} {
		unstructured.RemoveNestedField(o.Object, "metadata", f)
	}
	unstructured.RemoveNestedField(o.Object, "status")
	return o
}

// undefine deletes a definition, and with it all objects of its kind. What is not of the story's own namespace is there
// again when the story has ended, as is the definition.
func (c *cluster) undefine(ns, name string) *lost {
	c.Helper()
	crd, err := c.get("CustomResourceDefinition", "", name)
	c.must(err)
	l := &lost{crd: bare(crd)}
	kind, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "kind")
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	l.kind = kind + "." + group
	r, err := c.resource(l.kind, "")
	c.must(err)
	list, err := r.List(c.ctx, metav1.ListOptions{})
	c.must(err)
	for _, o := range list.Items {
		if o.GetNamespace() != ns {
			l.objects = append(l.objects, *bare(&o))
		}
	}
	c.Cleanup(func() {
		back := *c
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		back.ctx = ctx
		back.define(l)
	})
	crds, err := c.resource("CustomResourceDefinition", "")
	c.must(err)
	c.must(crds.Delete(c.ctx, name, metav1.DeleteOptions{}))
	c.eventually(name+" is gone", func() error {
		if _, err := crds.Get(c.ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %v", err)
		}
		return nil
	})
	return l
}

// define brings a definition back as ambitctl would, unless it is there.
func (c *cluster) define(l *lost) {
	c.Helper()
	crds, err := c.resource("CustomResourceDefinition", "")
	c.must(err)
	_, err = crds.Create(c.ctx, l.crd, metav1.CreateOptions{FieldManager: "ambitctl"})
	if apierrors.IsAlreadyExists(err) {
		return
	}
	c.must(err)
	c.eventually(l.kind+" is served", func() error {
		r, err := c.resource(l.kind, "")
		if err == nil {
			_, err = r.List(c.ctx, metav1.ListOptions{})
		}
		return err
	})
	for i := range l.objects {
		if err := c.applyObject(&l.objects[i]); !apierrors.IsNotFound(err) { // its namespace may be gone by now
			c.must(err)
		}
	}
}

const onlyTheClient = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-the-client}
spec:
  rules: [{from: [{source: {principals: [cluster.local/ns/crds/sa/client]}}]}]
`

// TestCRDsDeleted deletes the definitions of policies and of ServiceEntries, with which Kubernetes deletes every object of these
// kinds. What they said stays in force, also in control planes that start then; other kinds go on; and when the definitions
// are back, what there is of their kinds is what counts, without a restart. Policies of before have a minute to come back.
func TestCRDsDeleted(t *testing.T) {
	const ns = "crds"
	c := open(t)
	url := c.shop(ns)
	c.apply(ns, plain("stranger"))
	c.apply(ns, onlyTheClient)
	c.apply(ns, `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: catalogue}
spec:
  hosts: [catalogue.example]
  resolution: STATIC
  ports: [{number: 80, targetPort: 8080, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: web}}
`)
	c.ready(ns, "role=client")
	c.captured(ns, "")
	const entry = "http://catalogue.example"
	inForce := func() {
		t.Helper()
		c.answers(ns, "client", url)
		c.answers(ns, "client", entry)
		c.refused(ns, "stranger", url)
	}
	inForce()
	load := c.load(ns, "client", url, 50)
	policies := c.undefine(ns, "authorizationpolicies.security.istio.io")
	entries := c.undefine(ns, "serviceentries.networking.istio.io")
	c.says("config refused", "AuthorizationPolicy", "ServiceEntry", "does not serve the kind any more", "stay in force")
	c.fails("check", "definitions of the mesh's kinds are missing", "authorizationpolicies.security.istio.io", "serviceentries.networking.istio.io", "ambitctl upgrade")
	c.unreadable(2)
	inForce()

	// Other kinds, and pods.
	c.apply(ns, onNode("outsider", c.worker(), ", istio.io/dataplane-mode: none"))
	c.ready(ns, "app=outsider")
	c.restart("Deployment", ns, "web")
	c.captured(ns, "app=web")
	inForce()
	pod := "http://" + c.pods(ns, "app=web")[0].Status.PodIP + ":8080"
	c.refused(ns, "outsider", pod) // by the policy, which wants the client's certificate
	c.unharmed(load)

	// A control plane that starts now has nobody but its predecessor to ask.
	load = c.load(ns, "client", url, 50)
	c.restart("Deployment", system, "ambitd")
	c.says("config refused", "AuthorizationPolicy", "stay in force")
	c.restart("Deployment", ns, "web")
	c.captured(ns, "app=web")
	c.answers(ns, "client", url)
	c.refused(ns, "stranger", url)
	c.unharmed(load)

	before := c.restarts()
	c.define(policies)
	c.define(entries)
	// Whoever brings policies back has a moment; then what is there is what counts.
	c.says("config refused", "AuthorizationPolicy", "the kind is served again", "stay in force for 1m")
	c.refused(ns, "stranger", url)
	c.answers(ns, "stranger", url)
	c.eventually("nothing is said of the kinds any more", func() error {
		out, stderr, err := c.try("config", "refused")
		if err == nil && strings.Contains(out, "the kind is served again") {
			err = fmt.Errorf("%s%s", out, stderr)
		}
		return err
	})
	c.apply(ns, onlyTheClient)
	c.refused(ns, "stranger", url)
	c.answers(ns, "client", url)
	c.delete(ns, onlyTheClient)
	c.answers(ns, "stranger", url)
	c.unreadable(0)
	c.says("check", "ok")
	c.sameAs(before)
}

// TestSlowEtcd stops etcd for two of every three seconds, for a minute: every answer of the API server is late and many come
// not at all. Traffic goes on, nothing of the mesh is started again, and a policy of that time comes into force.
func TestSlowEtcd(t *testing.T) {
	const ns = "slow"
	c := open(t)
	docker := c.machines()
	node := c.controlPlane()
	url := c.shop(ns)
	c.apply(ns, plain("stranger"))
	c.ready(ns, "role=client")
	c.captured(ns, "")
	c.answers(ns, "stranger", url)
	before := c.restarts()
	pid := strings.TrimSpace(docker("exec", node, "pgrep", "-x", "etcd"))
	load := c.apart(ns, url, 50, 75*time.Second)
	t.Cleanup(func() { _ = exec.Command("docker", "exec", node, "kill", "-CONT", pid).Run() })
	const pulses = 20
	slow := make(chan error, 1)
	began := time.Now()
	go func() {
		slow <- exec.CommandContext(c.ctx, "docker", "exec", node, "sh", "-c",
			fmt.Sprintf("for i in $(seq %d); do kill -STOP %s; sleep 2; kill -CONT %s; sleep 1; done", pulses, pid, pid)).Run()
	}()
	<-time.After(10 * time.Second) // so that etcd is slow for certain
	asked := time.Now()
	policy := strings.Replace(onlyTheClient, "ns/crds", "ns/"+ns, 1)
	c.eventually("a policy is taken while etcd is slow", func() error { return c.each(ns, policy, c.applyObject) })
	taken := time.Since(asked)
	c.refused(ns, "stranger", url)
	t.Logf("the policy is taken after %s and in force after %s", taken.Round(10*time.Millisecond), time.Since(asked).Round(10*time.Millisecond))
	c.must(<-slow)
	if d := time.Since(began); d < pulses*3*time.Second {
		t.Fatalf("etcd was slow for %s only", d)
	}
	c.answers(ns, "client", url)
	c.unharmed(load)
	c.delete(ns, policy)
	c.answers(ns, "stranger", url)
	c.works(ns, url)
	c.sameAs(before)
}

// setClock moves the clock of the whole machine.
func setClock(to time.Time) error {
	ts, err := unix.TimeToTimespec(to)
	if err != nil {
		return err
	}
	return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}

// TestClockJump has the clock jump a minute ahead, and back, and a minute back, and ahead again. It moves the clock of the machine the
// test runs on, which has to be that of the nodes, so it waits to be asked.
func TestClockJump(t *testing.T) {
	if os.Getenv("AMBIT_SET_CLOCK") != "1" {
		t.Skip("the story moves the clock of this machine a minute ahead and back: AMBIT_SET_CLOCK=1 says that it may")
	}
	const ns, other = "clock", "clock-policies"
	c := open(t)
	c.machines()
	url, changing := c.shop(ns), c.shop(other)
	before := c.restarts()
	// Go's time has the monotonic clock beside the wall's, so that start plus what has passed is the time without jumps.
	start := time.Now()
	restore := func() error { return setClock(start.Round(0).Add(time.Since(start))) }
	t.Cleanup(func() {
		if err := restore(); err != nil {
			t.Errorf("the clock is wrong now: %v", err)
		}
	})
	load := c.load(ns, "client", url, 50)
	for _, jump := range []time.Duration{time.Minute, -time.Minute} {
		if err := setClock(start.Round(0).Add(time.Since(start) + jump)); err != nil {
			t.Fatalf("the clock cannot be set: %v", err)
		}
		t.Logf("the clock is at %s", time.Now().Round(0).Format(time.TimeOnly))
		// New pods get certificates, which the others believe; policies come into force.
		c.restart("Deployment", ns, "web")
		c.works(other, changing)
		c.must(restore())
		c.restart("Deployment", ns, "web")
		c.works(other, changing)
	}
	c.unharmed(load)
	if out, _, err := c.try("check"); err != nil {
		t.Errorf("ambitctl check: %v: %s", err, out)
	}
	c.sameAs(before)
}
