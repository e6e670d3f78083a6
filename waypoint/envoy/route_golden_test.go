package envoy

import (
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	statefulv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
)

// routesEnv serves a few services of the namespace default; "elsewhere" is served by nobody we are.
func routesEnv() *Env {
	served := map[string]*waypoint.Service{}
	for _, name := range []string{"reviews", "ratings", "sticky", "pooled", "gone", "api"} {
		host := name + ".default.svc.cluster.local"
		served[host] = &waypoint.Service{Namespace: "default", Hostname: host, Name: name, Ports: []*waypoint.ServicePort{
			{Number: 9080, Protocol: waypoint.Protocol_HTTP1},
		}}
	}
	destinations := map[string]*waypoint.Destination{
		"sticky.default.svc.cluster.local": {Session: &waypoint.SessionPersistence{By: &waypoint.SessionPersistence_Cookie{Cookie: "stuck"}}},
		"pooled.default.svc.cluster.local": {Policy: &waypoint.TrafficPolicy{
			Pool: &waypoint.ConnectionPool{TcpIdleTimeout: durationpb.New(60e9), MaxConnectionDuration: durationpb.New(600e9)},
			LoadBalancer: &waypoint.LoadBalancer{Algorithm: waypoint.LoadBalancer_HASH, Hash: &waypoint.ConsistentHash{
				Key: &waypoint.ConsistentHash_SourceIp{SourceIp: true},
			}},
		}},
	}
	return &Env{
		Gateway:     &waypoint.Gateway{Namespace: "default", Name: "waypoint", TrustDomains: []string{"cluster.local", "old.example"}},
		Service:     func(_, host string) *waypoint.Service { return served[host] },
		Destination: func(_, host string) *waypoint.Destination { return destinations[host] },
		Address:     func(_, _ string) *workload.Service { return nil },
		Endpoints:   func(_, _ string) []*workload.Workload { return nil },
	}
}

func reviewsHost(port *waypoint.ServicePort) hostRoutes {
	return hostRoutes{
		target: target{key: "default/reviews.default.svc.cluster.local", port: port.GetNumber()}, name: "reviews", domains: []string{"*"},
		protocol: port.GetProtocol(), rules: port.GetHttp(), routed: port.GetRouted(),
		self: &waypoint.Backend{Namespace: "default", Hostname: "reviews.default.svc.cluster.local", Port: port.GetNumber()},
	}
}

// TestRoutes: one case a feature, every result taken by a real Envoy.
func TestRoutes(t *testing.T) {
	var listeners []*listenerv3.Listener
	goldens(t, "routes", func() *waypoint.ServicePort { return &waypoint.ServicePort{} },
		func(_ *testing.T, name string, port *waypoint.ServicePort) ([]proto.Message, []Problem) {
			host, problems := routesEnv().virtualHost(reviewsHost(port))
			config := routeConfiguration(name, host)
			listeners = append(listeners, httpListener(name, config))
			return []proto.Message{config}, problems
		})
	acceptListeners(t, listeners)
}

// TestStreams is the same for connections.
func TestStreams(t *testing.T) {
	var listeners []*listenerv3.Listener
	goldens(t, "streams", func() *waypoint.ServicePort { return &waypoint.ServicePort{} },
		func(_ *testing.T, name string, port *waypoint.ServicePort) ([]proto.Message, []Problem) {
			self := &waypoint.Backend{Namespace: "default", Hostname: "reviews.default.svc.cluster.local", Port: port.GetNumber()}
			if len(port.GetStream()) > 0 {
				self = nil
			}
			streams, problems := routesEnv().streamRoutes(port.GetStream(), self)
			var made []proto.Message
			for _, s := range streams {
				made = append(made, &listenerv3.FilterChainMatch{ServerNames: s.sni}, s.proxy)
				for _, d := range s.destinations {
					made = append(made, &waypoint.StreamRule{Destinations: []string{d}})
				}
				listeners = append(listeners, tcpListener(name, s.proxy))
			}
			return made, problems
		})
	acceptListeners(t, listeners)
}

// TestDestinationGoldens is the same for clusters.
func TestDestinationGoldens(t *testing.T) {
	var clusters []*clusterv3.Cluster
	goldens(t, "destinations", func() *waypoint.Destination { return &waypoint.Destination{} },
		func(_ *testing.T, name string, d *waypoint.Destination) ([]proto.Message, []Problem) {
			e := routesEnv()
			e.Destination = func(_, _ string) *waypoint.Destination { return d }
			e.Service = func(_, host string) *waypoint.Service {
				return &waypoint.Service{Namespace: "default", Hostname: host, Name: host, Ports: []*waypoint.ServicePort{
					{Number: 9080, Protocol: waypoint.Protocol_HTTP1}, {Number: 9090, Protocol: waypoint.Protocol_TCP},
				}}
			}
			all, problems := Clusters(e, d)
			var made []proto.Message
			for _, c := range all {
				made = append(made, c)
				c = proto.CloneOf(c)
				c.Name = name + "|" + c.Name
				if c.EdsClusterConfig != nil {
					c.EdsClusterConfig.ServiceName = c.Name
				}
				clusters = append(clusters, c)
			}
			return made, problems
		})
	if err := accepted(t, &bootstrapv3.Bootstrap_StaticResources{Clusters: clusters}); err == nil {
		return
	}
	for _, c := range clusters {
		if err := accepted(t, &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{c}}); err != nil {
			t.Errorf("%s: %v", c.GetName(), err)
		}
	}
}

func acceptListeners(t *testing.T, all []*listenerv3.Listener) {
	t.Helper()
	if err := accepted(t, &bootstrapv3.Bootstrap_StaticResources{Listeners: all}); err == nil {
		return
	}
	for _, l := range all {
		if err := accepted(t, &bootstrapv3.Bootstrap_StaticResources{Listeners: []*listenerv3.Listener{l}}); err != nil {
			t.Errorf("%s: %v", l.GetName(), err)
		}
	}
}

func httpListener(name string, config *routev3.RouteConfiguration) *listenerv3.Listener {
	return testListener(name, networkFilter("envoy.filters.network.http_connection_manager", &hcmv3.HttpConnectionManager{
		StatPrefix:     "test",
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: config},
		HttpFilters: []*hcmv3.HttpFilter{
			httpFilter(filterFault, &faultv3.HTTPFault{}), httpFilter(filterCORS, &corsv3.Cors{}),
			httpFilter(filterSession, &statefulv3.StatefulSession{}), httpFilter("envoy.filters.http.router", &routerv3.Router{}),
		},
	}))
}

func tcpListener(name string, proxy *tcpproxyv3.TcpProxy) *listenerv3.Listener {
	proxy = proto.CloneOf(proxy)
	proxy.StatPrefix = "test"
	return testListener(name, networkFilter("envoy.filters.network.tcp_proxy", proxy))
}

func testListener(name string, filter *listenerv3.Filter) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name: name, Address: socketAddress("127.0.0.1", 0),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{filter}}},
	}
}
