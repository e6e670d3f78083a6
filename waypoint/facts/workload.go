package facts

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unique"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
)

func (b *batch) upsertAddress(m *workload.Service) error {
	if m.GetHostname() == "" {
		return errors.New("service without a hostname")
	}
	for _, a := range m.GetAddresses() {
		if err := checkAddress(a.GetAddress()); err != nil {
			return err
		}
	}
	key := mesh.ServiceName(m.GetNamespace(), m.GetHostname())
	if old, had := b.addresses.get(key); had {
		b.follow(old, -1)
	}
	b.follow(m, +1)
	b.addresses.set(key, m)
	b.store.pending.Addresses.add(key)
	if key == b.store.own {
		b.rebind()
	}
	return nil
}

func (b *batch) removeAddress(key string) {
	old, had := b.addresses.get(key)
	if !had {
		return
	}
	b.follow(old, -1)
	b.addresses.remove(key)
	b.store.pending.Addresses.add(key)
	if key == b.store.own {
		b.rebind()
	}
}

// follow counts the waypoints a service is behind: who forwards to it may have to go through them.
func (b *batch) follow(m *workload.Service, by int) {
	b.followGateway(m.GetWaypoint(), by)
	for _, w := range m.GetWeightedWaypoints() {
		b.followGateway(w.GetDestination(), by)
	}
}

func (b *batch) followGateway(g *workload.GatewayAddress, by int) {
	if h := g.GetHostname(); h.GetHostname() != "" {
		b.count(mesh.ServiceName(h.GetNamespace(), h.GetHostname()), by)
	}
}

// held is a workload as it is kept: there are many, each is looked at when its services' endpoints change and hardly ever
// else, and decoded it takes four times the space.
type held struct {
	uid      string
	services []string // by namespace/hostname
	body     []byte   // a workload.Address
}

// workload decodes. What was accepted once is decoded by the same program, so that it cannot fail.
func (h *held) workload() *workload.Workload {
	a := new(workload.Address)
	if err := proto.Unmarshal(h.body, a); err != nil {
		panic("facts: what was decoded once cannot be decoded: " + err.Error()) // memory is broken
	}
	share(a.GetWorkload())
	return a.GetWorkload()
}

func workloads(list []*held) []*workload.Workload {
	out := make([]*workload.Workload, len(list))
	for i, h := range list {
		out[i] = h.workload()
	}
	return out
}

// hold keeps a workload that was decoded from body, which belongs to somebody else.
func hold(m *workload.Workload, body []byte) *held {
	h := &held{uid: m.GetUid(), services: make([]string, 0, len(m.GetServices())), body: bytes.Clone(body)}
	for service := range m.GetServices() {
		h.services = append(h.services, unique.Make(service).Value())
	}
	return h
}

func (b *batch) upsertWorkload(m *workload.Workload, body []byte) error {
	if m.GetUid() == "" {
		return fmt.Errorf("workload %s/%s without a uid", m.GetNamespace(), m.GetName())
	}
	for _, a := range m.GetAddresses() {
		if err := checkAddress(a); err != nil {
			return err
		}
	}
	for service, ports := range m.GetServices() {
		for _, p := range ports.GetPorts() {
			if p.GetServicePort() > 65535 || p.GetTargetPort() > 65535 {
				return fmt.Errorf("endpoint of %s: port %d or %d is out of range", service, p.GetServicePort(), p.GetTargetPort())
			}
		}
	}
	h := hold(m, body)
	b.removeWorkload(h.uid)
	b.workloads.set(h.uid, h)
	for _, service := range h.services {
		b.endpointsOf(service)[h.uid] = h
	}
	if b.isBound(m) {
		b.bindings()[h.uid] = h
	}
	return nil
}

func (b *batch) removeWorkload(uid string) bool {
	old, ok := b.workloads.get(uid)
	if !ok {
		return false
	}
	b.workloads.remove(uid)
	for _, service := range old.services {
		delete(b.endpointsOf(service), uid)
	}
	if b.knowsBound(uid) {
		delete(b.bindings(), uid)
	}
	return true
}

// endpointsOf returns the endpoints of a service to change.
func (b *batch) endpointsOf(service string) map[string]*held {
	byUID := b.endpoints[service]
	if byUID == nil {
		old, _ := b.next.endpoints.get(service)
		byUID = byUIDs(old)
		b.endpoints[service] = byUID
		b.store.pending.Endpoints.add(service)
	}
	return byUID
}

// bindings returns the bound workloads to change.
func (b *batch) bindings() map[string]*held {
	if b.bound == nil {
		b.bound = byUIDs(b.next.bound)
		b.store.pending.Bound = true
	}
	return b.bound
}

// knowsBound reports whether a workload is bound to the Gateway, as far as this batch knows.
func (b *batch) knowsBound(uid string) bool {
	if b.bound != nil {
		return b.bound[uid] != nil
	}
	_, is := slices.BinarySearchFunc(b.next.bound, uid, func(h *held, uid string) int { return strings.Compare(h.uid, uid) })
	return is
}

func byUIDs(list []*held) map[string]*held {
	out := make(map[string]*held, len(list)+1)
	for _, w := range list {
		out[w.uid] = w
	}
	return out
}

// rebind looks at every workload again, after the Gateway's own addresses changed.
func (b *batch) rebind() {
	bound := b.bindings()
	clear(bound)
	for uid, w := range b.workloads.all() {
		if b.isBound(w.workload()) {
			bound[uid] = w
		}
	}
}

// isBound reports whether a workload names this Gateway as its waypoint. The control plane writes the hostname of the
// Gateway's service, or one of its addresses.
func (b *batch) isBound(w *workload.Workload) bool {
	g := w.GetWaypoint()
	if h := g.GetHostname(); h != nil {
		name, _, _ := strings.Cut(h.GetHostname(), ".")
		return h.GetNamespace() == b.store.cfg.Namespace && name == b.store.cfg.Name
	}
	own, _ := b.addresses.get(b.store.own)
	for _, a := range own.GetAddresses() {
		if g.GetAddress() != nil && bytes.Equal(a.GetAddress(), g.GetAddress().GetAddress()) {
			return true
		}
	}
	return false
}

func checkAddress(a []byte) error {
	if len(a) != 4 && len(a) != 16 {
		return fmt.Errorf("address has %d bytes, not 4 or 16", len(a))
	}
	return nil
}

// share makes equal strings of many workloads one: there are few namespaces and nodes, and thousands of workloads.
func share(w *workload.Workload) {
	for _, s := range []*string{
		&w.Namespace, &w.Network, &w.TrustDomain, &w.ServiceAccount, &w.Node, &w.ClusterId, &w.CanonicalName,
		&w.CanonicalRevision, &w.WorkloadName,
	} {
		if *s != "" {
			*s = unique.Make(*s).Value()
		}
	}
}
