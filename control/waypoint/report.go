package waypoint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
)

// Condition types of the Gateway API.
const (
	condAccepted     = "Accepted"
	condProgrammed   = "Programmed"
	condResolvedRefs = "ResolvedRefs"
	condConflicted   = "Conflicted"
)

// buildReport is what there is to say about an object.
func (m *Model) buildReport(r *reader, k object.Key) model.Report {
	var rep model.Report
	o := get[object.Object](r, k)
	if o == nil {
		return rep
	}
	rep.Generation = o.Metadata().Generation
	switch o := o.(type) {
	case *object.Gateway:
		m.reportGateway(r, &rep, o)
	case *object.ListenerSet:
		m.reportListenerSet(r, &rep, o)
	case *object.GatewayClass:
		if c := o.Controller; c == "istio.io/mesh-controller" || c == "istio.io/gateway-controller" {
			rep.Say(condAccepted, true, "Accepted", "Handled by this mesh")
		}
	case *object.HTTPRoute:
		m.reportHTTPRoute(r, &rep, o)
	case *object.StreamRoute:
		m.reportStreamRoute(r, &rep, o)
	case *object.VirtualService:
		m.reportVirtualService(r, &rep, o)
	case *object.DestinationRule:
		m.reportDestinationRule(r, &rep, o)
	case *object.BackendTLSPolicy:
		m.reportBackendTLS(r, &rep, o)
	case *object.AuthorizationPolicy:
		m.reportAuthorization(r, &rep, o)
	case *object.RequestAuthentication:
		m.reportAuthentication(r, &rep, o)
	case *object.Telemetry:
		m.reportTelemetry(r, &rep, o)
	case *object.Extension:
		m.reportExtension(r, &rep, o)
	case *object.LocalRateLimitPolicy:
		m.reportTargets(r, &rep, o.Namespace, o.TargetRefs)
	}
	return rep
}

// reportGateway is about a Gateway and its own listeners.
func (m *Model) reportGateway(r *reader, rep *model.Report, g *object.Gateway) {
	_, kind, ok := r.gateway(gatewayOf(g.Key()))
	if !ok {
		return
	}
	rep.Say(condAccepted, true, "Accepted", "Handled by this mesh")
	if len(g.Status) > 0 {
		rep.Say(condProgrammed, true, "Programmed", "Served at "+g.Status[0].Value)
	} else {
		rep.Say(condProgrammed, false, "AddressNotAssigned", "The status has no address yet: are its pods running?")
	}
	if kind != facts.Gateway_EDGE {
		m.reportMeshListeners(r, rep, g)
		return
	}
	for _, l := range r.listeners(g) {
		if l.of == g.Key() {
			rep.Listeners = append(rep.Listeners, m.reportListener(r, rep, g, l))
		}
	}
	if _, t := r.sets(g); t > 0 {
		rep.Warn("spec.allowedListeners", fmt.Sprintf("%d ListenerSets name this Gateway but may not add to it", t), "admit their namespaces in spec.allowedListeners, or delete them")
	}
}

// sets counts the ListenerSets that a Gateway takes and those it does not.
func (r *reader) sets(g *object.Gateway) (taken, refused int) {
	for _, s := range list[*object.ListenerSet](r, topic{listenersOf, g.Key()}) {
		if r.takesSet(g, s) {
			taken++
		} else {
			refused++
		}
	}
	return taken, refused
}

// reportMeshListeners is about the listeners of a waypoint: one is enough, no route is attached to it.
func (m *Model) reportMeshListeners(r *reader, rep *model.Report, g *object.Gateway) {
	for i := range g.Listeners {
		l := &g.Listeners[i]
		p := model.Part{Name: l.Name}
		if isMeshPort(l) || g.Class == mesh.GatewayClassEastWest {
			p.Say(condAccepted, true, "Accepted", "Takes traffic of the mesh")
			p.Say(condProgrammed, true, "Programmed", "")
		} else {
			p.Say(condAccepted, false, "UnsupportedProtocol", "A waypoint takes traffic of the mesh alone: protocol HBONE on port 15008")
			p.Say(condProgrammed, false, "Invalid", "")
		}
		p.Say(condConflicted, false, "NoConflicts", "")
		p.Say(condResolvedRefs, true, "ResolvedRefs", "")
		rep.Listeners = append(rep.Listeners, p)
	}
}

// reportListener is about one listener at the edge.
func (m *Model) reportListener(r *reader, rep *model.Report, g *object.Gateway, l *listener) model.Part {
	p := model.Part{Name: l.spec.Name, Kinds: l.kinds}
	field := "spec.listeners[" + l.spec.Name + "]"
	p.Attached = len(r.attached(listenerTopic(gatewayOf(g.Key()), l.name)))
	good := true
	switch {
	case !l.protocolKnown:
		good = false
		p.Say(condAccepted, false, "UnsupportedProtocol", "protocol "+l.spec.Protocol+" is not served here")
		rep.Warn(field+".protocol", "protocol "+l.spec.Protocol+" is not served here", "use HTTP, HTTPS, TLS or TCP")
	case l.conflict != nil:
		good = false
		p.Say(condAccepted, false, l.conflict.reason, l.conflict.text)
		rep.Warn(field, l.conflict.text, "change its port or hostname; until then it serves nothing")
	default:
		p.Say(condAccepted, true, "Accepted", "")
	}
	if l.conflict != nil {
		p.Say(condConflicted, true, l.conflict.reason, l.conflict.text)
	} else {
		p.Say(condConflicted, false, "NoConflicts", "")
	}
	var refs *trouble
	if l.protocol == facts.Listener_HTTPS || l.protocol == facts.Listener_TLS {
		names, troubles := r.certificates(g, l)
		if len(troubles) > 0 {
			refs = troubles[0]
			good = good && len(names) > 0
		}
		if _, _, t := r.clientCA(g, l); t != nil && refs == nil {
			refs, good = t, false
		}
	}
	if len(l.badKinds) > 0 {
		refs = &trouble{"InvalidRouteKinds", "it cannot take " + strings.Join(l.badKinds, ", ")}
		good = good && len(l.kinds) > 0
	}
	if refs == nil {
		p.Say(condResolvedRefs, true, "ResolvedRefs", "")
	} else {
		p.Say(condResolvedRefs, false, refs.reason, refs.text)
		rep.Warn(field, refs.text, "see that it exists and may be named")
	}
	if good {
		p.Say(condProgrammed, true, "Programmed", "")
	} else {
		p.Say(condProgrammed, false, "Invalid", "It serves nothing until that is mended")
	}
	return p
}

func (m *Model) reportListenerSet(r *reader, rep *model.Report, s *object.ListenerSet) {
	g, kind, ok := r.gateway(gatewayOf(refKey(s.Parent)))
	switch {
	case g == nil:
		rep.Say(condAccepted, false, "ParentNotAccepted", "There is no "+refKey(s.Parent).String())
		rep.Warn("spec.parentRef", "there is no "+refKey(s.Parent).String(), "correct the name, or create the Gateway")
		return
	case !ok || kind != facts.Gateway_EDGE:
		rep.Say(condAccepted, false, "ParentNotAccepted", g.Key().String()+" is not a gateway at the edge of this mesh")
		return
	case !r.takesSet(g, s):
		rep.Say(condAccepted, false, "NotAllowed", g.Key().String()+" does not admit ListenerSets of namespace "+s.Namespace)
		rep.Warn("spec.parentRef", g.Key().String()+" does not admit ListenerSets of namespace "+s.Namespace, "admit it in the Gateway's spec.allowedListeners")
		return
	}
	rep.Say(condAccepted, true, "Accepted", "")
	for _, l := range r.listeners(g) {
		if l.of == s.Key() {
			rep.Listeners = append(rep.Listeners, m.reportListener(r, rep, g, l))
		}
	}
	rep.Say(condProgrammed, true, "Programmed", "")
}

// reportAuthorization adds what a waypoint cannot do of a policy.
func (m *Model) reportAuthorization(r *reader, rep *model.Report, a *object.AuthorizationPolicy) {
	if a.Action != object.Custom || len(a.TargetRefs) == 0 {
		return
	}
	if f := m.authorization(r, gatewayName{ns: a.Namespace}, a); f.Broken != "" {
		rep.Warn("spec.provider", f.Broken+": everything the policy is about is denied", "add the provider to the mesh configuration's extensionProviders, or correct its service")
	}
	r.forget()
}

func (m *Model) reportAuthentication(r *reader, rep *model.Report, a *object.RequestAuthentication) {
	if len(a.TargetRefs) == 0 {
		rep.Warn("spec", "without targetRefs only gateways at the edge carry it out, no waypoint does", "name the Service or Gateway whose waypoint is to do it")
		return
	}
	for i := range a.Rules {
		rule := &a.Rules[i]
		if rule.Rule.GetJwks() != "" {
			continue
		}
		r.topics.add(keysTopic(keysNews, jwksSource(rule)))
		set := m.keys[jwksSource(rule)]
		if set.Problem == "" {
			continue
		}
		text := set.Problem + ": tokens of " + rule.Rule.GetIssuer() + " are refused"
		if set.Keys != "" {
			text = set.Problem + ": the keys before stay in use"
		}
		rep.Warn(fmt.Sprintf("spec.jwtRules[%d].jwksUri", i), text, "see that the address can be reached from the control plane and answers with a key set")
	}
}

func (m *Model) reportTelemetry(r *reader, rep *model.Report, t *object.Telemetry) {
	if len(t.TargetRefs) > 0 {
		m.reportTargets(r, rep, t.Namespace, t.TargetRefs)
	}
	c := r.mesh()
	check := func(field string, names []string) {
		for _, n := range names {
			p, ok := c.Provider(n)
			switch {
			case ok && p.Unsupported != "":
				rep.Warn(field, fmt.Sprintf("provider %q is %s, which is not supported", n, p.Unsupported), "use one for OpenTelemetry, Zipkin or Envoy's own log")
			case !ok && n != "envoy" && n != "prometheus":
				rep.Warn(field, fmt.Sprintf("the mesh configuration has no extension provider %q", n), "add it to extensionProviders")
			}
		}
	}
	for _, e := range t.Tracing {
		check("spec.tracing", e.Providers)
	}
	for _, e := range t.Logging {
		check("spec.accessLogging", e.Providers)
	}
}

func (m *Model) reportExtension(r *reader, rep *model.Report, e *object.Extension) {
	if len(e.TargetRefs) > 0 {
		m.reportTargets(r, rep, e.Namespace, e.TargetRefs)
	}
	if slices.ContainsFunc(e.Scopes, func(s object.ExtensionScope) bool { return len(s.Ports) > 0 }) {
		rep.Warn("spec.match", "ports choose services here, not single ports: it runs on every port of a target that has one of them", "give what is different a Service of its own")
	}
	if !serverSide(e) {
		rep.Warn("spec.match", "it is for clients with a proxy of their own, and has no effect here", "remove mode, or write SERVER")
	}
	_, why := m.extensionFact(r, gatewayName{ns: e.Namespace}, e)
	r.forget()
	if why == "" {
		return
	}
	text := why + ": requests are refused"
	if e.Spec.GetFailOpen() {
		text = why + ": requests pass without it"
	}
	rep.Warn("spec", text, "correct it, or remove the policy")
}

// forget takes back what a report wanted: it only looked.
func (r *reader) forget() { clear(r.wants) }

// reportTargets says whether a proxy carries a policy out. Nothing else does.
func (m *Model) reportTargets(r *reader, rep *model.Report, ns string, refs []object.TargetRef) {
	var good, bad []string
	reason := ""
	for _, t := range refs {
		bound, why := r.ancestor(ns, t)
		if k := targetKey(ns, t); why == nil && !r.wholeSection(t, k) {
			why = &trouble{"Invalid", "a policy for section " + t.SectionName + " of " + k.String() + " alone is not supported"}
		}
		if why == nil {
			good = append(good, bound)
			continue
		}
		bad = append(bad, why.text)
		reason = cmp.Or(reason, why.reason)
		fix := "correct the reference, or create the object"
		if why.reason == "AncestorNotBound" {
			fix = "give the target a waypoint: label " + mesh.LabelUseWaypoint + " on it or on its namespace"
		}
		rep.Warn("spec.targetRefs", why.text+": nothing carries the policy out for this target", fix)
	}
	switch {
	case len(bad) == 0:
		rep.Say(model.WaypointAccepted, true, "Accepted", "bound to "+strings.Join(good, ", "))
	case len(good) > 0:
		rep.Say(model.WaypointAccepted, true, "PartiallyInvalid", "Invalid targetRefs: "+strings.Join(bad, "; "))
	default:
		rep.Say(model.WaypointAccepted, false, reason, strings.Join(bad, "; "))
	}
}

// ancestor finds the Gateway that carries out policies on an object, or why there is none.
func (r *reader) ancestor(ns string, t object.TargetRef) (string, *trouble) {
	k := targetKey(ns, t)
	switch k.Kind {
	case object.KindGatewayClass:
		if ns != r.m.cfg.RootNamespace {
			return "", &trouble{"Invalid", "only policies of namespace " + r.m.cfg.RootNamespace + " can be bound to a GatewayClass"}
		}
		return k.Name, nil
	case object.KindGateway:
		if _, _, ok := r.gateway(gatewayOf(k)); !ok {
			return "", &trouble{"TargetNotFound", fmt.Sprintf("there is no Gateway %s/%s of this mesh", k.Namespace, k.Name)}
		}
		return gatewayOf(k).String(), nil
	case object.KindService, object.KindServiceEntry:
		if get[object.Object](r, k) == nil {
			return "", &trouble{"TargetNotFound", "there is no " + k.String()}
		}
		for _, n := range r.namesOf(k) {
			if h, ok := r.host(k.Namespace, n); ok && h.Waypoint != (object.Key{}) {
				return gatewayOf(h.Waypoint).String(), nil
			}
		}
		return "", &trouble{"AncestorNotBound", k.String() + " has no waypoint"}
	}
	return "", &trouble{"Invalid", "a policy cannot be bound to a " + t.Kind}
}

// appendOnce adds a text that is not there yet.
func appendOnce(all []string, text string) []string {
	if slices.Contains(all, text) {
		return all
	}
	return append(all, text)
}
