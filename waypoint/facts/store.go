package facts

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
)

// Types are the resource types a Store takes, in the order they are asked for.
func Types() []string {
	return []string{
		// The control plane sends what changed at once in this order: the labels of pods before the subsets that ask for them.
		mesh.TypeAddress, mesh.TypeWaypointGateway, mesh.TypeWaypointSecret, mesh.TypeWaypointDestination, mesh.TypeWaypointService,
		mesh.TypeWaypointVirtualHost,
	}
}

// Subscriber is what a Store tells its wishes to. *xds.Client is the real one.
type Subscriber interface {
	Subscribe(typeURL string, names ...string)
	Unsubscribe(typeURL string, names ...string)
}

// Config says whose facts a Store is for.
type Config struct {
	// Namespace and Name are those of the Gateway.
	Namespace, Name string
	// Domain is the cluster's DNS domain; the Gateway's own service is <name>.<namespace>.svc.<domain>. Empty: the default.
	Domain string
}

// Store receives facts. Its methods may be called from any goroutine.
type Store struct {
	cfg Config
	own string // the Gateway's own service

	current atomic.Pointer[Snapshot]
	changed chan struct{} // capacity 1: there are Changes to take

	mu sync.Mutex
	// guarded by mu
	sub     Subscriber
	pending Changes
	// wanted counts who wants a service of istio.workload to be subscribed to; unanswered are those the control plane has
	// said nothing about yet.
	wanted     map[string]int
	unanswered Set
}

// New returns an empty Store.
func New(cfg Config) *Store {
	if cfg.Domain == "" {
		cfg.Domain = mesh.DefaultClusterDomain
	}
	s := &Store{
		cfg: cfg, changed: make(chan struct{}, 1), wanted: map[string]int{}, unanswered: Set{},
		own: mesh.ServiceName(cfg.Namespace, mesh.ServiceHostname(cfg.Namespace, cfg.Name, cfg.Domain)),
	}
	s.current.Store(&Snapshot{})
	return s
}

// Subscribe asks for everything that belongs to the Gateway, and from then on for whatever the facts name. It is called
// once, before the subscriber starts to deliver.
func (s *Store) Subscribe(sub Subscriber) {
	s.mu.Lock()
	s.sub = sub
	s.wanted[s.own]++
	s.unanswered.add(s.own)
	s.mu.Unlock()
	scope := mesh.GatewayScope(s.cfg.Namespace, s.cfg.Name)
	for _, t := range Types() {
		sub.Subscribe(t, scope)
	}
	sub.Subscribe(mesh.TypeAddress, s.own)
}

// Current is the newest snapshot.
func (s *Store) Current() *Snapshot { return s.current.Load() }

// Changed has something to receive when there are changes to Take. One receiver is meant.
func (s *Store) Changed() <-chan struct{} { return s.changed }

// Take returns the newest snapshot and everything that changed since the last Take.
func (s *Store) Take() (*Snapshot, Changes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.pending
	s.pending = Changes{}
	return s.current.Load(), c
}

// Unanswered is the number of services that were asked for by name and that the control plane has not spoken of yet:
// neither sent them nor said that they do not exist.
func (s *Store) Unanswered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.unanswered)
}

// Apply takes one xDS response. It returns the resources it refused; of those the previous version, if any, stays in force.
// It implements xds.Handler.
func (s *Store) Apply(typeURL string, upserts []xds.Raw, removed []string) (rejected []xds.Rejected) {
	s.mu.Lock()
	b := s.begin()
	for _, r := range upserts {
		if err := b.upsert(typeURL, r.Name, r.Body); err != nil {
			rejected = append(rejected, xds.Rejected{Name: r.Name, Err: err})
		}
		if typeURL == mesh.TypeAddress {
			// Refused is answered as well: waiting would not make it better.
			delete(s.unanswered, r.Name)
		}
	}
	for _, name := range removed {
		b.remove(typeURL, name)
		if typeURL == mesh.TypeAddress {
			delete(s.unanswered, name)
		}
	}
	b.publish()
	sub, want, drop := s.sub, b.want, b.drop
	s.mu.Unlock()

	select {
	case s.changed <- struct{}{}:
	default:
	}
	if sub != nil && len(want) > 0 {
		sub.Subscribe(mesh.TypeAddress, want...)
	}
	if sub != nil && len(drop) > 0 {
		sub.Unsubscribe(mesh.TypeAddress, drop...)
	}
	return rejected
}

// batch builds the next snapshot. It exists while mu is held.
type batch struct {
	store *Store
	next  Snapshot
	was   map[string]bool // names whose subscription this batch touched → whether it existed before

	services     *editor[*waypoint.Service]
	destinations *editor[*waypoint.Destination]
	hosts        *editor[*waypoint.VirtualHost]
	secrets      *editor[*waypoint.Secret]
	addresses    *editor[*workload.Service]
	workloads    *editor[*held]
	// endpoints of the services this batch touches, by uid; sorted only once, at the end.
	endpoints map[string]map[string]*held
	bound     map[string]*held // nil unless touched

	want, drop []string
}

func (s *Store) begin() *batch {
	old := s.current.Load()
	return &batch{
		store: s, next: *old, was: map[string]bool{}, endpoints: map[string]map[string]*held{},
		services: edit(old.services), destinations: edit(old.destinations), hosts: edit(old.hosts), secrets: edit(old.secrets),
		addresses: edit(old.addresses), workloads: edit(old.workloads),
	}
}

// publish makes the batch's result the current snapshot.
func (b *batch) publish() {
	n := &b.next
	n.generation++
	n.services, n.destinations, n.hosts = b.services.table, b.destinations.table, b.hosts.table
	n.secrets, n.addresses, n.workloads = b.secrets.table, b.addresses.table, b.workloads.table
	if len(b.endpoints) > 0 {
		e := edit(n.endpoints)
		for service, byUID := range b.endpoints {
			if len(byUID) == 0 {
				e.remove(service)
			} else {
				e.set(service, sorted(byUID))
			}
		}
		n.endpoints = e.table
	}
	if b.bound != nil {
		n.bound = sorted(b.bound)
	}
	for name, had := range b.was {
		switch has := b.store.wanted[name] > 0; {
		case has && !had:
			b.want = append(b.want, name)
			b.store.unanswered.add(name)
		case had && !has:
			b.drop = append(b.drop, name)
			delete(b.store.unanswered, name)
		}
	}
	slices.Sort(b.want)
	slices.Sort(b.drop)
	b.store.current.Store(n)
}

// count adds to or takes from the wish for a service of istio.workload.
func (b *batch) count(name string, by int) {
	w := b.store.wanted
	if _, touched := b.was[name]; !touched {
		b.was[name] = w[name] > 0
	}
	if w[name] += by; w[name] == 0 {
		delete(w, name)
	}
}

func sorted(byUID map[string]*held) []*held {
	out := make([]*held, 0, len(byUID))
	for _, w := range byUID {
		out = append(out, w)
	}
	slices.SortFunc(out, func(a, b *held) int { return strings.Compare(a.uid, b.uid) })
	return out
}

// key takes the Gateway's prefix off a resource name.
func (s *Store) key(name string) (string, error) {
	rest, ok := strings.CutPrefix(name, s.cfg.Namespace+"/"+s.cfg.Name+"/")
	if !ok {
		return "", fmt.Errorf("it belongs to another Gateway than %s/%s", s.cfg.Namespace, s.cfg.Name)
	}
	return rest, nil
}
