package waypoint

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// A route in another namespace than its Service is a consumer's: it is for requests from that namespace, by the
// certificate of who makes them, and for those it takes the place of all other routes. What none of its rules matches is
// answered 404. Gateway API GEP-1294 "Route types" and GEP-1426.
//
// It is carried out by the waypoint of the Service, which stands before everybody; one of the consumer's own namespace never sees
// these requests. It needs no permission of the Service's owner, for nobody else's requests are touched and the policies of
// the Service are asked first; where it may lead is bounded as for any route that leaves a namespace, see evade.go.

// isConsumer: the route is of another namespace than the Service of the target.
func isConsumer(o object.Object, t *target) bool { return o.Metadata().Namespace != t.host.Namespace }

// consumerRules are the rules of all consumers' routes for a port, each list ending with what is left of its
// namespace's requests.
func (m *Model) consumerRules(r *reader, t *target) []*facts.HTTPRule {
	ranked := map[string][]rankedRule{}
	oldest := map[string]*object.HTTPRoute{}
	for _, o := range list_(r, topic{routesOf, t.host.Object}) {
		route, ok := o.(*object.HTTPRoute)
		if !ok || !isConsumer(o, t) || !refersTo(route.Parents, t) {
			continue
		}
		ns := route.Namespace
		if oldest[ns] == nil {
			oldest[ns] = route
		}
		for i := range route.Rules {
			ranked[ns] = append(ranked[ns], rankRules(m.httpRule(r, route, &route.Rules[i], t.gw, false, t.port.Number, t.host.Object), &route.Meta, len(ranked[ns]))...)
		}
	}
	var out []*facts.HTTPRule
	for _, ns := range slices.Sorted(maps.Keys(oldest)) {
		for _, rule := range sortRules(ranked[ns]) {
			out = append(out, fromNamespace(rule, ns))
		}
		out = append(out, fromNamespace(&facts.HTTPRule{
			Origin: origin(oldest[ns], nil, ""), Action: &facts.HTTPRule_Direct{Direct: &facts.DirectResponse{Status: 404}},
		}, ns))
	}
	return out
}

// fromNamespace is the rule for requests from a namespace alone.
func fromNamespace(rule *facts.HTTPRule, ns string) *facts.HTTPRule {
	out := shallow(rule)
	out.Matches = []*facts.HTTPMatch{{SourceNamespaces: []string{ns}}}
	if len(rule.Matches) > 0 {
		out.Matches = nil
		for _, match := range rule.Matches {
			match = proto.CloneOf(match)
			match.SourceNamespaces = []string{ns}
			out.Matches = append(out.Matches, match)
		}
	}
	return out
}

// toItself is what becomes of a request when nobody says anything else.
func toItself(t *target) *facts.HTTPRule {
	return &facts.HTTPRule{Action: &facts.HTTPRule_Forward{Forward: &facts.Forward{Backends: []*facts.Backend{{
		Namespace: t.host.Namespace, Hostname: t.host.Hostname, Port: t.port.Number, Weight: 1,
	}}}}}
}
