//go:build kind

package kind

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// installed are flags with which ambitctl installs the mesh as it is now.
func (c *cluster) installed() []string {
	c.Helper()
	cm, err := c.client.CoreV1().ConfigMaps(system).Get(c.ctx, "ambit-install", metav1.GetOptions{})
	c.must(err)
	file := filepath.Join(c.TempDir(), "values.yaml")
	c.must(os.WriteFile(file, []byte(cm.Data["values"]), 0o600))
	return []string{"--profile", cm.Data["profile"], "-f", file}
}

// generation of a part of the mesh: it counts changes.
func (c *cluster) generation(kind, name string) int64 {
	c.Helper()
	o, err := c.get(kind, system, name)
	c.must(err)
	return o.GetGeneration()
}

// TestInstall takes the mesh of the cluster through its life: nothing that is done to it costs the shop a request or a pod.
func TestInstall(t *testing.T) {
	c := open(t)
	flags := c.installed()
	url := c.shop("lifecycle")
	// What was restarted would have another name or count.
	before := c.containers("lifecycle")

	t.Run("a dry run changes nothing", func(t *testing.T) {
		c := c.in(t)
		was := c.generation("DaemonSet", "ztunnel")
		_, stderr, err := c.try(append([]string{"install", "--dry-run", "--set", "ztunnel.logLevel=debug"}, flags...)...)
		if err != nil || !strings.Contains(stderr, "ztunnel: 2 objects would be applied, 1 of them changed") {
			t.Errorf("%v: %s", err, stderr)
		}
		if now := c.generation("DaemonSet", "ztunnel"); now != was {
			t.Errorf("generation %d became %d", was, now)
		}
	})

	t.Run("values that mean nothing are refused", func(t *testing.T) {
		c := c.in(t)
		_, stderr, err := c.try("upgrade", "--set", "ztunnel.loglevel=debug")
		if err == nil || !strings.Contains(stderr, "did you mean ztunnel.logLevel?") {
			t.Errorf("%v: %s", err, stderr)
		}
	})

	t.Run("every part is replaced under load", func(t *testing.T) {
		c := c.in(t)
		load := c.load("lifecycle", "client", url, 50)
		c.ambitctl("upgrade", "--set", "ztunnel.podAnnotations.story=a", "--set", "cni.podAnnotations.story=a", "--set", "control.podAnnotations.story=a")
		c.unharmed(load)
		for _, p := range c.pods(system, "app=ztunnel") {
			if p.Annotations["story"] != "a" {
				t.Errorf("%s was not replaced", p.Name)
			}
		}
	})

	t.Run("what is no longer asked for goes", func(t *testing.T) {
		c := c.in(t)
		c.ambitctl(append([]string{"install", "--set", "global.networkPolicy.enabled=true"}, flags...)...)
		if _, err := c.get("NetworkPolicy", system, "ztunnel"); err != nil {
			t.Error(err)
		}
		c.ambitctl(append([]string{"install"}, flags...)...)
		if _, err := c.get("NetworkPolicy", system, "ztunnel"); !apierrors.IsNotFound(err) {
			t.Errorf("the NetworkPolicy is still there: %v", err)
		}
	})

	t.Run("check and status agree that all is well", func(t *testing.T) {
		c := c.in(t)
		c.eventually("nothing has failed", func() error {
			out, stderr, err := c.try("check")
			if err != nil {
				return fmt.Errorf("%w: %s%s", err, out, stderr)
			}
			return nil
		})
		var s struct{ PodsWanted, PodsIn int }
		c.must(json.Unmarshal([]byte(c.ambitctl("status", "-o", "json")), &s))
		if s.PodsIn < len(before) || s.PodsIn != s.PodsWanted {
			t.Errorf("%d of %d pods", s.PodsIn, s.PodsWanted)
		}
	})

	t.Run("pods leave without harm", func(t *testing.T) {
		c := c.in(t)
		load := c.load("lifecycle", "client", url, 50)
		c.ambitctl("uninstall")
		c.unharmed(load)
		for _, p := range c.pods("lifecycle", "") {
			if mark := p.Annotations["ambient.istio.io/redirection"]; mark != "" {
				t.Errorf("%s is still marked %q", p.Name, mark)
			}
		}
		// A pod that starts now has no mesh to wait for.
		c.restart("Deployment", "lifecycle", "web")
		if _, err := c.get("Secret", system, "istio-ca-secret"); err != nil {
			t.Errorf("the authority's key is gone: %v", err)
		}
		if _, err := c.get("CustomResourceDefinition", "", "virtualservices.networking.istio.io"); err != nil {
			t.Errorf("definitions are gone: %v", err)
		}
	})
	before = c.containers("lifecycle")

	t.Run("and nothing is left when it is purged", func(t *testing.T) {
		c := c.in(t)
		c.ambitctl("uninstall", "--purge")
		c.nothingLeft()
	})

	t.Run("a new mesh takes running pods in", func(t *testing.T) {
		c := c.in(t)
		load := c.load("lifecycle", "client", url, 50)
		c.ambitctl(append([]string{"install"}, flags...)...)
		c.captured("lifecycle", "")
		c.unharmed(load)
	})
	if after := c.containers("lifecycle"); !slices.Equal(before, after) {
		t.Errorf("pods were restarted: %v became %v", before, after)
	}
}

// containers are the running containers of a namespace.
func (c *cluster) containers(ns string) []string {
	c.Helper()
	var out []string
	for _, p := range c.pods(ns, "") {
		if p.DeletionTimestamp != nil {
			continue
		}
		for _, s := range p.Status.ContainerStatuses {
			out = append(out, s.ContainerID)
		}
	}
	slices.Sort(out)
	return out
}

// nothingLeft looks for everything that an installation may leave in a cluster.
func (c *cluster) nothingLeft() {
	c.Helper()
	if _, err := c.get("Namespace", "", system); !apierrors.IsNotFound(err) {
		c.Errorf("namespace %s is still there: %v", system, err)
	}
	c.mapper.Reset()
	const admission = ".admissionregistration.k8s.io"
	for _, kind := range []string{"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "ValidatingAdmissionPolicy" + admission, "ValidatingAdmissionPolicyBinding" + admission} {
		r, err := c.resource(kind, "")
		if meta.IsNoMatchError(err) && strings.HasSuffix(kind, admission) {
			continue // an API server before 1.30
		}
		c.must(err)
		list, err := r.List(c.ctx, metav1.ListOptions{})
		c.must(err)
		for _, o := range list.Items {
			if o.GetLabels()["install.ambit.io/mesh"] != "" || strings.HasSuffix(o.GetName(), ".ambit.io") || strings.HasPrefix(o.GetName(), "ambit") {
				c.Errorf("%s %s is still there", kind, o.GetName())
			}
		}
	}
	spaces, err := c.client.CoreV1().Namespaces().List(c.ctx, metav1.ListOptions{})
	c.must(err)
	for _, ns := range spaces.Items {
		if ns.Status.Phase == corev1.NamespaceTerminating {
			c.Errorf("namespace %s hangs", ns.Name)
		}
		if _, err := c.client.CoreV1().ConfigMaps(ns.Name).Get(c.ctx, "istio-ca-root-cert", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			c.Errorf("configmap %s/istio-ca-root-cert is still there: %v", ns.Name, err)
		}
	}
}
