package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// A Step is what is applied, and waited for, at once.
type Step struct {
	Component string
	Objects   []Object
}

// An Installer puts a mesh into a namespace, and takes it away again.
type Installer struct {
	Client    *Client
	Namespace string
	// Tell is told what happens, in a line each.
	Tell func(format string, args ...any)
	// Dry asks the server and changes nothing.
	Dry bool
	// Poll is how often is looked while waiting; half a second by default.
	Poll time.Duration

	run string // names this run in the record, once it has written that
}

func (i *Installer) tell(format string, args ...any) {
	if i.Tell != nil {
		i.Tell(format, args...)
	}
}

// ErrRefused is wrapped when a mesh cannot be installed over what is there.
var ErrRefused = errors.New("refused")

// Apply applies the objects of a component. Definitions of kinds come first and are waited for, because others need them.
func (i *Installer) Apply(ctx context.Context, s Step) error {
	if err := i.undisturbed(ctx); err != nil {
		return err
	}
	var definitions []*unstructured.Unstructured
	changed := 0
	for _, o := range s.Objects {
		u := &unstructured.Unstructured{Object: o}
		old, err := i.Client.Fetch(ctx, o)
		if err != nil {
			return err
		}
		// A namespace that was there before is not the mesh's to delete.
		if u.GetKind() != "Namespace" || old == nil || old.GetLabels()[LabelMesh] != "" {
			mark(u, s.Component, i.Namespace)
		}
		keep, err := i.foreign(u, old)
		if err != nil {
			return err
		}
		if keep {
			continue
		}
		keepScale(u, old)
		got, err := i.Client.Put(ctx, o, i.Dry)
		if i.Dry && (apierrors.IsNotFound(err) || isNoMatch(err)) {
			// Into a namespace, or of a kind, that is not there yet because nothing is really done.
			changed++
			continue
		}
		if err != nil {
			return err
		}
		if old == nil || old.GetResourceVersion() != got.GetResourceVersion() || i.Dry && !same(old, got) {
			changed++
		}
		if u.GetKind() == "CustomResourceDefinition" {
			definitions = append(definitions, got)
		}
	}
	verb := "applied"
	if i.Dry {
		verb = "would be applied"
	}
	i.tell("%s: %d objects %s, %d of them changed", s.Component, len(s.Objects), verb, changed)
	if i.Dry || len(definitions) == 0 {
		return nil
	}
	if err := i.established(ctx, definitions); err != nil {
		return err
	}
	i.Client.Mapper.Reset()
	return nil
}

// mark labels an object as part of a component of this mesh.
func mark(u *unstructured.Unstructured, component, mesh string) {
	labels := u.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels = maps.Clone(labels)
	labels[LabelMesh], labels[LabelComponent], labels[labelManagedBy] = mesh, component, Manager
	u.SetLabels(labels)
}

// keepScale leaves the number of a Deployment's pods to an autoscaler that it is given over to. A field that we have applied
// before and leave out now would go back to its default, which is one pod.
func keepScale(u, old *unstructured.Unstructured) {
	if u.GetKind() != "Deployment" || old == nil {
		return
	}
	if _, said, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "replicas"); said {
		return
	}
	now, there, err := unstructured.NestedInt64(old.Object, "spec", "replicas")
	ours := slices.ContainsFunc(old.GetManagedFields(), func(m metav1.ManagedFieldsEntry) bool {
		return m.Manager == Manager && m.FieldsV1 != nil && strings.Contains(string(m.FieldsV1.Raw), `"f:replicas"`)
	})
	if err == nil && there && ours {
		_ = unstructured.SetNestedField(u.Object, now, "spec", "replicas") // it has a spec that is a mapping
	}
}

// foreign decides about an object that is there already. Definitions that somebody else keeps are left to him; anything else
// that Helm keeps is a mistake.
func (i *Installer) foreign(u, old *unstructured.Unstructured) (keep bool, err error) {
	if old == nil {
		return false, nil
	}
	if release := old.GetAnnotations()[annotationRelease]; release != "" && old.GetLabels()[LabelMesh] == "" && old.GetLabels()[labelPartOf] == partOf {
		return false, fmt.Errorf("%w: %s belongs to the Helm release %s: use \"helm upgrade\", or \"helm uninstall %s\" first", ErrRefused, Name(old), release, release)
	}
	if u.GetKind() == "CustomResourceDefinition" && old.GetLabels()[labelPartOf] != partOf {
		i.tell("%s is somebody else's and stays as it is", Name(old))
		return true, nil
	}
	if mesh := old.GetLabels()[LabelMesh]; mesh != "" && mesh != i.Namespace && u.GetKind() != "CustomResourceDefinition" && old.GetNamespace() == "" {
		if old.GetLabels()[LabelComponent] != "base" {
			return false, fmt.Errorf("%w: %s belongs to the mesh in namespace %s: one cluster has one", ErrRefused, Name(old), mesh)
		}
	}
	return false, nil
}

func same(a, b *unstructured.Unstructured) bool {
	strip := func(u *unstructured.Unstructured) string {
		c := u.DeepCopy()
		unstructured.RemoveNestedField(c.Object, "metadata", "managedFields")
		unstructured.RemoveNestedField(c.Object, "metadata", "resourceVersion")
		unstructured.RemoveNestedField(c.Object, "metadata", "generation")
		data, _ := json.Marshal(c.Object) // it came as JSON
		return string(data)
	}
	return strip(a) == strip(b)
}

// established waits until new kinds are served.
func (i *Installer) established(ctx context.Context, list []*unstructured.Unstructured) error {
	gvr := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	for _, u := range list {
		if err := i.until(ctx, func() (string, error) {
			got, err := i.Client.Dynamic.Resource(gvr).Get(ctx, u.GetName(), metav1.GetOptions{})
			if err != nil {
				return err.Error(), nil
			}
			if condition(got, "NamesAccepted") == "False" {
				return "", fmt.Errorf("%s: %s", Name(got), conditionText(got, "NamesAccepted"))
			}
			if condition(got, "Established") == "True" {
				return "", nil
			}
			return Name(got) + " is not established", nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// until asks until there is nothing left to wait for.
func (i *Installer) until(ctx context.Context, ask func() (string, error)) error {
	poll := i.Poll
	if poll <= 0 {
		poll = 500 * time.Millisecond
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		missing, err := ask()
		if err != nil {
			return err
		}
		if missing == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", missing, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// kinds are all resources that a mesh ever had objects of; where objects of an earlier version are looked for. Definitions and
// namespaces are not among them: what is in them is the users'.
func kinds() []schema.GroupVersionResource {
	return []schema.GroupVersionResource{
		{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingadmissionpolicybindings"},
		{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingadmissionpolicies"},
		{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"},
		{Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"},
		{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"},
		{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gateways"},
		{Group: "monitoring.coreos.com", Version: "v1", Resource: "podmonitors"},
		{Group: "apps", Version: "v1", Resource: "deployments"},
		{Group: "apps", Version: "v1", Resource: "daemonsets"},
		{Version: "v1", Resource: "services"},
		{Version: "v1", Resource: "configmaps"},
		{Version: "v1", Resource: "resourcequotas"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"},
		{Version: "v1", Resource: "serviceaccounts"},
	}
}

// Prune deletes what carries this mesh's label and is none of the objects given: left over of an earlier version, or of
// components that were turned off.
func (i *Installer) Prune(ctx context.Context, current []Object) error {
	if err := i.undisturbed(ctx); err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, o := range current {
		keep[key(&unstructured.Unstructured{Object: o})] = true
	}
	for _, gvr := range kinds() {
		list, err := i.Client.List(ctx, gvr, "", LabelMesh+"="+i.Namespace)
		if err != nil {
			return err
		}
		for _, u := range list {
			if keep[key(&u)] || u.GetName() == recordName || i.copied(&u) {
				continue
			}
			i.tell("%s is no longer part of the mesh: deleted", Name(&u))
			if err := i.Client.Remove(ctx, gvr, u.GetNamespace(), u.GetName(), i.Dry); err != nil {
				return err
			}
		}
	}
	return nil
}

// copied says whether an object is what somebody made of one of the mesh's, in a namespace of his and labels and all: what we
// apply there says so. Elsewhere nobody but the mesh's operator writes, who may have had it from a backup.
func (i *Installer) copied(u *unstructured.Unstructured) bool {
	ns := u.GetNamespace()
	return ns != "" && ns != i.Namespace && !ownedBy(u, Manager)
}

func key(u *unstructured.Unstructured) string {
	return u.GroupVersionKind().GroupKind().String() + "/" + u.GetNamespace() + "/" + u.GetName()
}

// condition is the status of a condition, "" if there is none.
func condition(u *unstructured.Unstructured, kind string) string {
	return conditionField(u, kind, "status")
}

func conditionText(u *unstructured.Unstructured, kind string) string {
	return conditionField(u, kind, "message")
}

func conditionField(u *unstructured.Unstructured, kind, field string) string {
	list, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions") // another shape has none
	i := slices.IndexFunc(list, func(e any) bool { m, _ := e.(map[string]any); return m["type"] == kind })
	if i < 0 {
		return ""
	}
	s, _ := list[i].(map[string]any)[field].(string)
	return s
}
