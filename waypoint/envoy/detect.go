package envoy

import (
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	netstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// ListenerDetect takes the connections of main_internal of which it is not known what they speak, or which server name
// they ask for: it looks at their first bytes. It is a listener of its own because in some protocols the server speaks
// first, and looking at those would wait for the client in vain.
const (
	ListenerDetect = "main_detect"
	chainDetect    = "detect"
)

func (e *Env) detectListener(services []*waypoint.Service) *listenerv3.Listener {
	l := e.sortingListener(ListenerDetect, e.findChain(services, true),
		listenerFilter("envoy.filters.listener.original_dst", &originaldstv3.OriginalDst{}),
		listenerFilter("envoy.filters.listener.tls_inspector", &tlsinspectorv3.TlsInspector{InitialReadBufferSize: wrapperspb.UInt32(512)}),
		listenerFilter("envoy.filters.listener.http_inspector", &httpinspectorv3.HttpInspector{}),
	)
	// A client that lets the server speak first is taken for no HTTP when it was waited for this long.
	l.ListenerFiltersTimeout = seconds(5)
	l.ContinueOnListenerFiltersTimeout = true
	return l
}

// detectChain is main_internal's way there. All that is known of the connection goes along, once more.
func detectChain() *listenerv3.FilterChain {
	values := []*setstatev3.FilterStateValue{
		keep(stateLocalIP, "%DOWNSTREAM_LOCAL_ADDRESS%"),
		keep(stateRemoteIP, "%DOWNSTREAM_REMOTE_ADDRESS%"),
	}
	for _, key := range []string{statePeer, stateSelf, stateAuthority} {
		values = append(values, keep(key, state(key)))
	}
	for _, l := range sourceLabels {
		values = append(values, keep(stateSource+l.name, state(stateSource+l.name)))
	}
	return &listenerv3.FilterChain{
		Name: chainDetect,
		Filters: []*listenerv3.Filter{
			networkFilter("ambit.again", &netstatev3.Config{OnNewConnection: values}),
			networkFilter("envoy.filters.network.tcp_proxy", &tcpproxyv3.TcpProxy{
				StatPrefix:       chainDetect,
				ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: ListenerDetect},
				IdleTimeout:      seconds(0),
			}),
		},
	}
}

func detectCluster() *clusterv3.Cluster {
	c := staticCluster(ListenerDetect, internalAddress(ListenerDetect, ""))
	c.CircuitBreakers = unlimitedBreakers()
	c.TransportSocket = internalTransport(nil)
	return c
}

// mustLook says whether a port's chain depends on what a connection brings.
func (e *Env) mustLook(svc *waypoint.Service, port *waypoint.ServicePort) bool {
	switch port.GetProtocol() {
	case waypoint.Protocol_AUTO:
		return true
	case waypoint.Protocol_TCP, waypoint.Protocol_TLS:
		return e.isDynamic(e.serviceTarget(svc, port)) ||
			slices.ContainsFunc(port.GetStream(), func(r *waypoint.StreamRule) bool { return len(r.GetSni()) > 0 })
	}
	return false
}
