package kube

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ambit-mesh/ambit/control/object"
)

// taint keeps pods off nodes that cannot yet put them into the mesh. Whoever makes nodes sets it. Istio
// pilot/pkg/controllers/untaint
const taint = "cni.istio.io/not-ready"

// Untaint takes the taint cni.istio.io/not-ready from nodes on which the CNI agent is ready. It is the leader's to do.
type Untaint struct {
	Cluster *Cluster
	// Namespace and Selector are the agents' pods.
	Namespace, Selector string
	Logger              *slog.Logger
}

// Run untaints until ctx ends.
func (u *Untaint) Run(ctx context.Context) {
	pods := u.Cluster.dynamic.Resource(made()["Pod"]).Namespace(u.Namespace)
	store := &names{have: make(map[object.Key]bool), listed: make(chan struct{}, 1), changed: func(_ object.Key, pod *unstructured.Unstructured) {
		node, _, _ := unstructured.NestedString(asObject(pod), "spec", "nodeName")
		if node == "" || !ready(pod) || pod.GetDeletionTimestamp() != nil {
			return
		}
		for pause := 100 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 5*time.Second) {
			err := u.node(ctx, node)
			if err == nil || final(err) {
				if err != nil {
					u.Logger.Error("the taint "+taint+" stays on a node whose CNI agent is ready: give the control plane's service account the verbs get and patch for nodes", "node", node, "err", err)
				}
				return
			}
			sleep(ctx, pause)
		}
	}}
	follow(ctx, u.Cluster, "untaint", selected(pods, u.Selector, ""), store)
}

func asObject(u *unstructured.Unstructured) map[string]any {
	if u == nil {
		return nil
	}
	return u.Object
}

func ready(pod *unstructured.Unstructured) bool {
	list, _, _ := unstructured.NestedSlice(pod.Object, "status", "conditions")
	for _, v := range list {
		if c, _ := v.(map[string]any); c["type"] == "Ready" {
			return c["status"] == "True"
		}
	}
	return false
}

// node removes the taint. The version that was read goes along, so that a taint set in between is not lost.
func (u *Untaint) node(ctx context.Context, name string) error {
	nodes := u.Cluster.dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "nodes"})
	const tries = 5
	for try := 1; ; try++ {
		n, err := nodes.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		taints, _, _ := unstructured.NestedSlice(n.Object, "spec", "taints")
		kept := []any{}
		for _, v := range taints {
			if t, _ := v.(map[string]any); t["key"] != taint {
				kept = append(kept, v)
			}
		}
		if len(kept) == len(taints) {
			return nil
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": n.GetResourceVersion()}, "spec": map[string]any{"taints": kept}})
		if err != nil {
			return err
		}
		_, err = nodes.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: manager})
		if apierrors.IsConflict(err) && try < tries {
			continue
		}
		if err == nil {
			u.Logger.Info("the node's CNI agent is ready: pods may come", "node", name, "taint", taint)
		}
		return err
	}
}
