package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/object"
)

// policy is an AuthorizationPolicy.
type policy struct {
	ns   *namespace
	name string
	obj  *object.AuthorizationPolicy // nil once gone
	sel  *selector                   // of those that choose workloads and that a node proxy can carry out
	sum  uint64
}

func (p *policy) key() object.Key {
	return object.Key{Kind: object.KindAuthorizationPolicy, Namespace: p.ns.name, Name: p.name}
}

func (m *Model) putPolicy(ns *namespace, name string, o *object.AuthorizationPolicy) {
	p := ns.policies[name]
	if p == nil {
		if o == nil {
			return
		}
		p = &policy{ns: ns, name: name}
		ns.policies[name] = p
	}
	m.dirty.policies.add(p)
	m.dirty.reports.add(p)
	for _, t := range p.targets() {
		dropFrom(m.targets, t, targeter(p))
		m.touchGuarded(t)
	}
	p.obj = o
	for _, t := range p.targets() {
		addTo(m.targets, t, targeter(p))
		m.touchGuarded(t)
	}
	sel := object.Selector{}
	if o != nil && o.Selector.Present {
		if a, _ := convertPolicy(m.cfg, o); a != nil {
			sel = o.Selector
		}
	}
	if p.sel != nil && (!sel.Present || p.sel.labels != sel.Labels) {
		m.discard(p.sel)
		p.sel = nil
	}
	if p.sel == nil && sel.Present {
		p.sel = m.choose(ns, ns.name == m.cfg.RootNamespace, sel.Labels, policyKinds, p)
	}
}

// targets are the objects a policy is bound to by reference.
func (p *policy) targets() []object.Key {
	if p.obj == nil {
		return nil
	}
	return targetKeys(p.ns.name, p.obj.TargetRefs)
}

func targetKeys(ns string, refs []object.TargetRef) []object.Key {
	var keys []object.Key
	for _, t := range refs {
		if k := targetKey(ns, t); !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	return keys
}

func targetKey(ns string, t object.TargetRef) object.Key {
	kind, _ := object.ParseKind(t.Kind)
	if t.Namespace != "" {
		ns = t.Namespace
	}
	if kind.ClusterScoped() {
		ns = ""
	}
	return object.Key{Kind: kind, Namespace: ns, Name: t.Name}
}

// touchTargetsOf marks the reports of policies bound to an object.
func (m *Model) touchTargetsOf(k object.Key) {
	for p := range m.targets[k] {
		m.dirty.reports.add(p)
	}
}

// flushPolicies hands out all policies that were marked.
func (m *Model) flushPolicies(out Output) {
	put := func(a *security.Authorization, name string, sum *uint64) {
		switch {
		case a != nil:
			*sum = out.Policy(a, *sum)
		case *sum != 0:
			out.RemovePolicy(name)
			*sum = 0
		}
	}
	for p := range m.dirty.policies {
		var a *security.Authorization
		if p.obj != nil {
			a, _ = convertPolicy(m.cfg, p.obj)
		} else {
			delete(p.ns.policies, p.name)
			m.dirty.emptied.add(p.ns)
		}
		put(a, p.ns.name+"/"+p.name, &p.sum)
	}
	m.dirty.policies.empty()
	for p := range m.dirty.peers {
		put(convertPeer(p), p.ns.name+"/"+p.converted(), &p.sum)
		if p.obj == nil {
			delete(p.ns.peers, p.name)
			m.dirty.emptied.add(p.ns)
		}
	}
	m.dirty.peers.empty()
	if m.dirty.strict {
		var a *security.Authorization
		if m.peers > 0 {
			a = m.strictPolicy()
		}
		put(a, m.cfg.RootNamespace+"/"+mesh.StaticStrictPolicy, &m.staticStrict)
		m.dirty.strict = false
	}
	for w := range m.dirty.allow {
		put(m.allowPolicy(w), w.id.ns+"/"+w.allowName(), &w.allow)
		m.dirty.idle.add(w)
	}
	m.dirty.allow.empty()
}

// allowName is the name of the policy that lets a waypoint through to what is behind it.
func (w *waypoint) allowName() string { return "istio_allow_waypoint_" + w.id.ns + "_" + w.id.name }

func (m *Model) allowPolicy(w *waypoint) *security.Authorization {
	if len(w.fact.accounts) == 0 || !m.cfg.AllowWaypoints || !w.fact.takes() {
		return nil
	}
	match := &security.Match{}
	for _, sa := range w.fact.accounts {
		match.Principals = append(match.Principals, &security.StringMatch{MatchType: &security.StringMatch_Exact{
			Exact: m.cfg.TrustDomain + "/ns/" + w.id.ns + "/sa/" + sa,
		}})
	}
	return &security.Authorization{
		Name:      w.allowName(),
		Namespace: w.id.ns,
		Scope:     security.Scope_WORKLOAD_SELECTOR,
		Action:    security.Action_ALLOW,
		Rules:     []*security.Rule{{Clauses: []*security.Clause{clause(match)}}},
	}
}

// allowWaypoints lists the policies that let through the waypoints a workload is reached by: its own, and those of its services.
func (m *Model) allowWaypoints(w *workload.Workload, to *waypoint) {
	through := set[*waypoint]{}
	if to != nil {
		through.add(to)
	}
	for name := range w.Services {
		ns, hostname, _ := strings.Cut(name, "/")
		if n := m.namespaces[ns]; n != nil && n.slots[hostname] != nil && n.slots[hostname].bound.to != nil {
			through.add(n.slots[hostname].bound.to)
		}
	}
	var names []string
	for t := range through {
		if len(t.fact.accounts) > 0 {
			names = append(names, t.id.ns+"/"+t.allowName())
		}
	}
	slices.Sort(names)
	w.AuthorizationPolicies = append(w.AuthorizationPolicies, names...)
}

// report of a policy: who carries it out, and what of it nobody does.
func (p *policy) report(m *Model) (object.Key, Report) {
	var r Report
	if p.obj == nil {
		return p.key(), r
	}
	r.About(p.obj)
	r.root(m.cfg, p.ns.name)
	if len(p.obj.TargetRefs) > 0 {
		m.reportTargets(&r, p.ns.name, p.obj.TargetRefs)
		return p.key(), r
	}
	a, v := convertPolicy(m.cfg, p.obj)
	switch {
	case a == nil:
		r.say(ZtunnelAccepted, false, "UnsupportedValue", v.message)
		r.warn(v.code, v.field, v.message, v.fix)
	case v != nil:
		r.say(ZtunnelAccepted, true, "UnsupportedValue", "attached to ztunnel, in part: "+v.message)
		r.warn(v.code, v.field, v.message, v.fix)
	default:
		r.say(ZtunnelAccepted, true, "Accepted", "attached to ztunnel")
	}
	return p.key(), r
}

// reportTargets says for a policy bound by reference whether a waypoint enforces it. Nothing else does.
func (m *Model) reportTargets(r *Report, ns string, refs []object.TargetRef) {
	var good, bad []string
	reason := ""
	for _, t := range refs {
		k := targetKey(ns, t)
		bound, why, text := m.ancestor(ns, k, t)
		if why == "" {
			good = append(good, bound)
			continue
		}
		bad = append(bad, text)
		fix, unenforced := remedy(why), ": nothing enforces the policy for this target"
		if why == reasonClosed {
			why, unenforced = "AncestorNotBound", ""
		}
		if reason == "" {
			reason = why
		}
		r.warn(remedyCode(why), "spec.targetRefs", text+unenforced, fix)
	}
	switch {
	case len(bad) == 0:
		r.say(WaypointAccepted, true, "Accepted", "bound to "+strings.Join(good, ", "))
	case len(good) > 0:
		r.say(WaypointAccepted, true, "PartiallyInvalid", "Invalid targetRefs: "+strings.Join(bad, "; "))
	default:
		r.say(WaypointAccepted, false, reason, strings.Join(bad, "; "))
	}
}

// ancestor finds the waypoint that enforces policies on an object, or why there is none.
func (m *Model) ancestor(ns string, k object.Key, t object.TargetRef) (bound, reason, text string) {
	switch k.Kind {
	case object.KindGatewayClass:
		switch c := m.classes[k.Name]; {
		case ns != m.cfg.RootNamespace:
			return "", "Invalid", fmt.Sprintf("only policies of namespace %s can be bound to a GatewayClass", m.cfg.RootNamespace)
		case c == nil && (k.Name == mesh.GatewayClassWaypoint || k.Name == mesh.GatewayClassIngress):
			return k.Name, "", "" // always there
		case c == nil:
			return "", "TargetNotFound", fmt.Sprintf("there is no GatewayClass %s", k.Name)
		case c.Controller != controllerWaypoint && c.Controller != controllerIngress:
			return "", "Invalid", fmt.Sprintf("GatewayClass %s is not one of this mesh", k.Name)
		}
		return k.Name, "", ""
	case object.KindGateway:
		w := m.waypoints[gatewayName{k.Namespace, k.Name}]
		if w == nil || w.obj == nil {
			return "", "TargetNotFound", fmt.Sprintf("there is no Gateway %s/%s", k.Namespace, k.Name)
		}
		return w.id.String(), "", ""
	case object.KindService, object.KindServiceEntry:
		var s *service
		if n := m.namespaces[k.Namespace]; n != nil {
			if s = n.services[k.Name]; k.Kind == object.KindServiceEntry {
				s = n.serviceEntries[k.Name]
			}
		}
		if s == nil || s.obj == nil {
			return "", "TargetNotFound", fmt.Sprintf("there is no %s", k)
		}
		for _, c := range s.won() {
			if c.bound.to != nil {
				return c.bound.to.id.String(), "", ""
			}
		}
		if g := s.guard(); g != nil && !g.Open {
			return "", reasonClosed, fmt.Sprintf("waypoint %s of %s cannot be had, and endpoints refuse all traffic meanwhile", g.Gateway, k)
		}
		return "", "AncestorNotBound", fmt.Sprintf("%s has no waypoint", k)
	}
	return "", "Invalid", fmt.Sprintf("a policy cannot be bound to a %s", t.Kind)
}
