package analyze

import (
	"cmp"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// A RequestAuthentication refuses tokens that are not good; a request without any passes it (Istio
// security/v1/request_authentication.proto). That there must be one is for an AuthorizationPolicy to say.

// tokens finds targets whose tokens are checked and that nobody asks for one.
func (w *world) tokens() {
	each(w, func(a *object.RequestAuthentication) {
		if len(a.Rules) == 0 {
			return
		}
		for _, t := range a.TargetRefs {
			k, ok := target(a.Namespace, t)
			if !ok || w.objects[k] == nil || w.demanded(k) {
				continue
			}
			w.about(status.TokenOptional, a.Key(), "spec.targetRefs", "no AuthorizationPolicy for %s demands a token: requests without one are let in, and only a token that is not good is refused", k).
				fix("add an AuthorizationPolicy for the same target whose rules have from: [{source: {requestPrincipals: [\"*\"]}}]")
		}
	})
}

// target is the object that a reference of a policy means.
func target(ns string, t object.TargetRef) (object.Key, bool) {
	kind, ok := object.ParseKind(t.Kind)
	k := object.Key{Kind: kind, Namespace: cmp.Or(t.Namespace, ns), Name: t.Name}
	if kind.ClusterScoped() {
		k.Namespace = ""
	}
	return k, ok
}

// demanded reports whether some policy looks at the tokens of requests to a target: one that is bound to it, to the Gateway
// before it or to that one's class; for a Gateway also one for a service behind it, which may be the only one meant.
func (w *world) demanded(k object.Key) bool {
	gateway := w.gatewayOf(k)
	var class object.Key
	if g, ok := w.objects[gateway].(*object.Gateway); ok {
		class = object.Key{Kind: object.KindGatewayClass, Name: g.Class}
	}
	found := false
	each(w, func(p *object.AuthorizationPolicy) {
		if found || !demandsToken(p) {
			return
		}
		// Gateways at the edge are chosen by labels too.
		found = len(p.TargetRefs) == 0 && k.Kind == object.KindGateway && (p.Namespace == k.Namespace || p.Namespace == w.cfg.RootNamespace)
		for _, t := range p.TargetRefs {
			at, ok := target(p.Namespace, t)
			found = found || ok && (at == k || at == gateway || at == class || k.Kind == object.KindGateway && w.gatewayOf(at) == k ||
				k.Kind == object.KindGatewayClass)
		}
	})
	return found
}

// demandsToken reports whether a policy can keep out what has no token. Whom a policy of action CUSTOM keeps out is for
// somebody else to know, and may be just that; an ALLOW without rules keeps everybody out.
func demandsToken(p *object.AuthorizationPolicy) bool {
	switch {
	case p.Annotations.Get(mesh.AnnotationDryRun) == "true", p.Action == object.Audit:
		return false
	case p.Action == object.Custom, p.Action == object.Allow && len(p.Rules) == 0:
		return true
	}
	return slices.ContainsFunc(p.Rules, func(r object.Rule) bool {
		return slices.ContainsFunc(r.From, func(s object.Source) bool { return len(s.RequestPrincipals)+len(s.NotRequestPrincipals) > 0 }) ||
			slices.ContainsFunc(r.When, func(c object.Condition) bool { return strings.HasPrefix(c.Key, "request.auth.") })
	})
}

// gatewayOf is the Gateway that a target's requests come through: itself, or the waypoint that labels name.
func (w *world) gatewayOf(k object.Key) object.Key {
	o := w.objects[k]
	if k.Kind == object.KindGateway || o == nil {
		return k
	}
	for _, labels := range []object.Labels{o.Metadata().Labels, w.namespaceLabels(k.Namespace)} {
		if v, ok := labels.Lookup(mesh.LabelUseWaypoint); ok {
			return object.Key{Kind: object.KindGateway, Namespace: cmp.Or(labels.Get(mesh.LabelUseWaypointNS), k.Namespace), Name: v}
		}
	}
	return object.Key{}
}
