package model

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/control/object"
)

// A ServiceEntry without addresses is given some, so that its hosts can be told apart by address. Nothing is written
// down: which address a host gets follows from the hosts there are and their age alone. Every host has an order of
// addresses of its own, made from its name; at each address the oldest host that comes by wins. So two control planes,
// or one before and after a restart, agree, a new host never takes the address of an older one, and no two hosts share one.

// pool hands out virtual addresses.
type pool struct {
	v4 ring
	v6 ring
}

// ring is the addresses of one family.
type ring struct {
	at     func(i uint64, owner tenant) netip.Addr
	size   uint64
	holder map[netip.Addr]*lease
	// waiting are leases that came by an address and found somebody older there.
	waiting  map[netip.Addr]map[*lease]bool
	leases   map[tenant]*lease
	reserved map[netip.Addr]int
}

// tenant is a host of a ServiceEntry.
type tenant struct{ ns, name, host string }

// lease is a tenant's place in its order of addresses.
type lease struct {
	tenant  tenant
	created time.Time
	arrived uint64
	turn    uint64 // how far along its order it is
	addr    netip.Addr
}

// poolSize4 is a prime a little below the size of 240.240.0.0/16, so that every step width visits every address.
const poolSize4 = 65521

// What the addresses of the pool are in.
var automatic4, automatic6 = netip.MustParsePrefix("240.240.0.0/16"), netip.MustParsePrefix("2001:2::/64")

func newPool() *pool {
	mk := func(size uint64, at func(uint64, tenant) netip.Addr) ring {
		return ring{at: at, size: size, holder: map[netip.Addr]*lease{}, waiting: map[netip.Addr]map[*lease]bool{},
			leases: map[tenant]*lease{}, reserved: map[netip.Addr]int{}}
	}
	return &pool{
		v4: mk(poolSize4, func(i uint64, t tenant) netip.Addr {
			h := t.hash()
			n := 1 + uint16((h%poolSize4+i*(1+(h>>32)%(poolSize4-1)))%poolSize4)
			return netip.AddrFrom4([4]byte{240, 240, byte(n >> 8), byte(n)})
		}),
		v6: mk(1<<62, func(i uint64, t tenant) netip.Addr {
			a := [16]byte{0x20, 0x01, 0, 2}
			binary.BigEndian.PutUint64(a[8:], t.hash()+i)
			return netip.AddrFrom16(a)
		}),
	}
}

func (t tenant) hash() uint64 {
	h := fnv.New64a()
	for _, s := range [...]string{t.ns, t.name, t.host} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	// FNV leaves neighbouring names close together; spread them.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

func (l *lease) before(o *lease) bool {
	if c := l.created.Compare(o.created); c != 0 {
		return c < 0
	}
	if l.created.IsZero() && l.arrived != o.arrived {
		return l.arrived < o.arrived
	}
	a, b := l.tenant, o.tenant
	return cmp.Or(strings.Compare(a.ns, b.ns), strings.Compare(a.name, b.name), strings.Compare(a.host, b.host)) < 0
}

// place finds a lease an address from its turn on, and goes on with whoever it pushes out.
func (r *ring) place(l *lease, moved func(tenant)) {
	for l != nil {
		next := (*lease)(nil)
		l.addr = netip.Addr{}
		for ; l.turn < r.size; l.turn++ {
			a := r.at(l.turn, l.tenant)
			h := r.holder[a]
			if r.reserved[a] == 0 && (h == nil || l.before(h)) {
				r.holder[a], l.addr, next = l, a, h
				break
			}
			r.wait(a, l)
		}
		moved(l.tenant)
		if next != nil {
			r.wait(l.addr, next)
			next.turn++
		}
		l = next
	}
}

func (r *ring) wait(a netip.Addr, l *lease) {
	if r.waiting[a] == nil {
		r.waiting[a] = map[*lease]bool{}
	}
	r.waiting[a][l] = true
}

// vacate gives an address that became free to the oldest of those that came by, and so on with what that one leaves.
func (r *ring) vacate(a netip.Addr, moved func(tenant)) {
	delete(r.holder, a)
	for r.reserved[a] == 0 {
		var first *lease
		for l := range r.waiting[a] {
			if first == nil || l.before(first) {
				first = l
			}
		}
		if first == nil {
			return
		}
		left := first.addr
		// It no longer waits here, nor anywhere further along its order.
		turn := uint64(0)
		for r.at(turn, first.tenant) != a {
			turn++
		}
		for i := turn; i < first.turn; i++ {
			r.unwait(r.at(i, first.tenant), first)
		}
		first.turn = turn
		r.holder[a], first.addr = first, a
		moved(first.tenant)
		if !left.IsValid() {
			return
		}
		delete(r.holder, left)
		a = left
	}
}

func (r *ring) unwait(a netip.Addr, l *lease) {
	delete(r.waiting[a], l)
	if len(r.waiting[a]) == 0 {
		delete(r.waiting, a)
	}
}

func (r *ring) insert(t tenant, created time.Time, arrived uint64, moved func(tenant)) {
	l := &lease{tenant: t, created: created, arrived: arrived}
	r.leases[t] = l
	r.place(l, moved)
}

func (r *ring) remove(t tenant, moved func(tenant)) {
	l := r.leases[t]
	if l == nil {
		return
	}
	delete(r.leases, t)
	for i := uint64(0); i < l.turn; i++ {
		r.unwait(r.at(i, t), l)
	}
	if l.addr.IsValid() {
		r.vacate(l.addr, moved)
	}
}

// reserve keeps an address that somebody asked for by hand out of the pool; release gives it back.
func (r *ring) reserve(a netip.Addr, moved func(tenant)) {
	r.reserved[a]++
	if h := r.holder[a]; h != nil && r.reserved[a] == 1 {
		delete(r.holder, a)
		r.wait(a, h)
		h.turn++
		r.place(h, moved)
	}
}

func (r *ring) release(a netip.Addr, moved func(tenant)) {
	if r.reserved[a]--; r.reserved[a] > 0 {
		return
	}
	delete(r.reserved, a)
	r.vacate(a, moved)
}

// autoAllocates reports whether hosts of a ServiceEntry get addresses from the pool.
func (m *Model) autoAllocates(e *object.ServiceEntry) bool {
	return e != nil && !m.cfg.NoAutoAllocate && len(e.Addresses) == 0 &&
		e.Resolution != object.ResolutionNone && e.Labels.Get("networking.istio.io/enable-autoallocate-ip") != "false"
}

func isWildcard(host string) bool { return strings.HasPrefix(host, "*") }

// tenants are the hosts of a ServiceEntry that want an address. A wildcard stands for names nobody knows yet; only a
// waypoint that resolves them as they come can use an address for it.
func (m *Model) tenants(e *object.ServiceEntry) []tenant {
	if !m.autoAllocates(e) {
		return nil
	}
	var ts []tenant
	for _, h := range e.Hosts {
		if t := (tenant{e.Namespace, e.Name, h}); len(given(e, h)) == 0 && !slices.Contains(ts, t) && (!isWildcard(h) || e.Resolution == object.ResolutionDynamicDNS) {
			ts = append(ts, t)
		}
	}
	return ts
}

// allocate follows a ServiceEntry that changed.
func (m *Model) allocate(old, now *object.ServiceEntry, arrived uint64) {
	was, is := m.tenants(old), m.tenants(now)
	for _, r := range []*ring{&m.pool.v4, &m.pool.v6} {
		for _, t := range was {
			if !slices.Contains(is, t) || !old.Created.Equal(now.Created) {
				r.remove(t, m.moved)
			}
		}
		for _, t := range is {
			if r.leases[t] == nil {
				r.insert(t, now.Created, arrived, m.moved)
			}
		}
	}
	m.reserve(claimed(old), claimed(now))
}

// claimed are the single addresses a ServiceEntry says it has.
func claimed(e *object.ServiceEntry) []netip.Addr {
	if e == nil {
		return nil
	}
	var as []netip.Addr
	for _, p := range e.Addresses {
		if p.IsSingleIP() && !slices.Contains(as, p.Addr()) {
			as = append(as, p.Addr())
		}
	}
	for _, a := range e.Assigned {
		if !slices.Contains(as, a.Address) {
			as = append(as, a.Address)
		}
	}
	return as
}

// moved marks a host whose automatic address changed.
func (m *Model) moved(t tenant) {
	n := m.namespaces[t.ns]
	if n == nil {
		return
	}
	if c := n.slots[t.host]; c != nil {
		m.dirty.slots.add(c)
	}
	if s := n.serviceEntries[t.name]; s != nil {
		m.dirty.reports.add(s)
	}
}

// reserve keeps addresses that objects ask for out of the pool.
func (m *Model) reserve(old, now []netip.Addr) {
	for _, a := range now {
		if !slices.Contains(old, a) {
			m.pool.family(a).reserve(a, m.moved)
		}
	}
	for _, a := range old {
		if !slices.Contains(now, a) {
			m.pool.family(a).release(a, m.moved)
		}
	}
}

func (p *pool) family(a netip.Addr) *ring {
	if a.Is4() {
		return &p.v4
	}
	return &p.v6
}

// given are the automatic addresses of one host that the object's status has from before.
func given(e *object.ServiceEntry, host string) []netip.Addr {
	var as []netip.Addr
	for _, a := range e.Assigned {
		if a.Host == host || a.Host == "" && len(e.Hosts) == 1 {
			as = append(as, a.Address)
		}
	}
	return as
}

// automatic says whether an address is one that the mesh gives.
func automatic(p netip.Prefix) bool {
	return automatic4.Contains(p.Addr()) || automatic6.Contains(p.Addr())
}

// assigned are the automatic addresses of one host: what the object's status says, else what the pool gives.
func (m *Model) assigned(e *object.ServiceEntry, host string) []netip.Addr {
	if as := given(e, host); len(as) > 0 {
		return as
	}
	var as []netip.Addr
	t := tenant{e.Namespace, e.Name, host}
	for _, r := range []*ring{&m.pool.v4, &m.pool.v6} {
		if l := r.leases[t]; l != nil && l.addr.IsValid() {
			as = append(as, l.addr)
		}
	}
	return as
}

// exhausted reports whether a host of the ServiceEntry was left without an address.
func (m *Model) exhausted(e *object.ServiceEntry) bool {
	for _, t := range m.tenants(e) {
		if l := m.pool.v4.leases[t]; l != nil && !l.addr.IsValid() {
			return true
		}
	}
	return false
}
