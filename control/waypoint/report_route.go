package waypoint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

func (m *Model) reportHTTPRoute(r *reader, rep *model.Report, o *object.HTTPRoute) {
	m.reportParents(r, rep, o, o.Parents, func(p object.Key, granted bool) []misreference {
		var all []misreference
		for i := range o.Rules {
			rule := &o.Rules[i]
			for _, refs := range [][]object.BackendRef{rule.Backends, rule.Mirrors} {
				for j := range refs {
					if t := r.reportBackend(rep, o, &refs[j], p, granted); t != nil {
						all = append(all, misreference{t, ruleField(i)})
					}
				}
			}
			for _, x := range rule.Extensions {
				k := refKey(x)
				k.Namespace = o.Namespace
				if get[*object.Extension](r, k) == nil {
					all = append(all, misreference{&trouble{"InvalidFilter", fmt.Sprintf("there is no %s %s/%s for a filter of type ExtensionRef", x.Kind, k.Namespace, x.Name)}, ruleField(i)})
				}
			}
		}
		return all
	})
}

func (m *Model) reportStreamRoute(r *reader, rep *model.Report, o *object.StreamRoute) {
	m.reportParents(r, rep, o, o.Parents, func(p object.Key, granted bool) []misreference {
		var all []misreference
		for i := range o.Rules {
			for j := range o.Rules[i].Backends {
				if t := r.reportBackend(rep, o, &o.Rules[i].Backends[j], p, granted); t != nil {
					all = append(all, misreference{t, ruleField(i)})
				}
			}
		}
		return all
	})
}

// misreference is what is wrong with something that a rule names.
type misreference struct {
	*trouble
	field string
}

func ruleField(i int) string { return fmt.Sprintf("spec.rules[%d]", i) }

// reportParents says for each parent of a route whether the route is in force there and whether all it names was found.
func (m *Model) reportParents(r *reader, rep *model.Report, o object.Object, parents []object.ParentRef, refs func(parent object.Key, granted bool) []misreference) {
	for i, p := range parents {
		k := refKey(p.Ref)
		part := model.Part{Name: ParentName(p)}
		field := fmt.Sprintf("spec.parentRefs[%d]", i)
		granted := false
		switch k.Kind {
		case object.KindService, object.KindServiceEntry:
			r.reportServiceParent(rep, &part, o, p, field)
		case object.KindGateway, object.KindListenerSet:
			granted = true
			if !r.reportGatewayParent(rep, &part, o, p, field) {
				continue // somebody else's Gateway
			}
		default:
			part.Say(condAccepted, false, "InvalidKind", "a route cannot be attached to a "+p.Kind)
			rep.Warn(status.ParentNotFound, field, "a route cannot be attached to a "+p.Kind, "name a Gateway, ListenerSet, Service or ServiceEntry")
		}
		troubles := refs(k, granted)
		if len(troubles) == 0 {
			part.Say(condResolvedRefs, true, "ResolvedRefs", "All references resolved")
		} else {
			var texts []string
			for _, t := range troubles {
				if i == 0 && !slices.Contains(texts, t.text) {
					rep.Warn(status.BackendNotFound, t.field, t.text+": its share of the requests is answered with status 500", "correct the reference, or create what it names")
				}
				texts = appendOnce(texts, t.text)
			}
			part.Say(condResolvedRefs, false, troubles[0].reason, strings.Join(texts, "; "))
		}
		rep.Parents = append(rep.Parents, part)
	}
}

// ParentName is what the part of a report about a parent is called.
func ParentName(p object.ParentRef) string {
	s := refKey(p.Ref).String()
	if p.Section != "" {
		s += " section " + p.Section
	}
	if p.Port != 0 {
		s += fmt.Sprintf(" port %d", p.Port)
	}
	return s
}

// reportServiceParent is about a route for traffic inside the mesh.
func (r *reader) reportServiceParent(rep *model.Report, part *model.Part, o object.Object, p object.ParentRef, field string) {
	k := refKey(p.Ref)
	refuse := func(code status.Code, reason, text, fix string) {
		part.Say(condAccepted, false, reason, text)
		rep.Warn(code, field, text, fix)
	}
	names := r.namesOf(k)
	switch {
	case get[object.Object](r, k) == nil:
		refuse(status.ParentNotFound, "NoMatchingParent", "there is no "+k.String(), "correct the name, or create the object")
		return
	case o.Metadata().Namespace != k.Namespace && !isHTTPRoute(o):
		refuse(status.RouteNotCarriedOut, "ConsumerRouteNotSupported", "a route in another namespace than its Service is for the clients of that namespace alone, which is carried out for requests, not for connections: it has no effect",
			"put the route into namespace "+k.Namespace+", or write an HTTPRoute or GRPCRoute")
		return
	case p.Port != 0 && !hasPort(r.ports(k), uint32(p.Port)):
		refuse(status.ParentNotFound, "NoMatchingParent", fmt.Sprintf("%s has no port %d", k, p.Port), "correct the port")
		return
	}
	part.Say(condAccepted, true, "Accepted", "Route was valid")
	r.reportPortKind(rep, o, p, k, field)
	for _, n := range names {
		if h, ok := r.host(k.Namespace, n); ok && h.Waypoint != (object.Key{}) {
			return
		}
	}
	rep.Warn(status.RouteNotCarriedOut, field, k.String()+" has no waypoint: nothing carries the route out", "give it one: label "+mesh.LabelUseWaypoint+" on it or on its namespace")
}

// isHTTPRoute: the route is about requests.
func isHTTPRoute(o object.Object) bool { _, ok := o.(*object.HTTPRoute); return ok }

// reportGatewayParent is about a route at the edge. It returns false when the Gateway is not of this mesh.
func (r *reader) reportGatewayParent(rep *model.Report, part *model.Part, o object.Object, p object.ParentRef, field string) bool {
	k := refKey(p.Ref)
	if k.Kind == object.KindListenerSet {
		s := get[*object.ListenerSet](r, k)
		if s == nil {
			part.Say(condAccepted, false, "NoMatchingParent", "there is no "+k.String())
			rep.Warn(status.ParentNotFound, field, "there is no "+k.String(), "correct the name, or create it")
			return true
		}
		k = refKey(s.Parent)
	}
	g, kind, ours := r.gateway(gatewayOf(k))
	switch {
	case g == nil:
		part.Say(condAccepted, false, "NoMatchingParent", "there is no "+k.String())
		rep.Warn(status.ParentNotFound, field, "there is no "+k.String(), "correct the name, or create the Gateway")
		return true
	case !ours:
		return false
	case kind != facts.Gateway_EDGE:
		text := k.String() + " is a waypoint: routes are attached to the Services behind it"
		part.Say(condAccepted, false, "NoMatchingParent", text)
		rep.Warn(status.ParentNotFound, field, text, "name the Service as parent")
		return true
	}
	if _, t := r.attach(g, o, p); t != nil {
		part.Say(condAccepted, false, t.reason, t.text)
		rep.Warn(status.ParentNotFound, field, t.text, "see spec.listeners of "+k.String())
		return true
	}
	part.Say(condAccepted, true, "Accepted", "Route was valid")
	return true
}

// reportVirtualService says what of a VirtualService is in force.
func (m *Model) reportVirtualService(r *reader, rep *model.Report, v *object.VirtualService) {
	for _, g := range v.Gateways {
		if g != meshGateway {
			rep.Warn(status.RouteNotCarriedOut, "spec.gateways", "gateway "+g+" is not served: gateways at the edge take routes of the Gateway API", "write an HTTPRoute with the Gateway as parent")
		}
	}
	if len(v.Hosts) == 0 {
		rep.Say(condAccepted, true, "Accepted", "In force where another VirtualService delegates to it")
		return
	}
	waypoints, found := r.servedBy(v)
	switch {
	case !found:
		rep.Say(condAccepted, false, "HostNotFound", "There is no service "+strings.Join(v.Hosts, ", "))
		rep.Warn(status.HostNotFound, "spec.hosts", "there is no service "+strings.Join(v.Hosts, ", "), "correct the host, or create the service; a short name is one of namespace "+v.Namespace)
	case len(waypoints) == 0:
		text := "no service it is about has a waypoint that applies it: one must be in the service's namespace or the waypoint's"
		rep.Say(condAccepted, false, "AncestorNotBound", text)
		rep.Warn(status.RouteNotCarriedOut, "spec.hosts", text, "give the service a waypoint: label "+mesh.LabelUseWaypoint+" on it or on its namespace")
	default:
		rep.Say(condAccepted, true, "Accepted", "Applied by "+strings.Join(waypoints, ", "))
		m.reportRivals(r, rep, v)
	}
	var texts []string
	gw := gatewayName{ns: v.Namespace}
	m.eachBackend(v, func(b *facts.Backend) {
		// A copy: the object is not ours.
		c := &facts.Backend{Namespace: b.Namespace, Hostname: b.Hostname, Port: b.Port, Subset: b.Subset, Broken: b.Broken}
		// Without a port, the one that a request comes to is meant: any will do to find what else is wrong.
		self := b.Port
		if h, ok := r.find(v.Namespace, b.Hostname); ok && self == 0 {
			if ports := r.ports(h.Object); len(ports) > 0 {
				self = ports[0].Number
			}
		}
		r.resolveHost(v.Namespace, c, gw, self)
		if c.Broken != "" {
			texts = appendOnce(texts, c.Broken)
		}
		if h, ok := r.host(c.Namespace, c.Hostname); ok && c.Broken == "" {
			for _, host := range v.Hosts {
				if own, ok := r.find(v.Namespace, host); ok {
					if t := r.reportEvasion(rep, v.Key(), own.Namespace, own, h); t != nil {
						texts = appendOnce(texts, t.text)
					}
				}
			}
		}
	})
	r.forget()
	for i := range v.HTTP {
		d := v.HTTP[i].Delegate
		if d == (object.Ref{}) {
			continue
		}
		if o := get[*object.VirtualService](r, object.Key{Kind: object.KindVirtualService, Namespace: d.Namespace, Name: d.Name}); o == nil || len(o.Hosts) > 0 {
			texts = appendOnce(texts, "there is no VirtualService "+d.Namespace+"/"+d.Name+" without hosts to delegate to")
		}
	}
	if len(texts) == 0 {
		rep.Say(condResolvedRefs, true, "ResolvedRefs", "All references resolved")
		return
	}
	rep.Say(condResolvedRefs, false, "BackendNotFound", strings.Join(texts, "; "))
	for _, t := range texts {
		rep.Warn(status.BackendNotFound, "spec", t+": its share of the requests is answered with status 500", "correct the name, or create what it names")
	}
}

// servedBy lists the waypoints that apply a VirtualService. found is false when none of its hosts is a service.
func (r *reader) servedBy(v *object.VirtualService) (waypoints []string, found bool) {
	for _, host := range v.Hosts {
		if strings.HasPrefix(host, "*") {
			found = true // whether anything matches would take asking all names there are
			waypoints = appendOnce(waypoints, "the waypoints of services it matches")
			continue
		}
		r.topics.add(named(hostname, "", host))
		for ns := range r.m.namespacesOf[host] {
			found = true
			h, _ := r.host(ns, host)
			for _, w := range []object.Key{h.Waypoint, h.Canary} {
				if w != (object.Key{}) && (v.Namespace == ns || v.Namespace == w.Namespace) && exported(v.ExportTo, r.mesh().VirtualServiceExportTo, v.Namespace, w.Namespace) {
					waypoints = appendOnce(waypoints, gatewayOf(w).String())
				}
			}
		}
	}
	slices.Sort(waypoints)
	return waypoints, found
}

// eachBackend visits every destination a VirtualService names.
func (m *Model) eachBackend(v *object.VirtualService, visit func(*facts.Backend)) {
	for i := range v.HTTP {
		rule := v.HTTP[i].Rule
		for _, b := range rule.GetForward().GetBackends() {
			visit(b)
		}
		for _, mirror := range rule.GetMirrors() {
			if mirror.To != nil {
				visit(mirror.To)
			}
		}
	}
	for _, streams := range [][]object.VirtualStream{v.TLS, v.TCP} {
		for i := range streams {
			for _, b := range streams[i].Rule.GetBackends() {
				visit(b)
			}
		}
	}
}

func (m *Model) reportDestinationRule(r *reader, rep *model.Report, d *object.DestinationRule) {
	switch {
	case d.WorkloadSelector.Present:
		rep.Warn(status.WithoutEffect, "spec.workloadSelector", "the rule is for clients with a proxy of their own, and has no effect here", "remove workloadSelector")
	case strings.HasPrefix(d.Host, "*"):
	default:
		if _, ok := r.find(d.Namespace, d.Host); !ok {
			rep.Warn(status.HostNotFound, "spec.host", "there is no service "+d.Host, "correct the host, or create the service; a short name is one of namespace "+d.Namespace)
		}
	}
}
