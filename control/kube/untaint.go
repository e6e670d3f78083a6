package kube

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"sync"
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

// untaintTry bounds one try: the other nodes wait for it.
const untaintTry = 5 * time.Second

// Untaint takes the taint cni.istio.io/not-ready from nodes on which the CNI agent is ready. It is the leader's to do.
type Untaint struct {
	Cluster *Cluster
	// Namespace and Selector are the agents' pods.
	Namespace, Selector string
	Logger              *slog.Logger
}

// untaintPause and untaintMost are how long a node that could not be untainted waits for the next try, at first and at the most:
// rights come back, too.
const (
	untaintPause = 100 * time.Millisecond
	untaintMost  = 30 * time.Second
)

// Run untaints until ctx ends.
func (u *Untaint) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	todo := &nodes{due: make(map[string]attempt), wake: make(chan struct{}, 1)}
	pods := u.Cluster.dynamic.Resource(made()["Pod"]).Namespace(u.Namespace)
	store := &names{have: make(map[object.Key]bool), listed: make(chan struct{}, 1), changed: func(k object.Key, pod *unstructured.Unstructured) {
		node, _, _ := unstructured.NestedString(asObject(pod), "spec", "nodeName")
		if node == "" || !ready(pod) || pod.GetDeletionTimestamp() != nil {
			todo.drop(k)
			return
		}
		todo.add(node, k)
	}}
	wg.Go(func() { follow(ctx, u.Cluster, "untaint", selected(pods, u.Selector, ""), store) })
	for {
		wait := u.round(ctx, todo)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-todo.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// nodes are those whose agent is ready and which may have the taint.
type nodes struct {
	wake chan struct{}

	mu   sync.Mutex
	due  map[string]attempt
	news uint64 // how many there were
}

// attempt is for which news a node is tried, and when, after it failed.
type attempt struct {
	agent object.Key
	news  uint64 // which news of the node it is for
	failure
}

func (n *nodes) add(node string, agent object.Key) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.news++
	n.due[node] = attempt{agent: agent, news: n.news}
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// drop forgets the node of an agent that is not ready any more.
func (n *nodes) drop(agent object.Key) {
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.DeleteFunc(n.due, func(_ string, a attempt) bool { return a.agent == agent })
}

// now are the nodes whose time has come, and how long it is until that of the next.
func (n *nodes) now() (list []string, wait time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	wait = untaintMost
	for node, a := range n.due {
		d := max(time.Until(a.at), 0)
		if wait = min(wait, d); d == 0 {
			list = append(list, node)
		}
	}
	slices.Sort(list)
	return list, wait
}

// tried notes how it went, unless there is newer news of the node; it reports whether it is the first time that it failed.
func (n *nodes) tried(node string, was attempt, err error) (first bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.due[node] != was {
		return false
	}
	if err == nil {
		delete(n.due, node)
		return false
	}
	next := was
	next.failure = was.again(untaintPause, untaintMost)
	n.due[node] = next
	return was.at.IsZero()
}

// round tries each node that is due once, and returns how long it is until the next is.
func (u *Untaint) round(ctx context.Context, todo *nodes) time.Duration {
	list, _ := todo.now()
	for _, node := range list {
		todo.mu.Lock()
		was, ok := todo.due[node]
		todo.mu.Unlock()
		if !ok {
			continue
		}
		try, cancel := context.WithTimeout(ctx, untaintTry)
		err := u.node(try, node)
		cancel()
		if ctx.Err() != nil {
			return 0
		}
		if todo.tried(node, was, err) {
			fix := "it is tried again"
			if denied(err) {
				fix = "give the control plane's service account the verbs get and patch for nodes; " + fix
			}
			u.Logger.Error("the taint "+taint+" stays on a node whose CNI agent is ready: "+fix, "node", node, "err", err)
		}
	}
	_, wait := todo.now()
	return wait
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
	client := u.Cluster.dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "nodes"})
	const tries = 5
	for try := 1; ; try++ {
		n, err := client.Get(ctx, name, metav1.GetOptions{})
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
		_, err = client.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: manager})
		if apierrors.IsConflict(err) && try < tries {
			continue
		}
		if err == nil {
			u.Logger.Info("the node's CNI agent is ready: pods may come", "node", name, "taint", taint)
		}
		return err
	}
}
