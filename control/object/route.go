package object

import "github.com/ambit-mesh/ambit/api/waypoint"

// Ref names another object. Namespace is never empty for a kind that has one: what the YAML leaves out is filled in.
type Ref struct {
	Group     string
	Kind      string
	Namespace string
	Name      string
}

// ParentRef is what a route of the Gateway API wants to be attached to; group and kind have the API's defaults.
type ParentRef struct {
	Ref
	Section string // of a listener or port; "" means all
	Port    uint16 // 0 means all
}

// BackendRef is where a route of the Gateway API sends to; group and kind have the API's defaults. Whether the object
// exists and may be named from the route's namespace is found out by whoever knows the others.
type BackendRef struct {
	Ref
	Port uint16 // 0 when the YAML has none
}

// MatchScope is what a VirtualService says of the place where a match holds, as opposed to the request.
type MatchScope struct {
	Port uint16 // 0 means every port
	// Gateways as in VirtualService.Gateways; empty means all of those.
	Gateways []string
}

// VirtualHTTP is one entry of a VirtualService's http list.
type VirtualHTTP struct {
	// Rule has everything but what stands below; hostnames of its backends are complete, their namespaces are not known.
	// Rule.Origin.Rule is the index in the YAML: entries that can never match at a proxy without an application of its own
	// (all their matches have sourceLabels) are left out.
	Rule *waypoint.HTTPRule
	// Scopes belong to Rule.Matches one by one; nil when no match has one.
	Scopes []MatchScope
	// Delegate names the VirtualService whose rules are meant; zero for none. Rule has no action then.
	Delegate Ref
}

// VirtualStream is one match of an entry of a VirtualService's tls or tcp list: entries with several become several.
type VirtualStream struct {
	Rule  *waypoint.StreamRule
	Scope MatchScope
}

// VirtualService is Istio's way to route. A backend without a port is one of the service's only port, or of the port
// that the request came to.
type VirtualService struct {
	Meta
	Hosts []string // complete names, lower case
	// Gateways are "mesh" or namespace/name; "mesh" alone when the YAML names none.
	Gateways []string
	ExportTo []string
	HTTP     []VirtualHTTP
	TLS      []VirtualStream
	TCP      []VirtualStream
}

// Key implements Object.
func (v *VirtualService) Key() Key {
	return Key{Kind: KindVirtualService, Namespace: v.Namespace, Name: v.Name}
}

// RouteRule is one rule of an HTTPRoute or GRPCRoute.
type RouteRule struct {
	Name string
	// Rule.Forward.Backends and Rule.Mirrors have weights, edits and shares, but not yet where to: that is in Backends and
	// Mirrors, index by index. A rule whose Broken is set stays in its place and answers with that.
	Rule     *waypoint.HTTPRule
	Backends []BackendRef
	Mirrors  []BackendRef
	// Extensions are the filters of type ExtensionRef, in their order; kinds that are not known break the rule.
	Extensions []Ref
}

// HTTPRoute is an HTTPRoute, or a GRPCRoute: method matches have become paths.
type HTTPRoute struct {
	Meta
	GRPC      bool
	Parents   []ParentRef
	Hostnames []string // lower case; empty means every name the parent has
	Rules     []RouteRule
}

// Key implements Object.
func (h *HTTPRoute) Key() Key {
	if h.GRPC {
		return Key{Kind: KindGRPCRoute, Namespace: h.Namespace, Name: h.Name}
	}
	return Key{Kind: KindHTTPRoute, Namespace: h.Namespace, Name: h.Name}
}

// StreamRouteRule is one rule of a TLSRoute or TCPRoute. Rule.Backends and Backends belong together, index by index;
// Rule.Sni is left to the route's hostnames.
type StreamRouteRule struct {
	Name     string
	Rule     *waypoint.StreamRule
	Backends []BackendRef
}

// StreamRoute is a TLSRoute or a TCPRoute.
type StreamRoute struct {
	Meta
	TLS       bool
	Parents   []ParentRef
	Hostnames []string // SNI names of a TLSRoute, lower case
	Rules     []StreamRouteRule
}

// Key implements Object.
func (s *StreamRoute) Key() Key {
	if s.TLS {
		return Key{Kind: KindTLSRoute, Namespace: s.Namespace, Name: s.Name}
	}
	return Key{Kind: KindTCPRoute, Namespace: s.Namespace, Name: s.Name}
}

// GrantFrom is who may refer to something.
type GrantFrom struct{ Group, Kind, Namespace string }

// GrantTo is what may be referred to.
type GrantTo struct{ Group, Kind, Name string } // Name "" means all

// ReferenceGrant permits references into its namespace.
type ReferenceGrant struct {
	Meta
	From []GrantFrom
	To   []GrantTo
}

// Key implements Object.
func (g *ReferenceGrant) Key() Key {
	return Key{Kind: KindReferenceGrant, Namespace: g.Namespace, Name: g.Name}
}

// Permits reports whether an object of the kind from, in namespace ns, may refer to the object to.
func (g *ReferenceGrant) Permits(fromGroup, fromKind, ns string, to Ref) bool {
	if to.Namespace != g.Namespace {
		return false
	}
	for _, f := range g.From {
		if f != (GrantFrom{fromGroup, fromKind, ns}) {
			continue
		}
		for _, t := range g.To {
			if t.Group == to.Group && t.Kind == to.Kind && (t.Name == "" || t.Name == to.Name) {
				return true
			}
		}
	}
	return false
}
