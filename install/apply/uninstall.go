package apply

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
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
	over, err := i.stopControl(ctx)
	if err != nil {
		return err
	}
	if err := i.forGateways(ctx); err != nil {
		return err
	}
	if err := i.everything(ctx); err != nil {
		return err
	}
	if over > 0 {
		// One that was passed over may have led on until its rights went with everything.
		if err := i.forGateways(ctx); err != nil {
			return err
		}
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
	if _, err := i.gone(ctx, agentSelector); err != nil {
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

// stopControl deletes the control plane and waits for it, but for so many pods on nodes that are down.
func (i *Installer) stopControl(ctx context.Context) (over int, err error) {
	gvr := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	if err := i.Client.Remove(ctx, gvr, i.Namespace, control, i.Dry); err != nil || i.Dry {
		return 0, err
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
			if i.copied(&u) {
				continue
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
	_, err := i.gone(ctx, "app=ztunnel")
	return err
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

// stays tells what is left, and how to get rid of it.
func (i *Installer) stays(ctx context.Context, purge bool) error {
	if !purge {
		definitions, err := i.definitions(ctx)
		if err != nil {
			return err
		}
		i.tell("what stays: %d definitions of kinds with their objects, the authority's key (secret %s/%s), and namespace %s; \"ambitctl uninstall --purge\" deletes them", len(definitions), i.Namespace, caSecret, i.Namespace)
	}
	i.tell("what stays: the program ambit-cni in the nodes' folders of network plugins (/opt/cni/bin on most), which some runtimes call when pods end that were started with it; once those have ended it may be deleted")
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
