package proxy

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"

	"github.com/ambit-mesh/ambit/ztunnel/authz"
	"github.com/ambit-mesh/ambit/ztunnel/state"
)

// connection is one open connection of a pod.
type connection struct {
	inbound  bool
	src      netip.AddrPort
	original netip.AddrPort // as dialed by the client
	actual   netip.AddrPort // as dialed by us
	protocol string         // HBONE or TCP

	// check and cancel are set on inbound connections: policy is asked again while they are open.
	check  authz.Connection
	cancel context.CancelCauseFunc
}

// registry knows the open connections of a pod.
type registry struct {
	mu   sync.Mutex
	open map[*connection]struct{} // guarded by mu
	// accepted counts sockets the pod's listeners accepted and that are not closed yet: connections that are still being
	// decided about are among them, and idle tunnels. Guarded by mu.
	accepted int
	idle     chan struct{} // guarded by mu; closed while accepted is 0
}

func newRegistry() *registry {
	r := &registry{open: map[*connection]struct{}{}, idle: make(chan struct{})}
	close(r.idle)
	return r
}

// accept counts a socket until done, unless there are too many.
func (r *registry) accept(limit int) (done func(), ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.accepted >= limit {
		return nil, false
	}
	if r.accepted == 0 {
		r.idle = make(chan struct{})
	}
	r.accepted++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.accepted--; r.accepted == 0 {
			close(r.idle)
		}
	}, true
}

// wait reports whether everything that was accepted ended before ctx did.
func (r *registry) wait(ctx context.Context) bool {
	r.mu.Lock()
	idle := r.idle
	r.mu.Unlock()
	select {
	case <-idle:
		return true
	case <-ctx.Done():
		return false
	}
}

// add registers a connection until the returned function is called.
func (r *registry) add(c *connection) (remove func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[c] = struct{}{}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.open, c)
	}
}

func (r *registry) list() []*connection {
	r.mu.Lock()
	out := make([]*connection, 0, len(r.open))
	for c := range r.open {
		out = append(out, c)
	}
	r.mu.Unlock()
	slices.SortFunc(out, func(a, b *connection) int { return cmp.Or(a.src.Compare(b.src), a.original.Compare(b.original)) })
	return out
}

// recheck asks policy again about every open inbound connection and ends those that are no longer allowed.
// istio/ztunnel src/proxy/connection_manager.rs PolicyWatcher.
func (pd *pod) recheck(s *state.Snapshot) {
	dst := pd.described(s)
	if dst == nil {
		// The control plane forgot the pod while it runs: its policies are as they were.
		return
	}
	for _, c := range pd.conns.list() {
		if c.cancel == nil {
			continue
		}
		if err := revised(s, dst, c.check); err != nil {
			c.cancel(err)
		}
	}
}
