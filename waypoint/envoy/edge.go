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
			for _, h := range e.hostsOf(l) {
				domain := hostDomain(h)
				if claimed[name][domain] {
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
