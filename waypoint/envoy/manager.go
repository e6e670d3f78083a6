package envoy

import (
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// httpManager is the connection manager of a chain. What users write is in its routes, and its filters find their
// settings there.
func (e *Env) httpManager(t target, routes string) (*hcmv3.HttpConnectionManager, []Problem) {
	m := &hcmv3.HttpConnectionManager{
		StatPrefix: "inbound",
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			RouteConfigName: routes,
			ConfigSource:    fromADS(),
		}},
		ServerName:          "istio-envoy",
		StreamIdleTimeout:   durationpb.New(0),
		UpgradeConfigs:      []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		HttpProtocolOptions: &corev3.Http1ProtocolOptions{AcceptHttp_10: true},
		Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
			MaxConcurrentStreams:        uint32Value(1000),
			InitialStreamWindowSize:     uint32Value(1 << 20),
			InitialConnectionWindowSize: uint32Value(16 << 20),
		},
		UseRemoteAddress: wrapperspb.Bool(false),
		// "a.example." is the same host as "a.example" (RFC 1034 §3.1), to policies as to applications.
		StripTrailingHostDot: true,
	}
	normalize(m, e.Gateway.GetMesh().GetPathNormalization())
	filters, problems := e.httpFilters(t)
	if f := e.dynamicForward(t); f != nil && len(filters) > 0 {
		filters = slices.Insert(filters, len(filters)-1, f) // the router stays last
	}
	m.HttpFilters = filters
	logs, p := e.accessLogs(t, kindHTTP)
	m.AccessLog, problems = logs, append(problems, p...)
	tracing, p := e.tracing(t)
	m.Tracing, problems = tracing, append(problems, p...)
	e.identify(t, m)
	return m, problems
}

// normalize makes policies and applications see the same path, as far as the mesh is set to.
// Istio pilot/pkg/networking/core/listener_builder.go: BASE resolves dot segments and turns backslashes around.
func normalize(m *hcmv3.HttpConnectionManager, how waypoint.MeshSettings_PathNormalization) {
	switch how {
	case waypoint.MeshSettings_NONE:
		m.NormalizePath = wrapperspb.Bool(false)
		return
	case waypoint.MeshSettings_MERGE_SLASHES:
		m.MergeSlashes = true
	case waypoint.MeshSettings_DECODE_AND_MERGE_SLASHES:
		m.MergeSlashes = true
		m.PathWithEscapedSlashesAction = hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD
	}
	m.NormalizePath = wrapperspb.Bool(true)
}

// ServiceRoutes are the routes of one service: one configuration per HTTP port, with the name of its filter chain.
func ServiceRoutes(e *Env, svc *waypoint.Service) ([]*routev3.RouteConfiguration, []Problem) {
	var out []*routev3.RouteConfiguration
	var problems []Problem
	for _, port := range svc.GetPorts() {
		if kindOf(port.GetProtocol()) != kindHTTP {
			continue
		}
		t := e.serviceTarget(svc, port)
		h := hostRoutes{
			target:   t,
			name:     "inbound|http|" + portText(port.GetNumber()),
			domains:  e.domains(svc, port.GetNumber()),
			protocol: port.GetProtocol(),
			rules:    port.GetHttp(),
			routed:   port.GetRouted(),
			self:     &waypoint.Backend{Namespace: svc.GetNamespace(), Hostname: svc.GetHostname(), Port: port.GetNumber()},
		}
		if port.GetProtocol() == waypoint.Protocol_AUTO && len(port.GetHttp()) == 0 && len(port.GetStream()) > 0 {
			h.routed = false // the routes there are, are for something else
		}
		host, p := e.host(h)
		problems = append(problems, p...)
		out = append(out, routeConfiguration(servedName(port.GetNumber(), kindHTTP, "", e.label(svc.GetNamespace(), svc.GetHostname())), host))
	}
	return out, problems
}

// GatewayRoutes are the routes that belong to no service: for pods by address.
func GatewayRoutes(e *Env) ([]*routev3.RouteConfiguration, []Problem) {
	var out []*routev3.RouteConfiguration
	var problems []Problem
	done := map[string]bool{}
	for _, d := range e.directs() {
		if done[d.routes()] {
			continue
		}
		done[d.routes()] = true
		host := &routev3.VirtualHost{Name: "direct", Domains: []string{"*"}, Routes: []*routev3.Route{{
			Name:  "direct",
			Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{
				ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: d.cluster()},
				Timeout:          durationpb.New(0),
			}},
		}}}
		config, p := e.hostConfig(e.directTarget())
		host.TypedPerFilterConfig = config
		problems = append(problems, p...)
		out = append(out, routeConfiguration(d.routes(), host))
	}
	return out, problems
}

// host is a virtual host with the policies of its target.
func (e *Env) host(h hostRoutes) (*routev3.VirtualHost, []Problem) {
	v, problems := e.virtualHost(h)
	config, p := e.hostConfig(h.target)
	v.TypedPerFilterConfig = config
	return v, append(problems, p...)
}
