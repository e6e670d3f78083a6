package facts

import (
	"errors"
	"fmt"
	"slices"

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
			return b.upsertWorkload(t.Workload, body)
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
			p.Policies.add(key)
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
	if !had || !samePolicies(old, m) {
		b.store.pending.Policies.add(key)
	}
	b.services.set(key, m)
	b.store.pending.Services.add(key)
	return nil
}

// sameOutline reports whether two versions of a service differ at most in their policies and HTTP rules, and there neither in
// whether a port has any nor in whether they ask for claims of a token.
func sameOutline(a, b *waypoint.Service) bool {
	if a.GetName() != b.GetName() || a.GetGuarded() != b.GetGuarded() || len(a.GetPorts()) != len(b.GetPorts()) {
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

// samePolicies reports whether two versions of a service have the same policies, as far as connections and what is shared by all
// services feel them. What is asked of HTTP requests alone is not.
func samePolicies(a, b *waypoint.Service) bool {
	if !onlyHTTP(a) || !onlyHTTP(b) {
		return proto.Equal(a.GetPolicies(), b.GetPolicies())
	}
	return slices.EqualFunc(a.GetPolicies().GetExtensions(), b.GetPolicies().GetExtensions(), func(x, y *waypoint.Extension) bool {
		return proto.Equal(x, y)
	})
}

// onlyHTTP reports whether it is known of all ports that they speak HTTP.
func onlyHTTP(s *waypoint.Service) bool {
	for _, p := range s.GetPorts() {
		switch p.GetProtocol() {
		case waypoint.Protocol_HTTP1, waypoint.Protocol_HTTP2, waypoint.Protocol_GRPC:
		default:
			return false
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
