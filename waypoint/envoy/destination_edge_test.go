package envoy

import (
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// TestProtocolAtTheEdge: HTTP/2 that a client agreed on with the gateway is not passed on to a destination that may not
// speak it; inside the mesh a client that speaks it to a port has dialed that port.
func TestProtocolAtTheEdge(t *testing.T) {
	for _, c := range []struct {
		protocol waypoint.Protocol
		policy   *waypoint.TrafficPolicy
		edge     bool
		want     string
	}{
		{waypoint.Protocol_AUTO, nil, true, "HTTP/1.1"},
		{waypoint.Protocol_HTTP1, nil, true, "HTTP/1.1"},
		{waypoint.Protocol_HTTP2, nil, true, "HTTP/2"},
		{waypoint.Protocol_GRPC, nil, true, "HTTP/2"},
		{waypoint.Protocol_AUTO, &waypoint.TrafficPolicy{Pool: &waypoint.ConnectionPool{Http2: upgradeAsClient}}, true, "as the client"},
		{waypoint.Protocol_AUTO, &waypoint.TrafficPolicy{Pool: &waypoint.ConnectionPool{Http2: upgradeAlways}}, true, "HTTP/2"},
		{waypoint.Protocol_AUTO, nil, false, "as the client"},
		{waypoint.Protocol_HTTP1, nil, false, "as the client"},
	} {
		cluster := &clusterv3.Cluster{Name: "outbound|80||web.shop.svc.cluster.local"}
		setProtocol(cluster, c.policy, c.protocol, c.edge)
		var o httpv3.HttpProtocolOptions
		if err := cluster.TypedExtensionProtocolOptions[httpOptions].UnmarshalTo(&o); err != nil {
			t.Fatal(err)
		}
		got := "as the client"
		switch {
		case o.GetExplicitHttpConfig().GetHttp2ProtocolOptions() != nil:
			got = "HTTP/2"
		case o.GetExplicitHttpConfig().GetHttpProtocolOptions() != nil:
			got = "HTTP/1.1"
		case o.GetUseDownstreamProtocolConfig() == nil:
			got = "something else"
		}
		if got != c.want {
			t.Errorf("port %s, policy %v, edge %t: %s, want %s", c.protocol, c.policy, c.edge, got, c.want)
		}
	}
}
