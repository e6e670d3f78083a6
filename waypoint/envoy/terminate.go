package envoy

import (
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	h2mv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_to_metadata/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	httpstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/tcp/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// connectTerminate accepts HBONE: mTLS with HTTP/2, where every CONNECT is one connection to some address. What the
// certificate and the CONNECT say is put into filter state, and the bytes go on to main_internal.
func (e *Env) connectTerminate() *listenerv3.Listener {
	o := e.options()
	return &listenerv3.Listener{
		Name:           ListenerTerminate,
		Address:        listenAddress(o.Bind, o.HBONEPort),
		TcpBacklogSize: uint32Value(4096),
		// Handshakes that never end would hold their memory for ever.
		FilterChains: []*listenerv3.FilterChain{{
			Name:                          "default",
			TransportSocket:               e.meshServer(),
			TransportSocketConnectTimeout: seconds(10),
			Filters: []*listenerv3.Filter{
				networkFilter("envoy.filters.network.http_connection_manager", terminateManager()),
			},
		}},
	}
}

func terminateManager() *hcmv3.HttpConnectionManager {
	connect := &routev3.RouteAction_UpgradeConfig{
		UpgradeType:   "CONNECT",
		ConnectConfig: &routev3.RouteAction_UpgradeConfig_ConnectConfig{},
	}
	return &hcmv3.HttpConnectionManager{
		StatPrefix:               ListenerTerminate,
		CodecType:                hcmv3.HttpConnectionManager_HTTP2,
		Http2ProtocolOptions:     hboneOptions(),
		StreamIdleTimeout:        durationpb.New(0),
		RequestTimeout:           durationpb.New(0),
		GenerateRequestId:        wrapperspb.Bool(false),
		ForwardClientCertDetails: hcmv3.HttpConnectionManager_SANITIZE,
		// The peer's address is the one its connection comes from, whatever X-Forwarded-For its CONNECT has.
		UseRemoteAddress:           wrapperspb.Bool(true),
		ServerHeaderTransformation: hcmv3.HttpConnectionManager_PASS_THROUGH,
		UpgradeConfigs:             []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "CONNECT"}},
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			Name: ListenerTerminate,
			VirtualHosts: []*routev3.VirtualHost{{
				Name:    "hbone",
				Domains: []string{"*"},
				Routes: []*routev3.Route{{
					Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_ConnectMatcher_{ConnectMatcher: &routev3.RouteMatch_ConnectMatcher{}}},
					Action: &routev3.Route_Route{Route: &routev3.RouteAction{
						ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: ListenerInternal},
						Timeout:          durationpb.New(0),
						UpgradeConfigs:   []*routev3.RouteAction_UpgradeConfig{connect},
					}},
				}},
			}},
		}},
		HttpFilters: slices.Concat([]*hcmv3.HttpFilter{
			httpFilter("ambit.baggage", &h2mv3.Config{RequestRules: baggageRules()}),
			httpFilter("ambit.peer", &httpstatev3.Config{OnRequestHeaders: peerState()}),
		}, connectFilters(), []*hcmv3.HttpFilter{
			httpFilter("envoy.filters.http.router", &routerv3.Router{SuppressEnvoyHeaders: true}),
		}),
	}
}

// hboneOptions hold for both ends of HBONE. Pings find peers whose node is gone; no FIN will ever come from it.
func hboneOptions() *corev3.Http2ProtocolOptions {
	return &corev3.Http2ProtocolOptions{
		AllowConnect:                true,
		MaxConcurrentStreams:        uint32Value(1000),
		InitialStreamWindowSize:     uint32Value(1 << 20),
		InitialConnectionWindowSize: uint32Value(16 << 20),
		// Istio pilot/pkg/networking/core/listener_waypoint.go: PING every 10 s, given up after 20 s.
		ConnectionKeepalive: &corev3.KeepaliveSettings{Interval: seconds(10), Timeout: seconds(20)},
	}
}

// peerState is what main_internal learns of a connection. All of it is about this CONNECT and the connection it came
// over; keys of hashable strings also keep upstream connections of different peers apart (see Env.connectTerminate).
func peerState() []*setstatev3.FilterStateValue {
	values := []*setstatev3.FilterStateValue{
		// Without effect when the authority is a hostname.
		keep(stateLocalIP, "%REQ(:AUTHORITY)%"),
		keep(stateRemoteIP, "%DOWNSTREAM_REMOTE_ADDRESS%"),
		keep(statePeer, "%DOWNSTREAM_PEER_URI_SAN%"),
		keep(stateSelf, "%DOWNSTREAM_LOCAL_URI_SAN%"),
		keep(stateAuthority, "%REQ(:AUTHORITY)%"),
	}
	for _, label := range sourceLabels {
		values = append(values, keep(stateSource+label.name, "%DYNAMIC_METADATA("+metaBaggage+":"+label.name+")%"))
	}
	return values
}

const metaBaggage = "ambit.baggage"

// sourceLabels are what is taken from a CONNECT's baggage, Istio architecture/ambient/ztunnel.md. A peer can say there
// what it likes: it is for telemetry alone, and a request inside the tunnel cannot say it.
var sourceLabels = []struct{ name, key string }{
	{"cluster", `k8s\.cluster\.name`},
	{"namespace", `k8s\.namespace\.name`},
	{"workload", `k8s\.(?:deployment|statefulset|daemonset|cronjob|job|pod)\.name`},
	{"service", `service\.name`},
	{"revision", `service\.version`},
}

func baggageRules() []*h2mv3.Config_Rule {
	var rules []*h2mv3.Config_Rule
	for _, label := range sourceLabels {
		rules = append(rules, &h2mv3.Config_Rule{
			Header: "baggage",
			OnHeaderPresent: &h2mv3.Config_KeyValuePair{
				MetadataNamespace: metaBaggage,
				Key:               label.name,
				RegexValueRewrite: &matcherv3.RegexMatchAndSubstitute{
					// Either the value, or nothing of the whole header. At most 256 characters.
					Pattern:      &matcherv3.RegexMatcher{Regex: `^(?:(?:.*,)?\s*` + label.key + `=([^,;]{0,256}).*|.*)$`},
					Substitution: `\1`,
				},
			},
		})
	}
	return rules
}

// internalCluster leads from connect_terminate to main_internal. An inner connection belongs to one CONNECT: those left
// over when a peer goes away too early are closed soon, so that they do not pile up.
func internalCluster() *clusterv3.Cluster {
	c := staticCluster(ListenerInternal, internalAddress(ListenerInternal, ""))
	c.CircuitBreakers = unlimitedBreakers()
	c.TransportSocket = internalTransport(nil)
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{
		"envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions": toAny(&tcpv3.TcpProtocolOptions{IdleTimeout: seconds(1)}),
	}
	return c
}
