package waypoint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// reportAuthorization adds what a waypoint cannot do of a policy.
func (m *Model) reportAuthorization(r *reader, rep *model.Report, a *object.AuthorizationPolicy) {
	if a.Action != object.Custom || len(a.TargetRefs) == 0 {
		return
	}
	if f := m.authorization(r, gatewayName{ns: a.Namespace}, a); f.Broken != "" {
		rep.Say(condResolvedRefs, false, "ProviderNotFound", f.Broken+": what the policy's rules match is denied")
		rep.Warn(status.ProviderMissing, "spec.provider", f.Broken+": what the policy's rules match is denied", "add the provider to the mesh configuration's extensionProviders, or correct its service")
	}
	r.forget()
}

func (m *Model) reportAuthentication(r *reader, rep *model.Report, a *object.RequestAuthentication) {
	if len(a.TargetRefs) == 0 {
		rep.Warn(status.WithoutEffect, "spec", "without targetRefs only gateways at the edge carry it out, no waypoint does", "name the Service or Gateway whose waypoint is to do it")
		return
	}
	var problems []string
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
		problems = append(problems, text)
		rep.Warn(status.KeysMissing, fmt.Sprintf("spec.jwtRules[%d].jwksUri", i), text, "see that the address can be reached from the control plane and answers with a key set")
	}
	if len(problems) > 0 {
		rep.Say(condResolvedRefs, false, "KeysNotFetched", strings.Join(problems, "; "))
	}
}

func (m *Model) reportTelemetry(r *reader, rep *model.Report, t *object.Telemetry) {
	if len(t.TargetRefs) > 0 {
		m.reportTargets(r, rep, t.Namespace, t.TargetRefs)
	}
	m.misplaced(rep, t.Namespace)
	reportSelector(rep, t.Selector)
	c := r.mesh()
	check := func(field string, names []string) {
		for _, n := range names {
			p, ok := c.Provider(n)
			switch {
			case ok && p.Unsupported != "":
				rep.Warn(status.ProviderMissing, field, fmt.Sprintf("provider %q is %s, which is not supported", n, p.Unsupported), "use one for OpenTelemetry, Zipkin or Envoy's own log")
			case !ok && n != "envoy" && n != "prometheus":
				rep.Warn(status.ProviderMissing, field, fmt.Sprintf("the mesh configuration has no extension provider %q", n), "add it to extensionProviders")
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
	m.misplaced(rep, e.Namespace)
	reportSelector(rep, e.Selector)
	if slices.ContainsFunc(e.Scopes, func(s object.ExtensionScope) bool { return len(s.Ports) > 0 }) {
		rep.Warn(status.PolicyPartlyApplied, "spec.match", "ports choose services here, not single ports: it runs on every port of a target that has one of them", "give what is different a Service of its own")
	}
	if !serverSide(e) {
		rep.Warn(status.WithoutEffect, "spec.match", "it is for clients with a proxy of their own, and has no effect here", "remove mode, or write SERVER")
	}
	_, why := m.extensionFact(r, gatewayName{ns: e.Namespace}, e)
	for _, t := range e.TargetRefs {
		if bound, not := r.ancestor(e.Namespace, t); not == nil && why == "" {
			if ns, name, ok := strings.Cut(bound, "/"); ok {
				_, why = m.extensionFact(r, gatewayName{ns, name}, e)
			}
		}
	}
	r.forget()
	if why == "" {
		return
	}
	text := why + ": requests are refused"
	if e.Spec.GetFailOpen() {
		text = why + ": requests pass without it"
	}
	rep.Say(condResolvedRefs, false, "Invalid", text)
	rep.Warn(status.ExtensionUnusable, "spec", text, "correct it, or remove the policy")
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
		code, fix := status.TargetUnenforced, "correct the reference, or create the object"
		switch why.reason {
		case "TargetNotFound":
			code = status.TargetNotFound
		case "AncestorNotBound":
			fix = "give the target a waypoint: label " + mesh.LabelUseWaypoint + " on it or on its namespace"
		}
		rep.Warn(code, "spec.targetRefs", why.text+": nothing carries the policy out for this target", fix)
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
