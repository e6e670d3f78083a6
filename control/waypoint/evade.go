package waypoint

import (
	"fmt"

	"github.com/ambit-mesh/ambit/api/mesh"
	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// A waypoint asks the policies of the service a request is for, and then sends it where the routes say. A route to
// another service behind the same waypoint therefore leads past the policies of that one, and its pods let it in: it
// came through their waypoint. Inside one namespace that is its owner's affair, and reported. On a waypoint that
// namespaces share it would be a way into any service for whoever may write routes for his own: such a backend is broken
// unless the other namespace permits it with a ReferenceGrant, or the route is one of the waypoint's own namespace.

// evaded are the policies bound to a service behind a Gateway that a route for another service would lead past, as text.
func (r *reader) evaded(gw gatewayName, h model.Host) string {
	if !h.Guarded || gatewayOf(h.Waypoint) != gw && gatewayOf(h.Canary) != gw {
		return ""
	}
	for _, o := range list[object.Object](r, topic{policiesOn, h.Object}) {
		switch o := o.(type) {
		case *object.AuthorizationPolicy:
			if o.Action == object.Audit || o.Annotations.Get(mesh.AnnotationDryRun) == "true" {
				continue
			}
		case *object.RequestAuthentication:
			if len(o.Rules) == 0 {
				continue
			}
		default:
			continue
		}
		return o.Key().String()
	}
	return "" // those of the Gateway apply to both
}

// evades is why a route may not lead from a service of namespace ns, or from a consumer's namespace, to another service; nil when it may.
func (r *reader) evades(gw gatewayName, route object.Key, ns string, h model.Host) *trouble {
	if ns == h.Namespace || route.Namespace == gw.ns {
		return nil
	}
	policy := r.evaded(gw, h)
	if policy == "" || r.permitted(route, h.Object) {
		return nil
	}
	return &trouble{"RefNotPermitted", fmt.Sprintf("%s is in another namespace, and this way its %s would not be asked: a ReferenceGrant there must permit %s to name it",
		h.Object, policy, route)}
}

// permitted reports whether a ReferenceGrant lets a route or rule of any group name a Service, ServiceEntry or Secret.
func (r *reader) permitted(route, to object.Key) bool {
	from, group := groupGateway, ""
	if route.Kind == object.KindVirtualService || route.Kind == object.KindDestinationRule {
		from = groupIstio
	}
	if to.Kind == object.KindServiceEntry {
		group = groupIstio
	}
	ref := object.Ref{Group: group, Kind: to.Kind.String(), Namespace: to.Namespace, Name: to.Name}
	for _, g := range list[*object.ReferenceGrant](r, named(grantsIn, to.Namespace, "")) {
		if g.Permits(from, route.Kind.String(), route.Namespace, ref) {
			return true
		}
	}
	return false
}

// keepIn breaks a backend that would lead past policies. Those of the service itself, own, have been asked already.
func (r *reader) keepIn(gw gatewayName, route object.Key, ns string, own object.Key, b *facts.Backend) {
	if b == nil || b.Broken != "" {
		return
	}
	h, ok := r.host(b.Namespace, b.Hostname)
	if !ok || h.Object == own {
		return
	}
	if t := r.evades(gw, route, ns, h); t != nil {
		b.Broken = t.text
	}
}

// reportBackend is what is wrong with a backend of a route for one parent.
func (r *reader) reportBackend(rep *model.Report, o object.Object, ref *object.BackendRef, parent object.Key, granted bool) *trouble {
	h, _, t := r.backend(o, ref, granted)
	if t != nil || granted {
		return t
	}
	for _, name := range r.namesOf(parent) {
		if own, ok := r.host(parent.Namespace, name); ok {
			return r.reportEvasion(rep, o.Key(), o.Metadata().Namespace, own, h)
		}
	}
	return nil
}

// reportEvasion is why a route for a service, written by namespace ns, may not lead to another one. Where it may, its owner is warned of policies
// that it leads past.
func (r *reader) reportEvasion(rep *model.Report, route object.Key, ns string, own, to model.Host) *trouble {
	for _, gw := range []gatewayName{gatewayOf(own.Waypoint), gatewayOf(own.Canary)} {
		if gw == (gatewayName{}) || own.Object == to.Object {
			continue
		}
		if t := r.evades(gw, route, ns, to); t != nil {
			return t
		}
		if policy := r.evaded(gw, to); policy != "" {
			rep.Warn(status.PolicyBypassed, "spec", fmt.Sprintf("requests for %s go on to %s, and its %s is not asked", own.Object, to.Object, policy),
				"bind the policy to "+own.Object.String()+" as well")
			break
		}
	}
	return nil
}
