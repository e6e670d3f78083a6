package state

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// Asker subscribes to single resources; *xds.Client is the real one.
type Asker interface {
	Demand(typeURL, name string)
	Release(typeURL, name string)
}

// Demand fetches what a connection needs when the proxy does not hold the whole mesh (XDS_ON_DEMAND). Each name is asked for
// once and then kept up to date by the control plane; who needs it meanwhile waits. Without it an on-demand proxy would
// take every destination for unknown, and send to it in plaintext.
type Demand struct {
	state *State
	ask   Asker

	mu    sync.Mutex
	names map[string]*demanded // guarded by mu
}

type demanded struct {
	answered <-chan struct{}
	found    func(*Snapshot) bool
	used     time.Time // guarded by Demand.mu
	waiting  int       // guarded by Demand.mu
}

// idleDemand is how long a name that turned out to be unknown stays subscribed after its last use. Unknown names are as many
// as there are addresses outside the mesh; known ones are no more than the mesh, and stay.
const idleDemand = 10 * time.Minute

// maxDemanded is how many names there may be before unknown ones have to go early: an application that tries every address
// there is must fill neither our memory nor the control plane's. crowdedTries bounds the search for one.
const (
	maxDemanded  = 10_000
	crowdedTries = 64
)

// NewDemand starts nothing.
func NewDemand(st *State, ask Asker) *Demand {
	return &Demand{state: st, ask: ask, names: map[string]*demanded{}}
}

// Run forgets names that are unknown and unused, until ctx ends.
func (d *Demand) Run(ctx context.Context) error {
	tick := time.NewTicker(idleDemand / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			d.sweep(now)
		}
	}
}

func (d *Demand) sweep(now time.Time) {
	s := d.state.Current()
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, n := range d.names {
		if now.Sub(n.used) >= idleDemand && n.unneeded(s) {
			d.dropLocked(name)
		}
	}
}

// unneeded reports whether a name is nothing and nobody waits to hear so.
func (n *demanded) unneeded(s *Snapshot) bool { return n.waiting == 0 && !n.found(s) }

func (d *Demand) dropLocked(name string) {
	delete(d.names, name)
	d.state.unanswer(name)
	d.ask.Release(mesh.TypeAddress, name)
}

// makeRoomLocked drops an unknown name, whichever comes first, when there are too many.
func (d *Demand) makeRoomLocked() {
	if len(d.names) < maxDemanded {
		return
	}
	s, tries := d.state.Current(), 0
	for name, n := range d.names {
		if n.unneeded(s) {
			d.dropLocked(name)
			return
		}
		if tries++; tries == crowdedTries {
			return
		}
	}
}

// Outbound waits until everything is known that decides about a connection to an address: what it is, and the waypoint in
// front of it. Endpoints come with their service. Istio ambient wire contract, on-demand.
func (d *Demand) Outbound(ctx context.Context, dst NetAddr) error {
	if err := d.Addr(ctx, dst); err != nil {
		return err
	}
	s := d.state.Current()
	var gateways []*Gateway
	if w := s.WorkloadAt(dst); w != nil {
		gateways = append(gateways, w.Waypoint)
	} else {
		for svc := range s.ServicesAt(dst) {
			gateways = append(gateways, svc.Waypoint)
			for i := range svc.Waypoints {
				gateways = append(gateways, &svc.Waypoints[i].Gateway)
			}
		}
	}
	for _, g := range gateways {
		if err := d.gateway(ctx, g); err != nil {
			return err
		}
	}
	return nil
}

func (d *Demand) gateway(ctx context.Context, g *Gateway) error {
	switch {
	case g == nil:
		return nil
	case g.Hostname != "":
		return d.Service(ctx, mesh.ServiceName(g.Namespace, g.Hostname))
	}
	return d.Addr(ctx, g.Addr)
}

// Addr waits until it is known what owns an address, or that nothing does.
func (d *Demand) Addr(ctx context.Context, a NetAddr) error {
	return d.wait(ctx, a.String(), func(s *Snapshot) bool {
		if s.WorkloadAt(a) != nil {
			return true
		}
		for range s.ServicesAt(a) {
			return true
		}
		return false
	})
}

// Service waits until a service is known by "namespace/hostname", or that there is none.
func (d *Demand) Service(ctx context.Context, key string) error {
	return d.wait(ctx, key, func(s *Snapshot) bool { return s.ServiceByKey(key) != nil })
}

func (d *Demand) wait(ctx context.Context, name string, found func(*Snapshot) bool) error {
	d.mu.Lock()
	n := d.names[name]
	if n == nil {
		d.makeRoomLocked()
		// A name may be known without having been asked for, as an endpoint of something that was. It is asked for all
		// the same: otherwise it would vanish together with what brought it.
		n = &demanded{answered: d.state.answer(name, found), found: found}
		d.names[name] = n
		d.ask.Demand(mesh.TypeAddress, name)
	}
	n.used = time.Now()
	n.waiting++
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		n.waiting--
		d.mu.Unlock()
	}()
	select {
	case <-n.answered:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the control plane to say what %s is: %w", name, context.Cause(ctx))
	}
}

// waiter is somebody who asked for a name.
type waiter struct {
	found    func(*Snapshot) bool
	answered chan struct{}
}

// answer returns a channel that is closed once the control plane has said what a name is, or that it is nothing.
func (st *State) answer(name string, found func(*Snapshot) bool) <-chan struct{} {
	w := &waiter{found, make(chan struct{})}
	st.mu.Lock()
	defer st.mu.Unlock()
	if found(st.current.Load()) {
		close(w.answered)
		return w.answered
	}
	if st.waiters == nil {
		st.waiters = map[string]*waiter{}
	}
	st.waiters[name] = w
	return w.answered
}

// unanswer forgets a waiter nobody needs any more.
func (st *State) unanswer(name string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(st.waiters, name)
}

// notify tells those who wait for names of a response. Names that do not exist come back as removed, spelled as asked.
func (st *State) notify(s *Snapshot, removed []string) {
	if len(st.waiters) == 0 {
		return
	}
	for _, name := range removed {
		if w := st.waiters[name]; w != nil {
			close(w.answered)
			delete(st.waiters, name)
		}
	}
	for name, w := range st.waiters {
		if w.found(s) {
			close(w.answered)
			delete(st.waiters, name)
		}
	}
}
