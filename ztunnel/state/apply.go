package state

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
)

// Apply takes one xDS response and publishes one new snapshot. It returns the resources it refused; of those the previous
// version, if any, stays in force. A resource that is fine but for its guards is refused as well, yet taken, and closed. It implements xds.Handler.
func (st *State) Apply(typeURL string, upserts []xds.Raw, removed []string) (rejected []xds.Rejected) {
	st.mu.Lock()
	defer st.mu.Unlock()
	old := st.current.Load()
	b := newBatch(old)
	for _, r := range upserts {
		if err := b.upsert(typeURL, r.Body); err != nil {
			rejected = append(rejected, xds.Rejected{Name: r.Name, Err: err})
		}
	}
	for _, name := range removed {
		b.remove(typeURL, name)
	}
	next := b.snapshot()
	st.current.Store(next)
	close(old.superseded)
	st.notify(next, removed)
	return rejected
}

// batch builds the next snapshot. Everything it changes it owns by its edit token.
type batch struct {
	Snapshot
	by *edit
}

func newBatch(from *Snapshot) *batch {
	b := &batch{Snapshot: *from, by: &edit{}}
	b.generation++
	b.superseded = make(chan struct{})
	return b
}

func (b *batch) snapshot() *Snapshot {
	s := b.Snapshot
	return &s
}

func (b *batch) upsert(typeURL string, body []byte) error {
	switch typeURL {
	case mesh.TypeAddress:
		var a workload.Address
		if err := proto.Unmarshal(body, &a); err != nil {
			return fmt.Errorf("decode address: %w", err)
		}
		switch t := a.GetType().(type) {
		case *workload.Address_Workload:
			return b.upsertWorkload(t.Workload)
		case *workload.Address_Service:
			return b.upsertService(t.Service)
		default:
			return fmt.Errorf("address is neither a workload nor a service")
		}
	case mesh.TypeWorkload:
		var w workload.Workload
		if err := proto.Unmarshal(body, &w); err != nil {
			return fmt.Errorf("decode workload: %w", err)
		}
		return b.upsertWorkload(&w)
	case mesh.TypeAuthorization:
		var p security.Authorization
		if err := proto.Unmarshal(body, &p); err != nil {
			return fmt.Errorf("decode authorization: %w", err)
		}
		return b.upsertPolicy(&p)
	default:
		return fmt.Errorf("type %s is not one this proxy asked for", typeURL)
	}
}

// remove takes a name out. For addresses the name is tried as a workload uid first and then as namespace/hostname: the
// wire does not say which it is. Istio ambient wire contract, removal.
func (b *batch) remove(typeURL, name string) {
	if typeURL == mesh.TypeAuthorization {
		b.removePolicy(name)
		return
	}
	if !b.removeWorkload(name) && strings.Contains(name, "/") {
		b.removeService(name)
	}
}

func (b *batch) upsertWorkload(in *workload.Workload) error {
	w, err := decodeWorkload(in)
	if err != nil {
		return err
	}
	// A changed workload is the removal of the old and the arrival of the new: its addresses, services, node and identity
	// may all be others.
	b.removeWorkload(w.UID)
	b.workloads.Set(b.by, w.UID, w)
	if !w.HostNetwork {
		for _, a := range w.Addrs {
			add(&b.byAddr, b.by, NetAddr{w.Network, a}, w)
		}
	}
	nest(&b.byNode, b.by, w.Node, w)
	nest(&b.byID, b.by, w.Identity(), w)
	for i := range w.Endpoints {
		e := &w.Endpoints[i]
		b.endpointsOf(e.Service).byUID.Set(b.by, w.UID, e)
	}
	return w.Guards.refusal()
}

func (b *batch) removeWorkload(uid string) bool {
	w, ok := b.workloads.Get(uid)
	if !ok {
		return false
	}
	b.workloads.Delete(b.by, uid)
	if !w.HostNetwork {
		for _, a := range w.Addrs {
			drop(&b.byAddr, b.by, NetAddr{w.Network, a}, w)
		}
	}
	unnest(&b.byNode, b.by, w.Node, w)
	unnest(&b.byID, b.by, w.Identity(), w)
	for i := range w.Endpoints {
		service := w.Endpoints[i].Service
		if eps := b.endpointsOf(service); eps.byUID.Delete(b.by, uid) && eps.byUID.Len() == 0 {
			b.endpoints.Delete(b.by, service)
		}
	}
	return true
}

// endpointsOf returns the endpoints of a service as this batch's own copy.
func (b *batch) endpointsOf(service string) *Endpoints {
	old, ok := b.endpoints.Get(service)
	if ok && old.owner == b.by {
		return old
	}
	next := &Endpoints{owner: b.by}
	if ok {
		next.byUID = old.byUID
	}
	b.endpoints.Set(b.by, service, next)
	return next
}

func (b *batch) upsertService(in *workload.Service) error {
	s, err := decodeService(in)
	if err != nil {
		return err
	}
	key := s.Key()
	b.removeService(key)
	b.services.Set(b.by, key, s)
	add(&b.byHost, b.by, strings.ToLower(s.Hostname), s)
	for _, v := range s.VIPs {
		add(&b.byVIP, b.by, v, s)
	}
	for _, c := range s.CIDRs {
		add(&b.byCIDR, b.by, c, s)
		b.countCIDR(c, +1)
	}
	return s.Guards.refusal()
}

// removeService leaves the endpoints alone: they are facts of the workloads, true whether or not the service is known.
func (b *batch) removeService(key string) {
	s, ok := b.services.Get(key)
	if !ok {
		return
	}
	b.services.Delete(b.by, key)
	drop(&b.byHost, b.by, strings.ToLower(s.Hostname), s)
	for _, v := range s.VIPs {
		drop(&b.byVIP, b.by, v, s)
	}
	for _, c := range s.CIDRs {
		drop(&b.byCIDR, b.by, c, s)
		b.countCIDR(c, -1)
	}
}

func (b *batch) countCIDR(c NetPrefix, by int) {
	k := cidrLen{c.Network, lengthKey(c.Prefix.Addr(), c.Prefix.Bits())}
	n, _ := b.cidrLens.Get(k)
	if n += by; n == 0 {
		b.cidrLens.Delete(b.by, k)
		return
	}
	b.cidrLens.Set(b.by, k, n)
}

func (b *batch) upsertPolicy(in *security.Authorization) error {
	p, err := decodePolicy(in)
	if err != nil {
		if closed := closedPolicy(in); closed != nil {
			if _, known := b.policies.Get(closed.key); !known {
				b.putPolicy(closed)
			}
		}
		return err
	}
	b.putPolicy(p)
	return nil
}

func (b *batch) putPolicy(p *Policy) {
	b.removePolicy(p.Key())
	b.policies.Set(b.by, p.Key(), p)
	if ns, ok := p.setKey(); ok {
		b.policyNS.Set(b.by, ns, b.policySet(ns).with(p))
	}
}

func (b *batch) removePolicy(key string) {
	p, ok := b.policies.Get(key)
	if !ok {
		return
	}
	b.policies.Delete(b.by, key)
	ns, ok := p.setKey()
	if !ok {
		return
	}
	if set := b.policySet(ns).without(p); set.empty() {
		b.policyNS.Delete(b.by, ns)
	} else {
		b.policyNS.Set(b.by, ns, set)
	}
}

// setKey is where policies that apply without being named by a workload are found: under their namespace, or under the
// empty one when global.
func (p *Policy) setKey() (string, bool) {
	switch p.Scope {
	case ScopeGlobal:
		return "", true
	case ScopeNamespace:
		return p.Namespace, true
	}
	return "", false
}

func add[K, V comparable](t *table[K, group[V]], by *edit, key K, v V) {
	g, _ := t.Get(key)
	t.Set(by, key, g.with(v))
}

func drop[K, V comparable](t *table[K, group[V]], by *edit, key K, v V) {
	g, ok := t.Get(key)
	if !ok {
		return
	}
	if g = g.without(v); g.empty() {
		t.Delete(by, key)
		return
	}
	t.Set(by, key, g)
}

func nest[K comparable](t *table[K, table[string, *Workload]], by *edit, key K, w *Workload) {
	inner, _ := t.Get(key)
	inner.Set(by, w.UID, w)
	t.Set(by, key, inner)
}

func unnest[K comparable](t *table[K, table[string, *Workload]], by *edit, key K, w *Workload) {
	inner, ok := t.Get(key)
	if !ok {
		return
	}
	inner.Delete(by, w.UID)
	if inner.Len() == 0 {
		t.Delete(by, key)
		return
	}
	t.Set(by, key, inner)
}
