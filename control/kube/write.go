package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/control/conditions"
	"github.com/ambit-mesh/ambit/control/gateways"
	"github.com/ambit-mesh/ambit/control/object"
)

// Writer applies objects and their status, on the server's side: fields of others stay theirs. It implements
// gateways.Applier and conditions.Store.
type Writer struct {
	source *Source
}

// NewWriter writes to the cluster a source reads.
func NewWriter(s *Source) *Writer { return &Writer{source: s} }

// Names of the control plane as a writer of fields, one for each thing that is written.
const (
	managerGateways   = "ambitd-gateways"
	managerScale      = "ambitd-gateways-scale" // of numbers of pods that are others' to change
	managerConditions = "ambitd-conditions"
	managerRoots      = "ambitd-roots"
)

// made are the kinds that are applied for Gateways, beside those that are read.
func made() map[string]schema.GroupVersionResource {
	return map[string]schema.GroupVersionResource{
		"ServiceAccount":          {Version: "v1", Resource: "serviceaccounts"},
		"Service":                 {Version: "v1", Resource: "services"},
		"ConfigMap":               {Version: "v1", Resource: "configmaps"},
		"Namespace":               {Version: "v1", Resource: "namespaces"},
		"Pod":                     {Version: "v1", Resource: "pods"},
		"Deployment":              {Group: "apps", Version: "v1", Resource: "deployments"},
		"HorizontalPodAutoscaler": {Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"},
		"PodDisruptionBudget":     {Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"},
	}
}

// Resource is where objects of a kind are, if the API server serves it.
func (s *Source) Resource(kind string) (schema.GroupVersionResource, bool) {
	if r, ok := made()[kind]; ok {
		return r, true
	}
	k, ok := object.ParseKind(kind)
	if !ok {
		return schema.GroupVersionResource{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.resources[k]
	return r, ok
}

// client is where an object of a kind is.
func (w *Writer) client(kind, namespace string) (dynamic.ResourceInterface, schema.GroupVersionResource, error) {
	r, ok := w.source.Resource(kind)
	if !ok {
		return nil, r, fmt.Errorf("%s: %w: the API server does not serve the kind", kind, fs.ErrNotExist)
	}
	c := w.source.cfg.Cluster.dynamic.Resource(r)
	if namespace == "" {
		return c, r, nil
	}
	return c.Namespace(namespace), r, nil
}

// plain makes of a document what client-go takes: numbers of JSON's kinds, and no values shared with the caller.
func plain(doc map[string]any) (*unstructured.Unstructured, error) {
	data, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(data); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return u, nil
}

// Apply implements gateways.Applier. What was not made for a Gateway is not overwritten.
func (w *Writer) Apply(ctx context.Context, o gateways.Object) error {
	u, err := plain(o)
	if err != nil {
		return err
	}
	c, _, err := w.client(u.GetKind(), u.GetNamespace())
	if err != nil {
		return err
	}
	if marked := u.GetLabels()[mesh.LabelGatewayManaged]; marked != "" {
		there, err := c.Get(ctx, u.GetName(), metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		if err == nil && (there.GetLabels()[mesh.LabelGatewayManaged] == "" || there.GetLabels()[mesh.LabelGatewayName] != u.GetLabels()[mesh.LabelGatewayName]) {
			return fmt.Errorf("it is already there and was not made for this Gateway: rename one of the two, or see annotation %s", mesh.AnnotationNameOverride)
		}
		if err == nil && scaled(u, there) {
			if err := handOver(ctx, c, there); err != nil {
				return err
			}
		}
	}
	_, err = c.Apply(ctx, u.GetName(), u, metav1.ApplyOptions{FieldManager: managerGateways, Force: true})
	return err
}

// scaled says whether the number of a Deployment's pods was applied here before, and is left out now: it goes to whoever
// scales it from now on.
func scaled(u, there *unstructured.Unstructured) bool {
	if _, said, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "replicas"); said || u.GetKind() != "Deployment" {
		return false
	}
	return slices.ContainsFunc(there.GetManagedFields(), func(m metav1.ManagedFieldsEntry) bool {
		return m.Manager == managerGateways && m.FieldsV1 != nil && strings.Contains(string(m.FieldsV1.Raw), `"f:replicas"`)
	})
}

// handOver has the number of a Deployment's pods stay when it is left out: a field that its only owner leaves out goes back
// to its default, which is one pod. It gets a second owner, who never speaks of it again, so that this is done once. An
// autoscaler that was quicker has it already, and there is a conflict; so there is when the Deployment is another one by now.
// Kubernetes docs, Server-Side Apply, transferring ownership
func handOver(ctx context.Context, c dynamic.ResourceInterface, there *unstructured.Unstructured) error {
	now, ok, err := unstructured.NestedInt64(there.Object, "spec", "replicas")
	if err != nil || !ok {
		return nil
	}
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": there.GetAPIVersion(), "kind": there.GetKind(),
		"metadata": map[string]any{"name": there.GetName(), "namespace": there.GetNamespace(), "uid": string(there.GetUID())},
		"spec":     map[string]any{"replicas": now},
	}}
	if _, err := c.Apply(ctx, there.GetName(), u, metav1.ApplyOptions{FieldManager: managerScale}); err != nil && !apierrors.IsConflict(err) {
		return fmt.Errorf("leave the number of pods as it is: %w", err)
	}
	return nil
}

// Delete implements gateways.Applier.
func (w *Writer) Delete(ctx context.Context, k gateways.Key) error {
	c, _, err := w.client(k.Kind, k.Namespace)
	if err != nil {
		return err
	}
	there, err := c.Get(ctx, k.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if there.GetLabels()[mesh.LabelGatewayManaged] == "" {
		return nil
	}
	uid := there.GetUID()
	err = c.Delete(ctx, k.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// SetStatus implements gateways.Applier.
func (w *Writer) SetStatus(ctx context.Context, k gateways.Key, uid string, change func(old gateways.Object) gateways.Object) error {
	err := w.update(ctx, k.Kind, k.Namespace, k.Name, managerGateways, func(o map[string]any) map[string]any {
		if got, _, _ := unstructured.NestedString(o, "metadata", "uid"); got != uid {
			return nil
		}
		old, _ := o["status"].(map[string]any)
		return change(old)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Update implements conditions.Store. Only the status is written. It waits for an API server that is away.
func (w *Writer) Update(ctx context.Context, k conditions.Key, change func(conditions.Object) conditions.Object) error {
	pause := 100 * time.Millisecond
	for {
		err := w.update(ctx, k.Kind, k.Namespace, k.Name, managerConditions, func(o map[string]any) map[string]any {
			status, _ := change(o)["status"].(map[string]any)
			if status == nil {
				status = map[string]any{}
			}
			return status
		})
		if err == nil || ctx.Err() != nil || errors.Is(err, fs.ErrNotExist) || final(err) {
			return err
		}
		sleep(ctx, pause)
		pause = min(2*pause, 5*time.Second)
	}
}

// final says whether it is of no use to ask again.
func final(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsForbidden(err) || apierrors.IsMethodNotSupported(err) || apierrors.IsNotFound(err)
}

// update applies the status that change makes of an object; nil leaves it as it is. The version that was read goes along:
// lists in a status are mostly one field, and what another writer has put into it in between must not be lost.
func (w *Writer) update(ctx context.Context, kind, namespace, name, manager string, change func(map[string]any) map[string]any) error {
	c, r, err := w.client(kind, namespace)
	if err != nil {
		return err
	}
	const tries = 4
	for try := 1; ; try++ {
		there, err := c.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("%s %s/%s: %w", kind, namespace, name, fs.ErrNotExist)
		}
		if err != nil {
			return err
		}
		status := change(there.DeepCopy().Object)
		if status == nil {
			return nil
		}
		old, _ := there.Object["status"].(map[string]any)
		now, err := plain(map[string]any{"apiVersion": r.GroupVersion().String(), "kind": kind, "status": status})
		if err != nil {
			return err
		}
		if said, _ := now.Object["status"].(map[string]any); same(said, old) {
			return nil
		}
		if kind == "Service" || kind == "Gateway" || kind == "GatewayClass" {
			now.Object["status"] = mine(now.Object["status"], old, kind)
		}
		now.SetName(name)
		now.SetNamespace(namespace)
		now.SetResourceVersion(there.GetResourceVersion())
		_, err = c.ApplyStatus(ctx, name, now, metav1.ApplyOptions{FieldManager: manager, Force: true})
		if apierrors.IsConflict(err) && try < tries {
			continue
		}
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("%s %s/%s: %w", kind, namespace, name, fs.ErrNotExist)
		}
		return err
	}
}

func same(a, b map[string]any) bool { return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b) }

// mine leaves of a status only what is written here, for kinds whose conditions each have an owner of their own: what
// stands in both as it was is somebody else's, unless it is of a type of ours.
func mine(now any, old map[string]any, kind string) map[string]any {
	status, _ := now.(map[string]any)
	out := maps.Clone(status)
	if kind == "Service" {
		out = map[string]any{} // its load balancer belongs to others
	}
	list, _ := status["conditions"].([]any)
	before, _ := old["conditions"].([]any)
	var kept []any
	for _, v := range list {
		c, _ := v.(map[string]any)
		typ, _ := c["type"].(string)
		theirs := !strings.HasPrefix(typ, "istio.io/") && !strings.HasPrefix(typ, "ambit.io/") && typ != "Accepted" && typ != "Programmed"
		if theirs && contains(before, v) {
			continue
		}
		kept = append(kept, v)
	}
	delete(out, "conditions")
	if len(kept) > 0 {
		out["conditions"] = kept
	}
	return out
}

func contains(list []any, v any) bool {
	for _, w := range list {
		if reflect.DeepEqual(v, w) {
			return true
		}
	}
	return false
}
