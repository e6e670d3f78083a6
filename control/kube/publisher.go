package kube

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/ambit-mesh/ambit/control/object"
)

// PublisherConfig of Publisher. All but Logger are required.
type PublisherConfig struct {
	Cluster *Cluster
	// Bundle is what everybody is to trust, or of NewLists the revocation lists, in PEM, and Changed is closed when it is
	// different. Nil means that it is not known: nothing is written then.
	Bundle  func() []byte
	Changed func() <-chan struct{}
	// Namespaces are those that may be written to.
	Namespaces Spaces
	Logger     *slog.Logger
}

// Publisher keeps a ConfigMap in every namespace that pods mount: istio-ca-root-cert with the mesh's roots, or istio-ca-crl with
// its revocation lists. It is the leader's to do.
type Publisher struct {
	cfg  PublisherConfig
	wake chan struct{}
	// name and key are the ConfigMap's and its content's, and lost is what is said where it cannot be written.
	name, key, lost string

	// Run's alone
	failing map[string]failure // by namespace
	told    map[string]bool    // errors, without the names of namespaces

	mu         sync.Mutex
	namespaces map[string]bool
	have       map[string]string // what a namespace's ConfigMap says
	foreign    map[string]bool   // where it is not of ours
}

const (
	rootsName = "istio-ca-root-cert"
	rootsKey  = "root-cert.pem"
	// As Istio has them. Istio pilot/pkg/serviceregistry/kube/controller namespacecontroller.go CRLNamespaceConfigMap
	listsName = "istio-ca-crl"
	listsKey  = "ca-crl.pem"
)

// without are namespaces in which no workload of the mesh runs. Istio pkg/kube/inject IgnoredNamespaces
func without(namespace string) bool {
	switch namespace {
	case "kube-system", "kube-public", "kube-node-lease", "local-path-storage":
		return true
	}
	return false
}

// NewRoots is for the mesh's roots. It does nothing before Run.
func NewRoots(cfg PublisherConfig) *Publisher {
	return newPublisher(cfg, rootsName, rootsKey, "the mesh's roots cannot be written, trying again: pods of the namespace that mount them wait")
}

// NewLists is for revocation lists. Where there are none, the ConfigMap is taken away, unless somebody else made it.
func NewLists(cfg PublisherConfig) *Publisher {
	return newPublisher(cfg, listsName, listsKey, "the mesh's revocation lists cannot be written, trying again: proxies of the namespace go by those they have")
}

func newPublisher(cfg PublisherConfig, name, key, lost string) *Publisher {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Publisher{cfg: cfg, wake: make(chan struct{}, 1), name: name, key: key, lost: lost}
}

// Run writes until ctx ends.
func (r *Publisher) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	r.mu.Lock()
	r.namespaces, r.have, r.foreign = make(map[string]bool), make(map[string]string), make(map[string]bool)
	r.mu.Unlock()
	listed := make(chan struct{}, 2)
	feeds := []*names{
		{changed: r.namespace, listed: listed, have: make(map[object.Key]bool)},
		{changed: r.found, listed: listed, have: make(map[object.Key]bool)},
	}
	res := made()
	wg.Go(func() {
		follow(ctx, r.cfg.Cluster, r.name+" namespaces", r.cfg.Cluster.untyped(res["Namespace"], "", ""), feeds[0])
	})
	wg.Go(func() {
		follow(ctx, r.cfg.Cluster, r.name+" configmaps", r.cfg.Cluster.untyped(res["ConfigMap"], "", "metadata.name="+r.name), feeds[1])
	})
	for range feeds {
		select {
		case <-ctx.Done():
			return
		case <-listed:
		}
	}
	r.failing, r.told = make(map[string]failure), make(map[string]bool)
	for {
		changed := r.cfg.Changed()
		again := time.NewTimer(r.round(ctx))
		select {
		case <-ctx.Done():
			again.Stop()
			return
		case <-r.wake:
		case <-changed:
		case <-again.C:
		}
		again.Stop()
	}
}

func (r *Publisher) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Publisher) namespace(name object.Key, u *unstructured.Unstructured) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.poke()
	if u == nil || u.GetDeletionTimestamp() != nil || without(name.Name) || !r.cfg.Namespaces.Has(name.Name) {
		delete(r.namespaces, name.Name)
		return
	}
	r.namespaces[name.Name] = true
}

func (r *Publisher) found(name object.Key, u *unstructured.Unstructured) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.poke()
	delete(r.foreign, name.Namespace)
	if u == nil {
		delete(r.have, name.Namespace)
		return
	}
	r.have[name.Namespace], _, _ = unstructured.NestedString(u.Object, "data", r.key)
	if !slices.ContainsFunc(u.GetManagedFields(), func(m metav1.ManagedFieldsEntry) bool { return m.Manager == managerRoots }) {
		r.foreign[name.Namespace] = true
	}
}

const (
	rootsPause = time.Second
	rootsMost  = 30 * time.Second
	rootsTold  = 100 // different errors that are remembered
)

// round writes what is missing or different and removes what is not to be, but for what has failed just now, and returns
// how long it is until something is to be tried again.
func (r *Publisher) round(ctx context.Context) time.Duration {
	bundle, now := r.cfg.Bundle(), time.Now()
	if bundle == nil {
		return rootsMost
	}
	want := string(bundle)
	var todo []string
	r.mu.Lock()
	maps.DeleteFunc(r.failing, func(ns string, _ failure) bool { return !r.namespaces[ns] || r.have[ns] == want })
	for ns := range r.namespaces {
		if want == "" && r.foreign[ns] {
			continue
		}
		if r.have[ns] != want && !now.Before(r.failing[ns].at) {
			todo = append(todo, ns)
		}
	}
	r.mu.Unlock()
	slices.Sort(todo)
	troubles := map[string]*trouble{}
	for _, ns := range todo {
		err := r.write(ctx, ns, want)
		switch {
		case ctx.Err() != nil:
			return 0
		case err == nil:
			r.mu.Lock()
			r.have[ns] = want
			r.mu.Unlock()
			delete(r.failing, ns)
		case apierrors.IsNotFound(err), apierrors.HasStatusCause(err, "NamespaceTerminating"):
			delete(r.failing, ns) // the namespace is going
		default:
			r.failing[ns] = r.failing[ns].again(rootsPause, rootsMost)
			text := strings.NewReplacer(`"`+ns+`"`, `"*"`, "/"+ns+"/", "/*/").Replace(err.Error())
			if troubles[text] == nil {
				troubles[text] = &trouble{namespace: ns, err: err}
			}
			troubles[text].count++
		}
	}
	r.tell(troubles)
	wait := rootsMost
	for _, f := range r.failing {
		wait = min(wait, max(time.Until(f.at), 0))
	}
	return wait
}

// trouble is an error that some namespaces have in common.
type trouble struct {
	namespace string // one of them
	count     int
	err       error
}

// tell says what is wrong, once for each different error.
func (r *Publisher) tell(troubles map[string]*trouble) {
	if len(r.failing) == 0 || len(r.told) >= rootsTold {
		clear(r.told)
	}
	for text, t := range troubles {
		if !r.told[text] {
			r.told[text] = true
			r.cfg.Logger.Warn(r.lost, "namespace", t.namespace, "namespaces", t.count, "err", t.err)
		}
	}
}

func (r *Publisher) write(ctx context.Context, namespace, pem string) error {
	client := r.cfg.Cluster.dynamic.Resource(made()["ConfigMap"]).Namespace(namespace)
	if pem == "" {
		return client.Delete(ctx, r.name, metav1.DeleteOptions{})
	}
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": r.name, "namespace": namespace, "labels": map[string]any{"istio.io/config": "true"}},
		"data":     map[string]any{r.key: pem},
	}}
	_, err := client.Apply(ctx, r.name, u, metav1.ApplyOptions{FieldManager: managerRoots, Force: true})
	return err
}

// names is a store that keeps the names of objects and tells of every change; nil means gone.
type names struct {
	changed func(object.Key, *unstructured.Unstructured)
	listed  chan<- struct{}
	have    map[object.Key]bool
	once    sync.Once
}

func (n *names) put(in any) error {
	if u, ok := in.(*unstructured.Unstructured); ok {
		k := object.Key{Namespace: u.GetNamespace(), Name: u.GetName()}
		n.have[k] = true
		n.changed(k, u)
	}
	return nil
}

// Add implements cache.ReflectorStore.
func (n *names) Add(in any) error { return n.put(in) }

// Update implements cache.ReflectorStore.
func (n *names) Update(in any) error { return n.put(in) }

// Delete implements cache.ReflectorStore.
func (n *names) Delete(in any) error {
	k, _, err := nameOf(0, in)
	if err != nil {
		return nil
	}
	delete(n.have, k)
	n.changed(k, nil)
	return nil
}

// Replace implements cache.ReflectorStore.
func (n *names) Replace(list []any, _ string) error {
	before := n.have
	n.have = make(map[object.Key]bool, len(list))
	for _, in := range list {
		if err := n.put(in); err != nil {
			return err
		}
	}
	for k := range before {
		if !n.have[k] {
			n.changed(k, nil)
		}
	}
	n.once.Do(func() { n.listed <- struct{}{} })
	return nil
}

// Resync implements cache.ReflectorStore.
func (n *names) Resync() error { return nil }
