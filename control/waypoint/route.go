package waypoint

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// block is the rules of one VirtualService, or of all routes of the Gateway API together.
type block struct {
	created time.Time
	ns      string
	name    string
	http    []*facts.HTTPRule
	stream  []*facts.StreamRule
}

// route fills in the rules of a port. Rules come in the order in which they are asked.
//
// Routes of the Gateway API on one service are one list, sorted by how specific their matches are; VirtualServices are
// lists in the order they are written. Between the lists the older one is asked first, the Gateway API's counting as old
// as the oldest route in it: that is what comes of Istio turning routes into VirtualServices (Istio
// pilot/pkg/config/kube/gateway mergeHTTPRoutes, pilot/pkg/model sortConfigByCreationTime).
func (m *Model) route(r *reader, t *target) {
	http, stream := speaks(t.port.Protocol)
	blocks := m.virtualBlocks(r, t)
	if b := m.routeBlock(r, t); b != nil {
		blocks = append(blocks, *b)
	}
	slices.SortStableFunc(blocks, func(a, b block) int {
		return cmp.Or(a.created.Compare(b.created), strings.Compare(a.ns, b.ns), strings.Compare(a.name, b.name))
	})
	if http {
		if t.port.Http = m.consumerRules(r, t); len(t.port.Http) > 0 && !slices.ContainsFunc(blocks, func(b block) bool { return len(b.http) > 0 }) {
			t.port.Http = append(t.port.Http, toItself(t))
		}
	}
	for _, b := range blocks {
		if http {
			t.port.Http = append(t.port.Http, b.http...)
		}
		if stream {
			t.port.Stream = append(t.port.Stream, b.stream...)
		}
	}
	t.port.Routed = len(t.port.Http)+len(t.port.Stream) > 0
}

// routeBlock is what routes of the Gateway API in the namespace of a service say about a port, nil when they say nothing.
func (m *Model) routeBlock(r *reader, t *target) *block {
	list := topic{routesOf, t.host.Object}
	b := &block{}
	var ranked []rankedRule
	seen := func(meta *object.Meta) {
		if b.name == "" {
			b.created, b.ns, b.name = meta.Created, meta.Namespace, meta.Name
		}
	}
	for _, o := range list_(r, list) {
		switch o := o.(type) {
		case *object.HTTPRoute:
			if isConsumer(o, t) || !refersTo(o.Parents, t) {
				continue
			}
			seen(&o.Meta)
			for i := range o.Rules {
				ranked = append(ranked, rankRules(m.httpRule(r, o, &o.Rules[i], t.gw, false, t.port.Number, t.host.Object), &o.Meta, len(ranked))...)
			}
		case *object.StreamRoute:
			if isConsumer(o, t) || !refersTo(o.Parents, t) {
				continue // what a connection carries does not say for whom it is: consumers have routes for requests only
			}
			seen(&o.Meta)
			for i := range o.Rules {
				b.stream = append(b.stream, m.streamRule(r, o, &o.Rules[i], t.gw, false))
			}
		}
	}
	if b.name == "" {
		return nil
	}
	b.http = sortRules(ranked)
	return b
}

func list_(r *reader, t topic) []object.Object { return list[object.Object](r, t) }

// refersTo reports whether one of the parents is the port of the target.
func refersTo(parents []object.ParentRef, t *target) bool {
	return slices.ContainsFunc(parents, func(p object.ParentRef) bool {
		return refKey(p.Ref) == t.host.Object && (p.Port == 0 || uint32(p.Port) == t.port.Number) && (p.Section == "" || p.Section == t.port.Name)
	})
}

// httpRule is a rule of an HTTPRoute with its references resolved. At the edge references into other namespaces must be
// granted: behind a waypoint they need not be, as in Istio (pilot/pkg/config/kube/gateway convertHTTPRoute,
// enforceRefGrant). port is the one that requests come to, own the service, if there is one before the route.
func (m *Model) httpRule(r *reader, o *object.HTTPRoute, rule *object.RouteRule, gw gatewayName, edge bool, port uint32, own object.Key) *facts.HTTPRule {
	out := proto.Clone(rule.Rule).(*facts.HTTPRule)
	out.Origin = origin(o, out.Origin, rule.Name)
	for i, b := range out.GetForward().GetBackends() {
		if i < len(rule.Backends) {
			r.resolve(o, &rule.Backends[i], b, gw, edge)
			r.keepIn(gw, o.Key(), o.Namespace, own, b)
		}
	}
	mirrors := out.Mirrors[:0]
	for i, mirror := range out.Mirrors {
		if i < len(rule.Mirrors) {
			if mirror.To == nil {
				mirror.To = &facts.Backend{}
			}
			r.resolve(o, &rule.Mirrors[i], mirror.To, gw, edge)
			r.keepIn(gw, o.Key(), o.Namespace, own, mirror.To)
		}
		if mirror.To.GetBroken() == "" {
			mirrors = append(mirrors, mirror)
		}
	}
	out.Mirrors = mirrors
	if d := out.GetRedirect(); d != nil && d.Scheme == "" && d.Port == 0 {
		d.Port, d.DefaultPort = port, true // a redirect stays on its port unless it says otherwise
	}
	for _, x := range rule.Extensions {
		m.ruleExtension(r, o, out, x, gw)
	}
	return out
}

// streamRule is a rule of a TLSRoute or TCPRoute with its references resolved.
func (m *Model) streamRule(r *reader, o *object.StreamRoute, rule *object.StreamRouteRule, gw gatewayName, edge bool) *facts.StreamRule {
	out := proto.Clone(rule.Rule).(*facts.StreamRule)
	out.Origin = origin(o, out.Origin, rule.Name)
	if o.TLS {
		out.Sni = o.Hostnames
	}
	for i, b := range out.Backends {
		if i < len(rule.Backends) {
			r.resolve(o, &rule.Backends[i], b, gw, edge)
			r.keepIn(gw, o.Key(), o.Namespace, object.Key{}, b)
		}
	}
	return out
}

func origin(o object.Object, have *facts.Origin, name string) *facts.Origin {
	k := o.Key()
	out := &facts.Origin{Kind: k.Kind.String(), Namespace: k.Namespace, Name: k.Name, Rule: have.GetRule(), RuleName: have.GetRuleName()}
	if name != "" {
		out.RuleName = name
	}
	return out
}

// rankedRule is a rule with one match, and what decides when it is asked.
type rankedRule struct {
	rule *facts.HTTPRule
	meta *object.Meta
	seq  int
	// Specificity in the order of the Gateway API: kind and length of the path, method, number of headers and of query parameters.
	rank [5]int
}

// rankRules takes the matches of a rule apart: each is asked when its turn comes.
func rankRules(rule *facts.HTTPRule, meta *object.Meta, seq int) []rankedRule {
	if len(rule.Matches) <= 1 {
		rr := rankedRule{rule: rule, meta: meta, seq: seq}
		if len(rule.Matches) == 1 {
			rr.rank = rankMatch(rule.Matches[0])
		}
		return []rankedRule{rr}
	}
	out := make([]rankedRule, 0, len(rule.Matches))
	matches := rule.Matches
	for i, match := range matches {
		// All but the matches is shared: messages are not changed once they are built.
		one := shallow(rule)
		one.Matches = matches[i : i+1]
		out = append(out, rankedRule{rule: one, meta: meta, seq: seq + i, rank: rankMatch(match)})
	}
	return out
}

// shallow copies a rule; what it points to is shared.
func shallow(r *facts.HTTPRule) *facts.HTTPRule {
	out := &facts.HTTPRule{}
	m, from := out.ProtoReflect(), r.ProtoReflect()
	for fd, v := range from.Range {
		m.Set(fd, v)
	}
	return out
}

// rankMatch is how specific a match is. Istio pilot/pkg/config/kube/gateway getURIRank: exact before prefix before regex.
func rankMatch(m *facts.HTTPMatch) [5]int {
	var rank [5]int
	switch p := m.GetPath().GetKind().(type) {
	case *facts.PathMatch_Exact:
		rank[0], rank[1] = 3, len(p.Exact)
	case *facts.PathMatch_Segments:
		rank[0], rank[1] = 2, len(p.Segments)
	case *facts.PathMatch_Prefix:
		rank[0], rank[1] = 2, len(p.Prefix)
	case *facts.PathMatch_Regex:
		rank[0], rank[1] = 1, len(p.Regex)
	}
	if rank[0] == 2 && rank[1] <= 1 {
		rank[0], rank[1] = 0, 0 // "/" is every path
	}
	if m.Method != nil {
		rank[2] = 1
	}
	rank[3], rank[4] = len(m.Headers), len(m.Query)
	return rank
}

// sortRules orders rules as the Gateway API asks: the most specific match, then the oldest route, then its name, then
// the order in it.
func sortRules(ranked []rankedRule) []*facts.HTTPRule {
	slices.SortStableFunc(ranked, func(a, b rankedRule) int {
		return cmp.Or(-slices.Compare(a.rank[:], b.rank[:]), byAge(a.meta, b.meta), cmp.Compare(a.seq, b.seq))
	})
	var out []*facts.HTTPRule
	for _, rr := range ranked {
		out = append(out, rr.rule)
	}
	return out
}
