package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/ambit-mesh/ambit/cni/enroll"
)

// Source is the pods of one node and the namespaces of the cluster.
type Source struct {
	cluster *Cluster
	node    string
	log     *slog.Logger

	// mu makes calls of the sink come one at a time: pods and namespaces arrive on goroutines of their own.
	mu    sync.Mutex
	away  map[string]bool // guarded by mu: resources that cannot be read at the moment
	notes notes

	own daemonSet
}

// NewSource prepares a source of the pods on node; Run does the work.
func NewSource(c *Cluster, node string) *Source {
	return &Source{cluster: c, node: node, log: c.log, away: map[string]bool{}, notes: notes{said: map[note]*said{}}}
}

// Run follows the API server until ctx ends.
func (s *Source) Run(ctx context.Context, sink enroll.Sink) error {
	ctx = klog.NewContext(ctx, s.cluster.klogger())
	namespaces := s.informer("namespaces", &corev1.Namespace{}, fields.Everything())
	pods := s.informer("pods", &corev1.Pod{}, fields.OneTermEqualSelector("spec.nodeName", s.node))
	// A pod cannot be judged without its namespace's labels; both are complete before Synced.
	namespacesTold, err := namespaces.AddEventHandler(s.namespaceHandler(sink))
	if err != nil {
		return fmt.Errorf("follow namespaces: %w", err)
	}
	podsTold, err := pods.AddEventHandler(s.podHandler(sink))
	if err != nil {
		return fmt.Errorf("follow pods: %w", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { namespaces.RunWithContext(ctx) })
	wg.Go(func() { pods.RunWithContext(ctx) })
	if s.own.name != "" {
		own, err := s.followOwn()
		if err != nil {
			return fmt.Errorf("follow DaemonSet %s: %w", s.own.name, err)
		}
		wg.Go(func() { own.RunWithContext(ctx) })
	}
	if cache.WaitForCacheSync(ctx.Done(), namespacesTold.HasSynced, podsTold.HasSynced) {
		sink.Synced()
	}
	<-ctx.Done()
	return nil
}

func (s *Source) informer(resource string, object runtime.Object, selector fields.Selector) cache.SharedIndexInformer {
	informer := s.follow(s.cluster.core, resource, metav1.NamespaceAll, object, selector)
	_ = informer.SetTransform(slim) // it cannot fail on one that has not been started
	return informer
}

func (s *Source) follow(client cache.Getter, resource, namespace string, object runtime.Object, selector fields.Selector) cache.SharedIndexInformer {
	lw := cache.NewListWatchFromClient(client, resource, namespace, selector)
	// Asked by a wrapper, to learn when the API server answers again.
	heard := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := lw.ListWithContext(ctx, o)
			s.reached(resource, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := lw.WatchWithContext(ctx, o)
			s.reached(resource, err)
			return w, err
		},
	}
	informer := cache.NewSharedIndexInformer(heard, object, 0, cache.Indexers{})
	_ = informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
		cache.DefaultWatchErrorHandler(ctx, r, err)
	})
	return informer
}

// reached says once that a kind cannot be read, and once that it can again.
func (s *Source) reached(resource string, err error) {
	if errors.Is(err, context.Canceled) || expired(err) || apierrors.IsInvalid(err) {
		// A watch that has grown old, or a way of listing that this API server does not know: client-go tries another.
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil && !s.away[resource]:
		s.away[resource] = true
		s.log.Warn("the API server does not tell; what it told before stays", "resource", resource, "err", err)
	case err == nil && s.away[resource]:
		delete(s.away, resource)
		s.log.Info("the API server tells again", "resource", resource)
	}
}

func (s *Source) podHandler(sink enroll.Sink) cache.ResourceEventHandler {
	set := func(p enroll.Pod) {
		s.mu.Lock()
		defer s.mu.Unlock()
		sink.SetPod(p)
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if o, ok := obj.(*corev1.Pod); ok {
				set(podOf(o))
			}
		},
		UpdateFunc: func(before, after any) {
			old, ok1 := before.(*corev1.Pod)
			o, ok2 := after.(*corev1.Pod)
			if !ok1 || !ok2 {
				return
			}
			// Most updates are of what enrolment does not look at.
			if p := podOf(o); !reflect.DeepEqual(podOf(old), p) {
				set(p)
			}
		},
		DeleteFunc: func(obj any) {
			if o, ok := last(obj).(*corev1.Pod); ok {
				s.mu.Lock()
				defer s.mu.Unlock()
				sink.DeletePod(enroll.Key{Namespace: o.Namespace, Name: o.Name})
				s.notes.forget(string(o.UID))
			}
		},
	}
}

func (s *Source) namespaceHandler(sink enroll.Sink) cache.ResourceEventHandler {
	set := func(obj any) {
		if o, ok := obj.(*corev1.Namespace); ok {
			s.mu.Lock()
			defer s.mu.Unlock()
			sink.SetNamespace(o.Name, o.Labels)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    set,
		UpdateFunc: func(_, after any) { set(after) },
		DeleteFunc: func(obj any) {
			if o, ok := last(obj).(*corev1.Namespace); ok {
				s.mu.Lock()
				defer s.mu.Unlock()
				sink.DeleteNamespace(o.Name)
			}
		},
	}
}

// last is the object of a deletion, which the informer may have missed itself.
func last(obj any) any {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return gone.Obj
	}
	return obj
}

// Get asks for one pod and its namespace's labels now: the runtime may make a pod's sandbox before a watch tells of it.
func (s *Source) Get(ctx context.Context, k enroll.Key) (enroll.Pod, map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var pod corev1.Pod
	err := s.cluster.core.Get().Namespace(k.Namespace).Resource("pods").Name(k.Name).Do(ctx).Into(&pod)
	switch {
	case apierrors.IsNotFound(err):
		return enroll.Pod{}, nil, fmt.Errorf("pod %s: %w", k, enroll.ErrNoPod)
	case err != nil:
		return enroll.Pod{}, nil, fmt.Errorf("read pod %s: %w", k, err)
	case pod.Spec.NodeName != s.node:
		return enroll.Pod{}, nil, fmt.Errorf("pod %s is not on node %s but on %q: %w", k, s.node, pod.Spec.NodeName, enroll.ErrNoPod)
	}
	var ns corev1.Namespace
	if err := s.cluster.core.Get().Resource("namespaces").Name(k.Namespace).Do(ctx).Into(&ns); err != nil {
		return enroll.Pod{}, nil, fmt.Errorf("read namespace %s: %w", k.Namespace, err)
	}
	return podOf(&pod), ns.Labels, nil
}

// requestTimeout bounds one request that is not a watch.
const requestTimeout = 5 * time.Second
