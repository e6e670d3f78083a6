package intake

import (
	"fmt"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

func (r *reader) streamBackends(in []*networking.RouteDestination, path []any, namespace string) []*waypoint.Backend {
	if len(in) == 0 {
		r.refuse(path, "nothing is done with the connection", "add route with a destination")
		return nil
	}
	if !r.fewer(len(in), maxBackends, path, "destination") {
		return nil
	}
	var out []*waypoint.Backend
	weights := make([]int32, len(in))
	for i, d := range in {
		out = append(out, r.virtualDestination(d.Destination, sub(path, i, "destination"), namespace))
		weights[i] = d.Weight
	}
	r.weights(out, weights, path)
	return out
}

// virtualTLS makes a rule of each match of an entry.
func (r *reader) virtualTLS(in *networking.TLSRoute, i uint32, path []any, vs *object.VirtualService) []object.VirtualStream {
	backends := r.streamBackends(in.Route, sub(path, "route"), vs.Namespace)
	if len(in.Match) == 0 {
		r.refuse(sub(path, "match"), "a route for TLS needs a match", "add one with sniHosts")
	}
	if !r.fewer(len(in.Match), maxMatches, sub(path, "match"), "match") {
		return nil
	}
	var out []object.VirtualStream
	for j, m := range in.Match {
		p := sub(path, "match", j)
		rule := &waypoint.StreamRule{Origin: origin("VirtualService", vs.Meta, i, ""), Backends: backends}
		if len(m.SniHosts) == 0 {
			r.refuse(sub(p, "sniHosts"), "the field is missing", "write the names that clients ask for")
		}
		if !r.fewer(len(m.SniHosts)+len(m.DestinationSubnets), maxValues, p, "value") {
			return nil
		}
		for k, s := range m.SniHosts {
			rule.Sni = append(rule.Sni, r.sni(s, sub(p, "sniHosts", k), vs))
		}
		for k, s := range m.DestinationSubnets {
			rule.Destinations = append(rule.Destinations, r.subnet(s, sub(p, "destinationSubnets", k)))
		}
		scope := r.scope(m.Port, m.Gateways, p, vs)
		if r.sourced(len(m.SourceLabels) > 0, "", m.SourceNamespace, p) {
			continue
		}
		out = append(out, object.VirtualStream{Rule: rule, Scope: scope})
	}
	return out
}

// sni checks a name of a TLS match: it must be one of the VirtualService's hosts.
func (r *reader) sni(s string, path []any, vs *object.VirtualService) string {
	host := canonicalHost(s)
	if host != "*" && !isHost(host, true) {
		r.refuse(path, fmt.Sprintf("%q is not a host name", clip(s)), hostFix(s))
		return host
	}
	if !slices.ContainsFunc(vs.Hosts, func(h string) bool { return covers(h, host) }) {
		r.refuse(path, fmt.Sprintf("%q is none of spec.hosts", clip(s)), "add it there, or write a name that is")
	}
	return host
}

// covers reports whether every name that sub stands for is one of h's.
func covers(h, sub string) bool {
	if h == "*" || h == sub {
		return true
	}
	suffix, ok := strings.CutPrefix(h, "*")
	return ok && strings.HasSuffix(sub, suffix) && sub != "*"
}

// sourced warns about a match by the client, which streams cannot have, and reports whether it is left out.
func (r *reader) sourced(labels bool, subnet, namespace string, path []any) bool {
	const text = "the match is left out: connections are not told apart by their client where the route is carried out"
	const fix = "use an AuthorizationPolicy to say who may connect"
	switch {
	case labels:
		r.sourceLabels(path)
	case subnet != "":
		r.warn(sub(path, "sourceSubnet"), text, fix)
	case namespace != "":
		r.warn(sub(path, "sourceNamespace"), text, fix)
	default:
		return false
	}
	return true
}

// virtualTCP makes a rule of each match of an entry, or one when there is none.
func (r *reader) virtualTCP(in *networking.TCPRoute, i uint32, path []any, vs *object.VirtualService) []object.VirtualStream {
	backends := r.streamBackends(in.Route, sub(path, "route"), vs.Namespace)
	if !r.fewer(len(in.Match), maxMatches, sub(path, "match"), "match") {
		return nil
	}
	rule := func() *waypoint.StreamRule {
		return &waypoint.StreamRule{Origin: origin("VirtualService", vs.Meta, i, ""), Backends: backends}
	}
	if len(in.Match) == 0 {
		return []object.VirtualStream{{Rule: rule()}}
	}
	var out []object.VirtualStream
	for j, m := range in.Match {
		p := sub(path, "match", j)
		if !r.fewer(len(m.DestinationSubnets), maxValues, p, "value") {
			return nil
		}
		one := rule()
		for k, s := range m.DestinationSubnets {
			one.Destinations = append(one.Destinations, r.subnet(s, sub(p, "destinationSubnets", k)))
		}
		scope := r.scope(m.Port, m.Gateways, p, vs)
		if r.sourced(len(m.SourceLabels) > 0, m.SourceSubnet, m.SourceNamespace, p) {
			continue
		}
		out = append(out, object.VirtualStream{Rule: one, Scope: scope})
	}
	return out
}
