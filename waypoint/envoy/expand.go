package envoy

import routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

// EdgeRoutes are the routes of an edge gateway, one configuration per HTTP listener.
func EdgeRoutes(*Env) ([]*routev3.RouteConfiguration, []Problem) { return nil, nil }
