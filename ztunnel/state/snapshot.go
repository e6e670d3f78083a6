package state

import (
	"iter"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/ca/identity"
)

// Snapshot is everything known at one moment. It never changes; lookups take no lock.
type Snapshot struct {
	generation uint64
	superseded chan struct{} // closed when a newer snapshot is current

	workloads table[string, *Workload]
	byAddr    table[NetAddr, group[*Workload]]
	byNode    table[string, table[string, *Workload]]
	byID      table[identity.ID, table[string, *Workload]]

	services  table[string, *Service]
	byVIP     table[NetAddr, group[*Service]]
	byCIDR    table[NetPrefix, group[*Service]]
	cidrLens  table[cidrLen, int]
	byHost    table[string, group[*Service]]
	endpoints table[string, *Endpoints] // by service key, of services not known yet too

	policies table[string, *Policy]
	policyNS table[string, *PolicySet] // scope namespace; global policies under ""
}

type cidrLen struct {
	network string
	bits    int16
}

// group is a short list of things that share a key; nearly always of length one, which costs no allocation.
type group[T comparable] struct {
	first T
	rest  []T
}

func (g group[T]) with(v T) group[T] {
	var zero T
	if g.first == zero {
		return group[T]{first: v}
	}
	return group[T]{g.first, append(g.rest[:len(g.rest):len(g.rest)], v)}
}

func (g group[T]) without(v T) group[T] {
	var out group[T]
	for x := range g.all() {
		if x != v {
			out = out.with(x)
		}
	}
	return out
}

func (g group[T]) empty() bool {
	var zero T
	return g.first == zero
}

func (g group[T]) all() iter.Seq[T] {
	return func(yield func(T) bool) {
		if g.empty() || !yield(g.first) {
			return
		}
		for _, v := range g.rest {
			if !yield(v) {
				return
			}
		}
	}
}

// Generation counts the updates this snapshot contains.
func (s *Snapshot) Generation() uint64 { return s.generation }

// Superseded is closed once a newer snapshot is current. To follow changes without missing one: take State.Current, do the
// work, wait for Superseded, repeat.
func (s *Snapshot) Superseded() <-chan struct{} { return s.superseded }

// Workload finds a workload by uid, nil when unknown.
func (s *Snapshot) Workload(uid string) *Workload {
	w, _ := s.workloads.Get(uid)
	return w
}

// Pod finds the workload of a pod of one cluster.
func (s *Snapshot) Pod(cluster, namespace, name string) *Workload {
	return s.Workload(mesh.PodUID(cluster, namespace, name))
}

// WorkloadAt finds the workload that owns an address, nil when there is none. Workloads on the host's network own no
// address: the node's IP says nothing about which of them is meant.
func (s *Snapshot) WorkloadAt(a NetAddr) *Workload {
	g, ok := s.byAddr.Get(a)
	if !ok {
		return nil
	}
	best := g.first
	for _, w := range g.rest {
		if better(w, best) {
			best = w
		}
	}
	return best
}

// better decides between workloads that claim the same address. A pod is what really is there, while a WorkloadEntry may
// claim any address; a workload in the mesh says more than one outside. istio/ztunnel src/state/workload.rs WorkloadByAddr.
func better(a, b *Workload) bool {
	ra, rb := addrRank(a), addrRank(b)
	if ra != rb {
		return ra > rb
	}
	return a.UID < b.UID
}

func addrRank(w *Workload) int {
	r := 0
	if isPod(w.UID) {
		r += 2
	}
	if w.Tunnel == HBONE {
		r++
	}
	return r
}

// Service finds a service by namespace and hostname, nil when unknown.
func (s *Snapshot) Service(namespace, hostname string) *Service {
	return s.ServiceByKey(mesh.ServiceName(namespace, hostname))
}

// ServiceByKey finds a service by "namespace/hostname".
func (s *Snapshot) ServiceByKey(key string) *Service {
	svc, _ := s.services.Get(key)
	return svc
}

// ServicesAt yields the services that have an address as VIP, exactly or else by the longest CIDR that contains it. Which
// of several is meant depends on the client: see Best.
func (s *Snapshot) ServicesAt(a NetAddr) iter.Seq[*Service] {
	if g, ok := s.byVIP.Get(a); ok {
		return g.all()
	}
	if s.byCIDR.Len() > 0 {
		for bits := int16(a.Addr.BitLen()); bits >= 0; bits-- {
			if _, used := s.cidrLens.Get(cidrLen{a.Network, lengthKey(a.Addr, int(bits))}); !used {
				continue
			}
			p, err := a.Addr.Prefix(int(bits))
			if err != nil {
				continue
			}
			if g, ok := s.byCIDR.Get(NetPrefix{a.Network, p}); ok {
				return g.all()
			}
		}
	}
	return func(func(*Service) bool) {}
}

// ServicesNamed yields the services of a hostname, in any case and without trailing dot.
func (s *Snapshot) ServicesNamed(hostname string) iter.Seq[*Service] {
	g, _ := s.byHost.Get(strings.ToLower(hostname))
	return g.all()
}

// Best picks the service a client of a namespace means when several share a VIP or hostname: its own namespace's, else the
// canonical one, else the one of the preferred namespace, else the first by namespace. Services the client may not see are
// left out. istio/ztunnel src/state/service.rs ServiceMatch.
func Best(services iter.Seq[*Service], clientNamespace, preferred string) *Service {
	var best *Service
	bestRank := -1
	for svc := range services {
		if !svc.VisibleFrom(clientNamespace) {
			continue
		}
		r := 0
		switch {
		case svc.Namespace == clientNamespace:
			r = 3
		case svc.Canonical:
			r = 2
		case preferred != "" && svc.Namespace == preferred:
			r = 1
		}
		if r > bestRank || r == bestRank && svc.Key() < best.Key() {
			best, bestRank = svc, r
		}
	}
	return best
}

// Endpoints returns the endpoints of a service. It is never nil.
func (s *Snapshot) Endpoints(svc *Service) *Endpoints {
	if e, ok := s.endpoints.Get(svc.Key()); ok {
		return e
	}
	return noEndpoints
}

var noEndpoints = &Endpoints{}

// Endpoints is the set of workloads behind one service.
type Endpoints struct {
	owner *edit // the batch that may still change it
	byUID table[string, *Endpoint]

	once sync.Once
	list []*Endpoint
	most uint32
}

// List returns the endpoints as a slice that must not be changed, and the largest capacity among them. The slice is made on
// first use: most services change more often than this node calls them.
func (e *Endpoints) List() (list []*Endpoint, maxCapacity uint32) {
	e.once.Do(func() {
		e.list = make([]*Endpoint, 0, e.byUID.Len())
		for _, ep := range e.byUID.All() {
			e.list = append(e.list, ep)
			e.most = max(e.most, ep.Workload.Capacity)
		}
	})
	return e.list, e.most
}

// Len returns the number of endpoints.
func (e *Endpoints) Len() int { return e.byUID.Len() }

// OnNode yields the workloads of a node.
func (s *Snapshot) OnNode(node string) iter.Seq[*Workload] { return values(s.byNode, node) }

// WithIdentity yields the workloads that run as an identity.
func (s *Snapshot) WithIdentity(id identity.ID) iter.Seq[*Workload] { return values(s.byID, id) }

func values[K comparable](t table[K, table[string, *Workload]], key K) iter.Seq[*Workload] {
	inner, _ := t.Get(key)
	return func(yield func(*Workload) bool) {
		for _, w := range inner.All() {
			if !yield(w) {
				return
			}
		}
	}
}

// Workloads, Services, Policies and Sizes serve dumps; no connection should need them.

// Workloads yields every workload, in no order.
func (s *Snapshot) Workloads() iter.Seq2[string, *Workload] { return s.workloads.All() }

// Services yields every service, in no order.
func (s *Snapshot) Services() iter.Seq2[string, *Service] { return s.services.All() }

// Policies yields every policy by namespace/name, in no order.
func (s *Snapshot) Policies() iter.Seq2[string, *Policy] { return s.policies.All() }

// Staged yields the endpoints of services that are not known (yet).
func (s *Snapshot) Staged() iter.Seq2[string, *Endpoints] {
	return func(yield func(string, *Endpoints) bool) {
		for key, e := range s.endpoints.All() {
			if _, known := s.services.Get(key); !known && !yield(key, e) {
				return
			}
		}
	}
}

// Policy finds a policy by "namespace/name", nil when unknown.
func (s *Snapshot) Policy(key string) *Policy {
	p, _ := s.policies.Get(key)
	return p
}

// NamespacePolicies returns the policies with scope namespace of one namespace; GlobalPolicies those for every workload.
// Neither is ever nil.
func (s *Snapshot) NamespacePolicies(namespace string) *PolicySet {
	if namespace == "" {
		return noPolicies
	}
	return s.policySet(namespace)
}

// GlobalPolicies returns the policies with global scope.
func (s *Snapshot) GlobalPolicies() *PolicySet { return s.policySet("") }

func (s *Snapshot) policySet(key string) *PolicySet {
	if set, ok := s.policyNS.Get(key); ok {
		return set
	}
	return noPolicies
}

var noPolicies = &PolicySet{}

// State is the one writer's side of the snapshots.
type State struct {
	current atomic.Pointer[Snapshot]

	mu      sync.Mutex         // one Apply at a time
	waiters map[string]*waiter // guarded by mu; by the name that was asked for
}

// New returns an empty State.
func New() *State {
	st := &State{}
	st.current.Store(&Snapshot{superseded: make(chan struct{})})
	return st
}

// Current returns the latest snapshot.
func (st *State) Current() *Snapshot { return st.current.Load() }

// Changed returns a channel that is closed at the next update. See Snapshot.Superseded for a loop that misses nothing.
func (st *State) Changed() <-chan struct{} { return st.Current().superseded }

// Unmapped turns a v4-mapped IPv6 address into the IPv4 address it stands for. Every address that enters a lookup must
// have passed through it.
func Unmapped(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
