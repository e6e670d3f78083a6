//go:build kind

package kind

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	system = "ambit-system"
	// soon is how long anything that should happen at once may take on a busy machine.
	soon = 90 * time.Second
)

// A cluster is the cluster under test, seen from one story. Its methods end the story when they fail.
type cluster struct {
	*testing.T
	ctx     context.Context
	config  *rest.Config
	client  kubernetes.Interface
	dynamic dynamic.Interface
	// discovery keeps what it was told until the mapper, which rests on it, is reset.
	discovery discovery.CachedDiscoveryInterface
	mapper    *restmapper.DeferredDiscoveryRESTMapper
	hub       hub
	// began bounds the logs and events that a failed story prints.
	began time.Time
}

// open connects to the cluster that KUBECONFIG names.
func open(t *testing.T) *cluster {
	t.Helper()
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	if err != nil {
		t.Fatalf("no cluster (%v): set KUBECONFIG, or run make kind-test", err)
	}
	config.QPS, config.Burst = 200, 400
	c := &cluster{T: t, ctx: t.Context(), config: config, began: time.Now()}
	if c.hub, err = hubOf(os.Getenv); err != nil {
		t.Fatal(err)
	}
	if c.client, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	c.discovery = memory.NewMemCacheClient(c.client.Discovery())
	c.mapper = restmapper.NewDeferredDiscoveryRESTMapper(c.discovery)
	t.Cleanup(func() {
		if t.Failed() {
			c.diagnose(system)
		}
	})
	return c
}

// in is the same cluster for a part of the story.
func (c *cluster) in(t *testing.T) *cluster {
	part := *c
	part.T, part.ctx, part.began = t, t.Context(), time.Now()
	return &part
}

// must ends the story for an error.
func (c *cluster) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// eventually waits until f has no error, asking five times a second for at most soon.
func (c *cluster) eventually(what string, f func() error) {
	c.Helper()
	c.within(soon, what, f)
}

func (c *cluster) within(limit time.Duration, what string, f func() error) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, limit)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			c.Fatalf("%s: not after %s: %v", what, limit, err)
		case <-tick.C:
		}
	}
}

// namespace makes a namespace with labels given as "key=value"; it goes away with the story, which waits for that.
func (c *cluster) namespace(name string, labels ...string) {
	c.Helper()
	set := map[string]any{}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		set[k] = v
	}
	ns := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name, "labels": set},
	}}
	// One of an earlier story that was interrupted goes first.
	c.gone(name)
	c.must(c.applyObject(ns))
	c.Cleanup(func() {
		if c.Failed() {
			c.diagnose(name)
		}
		c.gone(name)
	})
}

// gone deletes a namespace and waits until it is.
func (c *cluster) gone(name string) {
	c.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		err := c.client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return
		}
		select {
		case <-ctx.Done():
			c.Errorf("namespace %s is still there: %v", name, err)
			return
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// label sets labels ("key=value") or removes them ("key-"); kind as in YAML, ns "" for what has none.
func (c *cluster) label(kind, ns, name string, labels ...string) {
	c.Helper()
	var set []string
	for _, l := range labels {
		if k, ok := strings.CutSuffix(l, "-"); ok {
			set = append(set, fmt.Sprintf("%q:null", k))
			continue
		}
		k, v, _ := strings.Cut(l, "=")
		set = append(set, fmt.Sprintf("%q:%q", k, v))
	}
	c.patch(kind, ns, name, `{"metadata":{"labels":{`+strings.Join(set, ",")+`}}}`)
}

// patch merges JSON into an object.
func (c *cluster) patch(kind, ns, name, json string) {
	c.Helper()
	r, err := c.resource(kind, ns)
	c.must(err)
	_, err = r.Patch(c.ctx, name, "application/merge-patch+json", []byte(json), metav1.PatchOptions{})
	c.must(err)
}

// resource finds the client of a kind, given as "Deployment", "HTTPRoute" or "Kind.group".
func (c *cluster) resource(kind, ns string) (dynamic.ResourceInterface, error) {
	gk := schema.ParseGroupKind(kind)
	if gk.Group == "" {
		lists, err := c.discovery.ServerPreferredResources()
		if err != nil && lists == nil {
			return nil, err
		}
		if gk.Group, err = groupOf(kind, lists); err != nil {
			return nil, err
		}
	}
	return c.typed(gk, "", ns)
}

// groupOf is the group of the first kind of that name.
func groupOf(kind string, lists []*metav1.APIResourceList) (string, error) {
	for _, list := range lists {
		for _, r := range list.APIResources {
			if r.Kind == kind && !strings.Contains(r.Name, "/") {
				gv, err := schema.ParseGroupVersion(list.GroupVersion)
				return gv.Group, err
			}
		}
	}
	return "", fmt.Errorf("the cluster knows no kind %s", kind)
}

// typed is the client of a kind in a namespace, which kinds without one ignore; version "" is the preferred one.
func (c *cluster) typed(gk schema.GroupKind, version, ns string) (dynamic.ResourceInterface, error) {
	var versions []string
	if version != "" {
		versions = append(versions, version)
	}
	m, err := c.mapper.RESTMapping(gk, versions...)
	if meta.IsNoMatchError(err) {
		c.mapper.Reset()
		m, err = c.mapper.RESTMapping(gk, versions...)
	}
	if err != nil {
		return nil, err
	}
	if m.Scope.Name() == meta.RESTScopeNameRoot {
		return c.dynamic.Resource(m.Resource), nil
	}
	return c.dynamic.Resource(m.Resource).Namespace(ns), nil
}

// get reads one object; kind as for resource.
func (c *cluster) get(kind, ns, name string) (*unstructured.Unstructured, error) {
	r, err := c.resource(kind, ns)
	if err != nil {
		return nil, err
	}
	return r.Get(c.ctx, name, metav1.GetOptions{})
}

// apply makes the objects of a YAML text what it says (server-side apply, forced); those without a namespace go into ns.
func (c *cluster) apply(ns, text string) {
	c.Helper()
	c.must(c.each(ns, text, c.applyObject))
}

// applyFile applies a file, its path relative to the root of the repository.
func (c *cluster) applyFile(ns, path string) {
	c.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	c.must(err)
	c.apply(ns, string(text))
}

// delete removes the objects of a YAML text and does not wait for it; what is not there is fine.
func (c *cluster) delete(ns, text string) {
	c.Helper()
	c.must(c.each(ns, text, func(o *unstructured.Unstructured) error {
		r, err := c.of(o)
		if err != nil {
			return err
		}
		if err := r.Delete(c.ctx, o.GetName(), metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
			return err
		}
		return nil
	}))
}

// deleteNow removes one object without a grace period and does not wait for it.
func (c *cluster) deleteNow(kind, ns, name string) error {
	r, err := c.resource(kind, ns)
	if err != nil {
		return err
	}
	var none int64
	return r.Delete(c.ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &none})
}

// each hands on the objects of a YAML text, with images from where the nodes have them.
func (c *cluster) each(ns, text string, do func(*unstructured.Unstructured) error) error {
	dec := yaml.NewYAMLOrJSONDecoder(strings.NewReader(c.hub.images(text)), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := dec.Decode(&o.Object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if len(o.Object) == 0 {
			continue
		}
		if o.GetNamespace() == "" {
			o.SetNamespace(ns)
		}
		if err := do(o); err != nil {
			return fmt.Errorf("%s %s/%s: %w", o.GetKind(), o.GetNamespace(), o.GetName(), err)
		}
	}
}

func (c *cluster) applyObject(o *unstructured.Unstructured) error {
	r, err := c.of(o)
	if err != nil {
		return err
	}
	_, err = r.Apply(c.ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: "story", Force: true})
	return err
}

// of is the client of one object's kind.
func (c *cluster) of(o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	gvk := o.GroupVersionKind()
	return c.typed(gvk.GroupKind(), gvk.Version, o.GetNamespace())
}

// ambitctl runs the CLI against the cluster and returns what it printed to standard output.
func (c *cluster) ambitctl(args ...string) string {
	c.Helper()
	out, stderr, err := c.try(args...)
	if err != nil {
		c.Fatalf("ambitctl %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr)
	}
	return out
}

// try is ambitctl for commands that may fail.
func (c *cluster) try(args ...string) (stdout, stderr string, err error) {
	bin := os.Getenv("AMBIT_BIN")
	if bin == "" {
		bin = filepath.Join(root, "bin")
	}
	ctx, cancel := context.WithTimeout(c.ctx, 5*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	// A lab that runs on this machine would come first otherwise.
	if k := os.Getenv("KUBECONFIG"); k != "" {
		args = append([]string{"--kubeconfig", k}, args...)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "ambitctl"), args...)
	cmd.Env = append(os.Environ(), "NO_COLOR=1")
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}
