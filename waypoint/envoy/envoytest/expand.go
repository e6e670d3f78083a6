package envoytest

import (
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/ambit-mesh/ambit/waypoint/envoy"
)

// Expand is everything an Env expands to, by type and name.
func Expand(e *envoy.Env) (map[string]map[string]types.Resource, []envoy.Problem) {
	all := map[string]map[string]types.Resource{}
	for _, kind := range order {
		all[kind] = map[string]types.Resource{}
	}
	var problems []envoy.Problem
	listeners, p := envoy.Listeners(e)
	put(all[resource.ListenerType], listeners)
	problems = append(problems, p...)
	chains, p := envoy.GatewayChains(e)
	put(all[typeFilterChain], chains)
	problems = append(problems, p...)
	routes, p := envoy.GatewayRoutes(e)
	put(all[resource.RouteType], routes)
	problems = append(problems, p...)
	routes, p = envoy.EdgeRoutes(e)
	put(all[resource.RouteType], routes)
	problems = append(problems, p...)
	extensions, p := envoy.Extensions(e)
	put(all[resource.ExtensionConfigType], extensions)
	problems = append(problems, p...)
	put(all[resource.ClusterType], envoy.StaticClusters(e))
	for _, svc := range e.Services() {
		chains, p := envoy.ServiceChains(e, svc)
		put(all[typeFilterChain], chains)
		problems = append(problems, p...)
		routes, p := envoy.ServiceRoutes(e, svc)
		put(all[resource.RouteType], routes)
		problems = append(problems, p...)
	}
	for _, d := range e.Destinations() {
		clusters, p := envoy.Clusters(e, d)
		put(all[resource.ClusterType], clusters)
		problems = append(problems, p...)
		for _, a := range envoy.Assignments(e, d) {
			all[resource.EndpointType][a.GetClusterName()] = a
		}
	}
	return all, problems
}

func put[T interface {
	types.Resource
	GetName() string
}](into map[string]types.Resource, some []T) {
	for _, r := range some {
		into[r.GetName()] = r
	}
}
