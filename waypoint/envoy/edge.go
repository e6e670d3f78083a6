package envoy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// An edge gateway listens for clients outside the mesh. Each port is one listener of Envoy, whatever number of the
// Gateway's listeners share it; a listener that is refused, or that Envoy could not serve, leaves the others in place.

// edgePort is the listeners of one port, in the Gateway's order: of two that ask for the same, the first has it.
type edgePort struct {
	number    uint32
	listeners []*waypoint.Listener
}

func (e *Env) edgePorts() []edgePort {
	by := map[uint32]*edgePort{}
	for _, l := range e.Gateway.GetListeners() {
		if by[l.GetPort()] == nil {
			by[l.GetPort()] = &edgePort{number: l.GetPort()}
		}
		by[l.GetPort()].listeners = append(by[l.GetPort()].listeners, l)
	}
	var out []edgePort
	for _, number := range slices.Sorted(maps.Keys(by)) {
		out = append(out, *by[number])
	}
	return out
}

// edgeListeners are the ports an edge gateway listens on. A port with nothing to serve is not listened on.
func (e *Env) edgeListeners() ([]*listenerv3.Listener, []Problem) {
	var out []*listenerv3.Listener
	var problems []Problem
	o := e.options()
	for _, port := range e.edgePorts() {
		if port.number == o.HBONEPort || port.number == o.AdminPort || port.number == o.ReadyPort || port.number == o.StatsPort {
			problems = append(problems, Problem{
				Object: e.gatewayObject(),
				Text:   fmt.Sprintf("port %d is the proxy's own: choose another port for the listener", port.number),
			})
			continue
		}
		chains, p := e.edgeChains(port)
		problems = append(problems, p...)
		if len(chains) == 0 {
			continue
		}
		l := &listenerv3.Listener{
			Name:                          edgeName(portText(port.number)),
			Address:                       listenAddress(o.Bind, port.number),
			TcpBacklogSize:                uint32Value(4096),
			PerConnectionBufferLimitBytes: uint32Value(32 << 10),
			FilterChains:                  chains,
		}
		if slices.ContainsFunc(port.listeners, func(l *waypoint.Listener) bool { return isTLS(l.GetProtocol()) }) {
			l.ListenerFilters = []*listenerv3.ListenerFilter{
				listenerFilter("envoy.filters.listener.tls_inspector", &tlsinspectorv3.TlsInspector{}),
			}
			l.ListenerFiltersTimeout = seconds(10)
		}
		out = append(out, l)
	}
	return out, problems
}

func (e *Env) gatewayObject() string {
	return "Gateway " + e.Gateway.GetNamespace() + "/" + e.Gateway.GetName()
}

func isTLS(p waypoint.Listener_Protocol) bool {
	return p != waypoint.Listener_HTTP && p != waypoint.Listener_TCP
}

// edgeRoutesName is the routes of a listener. Plain HTTP listeners of a port share theirs: the Host header decides.
func edgeRoutesName(l *waypoint.Listener) string {
	if l.GetProtocol() == waypoint.Listener_HTTP {
		return edgeName(portText(l.GetPort()))
	}
	return edgeName(portText(l.GetPort()), l.GetName())
}

// EdgeRoutes are the routes of an edge gateway: one configuration for plain HTTP of each port, one per HTTPS listener.
func EdgeRoutes(e *Env) ([]*routev3.RouteConfiguration, []Problem) {
	if e.Gateway.GetKind() != waypoint.Gateway_EDGE {
		return nil, nil
	}
	var problems []Problem
	byName := map[string]*routev3.RouteConfiguration{}
	claimed := map[string]map[string]bool{}
	for _, port := range e.edgePorts() {
		// Where listeners overlap, the one with the more specific hostname has it (Gateway API, Listener.hostname).
		listeners := slices.Clone(port.listeners)
		slices.SortStableFunc(listeners, func(a, b *waypoint.Listener) int { return specificity(b.GetHostname()) - specificity(a.GetHostname()) })
		for _, l := range listeners {
			if l.GetRefused() != "" || l.GetProtocol() != waypoint.Listener_HTTP && l.GetProtocol() != waypoint.Listener_HTTPS {
				continue
			}
			name := edgeRoutesName(l)
			if byName[name] == nil {
				byName[name], claimed[name] = routeConfiguration(name), map[string]bool{}
				byName[name].IgnorePortInHostMatching = true
			}
			apart, outside := setApart(l, listeners)
			for _, other := range slices.Concat(apart, outside) {
				claimed[name][other] = true
				byName[name].VirtualHosts = append(byName[name].VirtualHosts, misdirected(l, other))
			}
			for _, h := range e.hostsOf(l) {
				domain := hostDomain(h)
				if claimed[name][domain] || slices.ContainsFunc(apart, func(other string) bool { return hostCovers(other, domain) }) {
					continue
				}
				claimed[name][domain] = true
				v, p := e.host(hostRoutes{
					target: e.edgeTarget(h), name: edgeName(l.GetName(), domain), domains: []string{domain},
					protocol: waypoint.Protocol_AUTO, rules: h.GetHttp(), routed: true,
				})
				byName[name].VirtualHosts = append(byName[name].VirtualHosts, v)
				problems = append(problems, p...)
			}
		}
	}
	var out []*routev3.RouteConfiguration
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, byName[name])
	}
	return out, problems
}

// setApart are the hostnames of other TLS listeners of a listener's port: those it covers, and those it does not; "*" stands
// for every name. Which listener a client comes to is told by its server name, and with it whether its certificate was asked
// for: a request on a connection to one listener is not for a host of another, whether or not that one could be served.
func setApart(l *waypoint.Listener, all []*waypoint.Listener) (covered, outside []string) {
	if !isTLS(l.GetProtocol()) {
		return nil, nil
	}
	own := strings.ToLower(l.GetHostname())
	for _, o := range all {
		host := strings.ToLower(o.GetHostname())
		if o == l || !isTLS(o.GetProtocol()) || host == own {
			continue
		}
		if host == "" {
			host = "*"
		}
		list := &outside
		if hostCovers(own, host) {
			list = &covered
		}
		if !slices.Contains(*list, host) {
			*list = append(*list, host)
		}
	}
	return covered, outside
}

// hostCovers reports whether every name that b stands for is one of a.
func hostCovers(a, b string) bool {
	if a == "" || a == "*" || a == b {
		return true
	}
	suffix, wildcard := strings.CutPrefix(a, "*")
	return wildcard && strings.HasSuffix(b, suffix)
}

// misdirected answers 421, after which a client comes again with another connection (RFC 9110 §15.5.20).
func misdirected(l *waypoint.Listener, host string) *routev3.VirtualHost {
	return &routev3.VirtualHost{
		Name:    edgeName(l.GetName(), host, "misdirected"),
		Domains: []string{host},
		Routes: []*routev3.Route{{
			Name:   "misdirected",
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 421}},
		}},
	}
}

// hostsOf are a listener's virtual hosts in a fixed order.
func (e *Env) hostsOf(l *waypoint.Listener) []*waypoint.VirtualHost {
	var out []*waypoint.VirtualHost
	for _, h := range e.VirtualHosts() {
		if h.GetListener() == l.GetName() {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b *waypoint.VirtualHost) int { return strings.Compare(a.GetHostname(), b.GetHostname()) })
	return out
}

func hostDomain(h *waypoint.VirtualHost) string {
	if h.GetHostname() == "" {
		return "*"
	}
	return strings.ToLower(h.GetHostname())
}

// specificity orders hostnames: a name, then wildcards by length, then every name.
func specificity(hostname string) int {
	switch {
	case hostname == "" || hostname == "*":
		return 0
	case strings.HasPrefix(hostname, "*."):
		return len(hostname)
	}
	return 1 << 16
}
