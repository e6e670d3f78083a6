package kube

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/cache"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/control/gateways"
	"github.com/ambit-mesh/ambit/waypoint/deploy"
)

// GatewayFeed hands the objects that run for Gateways to their reconciler, as documents. It runs on the leader only, and
// may run again after it ended: every run begins with nothing known.
type GatewayFeed struct {
	source *Source
	to     *gateways.Reconciler
}

// documents follows one kind.
type documents struct {
	to     *gateways.Reconciler
	kind   string
	labels string // selector
	want   func(*unstructured.Unstructured) bool
	have   map[gateways.Key]bool

	once   sync.Once
	listed chan struct{} // closed after the first complete list
}

// NewGatewayFeed feeds a reconciler from the cluster a source reads.
func NewGatewayFeed(s *Source, r *gateways.Reconciler) *GatewayFeed {
	return &GatewayFeed{source: s, to: r}
}

// stores are those of one run, of which none has a list yet.
func (f *GatewayFeed) stores() (list []*documents) {
	add := func(kind, labels string, want func(*unstructured.Unstructured) bool) {
		list = append(list, &documents{to: f.to, kind: kind, labels: labels, want: want, have: make(map[gateways.Key]bool), listed: make(chan struct{})})
	}
	for _, kind := range []string{"Gateway", "GatewayClass", "ListenerSet", "Namespace", "Service"} {
		add(kind, "", nil)
	}
	add("ConfigMap", "", overlays)
	add("Pod", mesh.LabelGatewayName, nil)
	for _, kind := range []string{"ServiceAccount", "Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget"} {
		add(kind, mesh.LabelGatewayManaged, nil)
	}
	return list
}

// overlays are the ConfigMaps that may say how a Gateway is deployed: the others are many, and not of interest.
func overlays(u *unstructured.Unstructured) bool {
	if u.GetLabels()[mesh.LabelDefaultsForClass] != "" {
		return true
	}
	data, _, _ := unstructured.NestedMap(u.Object, "data")
	for _, k := range deploy.OverlayKeys() {
		if _, ok := data[k]; ok {
			return true
		}
	}
	return false
}

// Run feeds until ctx ends. What it has told is taken back at its end: until a later run has read everything anew, somebody
// else may have made Gateways and what runs for them.
func (f *GatewayFeed) Run(ctx context.Context) {
	defer f.to.Forget()
	var wg sync.WaitGroup
	defer wg.Wait()
	stores := f.stores()
	for _, d := range stores {
		wg.Go(func() { f.follow(ctx, d) })
	}
	for _, d := range stores {
		select {
		case <-d.listed:
		case <-ctx.Done():
			return
		}
	}
	f.to.Synced()
	<-ctx.Done()
}

// servedAgain is how often it is looked whether a kind is served by now.
const servedAgain = time.Second

// follow watches a kind, as soon as it is served and in the version it is served in.
func (f *GatewayFeed) follow(ctx context.Context, d *documents) {
	for ctx.Err() == nil {
		r, ok := f.source.Resource(d.kind)
		if !ok {
			if f.source.asked() {
				d.complete()
			}
			sleep(ctx, servedAgain)
			continue
		}
		own, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() {
			lw := f.source.cfg.Cluster.untyped(r, d.labels, "")
			follow(own, f.source.cfg.Cluster, "gateways "+d.kind, lw, d)
		})
		for ctx.Err() == nil {
			sleep(ctx, servedAgain)
			if now, ok := f.source.Resource(d.kind); ok && now != r {
				break
			}
		}
		cancel()
		wg.Wait()
	}
}

// asked says whether it is known which kinds are served.
func (s *Source) asked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.served
}

func (d *documents) complete() { d.once.Do(func() { close(d.listed) }) }

func (d *documents) key(u *unstructured.Unstructured) gateways.Key {
	return gateways.Key{Kind: d.kind, Namespace: u.GetNamespace(), Name: u.GetName()}
}

func (d *documents) put(in any) error {
	u, ok := in.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	k := d.key(u)
	if d.want != nil && !d.want(u) {
		d.remove(k)
		return nil
	}
	d.have[k] = true
	d.to.Put(document(d.kind, u))
	return nil
}

func (d *documents) remove(k gateways.Key) {
	if d.have[k] {
		delete(d.have, k)
		d.to.Remove(k)
	}
}

// document is what the reconciler reads of an object. Of Services and Pods there are many, and little of them matters;
// an autoscaler's status changes every 15 seconds, and nobody asks for it.
func document(kind string, u *unstructured.Unstructured) gateways.Object {
	u.SetManagedFields(nil)
	u.SetResourceVersion("")
	o := u.Object
	pick := func(from string, fields ...string) map[string]any {
		in, _ := o[from].(map[string]any)
		out := map[string]any{}
		for _, f := range fields {
			if v, ok := in[f]; ok {
				out[f] = v
			}
		}
		return out
	}
	switch kind {
	case "Service":
		o["spec"], o["status"] = pick("spec", "type", "clusterIP", "clusterIPs", "ports"), pick("status", "loadBalancer")
	case "Pod":
		o["spec"], o["status"] = map[string]any{}, pick("status", "phase", "conditions", "containerStatuses")
	case "Namespace":
		u.SetAnnotations(nil)
		delete(o, "spec")
		delete(o, "status")
	case "Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget":
		delete(o, "status")
	}
	return o
}

// Add implements cache.ReflectorStore.
func (d *documents) Add(in any) error { return d.put(in) }

// Update implements cache.ReflectorStore.
func (d *documents) Update(in any) error { return d.put(in) }

// Delete implements cache.ReflectorStore.
func (d *documents) Delete(in any) error {
	if gone, ok := in.(cache.DeletedFinalStateUnknown); ok {
		in = gone.Obj
	}
	if u, ok := in.(*unstructured.Unstructured); ok {
		d.remove(d.key(u))
	}
	return nil
}

// Replace implements cache.ReflectorStore.
func (d *documents) Replace(list []any, _ string) error {
	there := make(map[gateways.Key]bool, len(list))
	for _, in := range list {
		if u, ok := in.(*unstructured.Unstructured); ok {
			there[d.key(u)] = true
		}
		if err := d.put(in); err != nil {
			return err
		}
	}
	for k := range d.have {
		if !there[k] {
			d.remove(k)
		}
	}
	d.complete()
	return nil
}

// Resync implements cache.ReflectorStore.
func (d *documents) Resync() error { return nil }
