package envoy

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// Stubs of the routing part (B); each goes away with its implementation.

// hostRoutes is what the routes of one host are made of.
type hostRoutes struct {
	target target
	// name is of the virtual host, domains are the hosts it is for.
	name    string
	domains []string
	// protocol is the port's; it says whether gRPC may be spoken here.
	protocol waypoint.Protocol
	rules    []*waypoint.HTTPRule
	// routed: there are routes, and what matches none is answered 404 even when rules is empty.
	routed bool
	// self is where requests go when there are no routes at all; nil: 404.
	self *waypoint.Backend
}

// virtualHost is the routes of one host. Its typed_per_filter_config is the caller's to set (hostConfig).
func (e *Env) virtualHost(h hostRoutes) (*routev3.VirtualHost, []Problem) {
	v := &routev3.VirtualHost{Name: h.name, Domains: h.domains}
	if h.self != nil {
		v.Routes = []*routev3.Route{{
			Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{
				ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: e.clusterName(h.self, kindHTTP)},
			}},
		}}
	}
	return v, nil
}

// routeConfiguration puts virtual hosts under a name.
func routeConfiguration(name string, hosts ...*routev3.VirtualHost) *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{Name: name, VirtualHosts: hosts}
}

// streamRoute is one way through a TCP or TLS port: what a connection must look like, and where it goes.
type streamRoute struct {
	// sni: any; empty: every connection, with or without TLS.
	sni []string
	// destinations are IP prefixes: any; empty: every.
	destinations []string
	// proxy has its cluster or weighted clusters (and hash policy) set; the rest is the chain's business.
	proxy *tcpproxyv3.TcpProxy
}

// streamRoutes are the ways through a TCP or TLS port in order of precedence; a connection nothing fits is closed.
func (e *Env) streamRoutes(rules []*waypoint.StreamRule, self *waypoint.Backend) ([]streamRoute, []Problem) {
	if self == nil {
		return nil, nil
	}
	return []streamRoute{{proxy: &tcpproxyv3.TcpProxy{
		ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: e.clusterName(self, kindTCP)},
	}}}, nil
}

// policyFor merges a destination's settings for one port and subset: the most specific that sets a field wins.
func policyFor(d *waypoint.Destination, port uint32, subset string) *waypoint.TrafficPolicy {
	return d.GetPolicy()
}

// applyPolicy sets what a traffic policy says on a cluster, and the defaults where it says nothing: load balancing,
// connection pool, outlier detection. Name, discovery, endpoints and transport sockets are not its business.
func (e *Env) applyPolicy(c *clusterv3.Cluster, p *waypoint.TrafficPolicy, kind string, protocol waypoint.Protocol) []Problem {
	return nil
}

// destinationTransport is the TLS (and PROXY protocol) a destination wants spoken inside the tunnel or on the plain wire;
// nil: nothing, raw bytes.
func (e *Env) destinationTransport(d *waypoint.Destination, p *waypoint.TrafficPolicy) (*corev3.TransportSocket, []Problem) {
	return nil, nil
}
