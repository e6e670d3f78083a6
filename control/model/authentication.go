package model

import (
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// authentication is a RequestAuthentication: of interest here is what it is bound to.
type authentication struct {
	ns   *namespace
	name string
	obj  *object.RequestAuthentication // nil once gone
}

func (a *authentication) key() object.Key {
	return object.Key{Kind: object.KindRequestAuthentication, Namespace: a.ns.name, Name: a.name}
}

// enforces implements targeter: a request with a token that is not good is refused.
func (a *authentication) enforces() bool { return a.obj != nil && len(a.obj.Rules) > 0 }

// enforces implements targeter. AUDIT and a dry run only write down what they would do.
func (p *policy) enforces() bool {
	return p.obj != nil && p.obj.Action != object.Audit && p.obj.Annotations.Get(mesh.AnnotationDryRun) != "true"
}

func (m *Model) putAuthentication(ns *namespace, name string, o *object.RequestAuthentication) {
	a := ns.authentications[name]
	if a == nil {
		if o == nil {
			return
		}
		a = &authentication{ns: ns, name: name}
		ns.authentications[name] = a
	}
	var was, now []object.Key
	if a.obj != nil {
		was = targetKeys(ns.name, a.obj.TargetRefs)
	}
	a.obj = o
	if o != nil {
		now = targetKeys(ns.name, o.TargetRefs)
	} else {
		delete(ns.authentications, name)
		m.dirty.emptied.add(ns)
	}
	for _, k := range was {
		dropFrom(m.targets, k, targeter(a))
		m.touchGuarded(k)
	}
	for _, k := range now {
		addTo(m.targets, k, targeter(a))
		m.touchGuarded(k)
	}
	m.dirty.reports.add(a)
}

// report of a RequestAuthentication: whether a waypoint carries it out. Nothing else does.
func (a *authentication) report(m *Model) (object.Key, Report) {
	var r Report
	if a.obj == nil {
		return a.key(), r
	}
	r.About(a.obj)
	r.root(m.cfg, a.ns.name)
	if len(a.obj.TargetRefs) > 0 {
		m.reportTargets(&r, a.ns.name, a.obj.TargetRefs)
	}
	return a.key(), r
}

// reasonClosed stands for AncestorNotBound of a target that is closed because its waypoint cannot be had.
const reasonClosed = "closed"

// remedy is what to do about a target that nothing enforces a policy for.
func remedy(reason string) string {
	switch reason {
	case "AncestorNotBound":
		return "give the target a waypoint: label " + mesh.LabelUseWaypoint + " on it or on its namespace"
	case reasonClosed:
		return "make the waypoint ready, or take label " + mesh.LabelUseWaypoint + " away"
	case "TargetNotFound":
		return "correct the name, or create the object"
	}
	return "name a Service, ServiceEntry, Gateway or, in the root namespace, a GatewayClass"
}

// remedyCode is what a target that is not enforced is called.
func remedyCode(reason string) status.Code {
	switch reason {
	case reasonClosed:
		return status.WaypointNotReady
	case "TargetNotFound":
		return status.TargetNotFound
	}
	return status.TargetUnenforced
}

// subsetRule is what of a DestinationRule matters to workloads: by which labels its subsets tell them apart.
type subsetRule struct {
	host string
	keys string // separated by newlines, sorted
}

func (m *Model) putDestinationRule(k object.Key, o *object.DestinationRule) {
	var now subsetRule
	if o != nil {
		var keys []string
		for _, s := range o.Subsets {
			for l := range s.Labels {
				keys = append(keys, l)
			}
		}
		if keys = union(nil, keys); len(keys) > 0 {
			now = subsetRule{host: o.Host, keys: strings.Join(keys, "\n")}
		}
	}
	was := m.rules[k]
	if was == now {
		return
	}
	if was.host != "" {
		dropFrom(m.subsets, was.host, k)
		delete(m.rules, k)
		m.touchHost(was.host)
	}
	if now.host != "" {
		addTo(m.subsets, now.host, k)
		m.rules[k] = now
		m.touchHost(now.host)
	}
}

// touchHost marks the services that a host, which may be a wildcard, stands for.
func (m *Model) touchHost(host string) {
	if h := m.hosts[host]; h != nil {
		for c := range h.slots {
			m.dirty.slots.add(c)
		}
	}
	if suffix, ok := strings.CutPrefix(host, "*"); ok {
		for name, h := range m.hosts {
			if strings.HasSuffix(name, suffix) {
				for c := range h.slots {
					m.dirty.slots.add(c)
				}
			}
		}
	}
}

// subsetKeys are the labels by which subsets of a service are told apart, whoever's client they are for.
func (m *Model) subsetKeys(c *slot) []string {
	if len(m.subsets) == 0 {
		return nil
	}
	var keys []string
	add := func(host string) {
		for k := range m.subsets[host] {
			keys = union(keys, strings.Split(m.rules[k].keys, "\n"))
		}
	}
	add(c.hostname)
	for rest := c.hostname; ; {
		_, after, ok := strings.Cut(rest, ".")
		if !ok {
			break
		}
		add("*." + after)
		rest = after
	}
	add("*")
	return keys
}
