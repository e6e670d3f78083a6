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
	mu    sync.Mutex
	open  map[*connection]struct{} // guarded by mu
	empty chan struct{}            // guarded by mu; closed while nothing is open
}

func newRegistry() *registry {
	r := &registry{open: map[*connection]struct{}{}, empty: make(chan struct{})}
	close(r.empty)
	return r
}

// add registers a connection until the returned function is called.
func (r *registry) add(c *connection) (remove func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.open) == 0 {
		r.empty = make(chan struct{})
	}
	r.open[c] = struct{}{}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.open, c)
		if len(r.open) == 0 {
			close(r.empty)
		}
	}
}

// wait reports whether everything ended before ctx did.
func (r *registry) wait(ctx context.Context) bool {
	r.mu.Lock()
	empty := r.empty
	r.mu.Unlock()
	select {
	case <-empty:
		return true
	case <-ctx.Done():
		return false
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
	dst := s.Workload(pd.workloadUID())
	if dst == nil {
		// The control plane forgot the pod while it runs: its policies are as they were.
		return
	}
	for _, c := range pd.conns.list() {
		if c.cancel == nil {
			continue
		}
		if v := authz.Check(s, dst, c.check); !v.Allow {
			c.cancel(lateDenial(v))
		}
	}
}
