package kube

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
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
	// leaving says whether the definition was being deleted, or gone, at a version of the API server's.
	leaving func(at string) bool
	// until then policies that a list lacks stay in force.
	until time.Time
}

// defined is the store for a watch of a kind: the feed itself, where nothing can be known about a definition.
func (s *Source) defined(ctx context.Context, f *feed, r schema.GroupVersionResource) cache.ReflectorStore {
	if runs(f.kind) {
		return f
	}
	name := r.GroupResource().String()
	if _, _, err := s.cfg.Cluster.definition(ctx, name); apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return f
	}
	var stayed uint64
	return defined{f, func(at string) bool {
		if v, err := strconv.ParseUint(at, 10, 64); err == nil && v <= stayed {
			return false
		}
		var gone bool
		gone, stayed = s.leaving(ctx, name)
		return gone
	}, f.until}
}

const definitionsPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

var definitionsResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// runs reports whether objects of a kind own pods, which Kubernetes deletes with them: it would lead to nobody to hold on
// to these.
func runs(k object.Kind) bool {
	return k == object.KindGateway || k == object.KindGatewayClass || k == object.KindListenerSet
}

// leaving asks until it is answered: what an end means cannot be guessed. An API server that is away tells of no other.
//
// A definition that stays does so up to the version at which the answer was given, so that one answer is good for all ends
// up to there: when a namespace goes with its thousands of policies, the news of others does not wait for a question about each.
// Versions of a kind and of its definition are comparable, for one server stores both. Kubernetes KEP-5504
func (s *Source) leaving(ctx context.Context, definition string) (gone bool, stayed uint64) {
	pause := 100 * time.Millisecond
	for ctx.Err() == nil {
		m, at, err := s.cfg.Cluster.definition(ctx, definition)
		switch {
		case err == nil && m.DeletionTimestamp == nil:
			return false, at
		case err == nil, apierrors.IsNotFound(err):
			return true, 0
		case apierrors.IsForbidden(err):
			return false, 0
		}
		sleep(ctx, pause)
		pause = min(2*pause, 5*time.Second)
	}
	return true, 0 // whoever comes next asks again
}

// definition reads the metadata of a CustomResourceDefinition (the rest of it is large), and the version at which that was
// so, 0 if it is no number. It is asked for as a list of one, because only lists tell that.
func (c *Cluster) definition(ctx context.Context, name string) (*metav1.PartialObjectMetadata, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	data, err := c.raw.Get().AbsPath(definitionsPath).Param("fieldSelector", "metadata.name="+name).
		SetHeader("Accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").Do(ctx).Raw()
	if err != nil {
		return nil, 0, err
	}
	var list metav1.PartialObjectMetadataList
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, 0, err
	}
	at, err := strconv.ParseUint(list.ResourceVersion, 10, 64)
	if err != nil {
		at = 0
	}
	if len(list.Items) != 1 {
		return nil, at, apierrors.NewNotFound(definitionsResource.GroupResource(), name)
	}
	return &list.Items[0], at, nil
}

// Delete implements cache.ReflectorStore. The version of what is deleted is that of its end.
func (d defined) Delete(in any) error {
	at := ""
	if m, err := meta.Accessor(in); err == nil {
		at = m.GetResourceVersion()
	}
	return d.end(in, func(key object.Key) { d.missing(key, at) })
}

// Replace implements cache.ReflectorStore.
func (d defined) Replace(list []any, at string) error {
	return d.replace(list, func(key object.Key) {
		if !time.Now().Before(d.until) {
			d.missing(key, at)
		}
	})
}

func (d defined) missing(key object.Key, at string) {
	if _, ok := d.have[key]; ok && !d.leaving(at) {
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
