package envoy

import (
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	liststatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/set_filter_state/v3"
	netstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// Keys of endpoint metadata that connect_originate reads: the address the tunnel leads to, under metaOriginal; where to
// dial instead of it, when that is another waypoint; and the identities the peer may have, under metaPeer.
const (
	metaLocal    = "local"
	metaWaypoint = "waypoint"
	metaSAN      = "san"
)

// tunnelAttempts is how often opening a tunnel is tried: two lost SYNs, or a connection that breaks while it is set up, cost no
// request. Envoy cannot tell a tunnel that was refused from one that failed, so each attempt more is also one more line
// about every denial at the peer, and one more connect timeout before another endpoint is tried when a node is gone.
const tunnelAttempts = 2

// connectOriginate opens HBONE to an endpoint. Its connections come from clusters of this Envoy, with the endpoint's
// metadata, or for pods addressed by themselves with filter state.
func (e *Env) connectOriginate() *listenerv3.Listener {
	o := e.options()
	proxy := &tcpproxyv3.TcpProxy{
		StatPrefix:       ListenerOriginate,
		ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: ListenerOriginate},
		IdleTimeout:      durationpb.New(0),
		// Nothing of a request has left while its tunnel is not open, so opening it again is safe for every method; the router
		// could not tell, because to it a tunnel is open at once.
		MaxConnectAttempts: uint32Value(tunnelAttempts),
		BackoffOptions:     &corev3.BackoffStrategy{BaseInterval: durationpb.New(25 * time.Millisecond), MaxInterval: durationpb.New(250 * time.Millisecond)},
		TunnelingConfig: &tcpproxyv3.TcpProxy_TunnelingConfig{
			Hostname: "%DOWNSTREAM_LOCAL_ADDRESS%",
			HeadersToAdd: []*corev3.HeaderValueOption{
				tunnelHeader("baggage", o.baggage()),
				tunnelHeader(mesh.HeaderClientIdentity, state(stateClient)),
				tunnelHeader(mesh.HeaderClientAddress, state(stateClientAddress)),
			},
		},
	}
	return &listenerv3.Listener{
		Name:              ListenerOriginate,
		ListenerSpecifier: internalListener(),
		ListenerFilters: []*listenerv3.ListenerFilter{
			listenerFilter("ambit.destination", &liststatev3.Config{OnAccept: []*setstatev3.FilterStateValue{
				private(keep(stateLocalIP, state(stateDestination))),
			}}),
			listenerFilter("envoy.filters.listener.original_dst", &originaldstv3.OriginalDst{}),
		},
		FilterChains: []*listenerv3.FilterChain{{
			Name: "originate",
			Filters: []*listenerv3.Filter{
				networkFilter("ambit.identity", &netstatev3.Config{OnNewConnection: []*setstatev3.FilterStateValue{
					keep(stateSANs, "%DYNAMIC_METADATA("+metaPeer+":"+metaSAN+")%"),
					keep(stateSANs, state(stateDestinationSAN)),
				}}),
				networkFilter("envoy.filters.network.tcp_proxy", proxy),
			},
		}},
	}
}

// private makes a value that is not shared with upstream connections.
func private(v *setstatev3.FilterStateValue) *setstatev3.FilterStateValue {
	v.SharedWithUpstream = setstatev3.FilterStateValue_NONE
	return v
}

func tunnelHeader(key, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: key, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// originateCluster dials the address the tunnel leads to, or the waypoint in front of it, at the HBONE port. Whoever
// answers must have a certificate of an accepted trust domain, and the identity that filter state names.
func (e *Env) originateCluster() *clusterv3.Cluster {
	timeout := e.Gateway.GetMesh().GetConnectTimeout()
	if timeout == nil {
		timeout = seconds(2)
	}
	return &clusterv3.Cluster{
		Name:                 ListenerOriginate,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST},
		LbPolicy:             clusterv3.Cluster_CLUSTER_PROVIDED,
		LbConfig: &clusterv3.Cluster_OriginalDstLbConfig_{OriginalDstLbConfig: &clusterv3.Cluster_OriginalDstLbConfig{
			UpstreamPortOverride: uint32Value(e.options().PeerHBONEPort),
			MetadataKey: &metadatav3.MetadataKey{
				Key: metaOriginal,
				Path: []*metadatav3.MetadataKey_PathSegment{{
					Segment: &metadatav3.MetadataKey_PathSegment_Key{Key: metaWaypoint},
				}},
			},
		}},
		ConnectTimeout:  timeout,
		CleanupInterval: seconds(60),
		CircuitBreakers: unlimitedBreakers(),
		TransportSocket: e.meshClient(),
		TypedExtensionProtocolOptions: http2Upstream(
			&corev3.HttpProtocolOptions{IdleTimeout: seconds(300)}, hboneOptions()),
	}
}

// baggage tells a peer about this proxy. W3C Baggage, keys as Istio's.
func (o Options) baggage() string {
	var members []string
	for _, m := range [][2]string{
		{"k8s.cluster.name", o.Cluster},
		{"k8s.namespace.name", o.Namespace},
		{"k8s.deployment.name", o.Workload},
		{"service.name", o.Workload},
		{"cloud.region", o.Region},
		{"cloud.availability_zone", o.Zone},
	} {
		if value := baggageValue(m[1]); value != "" {
			members = append(members, m[0]+"="+value)
		}
	}
	return strings.Join(members, ",")
}

// baggageValue escapes what baggage-octets of W3C Baggage §3.2.1.3 are not, in a value that Envoy reads as a format: a
// percent sign is written twice there.
func baggageValue(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c > ' ' && c < 0x7f && !strings.ContainsRune(`",;\%`, rune(c)) {
			b.WriteByte(c)
			continue
		}
		b.WriteString("%%")
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String()
}
