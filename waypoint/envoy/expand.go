package envoy

import (
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// Bootstrap is what Envoy is started with.
func Bootstrap(Options) (*bootstrapv3.Bootstrap, error) { return &bootstrapv3.Bootstrap{}, nil }

// Listeners are the constant parts of a gateway and the matcher that finds a connection's filter chain.
func Listeners(*Env) ([]*listenerv3.Listener, []Problem) { return nil, nil }

// ServiceChains are the filter chains of one service, delivered one by one (FCDS) or put into main_internal by Listeners.
func ServiceChains(*Env, *waypoint.Service) ([]*listenerv3.FilterChain, []Problem) { return nil, nil }

// GatewayChains are the filter chains of main_internal that belong to no service: for pods by address, and for nobody.
func GatewayChains(*Env) ([]*listenerv3.FilterChain, []Problem) { return nil, nil }

// ServiceRoutes are the routes of one service, one configuration per HTTP port with the name of its filter chain.
func ServiceRoutes(*Env, *waypoint.Service) ([]*routev3.RouteConfiguration, []Problem) {
	return nil, nil
}

// GatewayRoutes are the routes that belong to no service: for pods by address.
func GatewayRoutes(*Env) ([]*routev3.RouteConfiguration, []Problem) { return nil, nil }

// EdgeRoutes are the routes of an edge gateway, one configuration per HTTP listener.
func EdgeRoutes(*Env) ([]*routev3.RouteConfiguration, []Problem) { return nil, nil }

// Clusters are all clusters of one destination: every port, and every subset of it.
func Clusters(*Env, *waypoint.Destination) ([]*clusterv3.Cluster, []Problem) { return nil, nil }

// StaticClusters are those every gateway has.
func StaticClusters(*Env) []*clusterv3.Cluster { return nil }

// Assignments are the endpoints of a destination's clusters, under the names of the clusters.
func Assignments(*Env, *waypoint.Destination) []*endpointv3.ClusterLoadAssignment { return nil }
