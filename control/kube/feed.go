package kube

import (
	"context"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// feed follows one kind and knows which of its objects are in force. It holds their names and versions only, and of
// policies the good version.
//
// It implements cache.ReflectorStore, whose methods come from one goroutine at a time. A feed outlives its watch: when the
// kind is served again after an absence, what it remembers says what is missing from the new list.
type feed struct {
	kind object.Kind
	to   *Source
	have map[object.Key]seen
	raw  map[object.Key][]byte // the good version, of kinds that guard something

	mu     sync.Mutex
	synced bool  // a complete list was taken in, or there is none to have
	err    error // why the API server cannot be asked at the moment

	// owned by Source.discover
	serves string    // the group, version and resource that is watched; "" for none
	missed bool      // its absence was said
	until  time.Time // when a kind that came back is asked again what there is
	cancel context.CancelFunc
	ended  <-chan struct{} // closed when the watch before has ended
}

// seen is what is remembered of an object.
type seen struct {
	version string
	good    bool // a version of it is in force
	said    bool // there are entries about it
}

// Add implements cache.ReflectorStore.
func (f *feed) Add(in any) error { return f.put(in) }

// Update implements cache.ReflectorStore.
func (f *feed) Update(in any) error { return f.put(in) }

// Resync implements cache.ReflectorStore.
func (f *feed) Resync() error { return nil }

// Transformer implements cache.TransformingStore.
func (f *feed) Transformer() cache.TransformFunc { return slim }

func (f *feed) put(in any) error {
	if _, err := slim(in); err != nil {
		return err
	}
	key, m, err := nameOf(f.kind, in)
	if err != nil {
		return err
	}
	was := f.have[key]
	if was.version != "" && was.version == m.GetResourceVersion() {
		return nil
	}
	o, entries := convert(f.to.dec, f.kind, in)
	if f.kind == object.KindSecret {
		entries = nil // most are nobody's business here; what is wrong with one that is named, its listener says
	}
	refused := o == nil
	if u, ok := in.(*unstructured.Unstructured); ok && guards(f.kind) {
		if earlier := f.guarded(key, u, !refused, was); earlier != nil {
			o, was.good = earlier, true
		}
	}
	now := seen{version: m.GetResourceVersion(), good: o != nil || was.good, said: len(entries) > 0}
	f.have[key] = now
	if now.said || was.said {
		f.to.tell(key, entries, refused && was.good)
	}
	if o != nil {
		f.to.emit(object.Put(o))
	}
	return nil
}

// Delete implements cache.ReflectorStore.
func (f *feed) Delete(in any) error { return f.end(in, f.remove) }

// end passes on which object has ended.
func (f *feed) end(in any, gone func(object.Key)) error {
	if last, ok := in.(cache.DeletedFinalStateUnknown); ok {
		in = last.Obj
	}
	key, _, err := nameOf(f.kind, in)
	if err != nil {
		return err
	}
	gone(key)
	return nil
}

func (f *feed) remove(key object.Key) {
	was, ok := f.have[key]
	if !ok {
		return
	}
	delete(f.have, key)
	if guards(f.kind) {
		delete(f.raw, key)
		f.to.keep.hold(key, nil)
	}
	if was.said {
		f.to.tell(key, nil, false)
	}
	if was.good {
		f.to.emit(object.Delete(key))
	}
}

// Replace implements cache.ReflectorStore: a complete list.
func (f *feed) Replace(list []any, _ string) error { return f.replace(list, f.remove) }

// replace takes a complete list in and passes on what is missing from it.
func (f *feed) replace(list []any, missing func(object.Key)) error {
	there, err := f.take(list)
	if err != nil {
		return err
	}
	for key := range f.have {
		if !there[key] {
			missing(key)
		}
	}
	f.settle()
	return nil
}

// take takes a list in and returns what is in it.
func (f *feed) take(list []any) (map[object.Key]bool, error) {
	there := make(map[object.Key]bool, len(list))
	for _, in := range list {
		if err := f.put(in); err != nil {
			return nil, err
		}
		key, _, err := nameOf(f.kind, in)
		if err != nil {
			return nil, err
		}
		there[key] = true
	}
	return there, nil
}

// settle notes that everything there is to know of the kind is known.
func (f *feed) settle() {
	f.mu.Lock()
	f.synced = true
	f.mu.Unlock()
	f.to.poke()
}

// complete says whether a start need not wait for the kind, and why it does.
func (f *feed) complete() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.synced, f.err
}

// asked takes in how a question to the API server went.
func (f *feed) asked(ctx context.Context, err error) {
	if ctx.Err() != nil || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsInvalid(err) {
		return // it is asked again, differently, at once
	}
	f.mu.Lock()
	was := f.err
	f.err = err
	f.mu.Unlock()
	owner := "kube/watch/" + f.kind.String()
	switch {
	case err == nil && was != nil:
		f.to.cfg.Status.Set(owner)
		f.to.away(-1, f.kind, nil)
	case err != nil && (was == nil || was.Error() != err.Error()):
		e := status.Entry{Severity: status.Warning, Kind: f.kind.String(), Problem: "cannot be read from the API server: " + err.Error(), Fix: "what was known stays in force; it is tried again all the time"}
		if denied(err) {
			e.Fix = "give the control plane's service account the verbs list and watch for it; what was known stays in force"
			if !denied(was) {
				f.to.log.Error("the API server does not let the control plane read a kind", "kind", f.kind.String(), "err", err)
			}
		}
		f.to.cfg.Status.Set(owner, e)
		if was == nil {
			f.to.away(+1, f.kind, err)
		}
	}
	if err != nil {
		f.to.poke()
	}
}

func denied(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) }

// away counts the kinds that cannot be asked about. An API server that restarts is worth two lines, not two for each kind.
func (s *Source) away(more int, kind object.Kind, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.failing
	s.failing += more
	switch {
	case before == 0 && more > 0:
		s.log.Warn("the API server does not answer, trying again; what was known stays in force", "kind", kind.String(), "err", err)
	case s.failing == 0:
		s.log.Info("the API server answers again")
	}
}

// watched has somebody told how every question went.
func watched(lw *cache.ListWatch, asked func(context.Context, error)) *cache.ListWatch {
	list, follow := lw.ListWithContextFunc, lw.WatchFuncWithContext
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			l, err := list(ctx, o)
			asked(ctx, err)
			return l, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := follow(ctx, o)
			asked(ctx, err)
			return w, err
		},
	}
}

// retry is how soon a watch that ended is opened again: an API server that restarts is missed for a moment only.
func retry() *wait.Backoff {
	return &wait.Backoff{Duration: 200 * time.Millisecond, Cap: 10 * time.Second, Steps: 8, Factor: 2, Jitter: 0.5}
}

// follow lists and watches until ctx ends.
func follow(ctx context.Context, c *Cluster, name string, lw *cache.ListWatch, store cache.ReflectorStore) {
	log := c.klogger()
	r := cache.NewReflectorWithOptions(lw, nil, store, cache.ReflectorOptions{Name: name, TypeDescription: name, Logger: &log, Backoff: retry()})
	r.RunWithContext(klog.NewContext(ctx, log))
}
