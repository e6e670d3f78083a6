package kube

import (
	"context"
	"encoding/json"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"github.com/ambit-mesh/ambit/control/object"
)

// defined is the feed of a kind that a CustomResourceDefinition makes. When that is deleted, the API server deletes every
// object of the kind first and tells of each, as if somebody had wanted that: all policies would go in a second, and let in
// whoever they kept out. So what ends together with its definition stays in force until the kind is served again, and
// policies a moment longer; what is not there then has gone.
type defined struct {
	*feed
	// leaving says whether the definition is being deleted, or is gone.
	leaving func() bool
	// until then policies that a list lacks stay in force.
	until time.Time
}

// defined is the store for a watch of a kind: the feed itself, where nothing can be known about a definition.
func (s *Source) defined(ctx context.Context, f *feed, r schema.GroupVersionResource) cache.ReflectorStore {
	if runs(f.kind) {
		return f
	}
	name := r.GroupResource().String()
	if _, err := s.cfg.Cluster.definition(ctx, name); apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return f
	}
	return defined{f, func() bool { return s.leaving(ctx, name) }, f.until}
}

// runs reports whether objects of a kind own pods, which Kubernetes deletes with them: it would lead to nobody to hold on
// to these.
func runs(k object.Kind) bool {
	return k == object.KindGateway || k == object.KindGatewayClass || k == object.KindListenerSet
}

// leaving asks until it is answered: what an end means cannot be guessed. An API server that is away tells of no other.
func (s *Source) leaving(ctx context.Context, definition string) bool {
	pause := 100 * time.Millisecond
	for ctx.Err() == nil {
		m, err := s.cfg.Cluster.definition(ctx, definition)
		switch {
		case err == nil:
			return m.DeletionTimestamp != nil
		case apierrors.IsNotFound(err):
			return true
		case apierrors.IsForbidden(err):
			return false
		}
		sleep(ctx, pause)
		pause = min(2*pause, 5*time.Second)
	}
	return true // whoever comes next asks again
}

// definition reads the metadata of a CustomResourceDefinition; the rest of it is large.
func (c *Cluster) definition(ctx context.Context, name string) (*metav1.PartialObjectMetadata, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	data, err := c.raw.Get().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", name).
		SetHeader("Accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").Do(ctx).Raw()
	if err != nil {
		return nil, err
	}
	m := &metav1.PartialObjectMetadata{}
	return m, json.Unmarshal(data, m)
}

// Delete implements cache.ReflectorStore.
func (d defined) Delete(in any) error { return d.end(in, d.missing) }

// Replace implements cache.ReflectorStore.
func (d defined) Replace(list []any, _ string) error {
	return d.replace(list, func(key object.Key) {
		if !time.Now().Before(d.until) {
			d.missing(key)
		}
	})
}

func (d defined) missing(key object.Key) {
	if _, ok := d.have[key]; ok && !d.leaving() {
		d.remove(key)
	}
}

// note has the policies of a kind that is not served any more kept for the next process.
func (f *feed) note() {
	for key, was := range f.have {
		if was.good && guards(f.kind) {
			f.to.keep.hold(key, f.raw[key])
		}
	}
}

// recall puts in force what an earlier process has noted of a kind that is not served.
func (f *feed) recall() {
	for _, u := range f.to.keep.all(f.kind) {
		key, _, err := nameOf(f.kind, u)
		if err != nil {
			continue // somebody has been at it
		}
		o, _ := convert(f.to.dec, f.kind, u)
		data, err := json.Marshal(u.Object)
		if o == nil || err != nil {
			continue
		}
		f.have[key], f.raw[key] = seen{good: true}, data
		f.to.keep.hold(key, data)
		f.to.emit(object.Put(o))
	}
}
