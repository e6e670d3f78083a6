package kube

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ca/server"
	"github.com/ambit-mesh/ambit/control/object"
)

// Places knows which service accounts have pods on which node; it is what the authority checks impersonation against. It
// implements server.Placement.
type Places struct {
	mu sync.Mutex
	// guarded by mu
	pods    map[object.Key]pod
	count   map[place]int
	synced  bool
	changed chan struct{} // closed and replaced when pods change
}

// place is a service account on a node.
type place struct{ node, namespace, account string }

type pod struct {
	uid   string
	place place
	ended bool
}

// placeWait is how long a question about a pod that is not known waits for news of it: a node proxy may hear of its new
// pod before the control plane does.
const placeWait = 2 * time.Second

// NewPlaces returns an empty table. Until Synced is called, questions are answered "cannot tell".
func NewPlaces() *Places {
	return &Places{pods: make(map[object.Key]pod), count: make(map[place]int), changed: make(chan struct{})}
}

// Synced tells that all pods have been taken in.
func (p *Places) Synced() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.synced = true
	p.ring()
}

// ring wakes who waits. The mutex is held.
func (p *Places) ring() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// take takes a pod in.
func (p *Places) take(e object.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if was, ok := p.pods[e.Key]; ok {
		delete(p.pods, e.Key)
		if !was.ended {
			if p.count[was.place]--; p.count[was.place] == 0 {
				delete(p.count, was.place)
			}
		}
	}
	if o, ok := e.Object.(*object.Pod); ok && o.Node != "" {
		now := pod{uid: o.UID, place: place{o.Node, o.Namespace, o.ServiceAccount}, ended: o.Phase.Terminal()}
		p.pods[e.Key] = now
		if !now.ended {
			p.count[now.place]++
		}
	}
	p.ring()
}

// Node implements server.Placement. The pod the token is bound to must be there, with its uid and account.
func (p *Places) Node(ctx context.Context, caller identity.ID, bound server.Pod) (string, error) {
	key := object.Key{Kind: object.KindPod, Namespace: caller.Namespace, Name: bound.Name}
	var node string
	var why error
	err := p.await(ctx, func() bool {
		have, ok := p.pods[key]
		switch {
		case !ok:
			why = errors.New("there is no such pod, or it is on no node")
		case have.uid != bound.UID:
			why = errors.New("the pod is another one now than the token was made for")
		case have.place.account != caller.ServiceAccount:
			why = fmt.Errorf("the pod has service account %s, not %s", have.place.account, caller.ServiceAccount)
		default:
			node = have.place.node
			return true
		}
		return false
	})
	if err != nil {
		return "", err
	}
	if node == "" {
		return "", why
	}
	return node, nil
}

// Runs implements server.Placement.
func (p *Places) Runs(ctx context.Context, node, namespace, account string) (bool, error) {
	found := false
	err := p.await(ctx, func() bool {
		found = p.count[place{node, namespace, account}] > 0
		return found
	})
	return found, err
}

// await asks until the answer is yes or waiting longer is of no use. The mutex is held while answer is asked.
func (p *Places) await(ctx context.Context, answer func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, placeWait)
	defer cancel()
	for {
		p.mu.Lock()
		synced, changed := p.synced, p.changed
		yes := synced && answer()
		p.mu.Unlock()
		if yes {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if !synced {
				return errors.New("the control plane has not read the cluster yet")
			}
			return nil
		}
	}
}
