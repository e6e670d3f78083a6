// Package placement knows which service accounts have pods on which node, from what the control plane tells every proxy.
// A stand-alone authority checks impersonation against it.
//
// It knows workloads and nothing of certificates or credentials. Table is a xds.Handler fed by the client's goroutine and
// read by any; it starts none itself. Start reading at Table.Runs.
package placement

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ca/server"
)

// Wait is how long a question about a pod that is not known yet waits for news of it: a proxy may hear of its new pod
// before the control plane does.
const Wait = 2 * time.Second

// place is a service account on a node.
type place struct{ node, namespace, serviceAccount string }

// Table implements xds.Handler and server.Placement.
type Table struct {
	// ControlPlane names the control plane in refusals.
	ControlPlane string

	mu sync.Mutex
	// guarded by mu
	pods    map[string]place  // by workload uid
	names   map[string]string // workload uid by namespace/name
	count   map[place]int
	synced  bool
	changed chan struct{} // closed and replaced when pods change
}

// New is an empty table. Until Synced is called, questions are answered "cannot tell".
func New(controlPlane string) *Table {
	return &Table{ControlPlane: controlPlane, pods: map[string]place{}, names: map[string]string{}, count: map[place]int{}, changed: make(chan struct{})}
}

// podUID is the part of a workload uid that tells pods from other workloads: only a pod runs on a node.
const podUID = "//Pod/"

// Apply implements xds.Handler.
func (t *Table) Apply(typeURL string, upserts []xds.Raw, removed []string) (rejected []xds.Rejected) {
	if typeURL != mesh.TypeAddress {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, uid := range removed {
		t.set(uid, place{})
	}
	for _, raw := range upserts {
		if !strings.Contains(raw.Name, podUID) {
			continue
		}
		var a workload.Address
		if err := proto.Unmarshal(raw.Body, &a); err != nil {
			rejected = append(rejected, xds.Rejected{Name: raw.Name, Err: fmt.Errorf("decode address: %w", err)})
			continue
		}
		w := a.GetWorkload()
		if w == nil || !strings.Contains(w.GetUid(), podUID) {
			continue
		}
		p := place{w.GetNode(), w.GetNamespace(), w.GetServiceAccount()}
		if p.serviceAccount == "" {
			p.serviceAccount = mesh.DefaultServiceAccount // the wire's way to save bytes
		}
		t.set(w.GetUid(), p)
	}
	close(t.changed)
	t.changed = make(chan struct{})
	return rejected
}

// set moves a pod; the zero place removes it. Callers hold t.mu.
func (t *Table) set(uid string, p place) {
	_, name, _ := strings.Cut(uid, podUID)
	if old, ok := t.pods[uid]; ok {
		if t.count[old]--; t.count[old] == 0 {
			delete(t.count, old)
		}
		delete(t.pods, uid)
		if t.names[name] == uid {
			delete(t.names, name)
		}
	}
	if p != (place{}) {
		t.pods[uid] = p
		t.names[name] = uid
		t.count[p]++
	}
}

// Synced says that everything there was has been applied. What is known stays in use when the control plane goes away.
func (t *Table) Synced() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.synced = true
	close(t.changed)
	t.changed = make(chan struct{})
}

// Ready reports whether Synced has been called.
func (t *Table) Ready() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.synced
}

// Len is how many pods are known.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.pods)
}

// Node implements server.Placement. The node is the one the credential names; that is signed, while the control plane
// tells of pods only, and a node's proxy need not be one. What the control plane does know of the pod must agree.
func (t *Table) Node(_ context.Context, caller identity.ID, pod server.Pod) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	uid, known := t.names[caller.Namespace+"/"+pod.Name]
	if !known {
		return pod.Node, nil
	}
	p := t.pods[uid]
	switch {
	case p.serviceAccount != caller.ServiceAccount:
		return "", fmt.Errorf("it runs as service account %s, the token says %s", p.serviceAccount, caller.ServiceAccount)
	case pod.Node == "" || p.node == "":
		return cmp.Or(pod.Node, p.node), nil
	case p.node != pod.Node:
		return "", fmt.Errorf("it runs on node %s, the token says %s", p.node, pod.Node)
	}
	return p.node, nil
}

// Runs implements server.Placement. A pod that is not known yet is waited for, up to Wait.
func (t *Table) Runs(ctx context.Context, node, namespace, serviceAccount string) (bool, error) {
	deadline := time.NewTimer(Wait)
	defer deadline.Stop()
	for {
		t.mu.Lock()
		known, synced, changed := t.count[place{node, namespace, serviceAccount}] > 0, t.synced, t.changed
		t.mu.Unlock()
		if known {
			return true, nil
		}
		select {
		case <-changed:
		case <-deadline.C:
			if !synced {
				return false, fmt.Errorf("the control plane %s has not been reached since this authority started, so it cannot tell what runs on node %s", t.ControlPlane, node)
			}
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}
