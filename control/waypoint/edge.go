package waypoint

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// buildEdge fills in the listeners of a gateway at the edge. It wants every route that names the Gateway, or a
// ListenerSet of it, to be attached.
func (m *Model) buildEdge(r *reader, g *object.Gateway, f *facts.Gateway) {
	gw := gatewayOf(g.Key())
	parents := set[object.Key]{}
	parents.add(g.Key())
	for _, l := range r.listeners(g) {
		parents.add(l.of)
		if l.protocolKnown {
			f.Listeners = append(f.Listeners, r.listenerFact(g, l))
		}
	}
	for p := range parents {
		// Only which routes there are, not what is in them.
		for k := range r.members(topic{routesOf, p}) {
			r.wants.add(unitID{phase: attachPhase, gw: gw, key: k})
		}
	}
}

// attachment is where a route ended up for one of its parents.
type attachment struct {
	listener string
	hosts    []string
}

// hostTopic is about the routes of one hostname of a listener, listenerTopic about all routes of a listener.
func hostTopic(gw gatewayName, listener, host string) topic {
	return topic{attachedTo, object.Key{Kind: object.KindGateway, Namespace: gw.String(), Name: listener + "\n" + host}}
}

func listenerTopic(gw gatewayName, listener string) topic {
	return topic{attachedTo, object.Key{Kind: object.KindGateway, Namespace: gw.String(), Name: listener}}
}

// buildAttachment finds the hostnames of listeners a route is for, and wants a virtual host for each.
func (m *Model) buildAttachment(r *reader, gw gatewayName, route object.Key) []topic {
	o := get[object.Object](r, route)
	g, kind, ok := r.gateway(gw)
	if o == nil || !ok || kind != facts.Gateway_EDGE {
		return nil
	}
	var found []topic
	for _, p := range parentsOf(o) {
		at, _ := r.attach(g, o, p)
		for _, a := range at {
			found = append(found, listenerTopic(gw, a.listener))
			for _, h := range a.hosts {
				found = append(found, hostTopic(gw, a.listener, h))
				r.wants.add(unitID{phase: hostPhase, gw: gw, key: object.Key{Name: a.listener}, host: h})
			}
		}
	}
	return found
}

func parentsOf(o object.Object) []object.ParentRef {
	switch o := o.(type) {
	case *object.HTTPRoute:
		return o.Parents
	case *object.StreamRoute:
		return o.Parents
	}
	return nil
}

func hostnamesOf(o object.Object) []string {
	switch o := o.(type) {
	case *object.HTTPRoute:
		return o.Hostnames
	case *object.StreamRoute:
		return o.Hostnames
	}
	return nil
}

// attach finds the listeners of a Gateway that a route may be attached to through one of its parents. Without any it
// says why, with a reason of the Gateway API.
func (r *reader) attach(g *object.Gateway, o object.Object, p object.ParentRef) ([]attachment, *trouble) {
	var at []attachment
	why := &trouble{"NoMatchingParent", "no listener of " + refKey(p.Ref).String() + " has that name and port"}
	for _, l := range r.listeners(g) {
		if l.of != refKey(p.Ref) || p.Section != "" && p.Section != l.spec.Name || p.Port != 0 && p.Port != l.spec.Port {
			continue
		}
		switch {
		case !l.protocolKnown, !slices.Contains(l.kinds, o.Key().Kind.String()):
			why = worse(why, &trouble{"NotAllowedByListeners", "listener " + l.name + " takes no " + o.Key().Kind.String()})
		case !r.admits(l, o.Metadata().Namespace):
			why = worse(why, &trouble{"NotAllowedByListeners", "listener " + l.name + " does not admit namespace " + o.Metadata().Namespace + "; see allowedRoutes.namespaces"})
		case l.conflict != nil:
			why = worse(why, &trouble{"NoMatchingParent", "listener " + l.name + " is not in force: " + l.conflict.text})
		default:
			hosts := intersect(l.spec.Hostname, hostnamesOf(o))
			if len(hosts) == 0 {
				why = worse(why, &trouble{"NoMatchingListenerHostname", "none of the hostnames is one of listener " + l.name + ", which is for " + l.spec.Hostname})
				continue
			}
			at = append(at, attachment{l.name, hosts})
		}
	}
	if len(at) > 0 {
		return at, nil
	}
	return nil, why
}

// worse keeps the reason that says most: a hostname that does not match came further than a listener that does not.
func worse(a, b *trouble) *trouble {
	rank := map[string]int{"NoMatchingParent": 0, "NotAllowedByListeners": 1, "NoMatchingListenerHostname": 2}
	if rank[b.reason] >= rank[a.reason] {
		return b
	}
	return a
}

// admits reports whether a listener takes routes of a namespace.
func (r *reader) admits(l *listener, ns string) bool {
	switch l.spec.From {
	case object.FromAll:
		return true
	case object.FromSelector:
		return l.spec.FromSelector.Matches(r.labels(ns))
	case object.FromNone:
		return false
	}
	return l.of.Namespace == ns
}

// intersect is the hostnames that both a listener and a route are for. "" stands for every name.
func intersect(listener string, route []string) []string {
	if len(route) == 0 {
		return []string{listener}
	}
	var out []string
	for _, h := range route {
		both := ""
		switch {
		case listener == "" || covers(listener, h):
			both = h
		case covers(h, listener):
			both = listener
		default:
			continue
		}
		if both == "*" {
			both = ""
		}
		if !slices.Contains(out, both) {
			out = append(out, both)
		}
	}
	return out
}

// covers reports whether every name that b stands for is one of a.
func covers(a, b string) bool {
	if a == b || a == "" || a == "*" {
		return true
	}
	suffix, ok := strings.CutPrefix(a, "*")
	return ok && strings.HasSuffix(b, suffix) && len(b) > len(suffix)
}

// publish makes known what a route is attached to, or that a Gateway uses a service: by is on the lists of the topics.
func (m *Model) publish(u *unit, by object.Key, now []topic) {
	for _, t := range u.found {
		if !slices.Contains(now, t) {
			drop(m.attached, t, by)
			m.graph.touch(t)
		}
	}
	for _, t := range now {
		if !slices.Contains(u.found, t) {
			put(m.attached, t, by)
			m.graph.touch(t)
		}
	}
	u.found = now
}

// attached are the routes of a topic, the oldest first.
func (r *reader) attached(t topic) []object.Object {
	r.topics.add(t)
	var all []object.Object
	for k := range r.m.attached[t] {
		if o := get[object.Object](r, k); o != nil {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b object.Object) int { return byAge(a.Metadata(), b.Metadata()) })
	return all
}

// countAttached counts the routes of a topic without looking at them.
func (r *reader) countAttached(t topic) int {
	r.topics.add(t)
	return len(r.m.attached[t])
}

// buildVirtualHost is one hostname of one listener with its routes.
func (m *Model) buildVirtualHost(r *reader, gw gatewayName, name, host string) proto.Message {
	g, kind, ok := r.gateway(gw)
	if !ok || kind != facts.Gateway_EDGE {
		return nil
	}
	all := r.listeners(g)
	i := slices.IndexFunc(all, func(l *listener) bool { return l.name == name })
	if i < 0 {
		return nil
	}
	routes := r.attached(hostTopic(gw, name, host))
	if len(routes) == 0 {
		return nil
	}
	port := uint32(all[i].spec.Port)
	f := &facts.VirtualHost{Listener: name, Hostname: host}
	var ranked []rankedRule
	for _, o := range routes {
		switch o := o.(type) {
		case *object.HTTPRoute:
			for i := range o.Rules {
				rule := m.httpRule(r, o, &o.Rules[i], gw, true, port, object.Key{})
				ranked = append(ranked, rankRules(rule, &o.Meta, len(ranked))...)
			}
		case *object.StreamRoute:
			for i := range o.Rules {
				rule := m.streamRule(r, o, &o.Rules[i], gw, true)
				if o.TLS && host != "" {
					rule.Sni = []string{host}
				}
				f.Stream = append(f.Stream, rule)
			}
		}
	}
	f.Http = sortRules(ranked)
	return f
}
