package apply

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Names of what the control plane makes for itself, and of what runs on nodes.
const (
	agentDaemonSet = "ambit-cni-node"
	agentSelector  = "k8s-app=ambit-cni-node"
	control        = "ambitd"
	caSecret       = "istio-ca-secret"
	// managers are the names under which the control plane owns fields.
	managerPrefix = "ambitd"

	annotationRedirection = "ambient.istio.io/redirection"
	labelManaged          = "gateway.istio.io/managed"
)

var (
	resourceDefinitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	resourceClasses     = schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gatewayclasses"}
	resourceConfigMaps  = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	resourceSecrets     = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	resourceLeases      = schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}
	resourceNamespaces  = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
)

// Uninstall takes the mesh away: pods first leave it, while everything that carries their traffic still runs; then goes what
// runs for Gateways, then the mesh's own parts. With purge the definitions of kinds go too, with all objects of them, and the
// authority's key and the namespace.
func (i *Installer) Uninstall(ctx context.Context, purge bool) error {
	record, err := i.Client.Record(ctx, i.Namespace)
	if err != nil {
		return err
	}
	if record != nil {
		// An installation that is under way stops here.
		record.Complete = false
		if err := i.Write(ctx, *record); err != nil {
			return err
		}
	}
	if err := i.unenrol(ctx); err != nil {
		return err
	}
	// Without a control plane nobody makes anew what is deleted next.
	if err := i.stopControl(ctx); err != nil {
		return err
	}
	if err := i.forGateways(ctx); err != nil {
		return err
	}
	if err := i.everything(ctx); err != nil {
		return err
	}
	if err := i.ofControl(ctx, purge); err != nil {
		return err
	}
	if purge {
		if err := i.purge(ctx); err != nil {
			return err
		}
	}
	return i.stays(ctx, purge)
}

// unenrol deletes the agents and waits for them: an agent that has no successor takes the rules out of the pods of its node
// before it ends.
func (i *Installer) unenrol(ctx context.Context) error {
	before, err := i.enrolled(ctx)
	if err != nil {
		return err
	}
	i.tell("%d pods leave the mesh", len(before))
	gvr := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}
	if err := i.Client.Remove(ctx, gvr, i.Namespace, agentDaemonSet, i.Dry); err != nil || i.Dry {
		return err
	}
	if err := i.gone(ctx, agentSelector); err != nil {
		return err
	}
	left, err := i.enrolled(ctx)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		names := left[:min(len(left), 5)]
		i.tell("warning: %d pods still have the mesh's rules (%s …): they reach nobody without a node proxy; restart them, as in \"kubectl -n NAMESPACE rollout restart deployment NAME\"", len(left), strings.Join(names, ", "))
	}
	return nil
}

// enrolled are the running pods that are in the mesh.
func (i *Installer) enrolled(ctx context.Context) ([]string, error) {
	var out []string
	for next := ""; ; {
		list, err := i.Client.Core.CoreV1().Pods(corev1.NamespaceAll).List(ctx, metav1.ListOptions{Limit: 500, Continue: next})
		if err != nil {
			return nil, fmt.Errorf("list pods: %w", explain(err))
		}
		for _, p := range list.Items {
			if p.Annotations[annotationRedirection] != "" && p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil {
				out = append(out, p.Namespace+"/"+p.Name)
			}
		}
		if next = list.Continue; next == "" {
			return out, nil
		}
	}
}

// gone waits until no pod of the mesh's namespace matches.
func (i *Installer) gone(ctx context.Context, selector string) error {
	return i.until(ctx, func() (string, error) {
		list, err := i.Client.Core.CoreV1().Pods(i.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			if errors.Is(explain(err), ErrForbidden) {
				return "", explain(err)
			}
			return err.Error(), nil
		}
		if len(list.Items) == 0 {
			return "", nil
		}
		return fmt.Sprintf("%d pods (%s) are still ending", len(list.Items), selector), nil
	})
}

func (i *Installer) stopControl(ctx context.Context) error {
	gvr := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	if err := i.Client.Remove(ctx, gvr, i.Namespace, control, i.Dry); err != nil || i.Dry {
		return err
	}
	return i.gone(ctx, "app="+control)
}

// forGateways deletes what the control plane made for Gateways. The Gateways are the users' and stay.
func (i *Installer) forGateways(ctx context.Context) error {
	count := 0
	for _, gvr := range kinds() {
		switch gvr.Resource {
		case "deployments", "services", "serviceaccounts", "horizontalpodautoscalers", "poddisruptionbudgets":
		default:
			continue
		}
		list, err := i.Client.List(ctx, gvr, "", labelManaged)
		if err != nil {
			return err
		}
		for _, u := range list {
			if !ownedBy(&u, managerPrefix) {
				continue
			}
			if gvr.Resource == "deployments" {
				count++
			}
			if err := i.Client.Remove(ctx, gvr, u.GetNamespace(), u.GetName(), i.Dry); err != nil {
				return err
			}
		}
	}
	if count > 0 {
		i.tell("%d waypoints and gateways: what runs for them is deleted", count)
	}
	return nil
}

// ownedBy reports whether a part of an object was written under a name that starts so.
func ownedBy(u *unstructured.Unstructured, manager string) bool {
	return slices.ContainsFunc(u.GetManagedFields(), func(m metav1.ManagedFieldsEntry) bool {
		return m.Manager == manager || strings.HasPrefix(m.Manager, manager+"-")
	})
}

// everything deletes what carries the mesh's label, beside definitions and the namespace.
func (i *Installer) everything(ctx context.Context) error {
	count := 0
	for _, gvr := range kinds() {
		list, err := i.Client.List(ctx, gvr, "", LabelMesh+"="+i.Namespace)
		if err != nil {
			return err
		}
		for _, u := range list {
			if !ownedBy(&u, Manager) {
				continue // a copy that somebody made, labels and all
			}
			if err := i.Client.Remove(ctx, gvr, u.GetNamespace(), u.GetName(), i.Dry); err != nil {
				return err
			}
			count++
		}
	}
	i.tell("%d objects of the mesh deleted", count)
	if i.Dry {
		return nil
	}
	return i.gone(ctx, "app=ztunnel")
}

// ofControl deletes what the control plane keeps for itself, and what it put into other namespaces.
func (i *Installer) ofControl(ctx context.Context, purge bool) error {
	roots, err := i.Client.List(ctx, resourceConfigMaps, "", "istio.io/config=true")
	if err != nil {
		return err
	}
	for _, u := range roots {
		if ownedBy(&u, managerPrefix) {
			if err := i.Client.Remove(ctx, resourceConfigMaps, u.GetNamespace(), u.GetName(), i.Dry); err != nil {
				return err
			}
		}
	}
	classes, err := i.Client.List(ctx, resourceClasses, "", "")
	if err != nil {
		return err
	}
	for _, u := range classes {
		if ownedBy(&u, managerPrefix) {
			if err := i.Client.Remove(ctx, resourceClasses, "", u.GetName(), i.Dry); err != nil {
				return err
			}
		}
	}
	if err := i.Client.Remove(ctx, resourceLeases, i.Namespace, control, i.Dry); err != nil {
		return err
	}
	if err := i.Client.Remove(ctx, resourceSecrets, i.Namespace, "ambitd-last-good", i.Dry); err != nil {
		return err
	}
	if !purge {
		return nil
	}
	return i.Client.Remove(ctx, resourceSecrets, i.Namespace, caSecret, i.Dry)
}

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

// stays tells what is left, and how to get rid of it.
func (i *Installer) stays(ctx context.Context, purge bool) error {
	if !purge {
		definitions, err := i.definitions(ctx)
		if err != nil {
			return err
		}
		i.tell("what stays: %d definitions of kinds with their objects, the authority's key (secret %s/%s), and namespace %s; \"ambitctl uninstall --purge\" deletes them", len(definitions), i.Namespace, caSecret, i.Namespace)
	}
	list, err := i.Client.Core.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: "istio.io/dataplane-mode"})
	if err != nil {
		return explain(err)
	}
	var labelled []string
	for _, ns := range list.Items {
		labelled = append(labelled, ns.Name)
	}
	if len(labelled) > 0 {
		i.tell("what stays: label istio.io/dataplane-mode on namespaces %s, which means nothing now; \"kubectl label namespace %s istio.io/dataplane-mode-\"", strings.Join(labelled, ", "), strings.Join(labelled, " "))
	}
	return nil
}

// Patience is how long an uninstall may take.
const Patience = 3 * time.Minute
