package kube

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"
)

// daemonSet is what the agent learnt of its own one while it could read it. An uninstall that deletes the rights right after it, as
// Helm does, leaves nobody to ask when the agent is told to end.
type daemonSet struct {
	namespace, name string // empty: not followed

	mu   sync.Mutex
	gone bool // guarded by mu
}

func (d *daemonSet) set(obj any, gone bool) {
	if o, ok := last(obj).(*appsv1.DaemonSet); ok {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.gone = gone || o.DeletionTimestamp != nil
	}
}

func (d *daemonSet) isGone(namespace, name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.gone && d.namespace == namespace && d.name == name
}

// FollowOwn has Run follow the DaemonSet the agent is of, too, for Successor. It is called before Run.
func (s *Source) FollowOwn(namespace, name string) { s.own.namespace, s.own.name = namespace, name }

func (s *Source) followOwn() (cache.SharedIndexInformer, error) {
	d := &s.own
	informer := s.follow(s.cluster.apps, "daemonsets", d.namespace, &appsv1.DaemonSet{}, fields.OneTermEqualSelector("metadata.name", d.name))
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { d.set(obj, false) },
		UpdateFunc: func(_, obj any) { d.set(obj, false) },
		DeleteFunc: func(obj any) { d.set(obj, true) },
	})
	return informer, err
}

// Successor asks whether another agent will run on this node once this one has ended: whether its DaemonSet goes on, and for
// this node. The answer decides whether pods stay captured, so that in doubt it is yes: a machine that goes down while the API
// server is away is no mesh that is being uninstalled. Istio's agent takes that for an uninstall
// (istio/istio cni/pkg/install, ShouldStopCleanup). Rights alone that went are no uninstall either, unless the DaemonSet was seen to go
// before them. A no is sure or not: whose pod was deleted by force is told the same as
// whose account is gone, because a token is its pod's.
func (s *Source) Successor(ctx context.Context, namespace, name string) (stays, sure bool, why string) {
	var set appsv1.DaemonSet
	var node corev1.Node
	err := insist(ctx, func(ctx context.Context) error {
		return s.cluster.apps.Get().Namespace(namespace).Resource("daemonsets").Name(name).Do(ctx).Into(&set)
	})
	full := namespace + "/" + name
	switch {
	case apierrors.IsNotFound(err):
		return false, true, fmt.Sprintf("there is no DaemonSet %s", full)
	case apierrors.IsUnauthorized(err) && s.own.isGone(namespace, name):
		return false, true, fmt.Sprintf("DaemonSet %s was deleted, and with it the agent's account", full)
	case apierrors.IsUnauthorized(err) && s.cluster.outlived(time.Now()):
		return true, true, fmt.Sprintf("the agent's token has ended and nobody has renewed it, so DaemonSet %s may go on", full)
	case apierrors.IsUnauthorized(err):
		// The account is gone, and with it the mesh; or this pod alone.
		return false, false, "the API server does not know the agent any more"
	case err != nil && s.own.isGone(namespace, name):
		return false, true, fmt.Sprintf("DaemonSet %s was deleted, and with it the right to read it", full)
	case apierrors.IsForbidden(err) && s.ending(ctx, namespace), err == nil && s.ending(ctx, namespace):
		// Its things go in no order that is known, and nothing new is made there.
		return false, true, fmt.Sprintf("namespace %s is being deleted, and DaemonSet %s with it", namespace, full)
	case err != nil:
		return true, true, fmt.Sprintf("DaemonSet %s cannot be read, so it may go on: %v", full, err)
	case set.DeletionTimestamp != nil:
		return false, true, fmt.Sprintf("DaemonSet %s is being deleted", full)
	}
	err = insist(ctx, func(ctx context.Context) error {
		return s.cluster.core.Get().Resource("nodes").Name(s.node).Do(ctx).Into(&node)
	})
	switch {
	case err != nil:
		return true, true, fmt.Sprintf("node %s cannot be read, so DaemonSet %s may go on with it: %v", s.node, full, err)
	case !places(&set.Spec.Template.Spec, &node):
		return false, true, fmt.Sprintf("DaemonSet %s does not select node %s", full, s.node)
	}
	return true, true, fmt.Sprintf("DaemonSet %s goes on", full)
}

// ending reports whether a namespace is being deleted.
func (s *Source) ending(ctx context.Context, namespace string) bool {
	var ns corev1.Namespace
	err := insist(ctx, func(ctx context.Context) error {
		return s.cluster.core.Get().Resource("namespaces").Name(namespace).Do(ctx).Into(&ns)
	})
	return err == nil && ns.DeletionTimestamp != nil
}

// outlived says whether the agent's token has ended, by its own word: a node whose kubelet was away for long is no mesh that
// is being uninstalled. RFC 7519 §4.1.4
func (c *Cluster) outlived(now time.Time) bool {
	have, err := c.Credentials()
	if err != nil {
		return true
	}
	said, ok := claimed(have.Token)
	return ok && said.Exp > 0 && float64(now.Unix()) >= said.Exp
}

// insist asks three times.
func insist(ctx context.Context, ask func(context.Context) error) error {
	var err error
	for i := range 3 {
		if i > 0 {
			t := time.NewTimer(time.Second)
			select {
			case <-ctx.Done():
				t.Stop()
				return ctx.Err()
			case <-t.C:
			}
		}
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		err = ask(attempt)
		cancel()
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsUnauthorized(err) || apierrors.IsForbidden(err) {
			return err
		}
	}
	return err
}

// places reports whether a DaemonSet's pods want to be on the node, by their selector and required affinity. Taints come and
// go, and do not tell that a node is to be without the mesh for good.
func places(spec *corev1.PodSpec, node *corev1.Node) bool {
	for k, v := range spec.NodeSelector {
		if node.Labels[k] != v {
			return false
		}
	}
	a := spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return true
	}
	return slices.ContainsFunc(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms, func(t corev1.NodeSelectorTerm) bool {
		unmet := func(values map[string]string) func(corev1.NodeSelectorRequirement) bool {
			return func(r corev1.NodeSelectorRequirement) bool { return !meets(r, values) }
		}
		// A term that asks for nothing selects nothing: k8s.io/api core/v1 NodeSelectorTerm.
		return len(t.MatchExpressions)+len(t.MatchFields) > 0 && !slices.ContainsFunc(t.MatchExpressions, unmet(node.Labels)) &&
			!slices.ContainsFunc(t.MatchFields, unmet(map[string]string{"metadata.name": node.Name}))
	})
}

func meets(r corev1.NodeSelectorRequirement, values map[string]string) bool {
	v, ok := values[r.Key]
	switch r.Operator {
	case corev1.NodeSelectorOpIn:
		return ok && slices.Contains(r.Values, v)
	case corev1.NodeSelectorOpNotIn:
		return !ok || !slices.Contains(r.Values, v)
	case corev1.NodeSelectorOpExists:
		return ok
	case corev1.NodeSelectorOpDoesNotExist:
		return !ok
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if !ok || len(r.Values) != 1 {
			return false
		}
		have, err1 := strconv.ParseInt(v, 10, 64)
		limit, err2 := strconv.ParseInt(r.Values[0], 10, 64)
		return err1 == nil && err2 == nil && (have > limit == (r.Operator == corev1.NodeSelectorOpGt)) && have != limit
	}
	return false
}
