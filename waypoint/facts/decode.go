package facts

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unique"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
)

// Decoding checks what every expansion relies on: names, ports and addresses. A resource that fails is refused alone and
// its previous version stays.

func (b *batch) upsert(typeURL, name string, body []byte) error {
	if typeURL == mesh.TypeAddress {
		a := new(workload.Address)
		if err := proto.Unmarshal(body, a); err != nil {
			return fmt.Errorf("decode address: %w", err)
		}
		switch t := a.GetType().(type) {
		case *workload.Address_Workload:
			return b.upsertWorkload(t.Workload)
		case *workload.Address_Service:
			return b.upsertAddress(t.Service)
		}
		return errors.New("address is neither a workload nor a service")
	}
	key, err := b.store.key(name)
	if err != nil {
		return err
	}
	switch typeURL {
	case mesh.TypeWaypointGateway:
		return b.upsertGateway(key, body)
	case mesh.TypeWaypointService:
		return b.upsertService(key, body)
	case mesh.TypeWaypointDestination:
		return b.upsertDestination(key, body)
	case mesh.TypeWaypointVirtualHost:
		m := new(waypoint.VirtualHost)
		if err := proto.Unmarshal(body, m); err != nil {
			return fmt.Errorf("decode virtual host: %w", err)
		}
		b.hosts.set(name, m)
		b.store.pending.VirtualHosts.add(name)
	case mesh.TypeWaypointSecret:
		m := new(waypoint.Secret)
		if err := proto.Unmarshal(body, m); err != nil {
			return errors.New("decode secret") // the text of the error may quote what is in it
		}
		b.secrets.set(name, m)
		b.store.pending.Secrets.add(name)
	default:
		return fmt.Errorf("type %s is not one this proxy asked for", typeURL)
	}
	return nil
}

func (b *batch) remove(typeURL, name string) {
	p := &b.store.pending
	if typeURL == mesh.TypeAddress {
		// A workload's uid and namespace/hostname share one space of names on the wire.
		if !b.removeWorkload(name) {
			b.removeAddress(name)
		}
		return
	}
	key, err := b.store.key(name)
	if err != nil {
		return // never accepted either
	}
	switch typeURL {
	case mesh.TypeWaypointGateway:
		if b.next.gateway != nil {
			b.next.gateway, p.Gateway = nil, true
		}
	case mesh.TypeWaypointService:
		if _, ok := b.services.get(key); ok {
			b.services.remove(key)
			b.count(key, -1)
			p.Services.add(key)
			p.Outlines.add(key)
		}
	case mesh.TypeWaypointDestination:
		if _, ok := b.destinations.get(key); ok {
			b.destinations.remove(key)
			b.count(key, -1)
			p.Destinations.add(key)
		}
	case mesh.TypeWaypointVirtualHost:
		b.hosts.remove(name)
		p.VirtualHosts.add(name)
	case mesh.TypeWaypointSecret:
		b.secrets.remove(name)
		p.Secrets.add(name)
	}
}

func (b *batch) upsertGateway(key string, body []byte) error {
	m := new(waypoint.Gateway)
	if err := proto.Unmarshal(body, m); err != nil {
		return fmt.Errorf("decode gateway: %w", err)
	}
	if cfg := b.store.cfg; key != "gateway" || m.GetNamespace() != cfg.Namespace || m.GetName() != cfg.Name {
		return fmt.Errorf("gateway %s/%s under the name of another", m.GetNamespace(), m.GetName())
	}
	if len(m.GetTrustDomains()) == 0 {
		return errors.New("gateway without a trust domain")
	}
	b.next.gateway, b.store.pending.Gateway = m, true
	return nil
}

func (b *batch) upsertService(key string, body []byte) error {
	m := new(waypoint.Service)
	if err := proto.Unmarshal(body, m); err != nil {
		return fmt.Errorf("decode service: %w", err)
	}
	if mesh.ServiceName(m.GetNamespace(), m.GetHostname()) != key || m.GetHostname() == "" {
		return fmt.Errorf("service %s/%s under the name of another", m.GetNamespace(), m.GetHostname())
	}
	if err := checkPorts(m.GetPorts()); err != nil {
		return err
	}
	old, had := b.services.get(key)
	if !had {
		b.count(key, +1)
	}
	if !had || !sameOutline(old, m) {
		b.store.pending.Outlines.add(key)
	}
	b.services.set(key, m)
	b.store.pending.Services.add(key)
	return nil
}

// sameOutline reports whether two versions of a service differ at most in their HTTP rules, and there neither in whether
// a port has any nor in whether they ask for claims of a token.
func sameOutline(a, b *waypoint.Service) bool {
	if a.GetName() != b.GetName() || a.GetGuarded() != b.GetGuarded() || len(a.GetPorts()) != len(b.GetPorts()) ||
		!proto.Equal(a.GetPolicies(), b.GetPolicies()) {
		return false
	}
	for i, p := range a.GetPorts() {
		q := b.GetPorts()[i]
		if p.GetNumber() != q.GetNumber() || p.GetName() != q.GetName() || p.GetProtocol() != q.GetProtocol() ||
			p.GetRouted() != q.GetRouted() || len(p.GetStream()) != len(q.GetStream()) ||
			(len(p.GetHttp()) == 0) != (len(q.GetHttp()) == 0) || asksClaims(p.GetHttp()) != asksClaims(q.GetHttp()) {
			return false
		}
		for j, rule := range p.GetStream() {
			if !proto.Equal(rule, q.GetStream()[j]) {
				return false
			}
		}
	}
	return true
}

func asksClaims(rules []*waypoint.HTTPRule) bool {
	for _, rule := range rules {
		for _, m := range rule.GetMatches() {
			if len(m.GetClaims()) > 0 {
				return true
			}
		}
	}
	return false
}

func (b *batch) upsertDestination(key string, body []byte) error {
	m := new(waypoint.Destination)
	if err := proto.Unmarshal(body, m); err != nil {
		return fmt.Errorf("decode destination: %w", err)
	}
	if mesh.ServiceName(m.GetNamespace(), m.GetHostname()) != key || m.GetHostname() == "" {
		return fmt.Errorf("destination %s/%s under the name of another", m.GetNamespace(), m.GetHostname())
	}
	if err := checkPorts(m.GetServicePorts()); err != nil {
		return err
	}
	if _, had := b.destinations.get(key); !had {
		b.count(key, +1)
	}
	b.destinations.set(key, m)
	b.store.pending.Destinations.add(key)
	return nil
}

func checkPorts(ports []*waypoint.ServicePort) error {
	seen := map[uint32]bool{}
	for _, p := range ports {
		n := p.GetNumber()
		switch {
		case n == 0 || n > 65535:
			return fmt.Errorf("port %d is out of range", n)
		case seen[n]:
			return fmt.Errorf("port %d stands there twice", n)
		}
		seen[n] = true
	}
	return nil
}

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

func (b *batch) upsertWorkload(m *workload.Workload) error {
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
	share(m)
	b.removeWorkload(m.Uid)
	b.workloads.set(m.Uid, m)
	for service := range m.Services {
		b.endpointsOf(service)[m.Uid] = m
	}
	if b.isBound(m) {
		b.bindings()[m.Uid] = m
	}
	return nil
}

func (b *batch) removeWorkload(uid string) bool {
	old, ok := b.workloads.get(uid)
	if !ok {
		return false
	}
	b.workloads.remove(uid)
	for service := range old.GetServices() {
		delete(b.endpointsOf(service), uid)
	}
	if b.isBound(old) {
		delete(b.bindings(), uid)
	}
	return true
}

// endpointsOf returns the endpoints of a service to change.
func (b *batch) endpointsOf(service string) map[string]*workload.Workload {
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
func (b *batch) bindings() map[string]*workload.Workload {
	if b.bound == nil {
		b.bound = byUIDs(b.next.bound)
		b.store.pending.Bound = true
	}
	return b.bound
}

func byUIDs(list []*workload.Workload) map[string]*workload.Workload {
	out := make(map[string]*workload.Workload, len(list)+1)
	for _, w := range list {
		out[w.Uid] = w
	}
	return out
}

// rebind looks at every workload again, after the Gateway's own addresses changed.
func (b *batch) rebind() {
	bound := b.bindings()
	clear(bound)
	for uid, w := range b.workloads.all() {
		if b.isBound(w) {
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
