package model

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/object"
)

// settleSlots decides for every marked name who has it and which addresses it stands for. Addresses and names tie slots
// to one another, so settling one may mark others; each is settled again until nothing moves.
func (m *Model) settleSlots() {
	settled := make(set[*slot], len(m.dirty.slots))
	for {
		var todo []*slot
		for c := range m.dirty.slots {
			if !settled.has(c) {
				settled.add(c)
				todo = append(todo, c)
			}
		}
		if len(todo) == 0 {
			return
		}
		for _, c := range todo {
			m.settleWinner(c)
		}
		for _, c := range todo {
			m.settleAddresses(c)
		}
	}
}

func (m *Model) settleWinner(c *slot) {
	var winner *service
	for s := range c.claims {
		s.hidden = m.visibility(s) == Nobody
		if !s.hidden && (winner == nil || better(s, winner)) {
			winner = s
		}
		m.dirty.reports.add(s)
	}
	// Which of the namespaces' services stands for the name elsewhere may be another one now.
	for o := range c.host.slots {
		m.dirty.slots.add(o)
	}
	if winner == c.winner {
		return
	}
	if c.winner != nil {
		m.touchMembers(c.winner)
		m.touchTargetsOf(c.winner.key())
	}
	c.winner = winner
	if winner != nil {
		m.touchMembers(winner)
		m.touchTargetsOf(winner.key())
	}
}

// settleAddresses keeps the index of virtual addresses. Whoever shares an address with the slot is marked.
func (m *Model) settleAddresses(c *slot) {
	vips := m.wanted(c)
	for _, p := range c.vips {
		if !slices.Contains(vips, p) {
			dropFrom(m.vips, p, c)
			m.touchSharers(p)
		}
	}
	for _, p := range vips {
		if !slices.Contains(c.vips, p) {
			addTo(m.vips, p, c)
		}
		// Also when the address stays: the one who asks for it may be another one.
		m.touchSharers(p)
	}
	c.vips = vips
}

func (m *Model) touchSharers(p netip.Prefix) {
	for o := range m.vips[p] {
		m.dirty.slots.add(o)
	}
}

// wanted are the addresses the winner of a slot asks for.
func (m *Model) wanted(c *slot) []netip.Prefix {
	if c.winner == nil {
		return nil
	}
	var ps []netip.Prefix
	switch o := c.winner.obj.(type) {
	case *object.Service:
		for _, a := range o.ClusterIPs {
			ps = append(ps, netip.PrefixFrom(a, a.BitLen()))
		}
	case *object.ServiceEntry:
		ps = slices.Clone(o.Addresses)
		if len(ps) == 0 {
			for _, a := range m.assigned(o, c.hostname) {
				ps = append(ps, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	slices.SortFunc(ps, comparePrefix)
	return slices.Compact(ps)
}

// holder is the one that keeps an address from the slot, nil when the slot may have it. Kubernetes gives a cluster
// IP to one Service only; where objects are written by hand the older one keeps it, and no ServiceEntry takes it away. An
// address that a host was given by the mesh nobody else has a reason to write down: it would lead others' traffic to him.
func (m *Model) holder(c *slot, p netip.Prefix) *service {
	var first *slot
	for o := range m.vips[p] {
		if (o.winner.kind == object.KindService || automatic(p)) && (first == nil || better(o.winner, first.winner)) {
			first = o
		}
	}
	if first == nil || !better(first.winner, c.winner) || first.winner.kind != object.KindService && first.ns == c.ns {
		return nil
	}
	return first.winner
}

// flushSlots hands out the services that were marked.
func (m *Model) flushSlots(out Output) {
	for c := range m.dirty.slots {
		if c.winner == nil {
			if c.sum != 0 {
				out.RemoveAddress(c.name)
			}
			c.sum = 0
			c.bound = binding{}
			c.watch, c.keys = watch{}, nil
			m.tell(out, c)
			if len(c.claims) == 0 {
				m.dropSlot(c)
			}
			continue
		}
		c.canonical = m.isCanonical(c)
		was := c.bound
		c.bound = m.bindService(c.winner)
		if was.to != c.bound.to {
			if m.cfg.AllowWaypoints {
				m.touchMembers(c.winner)
			}
			m.touchTargetsOf(c.winner.key())
		}
		m.watchSlot(c)
		m.tell(out, c)
		c.sum = out.Service(m.renderService(c), c.sum)
		m.touchReports(c)
	}
	m.dirty.slots.empty()
}

func (m *Model) touchReports(c *slot) {
	for s := range c.claims {
		m.dirty.reports.add(s)
	}
}

func (m *Model) dropSlot(c *slot) {
	delete(c.ns.slots, c.hostname)
	delete(c.host.slots, c)
	if len(c.host.slots) == 0 {
		delete(m.hosts, c.host.name)
	}
	m.dirty.emptied.add(c.ns)
}

// isCanonical says whether the slot stands for its hostname in namespaces that have no service of that name: a Service
// always does; without one the oldest ServiceEntry that is public.
func (m *Model) isCanonical(c *slot) bool {
	if c.winner.kind == object.KindService {
		return true
	}
	if m.visibility(c.winner) != Public {
		return false
	}
	for o := range c.host.slots {
		if o == c || o.winner == nil {
			continue
		}
		if o.winner.kind == object.KindService || m.visibility(o.winner) == Public && better(o.winner, c.winner) {
			return false
		}
	}
	return true
}

func (m *Model) visibility(s *service) Visibility {
	if s.kind == object.KindServiceEntry {
		for i := range m.cfg.Visibility {
			if r := &m.cfg.Visibility[i]; r.Namespaces.Matches(s.ns.labels()) {
				return r.Visibility
			}
		}
	}
	return Public
}

// renderService is the message for a slot.
func (m *Model) renderService(c *slot) *workload.Service {
	s := &workload.Service{
		Namespace: c.ns.name,
		Name:      c.winner.name,
		Hostname:  c.hostname,
		Canonical: c.canonical,
	}
	c.withheld = c.withheld[:0]
	for _, p := range c.vips {
		if m.holder(c, p) != nil {
			c.withheld = append(c.withheld, p)
			continue
		}
		s.Addresses = append(s.Addresses, m.networkAddress(p))
	}
	switch o := c.winner.obj.(type) {
	case *object.Service:
		m.renderKubernetes(s, o, c.ns)
	case *object.ServiceEntry:
		m.renderEntry(s, o, c.ns)
		if m.visibility(c.winner) == NamespaceOnly {
			s.Visibility = workload.Service_NAMESPACE
		}
	}
	m.guardService(s, c)
	if w := c.bound.to; w != nil {
		s.Waypoint = w.fact.address
		s.IngressUseWaypoint = c.bound.ingress
		if v := c.bound.canary; v != nil {
			s.WeightedWaypoints = []*workload.WeightedWaypoint{
				{Destination: w.fact.address, Weight: 100 - c.bound.weight},
				{Destination: v.fact.address, Weight: c.bound.weight},
			}
		}
	}
	return s
}

func (m *Model) networkAddress(p netip.Prefix) *workload.NetworkAddress {
	a := &workload.NetworkAddress{Network: m.network, Address: rawAddress(p.Addr())}
	if !p.IsSingleIP() {
		bits := uint32(p.Bits())
		a.Length = &bits
	}
	return a
}

func (m *Model) renderKubernetes(s *workload.Service, o *object.Service, ns *namespace) {
	for _, p := range o.Ports {
		if carries(o, p) {
			s.Ports = append(s.Ports, &workload.Port{ServicePort: uint32(p.Port), TargetPort: uint32(p.TargetPort), AppProtocol: appProtocol(p)})
		}
	}
	if o.InternalTrafficLocal {
		s.LoadBalancing = &workload.LoadBalancing{
			RoutingPreference: []workload.LoadBalancing_Scope{workload.LoadBalancing_NODE},
			Mode:              workload.LoadBalancing_STRICT,
		}
	} else {
		s.LoadBalancing = distribution(o.TrafficDistribution, o.Annotations, ns.annotations())
	}
	if o.PublishNotReadyAddresses {
		if s.LoadBalancing == nil {
			s.LoadBalancing = &workload.LoadBalancing{}
		}
		s.LoadBalancing.HealthPolicy = workload.LoadBalancing_ALLOW_ALL
	}
	switch {
	case len(o.IPFamilies) > 1:
		s.IpFamilies = workload.IPFamilies_DUAL
	case len(o.IPFamilies) == 1 && o.IPFamilies[0] == object.IPv6:
		s.IpFamilies = workload.IPFamilies_IPV6_ONLY
	case len(o.IPFamilies) == 1:
		s.IpFamilies = workload.IPFamilies_IPV4_ONLY
	}
}

func (m *Model) renderEntry(s *workload.Service, o *object.ServiceEntry, ns *namespace) {
	for _, p := range o.Ports {
		target := p.TargetPort
		if target == 0 {
			target = p.Number
		}
		s.Ports = append(s.Ports, &workload.Port{ServicePort: uint32(p.Number), TargetPort: uint32(target), AppProtocol: protocolNamed(p.Protocol)})
	}
	s.SubjectAltNames = o.SubjectAltNames
	if o.Resolution == object.ResolutionNone {
		s.LoadBalancing = &workload.LoadBalancing{
			Mode:         workload.LoadBalancing_PASSTHROUGH,
			HealthPolicy: workload.LoadBalancing_ALLOW_ALL,
		}
		return
	}
	s.LoadBalancing = distribution("", o.Annotations, ns.annotations())
}

// distribution is what trafficDistribution comes to: the field, else the annotation of the object, else that of its namespace.
func distribution(field string, own, namespace object.Labels) *workload.LoadBalancing {
	d := field
	if d == "" {
		var ok bool
		if d, ok = own.Lookup(mesh.AnnotationTrafficDistribution); !ok {
			d = namespace.Get(mesh.AnnotationTrafficDistribution)
		}
	}
	near := []workload.LoadBalancing_Scope{workload.LoadBalancing_NETWORK, workload.LoadBalancing_REGION, workload.LoadBalancing_ZONE}
	switch d {
	case "PreferClose", "PreferSameZone":
	case "PreferSameNode":
		near = append(near, workload.LoadBalancing_SUBZONE, workload.LoadBalancing_NODE)
	default:
		return nil
	}
	return &workload.LoadBalancing{RoutingPreference: near, Mode: workload.LoadBalancing_FAILOVER}
}

// ingressUse reads whether ingress gateways are to use the waypoint.
func ingressUse(own, namespace object.Labels) (use, said bool) {
	v, ok := own.Lookup(mesh.LabelIngressUseWaypoint)
	if !ok {
		if v, ok = namespace.Lookup(mesh.LabelIngressUseWaypoint); !ok {
			return false, false
		}
	}
	b, err := strconv.ParseBool(v)
	return err == nil && b, true
}
