package envoy

import (
	"slices"
	"strconv"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	netstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// ServiceChains are the filter chains of one service, delivered one by one (FCDS) or put into main_internal by
// Listeners. An HTTP chain stays the same while routes and policies change: they come by name.
func ServiceChains(e *Env, svc *waypoint.Service) ([]*listenerv3.FilterChain, []Problem) {
	var chains []*listenerv3.FilterChain
	var problems []Problem
	for _, port := range svc.GetPorts() {
		t := e.serviceTarget(svc, port)
		if kindOf(port.GetProtocol()) == kindHTTP {
			name := servedName(port.GetNumber(), kindHTTP, "", e.label(svc.GetNamespace(), svc.GetHostname()))
			c, p := e.httpChain(t, name, name, port.GetProtocol(), clientState())
			chains, problems = append(chains, c), append(problems, p...)
		}
		if kindOf(port.GetProtocol()) == kindTCP || port.GetProtocol() == waypoint.Protocol_AUTO {
			streams, p := e.streams(svc, port)
			problems = append(problems, p...)
			for i, s := range streams {
				c, p := e.tcpChain(t, e.streamName(svc, port, i), s.proxy, clientState())
				chains, problems = append(chains, c), append(problems, p...)
			}
		}
	}
	return chains, problems
}

// GatewayChains are the filter chains of main_internal that belong to no service: for pods by address, and for nobody.
func GatewayChains(e *Env) ([]*listenerv3.FilterChain, []Problem) {
	var chains []*listenerv3.FilterChain
	var problems []Problem
	t := e.directTarget()
	for _, d := range e.directs() {
		values := append(clientState(), d.state()...)
		c, p := e.httpChain(t, d.name(kindHTTP), d.routes(), waypoint.Protocol_AUTO, values)
		chains, problems = append(chains, c), append(problems, p...)
		proxy := &tcpproxyv3.TcpProxy{ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: d.cluster()}}
		c, p = e.tcpChain(t, d.name(kindTCP), proxy, values)
		chains, problems = append(chains, c), append(problems, p...)
	}
	return chains, problems
}

// streams are the ways through the TCP side of a port.
func (e *Env) streams(svc *waypoint.Service, port *waypoint.ServicePort) ([]streamRoute, []Problem) {
	self := &waypoint.Backend{Namespace: svc.GetNamespace(), Hostname: svc.GetHostname(), Port: port.GetNumber()}
	if len(port.GetStream()) > 0 || port.GetRouted() && len(port.GetHttp()) == 0 {
		self = nil
	}
	routes, problems := e.streamRoutes(port.GetStream(), self)
	if e.isDynamic(e.serviceTarget(svc, port)) {
		for i := range routes {
			if len(routes[i].sni) == 0 { // only names below the wildcard, or this would be a relay to anywhere
				routes[i].sni = []string{svc.GetHostname()}
			}
		}
	}
	return routes, problems
}

// streamName is the chain of the i-th way through the TCP side of a port; the first has the name of the port's cluster.
func (e *Env) streamName(svc *waypoint.Service, port *waypoint.ServicePort, i int) string {
	name := servedName(port.GetNumber(), kindTCP, "", e.label(svc.GetNamespace(), svc.GetHostname()))
	if i > 0 {
		name += "|" + strconv.Itoa(i)
	}
	return name
}

// clientState is who a connection to an endpoint is opened for. As hashable strings they also divide the pools of
// connections to endpoints by client, so that no client's request is ever sent in a tunnel opened for another.
func clientState() []*setstatev3.FilterStateValue {
	return []*setstatev3.FilterStateValue{
		keep(stateClient, state(statePeer)),
		keep(stateClientAddress, "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
	}
}

// httpChain is the chain of an HTTP port, with routes that come by name.
func (e *Env) httpChain(t target, name, routes string, protocol waypoint.Protocol, values []*setstatev3.FilterStateValue) (*listenerv3.FilterChain, []Problem) {
	manager, problems := e.httpManager(t, routes)
	return &listenerv3.FilterChain{
		Name: name,
		Filters: []*listenerv3.Filter{
			networkFilter("ambit.client", &netstatev3.Config{OnNewConnection: values}),
			networkFilter("envoy.filters.network.http_connection_manager", manager),
		},
	}, problems
}

// tcpChain is the chain of a TCP port. Its policies come by name, its destination does not: a connection goes where it
// went when it was opened.
func (e *Env) tcpChain(t target, name string, proxy *tcpproxyv3.TcpProxy, values []*setstatev3.FilterStateValue) (*listenerv3.FilterChain, []Problem) {
	var filters []*listenerv3.Filter
	if len(values) > 0 {
		filters = append(filters, networkFilter("ambit.client", &netstatev3.Config{OnNewConnection: values}))
	}
	policy, problems := e.networkFilters(t)
	filters = append(filters, policy...)
	if e.isDynamic(t) {
		filters = append(filters, dynamicNameFilter(t.port))
	}
	if t.detected() && t.authorized() {
		// Network policies decide at the first bytes of the client. Before that the server must not speak to it, where
		// that could not be decided at the CONNECT because it might have been HTTP.
		proxy.UpstreamConnectMode = tcpproxyv3.UpstreamConnectMode_ON_DOWNSTREAM_DATA
		proxy.MaxEarlyDataBytes = uint32Value(64 << 10)
	}
	proxy.StatPrefix = "inbound"
	logs, p := e.accessLogs(t, kindTCP)
	proxy.AccessLog = logs
	proxy.AccessLogOptions = &tcpproxyv3.TcpProxy_TcpAccessLogOptions{FlushAccessLogOnConnected: true}
	return &listenerv3.FilterChain{
		Name:    name,
		Filters: append(filters, networkFilter("envoy.filters.network.tcp_proxy", proxy)),
	}, append(problems, p...)
}

// blackHoleChain closes what is not for us; the CONNECT is answered 503.
func blackHoleChain() *listenerv3.FilterChain {
	return &listenerv3.FilterChain{
		Name: chainBlackHole,
		Filters: []*listenerv3.Filter{networkFilter("envoy.filters.network.tcp_proxy", &tcpproxyv3.TcpProxy{
			StatPrefix:       chainBlackHole,
			ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: ClusterBlackHole},
		})},
	}
}

// detected says that a connection's protocol is found out by its first bytes.
func (t target) detected() bool { return !t.edge && t.protocol == waypoint.Protocol_AUTO }

// authorized says that there are policies about who may do what.
func (t target) authorized() bool {
	return slices.ContainsFunc(t.policies, func(p *waypoint.Policies) bool { return len(p.GetAuthorization()) > 0 })
}
