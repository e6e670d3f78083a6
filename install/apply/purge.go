package apply

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// purge deletes the definitions that were installed, with all objects of theirs, and the namespace.
func (i *Installer) purge(ctx context.Context) error {
	definitions, err := i.definitions(ctx)
	if err != nil {
		return err
	}
	for _, u := range definitions {
		if n := i.count(ctx, &u); n > 0 {
			i.tell("%s: deleted with %d objects", Name(&u), n)
		}
		if err := i.Client.Remove(ctx, resourceDefinitions, "", u.GetName(), i.Dry); err != nil {
			return err
		}
	}
	if err := i.definitionsGone(ctx); err != nil {
		return err
	}
	i.tell("%d definitions of kinds deleted", len(definitions))
	ns, err := i.Client.Dynamic.Resource(resourceNamespaces).Get(ctx, i.Namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return explain(err)
	}
	if ns.GetLabels()[LabelMesh] != i.Namespace {
		i.tell("namespace %s was not made by ambitctl and stays", i.Namespace)
		return nil
	}
	if others, err := i.strangers(ctx); err != nil {
		return err
	} else if len(others) > 0 {
		i.tell("namespace %s stays: it has things that are not the mesh's (%s)", i.Namespace, strings.Join(others, ", "))
		return nil
	}
	if err := i.Client.Remove(ctx, resourceNamespaces, "", i.Namespace, i.Dry); err != nil || i.Dry {
		return err
	}
	return i.until(ctx, func() (string, error) {
		ns, err := i.Client.Dynamic.Resource(resourceNamespaces).Get(ctx, i.Namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "", nil
		}
		if err != nil {
			return err.Error(), nil
		}
		text := fmt.Sprintf("namespace %s is being deleted", i.Namespace)
		for _, c := range []string{"NamespaceContentRemaining", "NamespaceFinalizersRemaining", "NamespaceDeletionDiscoveryFailure"} {
			if condition(ns, c) == "True" {
				text += ": " + conditionText(ns, c)
			}
		}
		return text, nil
	})
}

// definitions are those that this mesh brought. Those of others are not touched.
func (i *Installer) definitions(ctx context.Context) ([]unstructured.Unstructured, error) {
	return i.Client.List(ctx, resourceDefinitions, "", LabelMesh+"="+i.Namespace)
}

// definitionsGone waits for the end of definitions, which is that of all their objects: one with a finalizer of a controller
// that does not run any more holds up both, and says so nowhere.
func (i *Installer) definitionsGone(ctx context.Context) error {
	if i.Dry {
		return nil
	}
	return i.until(ctx, func() (string, error) {
		left, err := i.definitions(ctx)
		if err != nil {
			if errors.Is(err, ErrForbidden) {
				return "", err
			}
			return err.Error(), nil
		}
		if len(left) == 0 {
			return "", nil
		}
		text := fmt.Sprintf("%s is still being deleted", Name(&left[0]))
		if len(left) > 1 {
			text = fmt.Sprintf("%s and %d more definitions are still being deleted", Name(&left[0]), len(left)-1)
		}
		for _, u := range left {
			for _, o := range i.objects(ctx, &u) {
				if f := o.GetFinalizers(); len(f) > 0 {
					return fmt.Sprintf("%s: %s waits for its finalizer %s; if nobody runs any more who removes that: \"kubectl -n %s patch %s %s --type=merge -p '{\"metadata\":{\"finalizers\":null}}'\"",
						text, Name(&o), strings.Join(f, ", "), cmp.Or(o.GetNamespace(), "default"), u.GetName(), o.GetName()), nil
				}
			}
		}
		return text, nil
	})
}

// count is how many objects there are of a definition, as far as that can be said.
func (i *Installer) count(ctx context.Context, definition *unstructured.Unstructured) int {
	return len(i.objects(ctx, definition))
}

// objects are those of a definition, as far as they can be had.
func (i *Installer) objects(ctx context.Context, definition *unstructured.Unstructured) []unstructured.Unstructured {
	group, _, _ := unstructured.NestedString(definition.Object, "spec", "group")
	plural, _, _ := unstructured.NestedString(definition.Object, "spec", "names", "plural")
	versions, _, _ := unstructured.NestedSlice(definition.Object, "spec", "versions")
	for _, v := range versions {
		m, _ := v.(map[string]any)
		if served, _ := m["served"].(bool); !served {
			continue
		}
		name, _ := m["name"].(string)
		list, err := i.Client.List(ctx, schema.GroupVersionResource{Group: group, Version: name, Resource: plural}, "", "")
		if err != nil {
			return nil
		}
		return list
	}
	return nil
}

// strangers are pods, Secrets and ConfigMaps of the mesh's namespace that others put there.
func (i *Installer) strangers(ctx context.Context) ([]string, error) {
	var out []string
	for _, gvr := range []schema.GroupVersionResource{{Version: "v1", Resource: "pods"}, resourceSecrets, resourceConfigMaps} {
		list, err := i.Client.List(ctx, gvr, i.Namespace, "")
		if err != nil {
			return nil, err
		}
		for _, u := range list {
			labels := u.GetLabels()
			switch {
			case u.GetDeletionTimestamp() != nil, labels[labelPartOf] == partOf, labels[labelManaged] != "", labels[LabelMesh] != "":
			case ownedBy(&u, managerPrefix), ownedBy(&u, Manager), u.GetName() == "kube-root-ca.crt":
			default:
				out = append(out, Name(&u))
			}
		}
	}
	return out, nil
}
