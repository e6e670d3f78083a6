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

// Condition types of the Gateway API.
const (
	condAccepted     = "Accepted"
	condProgrammed   = "Programmed"
	condResolvedRefs = "ResolvedRefs"
	condConflicted   = "Conflicted"
	// condInsecure is on Gateways that take clients without a certificate that is good. Gateway API
	// GatewayConditionInsecureFrontendValidationMode
	condInsecure = "InsecureFrontendValidationMode"
)

// buildReport is what there is to say about an object.
func (m *Model) buildReport(r *reader, k object.Key) model.Report {
	var rep model.Report
	o := get[object.Object](r, k)
	if o == nil {
		return rep
	}
	rep.About(o)
	switch o := o.(type) {
	case *object.ConfigMap:
		rep.Warn(status.OtherRootNamespace, "metadata.namespace", "the mesh configuration is read from namespace "+m.cfg.RootNamespace+" here: this one has no effect",
			"move it to namespace "+m.cfg.RootNamespace+", or have it read there: control.rootNamespace="+istioRoot+" among the values of a cluster, ambitd --root-namespace="+istioRoot+" without one")
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
	m.reportGatewayTLS(r, rep, g)
	taken, t := r.sets(g)
	rep.Sets = taken
	if t > 0 {
		rep.Warn(status.ListenerUnusable, "spec.allowedListeners", fmt.Sprintf("%d ListenerSets name this Gateway but may not add to it", t), "admit their namespaces in spec.allowedListeners, or delete them")
	}
}

// reportGatewayTLS is about what a Gateway shows to backends and asks of clients.
func (m *Model) reportGatewayTLS(r *reader, rep *model.Report, g *object.Gateway) {
	if g.BackendCertificate != (object.Ref{}) {
		if _, t := r.certificate(g.Key(), g.BackendCertificate); t != nil {
			reason := t.reason
			if reason == "InvalidCertificateRef" {
				reason = "InvalidClientCertificateRef"
			}
			rep.Say(condResolvedRefs, false, reason, t.text)
			rep.Warn(status.CertificateMissing, "spec.tls.backend.clientCertificateRef", t.text, "see that it exists and may be named; until then connections to backends with TLS fail")
		} else {
			rep.Say(condResolvedRefs, true, "ResolvedRefs", "")
		}
	}
	insecure := g.ClientTLS != nil && g.ClientTLS.Optional
	for _, v := range g.ClientTLSPorts {
		insecure = insecure || v != nil && v.Optional
	}
	if insecure {
		rep.Say(condInsecure, true, "ConfigurationChanged", "Clients without a certificate are let in: spec.tls.frontend says AllowInsecureFallback; one that cannot be verified is refused still")
	}
}

// sets counts the ListenerSets that a Gateway takes and that have a listener in force, and those it does not take.
func (r *reader) sets(g *object.Gateway) (taken, refused int) {
	inForce := map[object.Key]bool{}
	for _, l := range r.listeners(g) {
		if r.serves(g, l) {
			inForce[l.of] = true
		}
	}
	for _, s := range list[*object.ListenerSet](r, topic{listenersOf, g.Key()}) {
		switch {
		case !r.takesSet(g, s):
			refused++
		case inForce[s.Key()]:
			taken++
		}
	}
	return taken, refused
}

// serves says whether a listener can do its work, whatever else there may be to say about it.
func (r *reader) serves(g *object.Gateway, l *listener) bool {
	if !l.protocolKnown || l.conflict != nil || len(l.badKinds) > 0 && len(l.kinds) == 0 {
		return false
	}
	if l.protocol != facts.Listener_HTTPS && l.protocol != facts.Listener_TLS {
		return true
	}
	names, _ := r.certificates(g, l)
	_, _, authority := r.clientCA(g, l)
	return len(names) > 0 && authority == nil
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
			const text = "A waypoint takes traffic of the mesh alone: protocol HBONE on port 15008"
			p.Say(condAccepted, false, "UnsupportedProtocol", text)
			rep.Warn(status.ListenerUnusable, "spec.listeners["+l.Name+"]", text, "write protocol: HBONE and port: 15008, or leave the listener out")
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
	p.Attached = r.countAttached(listenerTopic(gatewayOf(g.Key()), l.name))
	good := true
	var authority *trouble // with what clients are verified against
	if l.protocol == facts.Listener_HTTPS || l.protocol == facts.Listener_TLS {
		_, _, authority = r.clientCA(g, l)
	}
	switch {
	case !l.protocolKnown:
		good = false
		p.Say(condAccepted, false, "UnsupportedProtocol", "protocol "+l.spec.Protocol+" is not served here")
		rep.Warn(status.ListenerUnusable, field+".protocol", "protocol "+l.spec.Protocol+" is not served here", "use HTTP, HTTPS, TLS or TCP")
	case l.conflict != nil:
		good = false
		p.Say(condAccepted, false, l.conflict.reason, l.conflict.text)
		rep.Warn(status.ListenerUnusable, field, l.conflict.text, "change its port or hostname; until then it serves nothing")
	case authority != nil:
		good = false
		p.Say(condAccepted, false, "NoValidCACertificate", authority.text)
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
		if authority != nil && refs == nil {
			refs = authority
			if refs.reason == "InvalidKind" {
				refs = &trouble{"InvalidCACertificateKind", refs.text}
			}
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
		rep.Warn(status.CertificateMissing, field, refs.text, "see that it exists and may be named")
	}
	switch {
	case good:
		p.Say(condProgrammed, true, "Programmed", "")
	case l.conflict != nil:
		p.Say(condProgrammed, false, l.conflict.reason, l.conflict.text)
	default:
		p.Say(condProgrammed, false, "Invalid", "It serves nothing until that is mended")
	}
	return p
}

func (m *Model) reportListenerSet(r *reader, rep *model.Report, s *object.ListenerSet) {
	g, kind, ok := r.gateway(gatewayOf(refKey(s.Parent)))
	no := func(reason, text string) {
		rep.Say(condAccepted, false, reason, text)
		rep.Say(condProgrammed, false, reason, text)
	}
	switch {
	case g == nil:
		no("ParentNotAccepted", "There is no "+refKey(s.Parent).String())
		rep.Warn(status.ParentNotFound, "spec.parentRef", "there is no "+refKey(s.Parent).String(), "correct the name, or create the Gateway")
		return
	case !ok || kind != facts.Gateway_EDGE:
		no("ParentNotAccepted", g.Key().String()+" is not a gateway at the edge of this mesh")
		return
	case !r.takesSet(g, s):
		no("NotAllowed", g.Key().String()+" does not admit ListenerSets of namespace "+s.Namespace)
		rep.Warn(status.ListenerUnusable, "spec.parentRef", g.Key().String()+" does not admit ListenerSets of namespace "+s.Namespace, "admit it in the Gateway's spec.allowedListeners")
		return
	}
	good, bad := 0, 0
	for _, l := range r.listeners(g) {
		if l.of != s.Key() {
			continue
		}
		rep.Listeners = append(rep.Listeners, m.reportListener(r, rep, g, l))
		if r.serves(g, l) {
			good++
		} else {
			bad++
		}
	}
	switch {
	case good == 0:
		no("ListenersNotValid", "None of its listeners can be in force; their conditions say why")
		return
	case bad > 0:
		rep.Say(condAccepted, true, "ListenersNotValid", "Not all of its listeners can be in force; their conditions say why")
	default:
		rep.Say(condAccepted, true, "Accepted", "")
	}
	if len(g.Status) > 0 {
		rep.Say(condProgrammed, true, "Programmed", "Served at "+g.Status[0].Value)
	} else {
		rep.Say(condProgrammed, false, "Pending", g.Key().String()+" has no address yet")
	}
}

// appendOnce adds a text that is not there yet.
func appendOnce(all []string, text string) []string {
	if slices.Contains(all, text) {
		return all
	}
	return append(all, text)
}
