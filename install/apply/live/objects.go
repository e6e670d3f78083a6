package live

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/ambit-mesh/ambit/install/cluster"
)

// manager is who owns the fields that ambitctl applies.
const manager = "ambitctl"

// page is how many objects are listed at once.
const page = 500

// resource is where objects of a kind are.
type resource struct {
	schema.GroupVersionResource
	namespaced bool
}

// known are the kinds that are asked for all the time: no discovery is needed for them.
var known = map[string]resource{
	"Pod":            {corev1.SchemeGroupVersion.WithResource("pods"), true},
	"Namespace":      {corev1.SchemeGroupVersion.WithResource("namespaces"), false},
	"Node":           {corev1.SchemeGroupVersion.WithResource("nodes"), false},
	"Service":        {corev1.SchemeGroupVersion.WithResource("services"), true},
	"ServiceAccount": {corev1.SchemeGroupVersion.WithResource("serviceaccounts"), true},
	"ConfigMap":      {corev1.SchemeGroupVersion.WithResource("configmaps"), true},
	"Secret":         {corev1.SchemeGroupVersion.WithResource("secrets"), true},
	"Event":          {corev1.SchemeGroupVersion.WithResource("events"), true},
	"Deployment":     {schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, true},
	"DaemonSet":      {schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}, true},
	"ReplicaSet":     {schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}, true},
	"EndpointSlice":  {schema.GroupVersionResource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}, true},
	"Gateway":        {schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gateways"}, true},
}

// groups are where other kinds are looked for, in this order.
var groups = []string{
	"", "apps", "discovery.k8s.io", "networking.k8s.io", "policy", "gateway.networking.k8s.io", "networking.istio.io", "security.istio.io",
	"telemetry.istio.io", "extensions.istio.io", "policy.ambit.io", "apiextensions.k8s.io", "admissionregistration.k8s.io", "coordination.k8s.io",
	"rbac.authorization.k8s.io", "autoscaling",
}

// resource finds a kind; one that several groups have can be written Kind.group.
func (m *Mesh) resource(kind string) (resource, error) {
	if r, ok := known[kind]; ok {
		return r, nil
	}
	among := groups
	if name, group, ok := strings.Cut(kind, "."); ok {
		kind, among = name, []string{group}
	}
	for _, g := range among {
		mapping, err := m.client.Mapper.RESTMapping(schema.GroupKind{Group: g, Kind: kind})
		if err == nil {
			return resource{mapping.Resource, mapping.Scope.Name() == meta.RESTScopeNameNamespace}, nil
		}
		if !meta.IsNoMatchError(err) {
			return resource{}, m.explain(err, "which kinds the API server has")
		}
	}
	return resource{}, fmt.Errorf("kind %s: the API server has none of it: %w", kind, cluster.ErrNotFound)
}

func (m *Mesh) in(r resource, namespace string) dynamic.ResourceInterface {
	if r.namespaced && namespace != "" {
		return m.client.Dynamic.Resource(r.GroupVersionResource).Namespace(namespace)
	}
	return m.client.Dynamic.Resource(r.GroupVersionResource)
}

// explain names the usual reasons why the API server does not do what it is asked.
func (m *Mesh) explain(err error, what string) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s: %w", what, cluster.ErrNotFound)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s: the API server of %s does not know you: %w; see \"kubectl auth whoami\"", what, m, err)
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsConflict(err):
		return fmt.Errorf("%s: %w", what, err)
	case apierrors.ReasonForError(err) == metav1.StatusReasonUnknown && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: the API server of %s does not answer: %w; see \"kubectl cluster-info\"", what, m, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

func called(kind, namespace, name string) string {
	if namespace != "" {
		name = namespace + "/" + name
	}
	return strings.ToLower(kind) + " " + name
}

// Get implements cluster.Cluster.
func (m *Mesh) Get(ctx context.Context, kind, namespace, name string) (cluster.Object, error) {
	r, err := m.resource(kind)
	if err != nil {
		return nil, err
	}
	u, err := m.in(r, namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, m.explain(err, called(kind, namespace, name))
	}
	return object(*u), nil
}

// List implements cluster.Cluster.
func (m *Mesh) List(ctx context.Context, kind, namespace string) ([]cluster.Object, error) {
	return m.list(ctx, kind, namespace, metav1.ListOptions{})
}

// Labelled lists objects that have a label, whatever its value: the server picks them.
func (m *Mesh) Labelled(ctx context.Context, kind, namespace, label string) ([]cluster.Object, error) {
	return m.list(ctx, kind, namespace, metav1.ListOptions{LabelSelector: label})
}

func (m *Mesh) list(ctx context.Context, kind, namespace string, opts metav1.ListOptions) ([]cluster.Object, error) {
	out, _, err := m.listAt(ctx, kind, namespace, opts)
	return out, err
}

// listAt also tells the version of the list, for a watch that goes on from there.
func (m *Mesh) listAt(ctx context.Context, kind, namespace string, opts metav1.ListOptions) ([]cluster.Object, string, error) {
	r, err := m.resource(kind)
	if err != nil {
		return nil, "", err
	}
	var out []cluster.Object
	version := ""
	opts.Limit = page
	for {
		l, err := m.in(r, namespace).List(ctx, opts)
		if err != nil {
			return nil, "", m.explain(err, "list "+r.Resource)
		}
		version = cmp.Or(version, l.GetResourceVersion())
		for _, u := range l.Items {
			if u.GetKind() == "" { // lists of built-in kinds leave it out
				u.SetKind(kind)
			}
			out = append(out, object(u))
		}
		if opts.Continue = l.GetContinue(); opts.Continue == "" {
			break
		}
	}
	slices.SortStableFunc(out, func(a, b cluster.Object) int {
		return cmp.Or(cmp.Compare(a.Namespace(), b.Namespace()), cmp.Compare(a.Name(), b.Name()))
	})
	return out, version, nil
}

// Apply implements cluster.Cluster by server-side apply.
func (m *Mesh) Apply(ctx context.Context, o cluster.Object) error {
	r, err := m.resource(o.Text("kind"))
	if err != nil {
		return err
	}
	// It must be JSON as the decoder makes it: numbers of one type.
	text, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode %s: %w", o, err)
	}
	var u unstructured.Unstructured
	if err := u.UnmarshalJSON(text); err != nil {
		return fmt.Errorf("encode %s: %w", o, err)
	}
	_, err = m.in(r, o.Namespace()).Apply(ctx, o.Name(), &u, metav1.ApplyOptions{FieldManager: manager, Force: true})
	return m.explain(err, "apply "+o.String())
}

// Label implements cluster.Cluster.
func (m *Mesh) Label(ctx context.Context, kind, namespace, name string, set map[string]string, remove ...string) error {
	r, err := m.resource(kind)
	if err != nil {
		return err
	}
	labels := map[string]any{}
	for _, k := range remove {
		labels[k] = nil
	}
	for k, v := range set {
		labels[k] = v
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
	if err != nil {
		return fmt.Errorf("label %s: %w", called(kind, namespace, name), err)
	}
	_, err = m.in(r, namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: manager})
	return m.explain(err, called(kind, namespace, name))
}

// Delete implements cluster.Cluster.
func (m *Mesh) Delete(ctx context.Context, kind, namespace, name string) error {
	r, err := m.resource(kind)
	if err != nil {
		return err
	}
	// What runs for the object goes with it.
	policy := metav1.DeletePropagationBackground
	return m.explain(m.in(r, namespace).Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &policy}), called(kind, namespace, name))
}

// Watch implements cluster.Cluster. News only says that it is time to list again: the lists are short.
func (m *Mesh) Watch(ctx context.Context, kind, namespace string, seen func([]cluster.Object) bool) error {
	r, err := m.resource(kind)
	if err != nil {
		return err
	}
	for {
		list, version, err := m.listAt(ctx, kind, namespace, metav1.ListOptions{})
		if err != nil {
			return cmp.Or(ctx.Err(), err)
		}
		if seen(list) {
			return nil
		}
		// A watch that ends, for whatever reason, is only begun again.
		if w, err := m.in(r, namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: version}); err == nil {
			select {
			case <-w.ResultChan():
			case <-ctx.Done():
			}
			w.Stop()
		} else if apierrors.IsForbidden(err) {
			return m.explain(err, "watch "+r.Resource)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(breath):
		}
	}
}

// breath is how long changes that come together are waited for.
const breath = 50 * time.Millisecond

// Logs implements cluster.Mesh.
func (m *Mesh) Logs(ctx context.Context, of cluster.Part, want cluster.LogRange) (io.ReadCloser, error) {
	opts := &corev1.PodLogOptions{Container: of.Container, Previous: want.Previous, Timestamps: true}
	if want.Tail > 0 {
		opts.TailLines = &want.Tail
	}
	if want.Bytes > 0 {
		opts.LimitBytes = &want.Bytes
	}
	if seconds := int64(want.Since.Seconds()); seconds > 0 {
		opts.SinceSeconds = &seconds
	}
	in, err := m.client.Core.CoreV1().Pods(of.Namespace).GetLogs(of.Pod, opts).Stream(ctx)
	if err != nil {
		return nil, m.explain(err, fmt.Sprintf("logs of pod %s/%s", of.Namespace, of.Pod))
	}
	return in, nil
}
