package envoy

import (
	"errors"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// TestSecurity: policies of a service, as settings of its virtual host, filters of its TCP ports and resources by name.
func TestSecurity(t *testing.T) {
	goldens(t, "security", func() *waypoint.Service { return &waypoint.Service{} },
		func(_ *testing.T, _ string, svc *waypoint.Service) ([]proto.Message, []Problem) {
			e := routesEnv()
			e.Services = func() []*waypoint.Service { return []*waypoint.Service{svc} }
			e.WasmFile = func(url, _ string) (string, error) {
				if strings.Contains(url, "absent") {
					return "", errors.New(url + " answered 404")
				}
				return "/var/lib/wasm/module.wasm", nil
			}
			var made []proto.Message
			var problems []Problem
			for _, port := range svc.GetPorts() {
				target := e.serviceTarget(svc, port)
				if kindOf(port.GetProtocol()) == kindHTTP {
					config, p := e.hostConfig(target)
					made, problems = append(made, &routev3.VirtualHost{TypedPerFilterConfig: config}), append(problems, p...)
					continue
				}
				filters, p := e.networkFilters(target)
				made, problems = append(made, &listenerv3.FilterChain{Filters: filters}), append(problems, p...)
			}
			extensions, p := Extensions(e)
			for _, x := range extensions {
				made = append(made, x)
			}
			return made, append(problems, p...)
		})
}

// TestFiltersAreConstant: no fact changes the list of HTTP filters of a kind of target.
func TestFiltersAreConstant(t *testing.T) {
	e := routesEnv()
	svc := &waypoint.Service{Namespace: "default", Hostname: "reviews.default.svc.cluster.local", Ports: []*waypoint.ServicePort{{Number: 80}}}
	before, _ := e.httpFilters(e.serviceTarget(svc, svc.GetPorts()[0]))
	svc.Policies = &waypoint.Policies{
		Authorization: []*waypoint.Authorization{{Name: "a"}},
		Extensions:    []*waypoint.Extension{{Name: "x", Kind: &waypoint.Extension_Lua{Lua: &waypoint.Lua{Source: "x"}}}},
		RateLimits:    []*waypoint.RateLimit{{Name: "r"}}, Authentication: []*waypoint.Authentication{{Name: "j"}},
	}
	after, _ := e.httpFilters(e.serviceTarget(svc, svc.GetPorts()[0]))
	if len(before) != len(after) {
		t.Fatalf("%d filters, then %d", len(before), len(after))
	}
	for i := range before {
		if !proto.Equal(before[i], after[i]) {
			t.Errorf("filter %s has changed", before[i].GetName())
		}
	}
}
