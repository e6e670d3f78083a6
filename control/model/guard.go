package model

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ambit-mesh/ambit/api/mesh"
	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/object"
)

// A policy that a waypoint enforces is worth nothing when traffic goes around the waypoint. So the endpoints are told
// which waypoint traffic must have come through: the one the service asks for, whether that is ready or not. Only
// policies that refuse something do this; routes never close anything.

// targeter is a policy bound to objects by reference.
type targeter interface {
	reporter
	key() object.Key
	// enforces reports whether a waypoint refuses traffic because of it.
	enforces() bool
}

// watch is what a service means to its endpoints: whose word about clients they believe, and what they guard.
type watch struct {
	trusted []string // SPIFFE ids of the waypoints before it
	guard   *facts.Guard
	// openSaid is set when the service or its namespace says how strict to be.
	open, openSaid bool
}

func (w *watch) equal(o *watch) bool {
	return slices.Equal(w.trusted, o.trusted) && (w.guard == nil) == (o.guard == nil) && proto.Equal(w.guard, o.guard) &&
		w.open == o.open && w.openSaid == o.openSaid
}

// identities are the SPIFFE ids a waypoint has or, before it has any pods, is to have.
func (m *Model) identities(w *waypoint, accounts []string) []string {
	expected := w.id.name
	if w.obj != nil {
		if IsEdge(w.obj, m.classes[w.obj.Class]) {
			expected += "-" + mesh.GatewayClassIngress // as waypoint/deploy names it
		}
		for _, a := range [...]string{mesh.AnnotationNameOverride, mesh.AnnotationServiceAccount} {
			if v := w.obj.Annotations.Get(a); v != "" {
				expected = v
			}
		}
	}
	ids := []string{m.spiffe(w.id.ns, expected)}
	for _, a := range accounts {
		if id := m.spiffe(w.id.ns, a); !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (m *Model) spiffe(ns, account string) string {
	return "spiffe://" + m.cfg.TrustDomain + "/ns/" + ns + "/sa/" + account
}

// enforced are the policies that are bound to an object and refuse traffic, as text.
func (m *Model) enforced(keys ...object.Key) []string {
	var names []string
	for _, k := range keys {
		for t := range m.targets[k] {
			if k.Kind == object.KindGatewayClass && t.key().Namespace != m.cfg.RootNamespace {
				continue
			}
			if n := t.key().String(); t.enforces() && !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	slices.Sort(names)
	return names
}

// gatewayKeys are what policies for everything behind a waypoint are bound to.
func (w *waypoint) gatewayKeys() []object.Key {
	keys := []object.Key{w.key()}
	if w.obj != nil {
		keys = append(keys, object.Key{Kind: object.KindGatewayClass, Name: w.obj.Class})
	}
	return keys
}

// watchSlot works out what a service means to its endpoints and marks them when that changed.
func (m *Model) watchSlot(c *slot) {
	was := c.watch
	c.watch = m.watchOf(c)
	keys := m.subsetKeys(c)
	if !was.equal(&c.watch) {
		m.touchTargetsOf(c.winner.key())
	}
	if !was.equal(&c.watch) || !slices.Equal(keys, c.keys) {
		m.touchMembers(c.winner)
	}
	c.keys = keys
}

func (m *Model) watchOf(c *slot) watch {
	var (
		w      watch
		before []*waypoint
		keys   []object.Key
	)
	s, b := c.winner, c.bound
	w.open, w.openSaid = strictness(s.obj.Metadata().Annotations, s.ns.annotations())
	direct := m.enforced(s.key())
	switch {
	case b.to != nil:
		before = append(before, b.to)
		if b.canary != nil {
			before = append(before, b.canary)
		}
		for _, g := range before {
			w.trusted = union(w.trusted, g.fact.identities)
			keys = append(keys, g.gatewayKeys()...)
		}
	case b.problem != nil:
		// The waypoint cannot be had. What is to be enforced there still holds, so nothing else may come in.
		g := m.asked(s.ns, s.obj.Metadata().Labels, "")
		if g == nil {
			return w
		}
		before = append(before, g)
		if b.problem.reason == reasonNotReady {
			keys = g.gatewayKeys()
		}
	}
	if len(before) == 0 {
		return w
	}
	policies := union(direct, m.enforced(keys...))
	if len(policies) == 0 {
		return w
	}
	g := &facts.Guard{Gateway: before[0].id.String(), Service: c.name, Policies: policies, Open: w.open}
	for _, gw := range before {
		g.Waypoints = union(g.Waypoints, gw.fact.identities)
	}
	w.guard = g
	return w
}

// asked is the waypoint that is asked for, whether it can be had or not.
func (m *Model) asked(ns *namespace, labels object.Labels, account string) *waypoint {
	id, _ := m.wish(ns, labels, account)
	return m.waypoints[id]
}

// strictness reads how strict the owner wants guards to be; the first annotation found counts.
func strictness(from ...object.Labels) (open, said bool) {
	v, said := firstOf(mesh.AnnotationEnforcement, from...)
	return v == mesh.EnforcementOpen, said
}

// union is the sorted union of two lists.
func union(a, b []string) []string {
	all := append(slices.Clone(a), b...)
	slices.Sort(all)
	return slices.Compact(all)
}

// setGuards adds what a workload must look out for to its extensions.
func (m *Model) setGuards(w *workload.Workload, s *source, labels object.Labels) {
	if len(m.waypoints)+len(m.subsets) == 0 || m.isWaypointInstance(s.ns, labels) {
		return
	}
	var g facts.Guards
	var annotations object.Labels
	if s.obj != nil && s.kind != object.KindServiceEntry {
		annotations = s.obj.Metadata().Annotations
	}
	open, said := strictness(annotations)
	keys := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(w.Services)) {
		c := m.slotNamed(name)
		if c == nil || c.winner == nil {
			continue
		}
		// An EndpointSlice can make a pod an endpoint of a Service in another namespace. Whoever wrote that speaks neither
		// for the pod's owner, whose guards the Service's waypoint would get past, nor may he close the pod to others.
		if c.ns != s.ns {
			continue
		}
		g.Waypoints = union(g.Waypoints, c.watch.trusted)
		for _, k := range c.keys {
			if v, ok := labels.Lookup(k); ok {
				keys[k] = v
			}
		}
		if c.watch.guard == nil {
			continue
		}
		guard := proto.Clone(c.watch.guard).(*facts.Guard)
		for _, p := range w.Services[name].GetPorts() {
			guard.Ports = append(guard.Ports, p.TargetPort)
		}
		if len(guard.Ports) == 0 {
			continue // a service that leads to no port here; an empty list would stand for all
		}
		slices.Sort(guard.Ports)
		guard.Ports = slices.Compact(guard.Ports)
		if said {
			guard.Open = open
		}
		g.Guards = append(g.Guards, guard)
	}
	if own := m.guardWorkload(&g, s, labels, w.ServiceAccount); own != nil {
		if !said {
			open, _ = strictness(s.ns.annotations())
		}
		own.Open = open
		g.Guards = append(g.Guards, own)
	}
	m.scratch.trusted = g.Waypoints
	if len(g.Guards)+len(g.Waypoints) > 0 {
		w.Extensions = append(w.Extensions, extension(mesh.ExtensionGuards, &g))
	}
	if len(keys) > 0 {
		w.Extensions = append(w.Extensions, extension(mesh.ExtensionLabels, &facts.Labels{Labels: keys}))
	}
}

// guardWorkload is the guard of a workload that asks for a waypoint itself. What comes through the waypoints of its
// services is let in: they are on a way that the owner laid out.
func (m *Model) guardWorkload(g *facts.Guards, s *source, labels object.Labels, account string) *facts.Guard {
	b := m.bindWorkload(s.ns, labels, account)
	to := b.to
	if to == nil {
		if b.problem == nil || b.problem.reason != reasonNotReady {
			return nil
		}
		to = m.asked(s.ns, labels, account)
		if to == nil || b.inherited && !to.fact.workload {
			return nil
		}
	}
	believed := union(g.Waypoints, to.fact.identities)
	if b.to != nil {
		g.Waypoints = believed
	}
	policies := m.enforced(to.gatewayKeys()...)
	if len(policies) == 0 {
		return nil
	}
	return &facts.Guard{Gateway: to.id.String(), Waypoints: believed, Policies: policies}
}

// guardService adds the guard of a service whose endpoints are outside the mesh: there the client's node proxy is the
// only one to ask.
func (m *Model) guardService(s *workload.Service, c *slot) {
	e, ok := c.winner.obj.(*object.ServiceEntry)
	if !ok || e.WorkloadSelector.Present || c.watch.guard == nil {
		return
	}
	s.Extensions = append(s.Extensions, extension(mesh.ExtensionGuards, &facts.Guards{
		Guards: []*facts.Guard{c.watch.guard}, Waypoints: c.watch.trusted,
	}))
}

// slotNamed finds a slot by the name of its resource.
func (m *Model) slotNamed(name string) *slot {
	ns, hostname, _ := strings.Cut(name, "/")
	if n := m.namespaces[ns]; n != nil {
		return n.slots[hostname]
	}
	return nil
}

func extension(name string, msg proto.Message) *workload.Extension {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
	if err != nil {
		return nil // only for text that is not UTF-8, which the source refuses
	}
	return &workload.Extension{Name: name, Config: &anypb.Any{
		TypeUrl: "type.googleapis.com/" + string(msg.ProtoReflect().Descriptor().FullName()), Value: raw,
	}}
}

// touchGuarded marks everything that a policy bound to an object is about.
func (m *Model) touchGuarded(k object.Key) {
	switch k.Kind {
	case object.KindService, object.KindServiceEntry:
		n := m.namespaces[k.Namespace]
		if n == nil {
			return
		}
		s := n.services[k.Name]
		if k.Kind == object.KindServiceEntry {
			s = n.serviceEntries[k.Name]
		}
		if s != nil {
			for _, c := range s.slots {
				m.dirty.slots.add(c)
			}
		}
	case object.KindGateway:
		if w := m.waypoints[gatewayName{k.Namespace, k.Name}]; w != nil {
			m.touchUsers(w, true)
		}
	case object.KindGatewayClass:
		for _, w := range m.waypoints {
			if w.obj != nil && w.obj.Class == k.Name {
				m.touchUsers(w, true)
			}
		}
	}
}
