package waypoint

import (
	"slices"

	"google.golang.org/protobuf/proto"

	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// meshGateway is what VirtualServices call the inside of the mesh.
const meshGateway = "mesh"

// virtuals are the VirtualServices for a service behind a waypoint, the oldest first: those of the service's namespace
// and of the waypoint's whose host is or covers the service's. Istio pilot/pkg/networking/core getConfigsForHost.
func (r *reader) virtuals(gw gatewayName, ns, host string) []*object.VirtualService {
	var all []*object.VirtualService
	namespaces := []string{ns}
	if gw.ns != ns {
		namespaces = append(namespaces, gw.ns)
	}
	c := r.mesh()
	for _, n := range namespaces {
		for _, h := range wildcards(host) {
			for _, v := range list[*object.VirtualService](r, named(virtualsOf, n, h)) {
				if slices.Contains(v.Gateways, meshGateway) && exported(v.ExportTo, c.VirtualServiceExportTo, v.Namespace, gw.ns) && !slices.Contains(all, v) {
					all = append(all, v)
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b *object.VirtualService) int { return byAge(&a.Meta, &b.Meta) })
	return all
}

// virtualBlocks is what VirtualServices say about a port.
func (m *Model) virtualBlocks(r *reader, t *target) []block {
	var blocks []block
	for _, v := range r.virtuals(t.gw, t.host.Namespace, t.host.Hostname) {
		b := block{created: v.Created, ns: v.Namespace, name: v.Name}
		for i := range v.HTTP {
			b.http = append(b.http, m.virtualHTTP(r, v, &v.HTTP[i], t)...)
		}
		for _, streams := range [][]object.VirtualStream{v.TLS, v.TCP} {
			for i := range streams {
				if s := m.virtualStream(r, v, &streams[i], t); s != nil {
					b.stream = append(b.stream, s)
				}
			}
		}
		blocks = append(blocks, b)
	}
	return blocks
}

// virtualHTTP is an entry of a VirtualService's http list as far as it is about the port; several rules when it delegates.
func (m *Model) virtualHTTP(r *reader, v *object.VirtualService, e *object.VirtualHTTP, t *target) []*facts.HTTPRule {
	matches, ok := inScope(e.Rule.Matches, e.Scopes, t)
	if !ok {
		return nil
	}
	root := proto.Clone(e.Rule).(*facts.HTTPRule)
	root.Matches = matches
	root.Origin = origin(v, root.Origin, "")
	if e.Delegate == (object.Ref{}) {
		m.resolveVirtual(r, v, v, root, t)
		return []*facts.HTTPRule{root}
	}
	d := get[*object.VirtualService](r, object.Key{Kind: object.KindVirtualService, Namespace: e.Delegate.Namespace, Name: e.Delegate.Name})
	if d == nil || len(d.Hosts) > 0 || !exported(d.ExportTo, r.mesh().VirtualServiceExportTo, d.Namespace, v.Namespace) {
		root.Broken = "there is no VirtualService " + e.Delegate.Namespace + "/" + e.Delegate.Name + " without hosts to delegate to"
		return []*facts.HTTPRule{root}
	}
	var rules []*facts.HTTPRule
	for i := range d.HTTP {
		de := &d.HTTP[i]
		if de.Delegate != (object.Ref{}) {
			continue // one level only, as in Istio pilot/pkg/model mergeVirtualServicesIfNeeded
		}
		own, ok := inScope(de.Rule.Matches, de.Scopes, t)
		if !ok {
			continue
		}
		rule := proto.Clone(de.Rule).(*facts.HTTPRule)
		if rule.Matches, ok = mergeMatches(matches, own); !ok {
			continue
		}
		rule.Origin = origin(d, rule.Origin, "")
		inherit(rule, proto.Clone(root).(*facts.HTTPRule)) // what is inherited is resolved, for each rule on its own
		m.resolveVirtual(r, v, d, rule, t)
		rules = append(rules, rule)
	}
	return rules
}

// inScope keeps the matches that can hold at the port. ok is false when there were some and none is left.
func inScope(matches []*facts.HTTPMatch, scopes []object.MatchScope, t *target) (kept []*facts.HTTPMatch, ok bool) {
	if len(scopes) == 0 {
		return matches, true
	}
	for i, match := range matches {
		if i >= len(scopes) || holds(scopes[i], t) {
			kept = append(kept, match)
		}
	}
	return kept, len(kept) > 0 || len(matches) == 0
}

func holds(s object.MatchScope, t *target) bool {
	return (s.Port == 0 || uint32(s.Port) == t.port.Number) && (len(s.Gateways) == 0 || slices.Contains(s.Gateways, meshGateway))
}

// resolveVirtual resolves the backends and mirrors of a rule of v, which root may have delegated to.
func (m *Model) resolveVirtual(r *reader, root, v *object.VirtualService, rule *facts.HTTPRule, t *target) {
	for _, b := range rule.GetForward().GetBackends() {
		r.resolveHost(v.Namespace, b, t.gw, t.port.Number)
		r.keepIn(t.gw, root.Key(), t.host.Namespace, t.host.Object, b)
	}
	rule.Mirrors = slices.DeleteFunc(rule.Mirrors, func(mirror *facts.Mirror) bool {
		if mirror.To == nil {
			return true
		}
		r.resolveHost(v.Namespace, mirror.To, t.gw, t.port.Number)
		r.keepIn(t.gw, root.Key(), t.host.Namespace, t.host.Object, mirror.To)
		return mirror.To.Broken != ""
	})
}

func (m *Model) virtualStream(r *reader, v *object.VirtualService, s *object.VirtualStream, t *target) *facts.StreamRule {
	if !holds(s.Scope, t) {
		return nil
	}
	rule := proto.Clone(s.Rule).(*facts.StreamRule)
	rule.Origin = origin(v, rule.Origin, "")
	for _, b := range rule.Backends {
		r.resolveHost(v.Namespace, b, t.gw, t.port.Number)
		r.keepIn(t.gw, v.Key(), t.host.Namespace, t.host.Object, b)
	}
	return rule
}

// mergeMatches is what holds when one of the root's matches and one of the delegate's do. ok is false when nothing can.
// Istio pilot/pkg/model/virtualservice.go mergeHTTPMatchRequests.
func mergeMatches(root, delegate []*facts.HTTPMatch) (merged []*facts.HTTPMatch, ok bool) {
	switch {
	case len(root) == 0:
		return delegate, true
	case len(delegate) == 0:
		return root, true
	}
	for _, a := range root {
		for _, b := range delegate {
			if one := mergeMatch(a, b); one != nil {
				merged = append(merged, one)
			}
		}
	}
	return merged, len(merged) > 0
}

// mergeMatch asks for both, nil when they contradict each other or when both speak of the same thing in ways that cannot
// be put together.
func mergeMatch(a, b *facts.HTTPMatch) *facts.HTTPMatch {
	out := proto.Clone(b).(*facts.HTTPMatch)
	path, ok := mergePath(a.Path, b.Path)
	if !ok {
		return nil
	}
	out.Path = path
	for _, pair := range []struct{ root, own **facts.StringMatch }{
		{&a.Method, &out.Method}, {&a.Scheme, &out.Scheme}, {&a.Authority, &out.Authority},
	} {
		switch {
		case *pair.root == nil:
		case *pair.own == nil:
			*pair.own = *pair.root
		case !proto.Equal(*pair.root, *pair.own):
			return nil
		}
	}
	if out.Headers, ok = mergeValues(a.Headers, b.Headers); !ok {
		return nil
	}
	if out.Query, ok = mergeValues(a.Query, b.Query); !ok {
		return nil
	}
	out.Claims = append(slices.Clone(a.Claims), b.Claims...)
	switch {
	case len(a.SourceNamespaces) == 0:
	case len(b.SourceNamespaces) == 0:
		out.SourceNamespaces = a.SourceNamespaces
	default:
		out.SourceNamespaces = slices.DeleteFunc(slices.Clone(b.SourceNamespaces), func(n string) bool { return !slices.Contains(a.SourceNamespaces, n) })
		if len(out.SourceNamespaces) == 0 {
			return nil
		}
	}
	return out
}

// mergePath: the delegate's path must lie within the root's prefix.
func mergePath(root, own *facts.PathMatch) (*facts.PathMatch, bool) {
	switch {
	case root == nil:
		return own, true
	case own == nil || proto.Equal(root, own):
		return root, true
	}
	prefix, ok := root.Kind.(*facts.PathMatch_Prefix)
	if !ok || root.IgnoreCase != own.IgnoreCase {
		return nil, false
	}
	switch k := own.Kind.(type) {
	case *facts.PathMatch_Prefix:
		return own, hasPrefix(k.Prefix, prefix.Prefix)
	case *facts.PathMatch_Exact:
		return own, hasPrefix(k.Exact, prefix.Prefix)
	}
	return nil, false
}

func hasPrefix(s, p string) bool { return len(s) >= len(p) && s[:len(p)] == p }

// mergeValues asks for all headers or parameters of both, which must not contradict each other.
func mergeValues(a, b []*facts.ValueMatch) ([]*facts.ValueMatch, bool) {
	out := slices.Clone(a)
	for _, v := range b {
		same := slices.ContainsFunc(a, func(o *facts.ValueMatch) bool { return proto.Equal(o, v) })
		if !same && slices.ContainsFunc(a, func(o *facts.ValueMatch) bool { return o.Name == v.Name && o.Invert == v.Invert }) {
			return nil, false
		}
		if !same {
			out = append(out, v)
		}
	}
	return out, true
}

// inherit gives a delegate's rule what the root says and the rule does not. Istio pilot/pkg/model mergeHTTPRoute.
func inherit(rule, root *facts.HTTPRule) {
	if rule.Action == nil {
		rule.Action = root.Action
	}
	if rule.Rewrite == nil {
		rule.Rewrite = root.Rewrite
	}
	if rule.Timeout == nil {
		rule.Timeout = root.Timeout
	}
	if rule.Retry == nil {
		rule.Retry = root.Retry
	}
	if rule.Fault == nil {
		rule.Fault = root.Fault
	}
	if rule.Cors == nil {
		rule.Cors = root.Cors
	}
	if len(rule.Mirrors) == 0 {
		rule.Mirrors = root.Mirrors
	}
	rule.RequestHeaders = bothEdits(root.RequestHeaders, rule.RequestHeaders)
	rule.ResponseHeaders = bothEdits(root.ResponseHeaders, rule.ResponseHeaders)
}

func bothEdits(root, own *facts.HeaderEdits) *facts.HeaderEdits {
	switch {
	case root == nil:
		return own
	case own == nil:
		return root
	}
	return &facts.HeaderEdits{
		Set:    append(slices.Clone(root.Set), own.Set...),
		Add:    append(slices.Clone(root.Add), own.Add...),
		Remove: append(slices.Clone(root.Remove), own.Remove...),
	}
}
