package model

import (
	"net/netip"
	"slices"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/object"
)

// service is a Service or a ServiceEntry: it claims names and selects or lists endpoints.
type service struct {
	ns   *namespace
	kind object.Kind
	name string
	// obj is a *object.Service or *object.ServiceEntry, nil once gone. What is gone stays until the end of Flush: an object
	// that comes back before is the same one.
	obj     object.Object
	arrived uint64

	slots []*slot // one for each name it claims
	sel   *selector
	ports []port
	// plain is the port list of every endpoint, when no port is looked up by name at the endpoint.
	plain *workload.PortList
	// hidden ServiceEntries are not for anybody to see.
	hidden bool
}

// port is a port of a service as its endpoints need to know it.
type port struct {
	name       string
	number     uint32
	target     uint32
	targetName string
}

// slot is one service name in one namespace with those that claim it.
type slot struct {
	ns       *namespace
	hostname string
	name     string // of the resource; every endpoint's workload shares it
	host     *host
	claims   set[*service]

	winner    *service
	canonical bool
	// vips are the addresses the winner asks for, withheld those it may not have.
	vips     []netip.Prefix
	bound    binding
	withheld []netip.Prefix
	sum      uint64
	// told is what was last said about the name, watch what its endpoints must look out for, keys the labels that
	// subsets of the service are made by.
	told  Host
	watch watch
	keys  []string
	// outside are endpoints that are to guard it and are not in the mesh, so that nobody does.
	outside set[*source]
}

// host is one service name wherever it is claimed.
type host struct {
	name  string
	slots set[*slot]
}

func (s *service) key() object.Key {
	return object.Key{Kind: s.kind, Namespace: s.ns.name, Name: s.name}
}

// won are the names the service actually has.
func (s *service) won() []*slot {
	var w []*slot
	for _, c := range s.slots {
		if c.winner == s {
			w = append(w, c)
		}
	}
	return w
}

// better decides who has a name: a Service before a ServiceEntry, then the older one.
func better(a, b *service) bool {
	if a.kind != b.kind {
		return a.kind == object.KindService
	}
	return older(a.obj.Metadata(), b.obj.Metadata(), a.arrived, b.arrived)
}

func (m *Model) putService(ns *namespace, name string, o *object.Service) {
	s := ns.services[name]
	if s == nil {
		if o == nil {
			return
		}
		s = &service{ns: ns, kind: object.KindService, name: name, arrived: m.flushes}
		ns.services[name] = s
	}
	m.dirty.reports.add(ns)
	var (
		hosts []string
		sel   object.Selector
		ports []port
		refs  []gatewayName
		now   object.Object
	)
	if o != nil {
		now = o
		if o.Type != object.ExternalName {
			hosts = []string{mesh.ServiceHostname(ns.name, name, m.cfg.ClusterDomain)}
			ports = servicePorts(o)
			refs = references(o.Labels, ns.name)
			// An empty selector selects nothing here, unlike in a policy.
			sel = object.Selector{Present: !o.Selector.Labels.Empty(), Labels: o.Selector.Labels}
		}
	}
	old, _ := s.obj.(*object.Service)
	m.reserve(clusterIPs(old), clusterIPs(o))
	m.putAny(s, now, hosts, sel, of(object.KindPod, object.KindWorkloadEntry), ports, refs)
	m.retarget(ns, name)
	if o == nil {
		m.dirty.gone.add(s)
	}
}

func clusterIPs(o *object.Service) []netip.Addr {
	if o == nil {
		return nil
	}
	return o.ClusterIPs
}

func (m *Model) putServiceEntry(ns *namespace, name string, o *object.ServiceEntry) {
	s := ns.serviceEntries[name]
	if s == nil {
		if o == nil {
			return
		}
		s = &service{ns: ns, kind: object.KindServiceEntry, name: name, arrived: m.flushes}
		ns.serviceEntries[name] = s
	}
	m.dirty.reports.add(ns)
	var (
		hosts []string
		sel   object.Selector
		ports []port
		refs  []gatewayName
		now   object.Object
	)
	old, _ := s.obj.(*object.ServiceEntry)
	if o != nil {
		now = o
		for _, h := range o.Hosts {
			if !slices.Contains(hosts, h) {
				hosts = append(hosts, h)
			}
		}
		for _, p := range o.Ports {
			target := p.TargetPort
			if target == 0 {
				target = p.Number
			}
			ports = append(ports, port{name: p.Name, number: uint32(p.Number), target: uint32(target)})
		}
		refs = references(o.Labels, ns.name)
		sel = object.Selector{Present: o.WorkloadSelector.Present && !o.WorkloadSelector.Labels.Empty(), Labels: o.WorkloadSelector.Labels}
	}
	m.allocate(old, o, s.arrived)
	m.putAny(s, now, hosts, sel, of(object.KindPod, object.KindWorkloadEntry), ports, refs)
	m.putEndpoints(ns, name, o)
	if o == nil {
		m.dirty.gone.add(s)
	}
}

// putAny brings what a service claims, selects and refers to in line with its object.
func (m *Model) putAny(s *service, obj object.Object, hosts []string, sel object.Selector, ks kinds, ports []port, refs []gatewayName) {
	var was object.Labels
	if s.obj != nil {
		was = s.obj.Metadata().Labels
	}
	m.moveServiceRefs(s, references(was, s.ns.name), refs)
	s.obj = obj
	if !slices.Equal(s.ports, ports) {
		s.ports = ports
		s.plain = nil
		m.touchSelected(s.sel)
	}
	had := object.Selector{}
	if s.sel != nil {
		had = object.Selector{Present: true, Labels: s.sel.labels}
	}
	if had != sel {
		m.discard(s.sel)
		s.sel = nil
		if sel.Present {
			s.sel = m.choose(s.ns, false, sel.Labels, ks, s)
		}
	}
	m.claim(s, hosts)
	m.dirty.reports.add(s)
	m.touchTargetsOf(s.key())
}

// claim makes the names of a service those given.
func (m *Model) claim(s *service, hosts []string) {
	var keep []*slot
	for _, c := range s.slots {
		m.dirty.slots.add(c)
		if !slices.Contains(hosts, c.hostname) {
			delete(c.claims, s)
			continue
		}
		keep = append(keep, c)
	}
	s.slots = s.slots[:0]
	for _, h := range hosts {
		i := slices.IndexFunc(keep, func(c *slot) bool { return c.hostname == h })
		if i >= 0 {
			s.slots = append(s.slots, keep[i])
			continue
		}
		c := s.ns.slots[h]
		if c == nil {
			c = &slot{ns: s.ns, hostname: h, name: mesh.ServiceName(s.ns.name, h), claims: set[*service]{}}
			s.ns.slots[h] = c
			if m.hosts[h] == nil {
				m.hosts[h] = &host{name: h, slots: set[*slot]{}}
			}
			c.host = m.hosts[h]
			c.host.slots.add(c)
		}
		c.claims.add(s)
		s.slots = append(s.slots, c)
		m.dirty.slots.add(c)
	}
}

// touchMembers marks every workload that may be an endpoint of the service.
func (m *Model) touchMembers(s *service) {
	m.touchSelected(s.sel)
	switch s.kind {
	case object.KindServiceEntry:
		if src := s.ns.external[s.name]; src != nil {
			m.touch(src)
		}
	case object.KindService:
		m.retarget(s.ns, s.name)
	}
}

func servicePorts(o *object.Service) []port {
	ports := make([]port, 0, len(o.Ports))
	for _, p := range o.Ports {
		if carries(o, p) {
			ports = append(ports, port{name: p.Name, number: uint32(p.Port), target: uint32(p.TargetPort), targetName: p.TargetName})
		}
	}
	return ports
}

// carries reports whether a port is handed out. A number may stand for TCP and for UDP; the mesh carries TCP, so that one counts.
func carries(o *object.Service, p object.ServicePort) bool {
	return p.Protocol == object.TCP || !slices.ContainsFunc(o.Ports, func(q object.ServicePort) bool {
		return q.Port == p.Port && q.Protocol == object.TCP
	})
}

// portsOfPod is where the service's ports lead at a pod.
func (s *service) portsOfPod(p *object.Pod) *workload.PortList {
	entry := s.kind == object.KindServiceEntry
	named := entry
	for i := range s.ports {
		named = named || s.ports[i].targetName != ""
	}
	if !named {
		return s.plainPorts()
	}
	l := &workload.PortList{}
	for i := range s.ports {
		sp := &s.ports[i]
		target := sp.target
		switch {
		case sp.targetName != "":
			n, ok := p.NamedPort(sp.targetName, object.TCP)
			if !ok {
				continue // this pod does not have the port
			}
			target = uint32(n)
		case entry && sp.name != "":
			// A ServiceEntry cannot name target ports: its own port names stand for them.
			if n, ok := p.NamedPort(sp.name, object.TCP); ok {
				target = uint32(n)
			}
		}
		l.Ports = append(l.Ports, &workload.Port{ServicePort: sp.number, TargetPort: target})
	}
	return l
}

// portsOfEndpoint is where the service's ports lead at an endpoint that has a port map of its own.
func (s *service) portsOfEndpoint(e *object.Workload) *workload.PortList {
	l := &workload.PortList{}
	for i := range s.ports {
		sp := &s.ports[i]
		target := sp.target
		name := sp.name
		if sp.targetName != "" {
			name = sp.targetName
		}
		if n, ok := e.Port(name); ok {
			target = uint32(n)
		} else if sp.targetName != "" {
			continue
		}
		l.Ports = append(l.Ports, &workload.Port{ServicePort: sp.number, TargetPort: target})
	}
	return l
}

func (s *service) plainPorts() *workload.PortList {
	if s.plain == nil {
		s.plain = &workload.PortList{}
		for i := range s.ports {
			s.plain.Ports = append(s.plain.Ports, &workload.Port{ServicePort: s.ports[i].number, TargetPort: s.ports[i].target})
		}
	}
	return s.plain
}
