package envoy

import (
	"math"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

const httpOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// setBreakers bounds what may be under way to a destination. Without a word there is no bound, as in Istio
// (pilot/pkg/networking/core/cluster_builder.go getDefaultCircuitBreakerThresholds); Envoy's own would be 1024.
func setBreakers(c *clusterv3.Cluster, p *waypoint.TrafficPolicy) {
	limit := func(n uint32) *wrapperspb.UInt32Value {
		if n == 0 {
			n = unlimited
		}
		return uint32Value(n)
	}
	pool := p.GetPool()
	t := &clusterv3.CircuitBreakers_Thresholds{
		MaxConnections:     limit(pool.GetMaxConnections()),
		MaxPendingRequests: limit(pool.GetMaxPendingRequests()),
		MaxRequests:        limit(pool.GetMaxRequests()),
		MaxRetries:         uint32Value(unlimited),
		TrackRemaining:     true,
	}
	if pool.GetMaxRetries() != nil {
		t.MaxRetries = uint32Value(pool.GetMaxRetries().GetValue())
	}
	if b := p.GetRetryBudget(); b != nil {
		t.RetryBudget = &clusterv3.CircuitBreakers_Thresholds_RetryBudget{
			BudgetPercent: &typev3.Percent{Value: percent(b.GetPercent())},
		}
		if b.GetMinimumConcurrency() > 0 {
			t.RetryBudget.MinRetryConcurrency = uint32Value(b.GetMinimumConcurrency())
		}
	}
	c.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{t}}
}

func percent(v float64) float64 {
	if math.IsNaN(v) {
		return 0
	}
	return min(max(v, 0), 100)
}

// setKeepalive lets the kernel find out that a peer is gone. Inside a tunnel the tunnel has its own.
func setKeepalive(c *clusterv3.Cluster, pool *waypoint.ConnectionPool) {
	idle, interval, probes := positive(pool.GetTcpKeepaliveTime()), positive(pool.GetTcpKeepaliveInterval()), pool.GetTcpKeepaliveProbes()
	if idle == 0 && interval == 0 && probes == 0 {
		return
	}
	k := &corev3.TcpKeepalive{}
	whole := func(d time.Duration) *wrapperspb.UInt32Value {
		if d == 0 {
			return nil
		}
		return uint32Value(uint32(max(d/time.Second, 1)))
	}
	k.KeepaliveTime, k.KeepaliveInterval = whole(idle), whole(interval)
	if probes > 0 {
		k.KeepaliveProbes = uint32Value(probes)
	}
	c.UpstreamConnectionOptions = &clusterv3.UpstreamConnectionOptions{TcpKeepalive: k}
}

// setProtocol sets what is spoken to the destination: HTTP/2 where its port says so or the policy asks for it; behind TLS of
// its own, what both ends agree on. Otherwise it is what the client speaks, who dialed that very port; at the edge, where
// the client agreed with the gateway on HTTP/2 and the destination has not been asked, HTTP/1.1 (Gateway API, GEP-1911).
func setProtocol(c *clusterv3.Cluster, p *waypoint.TrafficPolicy, protocol waypoint.Protocol, edge bool) {
	pool := p.GetPool()
	http1 := &corev3.Http1ProtocolOptions{}
	http2 := &corev3.Http2ProtocolOptions{}
	if n := pool.GetMaxConcurrentStreams(); n > 0 {
		http2.MaxConcurrentStreams = uint32Value(min(n, math.MaxInt32))
	}
	options := &httpv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: commonOptions(pool),
		HashPolicy:                hashPolicies(p.GetLoadBalancer()),
		OutlierDetection:          ownAnswers(p.GetOutliers()),
	}
	asClient := &httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
		UseDownstreamProtocolConfig: &httpv3.HttpProtocolOptions_UseDownstreamHttpConfig{HttpProtocolOptions: http1, Http2ProtocolOptions: http2},
	}
	switch {
	case pool.GetHttp2() == upgradeAsClient:
		options.UpstreamProtocolOptions = asClient
	case originatesTLS(p.GetTls()):
		options.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_AutoConfig{
			AutoConfig: &httpv3.HttpProtocolOptions_AutoHttpConfig{HttpProtocolOptions: http1, Http2ProtocolOptions: http2},
		}
	case protocol == waypoint.Protocol_HTTP2, protocol == waypoint.Protocol_GRPC, pool.GetHttp2() == upgradeAlways:
		options.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: http2},
			},
		}
	case edge:
		options.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: http1},
			},
		}
	default:
		options.UpstreamProtocolOptions = asClient
	}
	if _, host := about(c); strings.HasPrefix(host, "*") {
		// There is no one name for all hosts of a wildcard: the certificate must be for the one that was asked for.
		options.UpstreamHttpProtocolOptions = &corev3.UpstreamHttpProtocolOptions{
			AutoSni:           p.GetTls().GetSni() == "",
			AutoSanValidation: len(p.GetTls().GetSubjectAltNames()) == 0 && !p.GetTls().GetInsecureSkipVerify(),
		}
	}
	if c.TypedExtensionProtocolOptions == nil {
		c.TypedExtensionProtocolOptions = map[string]*anypb.Any{}
	}
	c.TypedExtensionProtocolOptions[httpOptions] = toAny(options)
}

// Values of ConnectionPool.http2.
const (
	upgradeAlways   = 2
	upgradeAsClient = 3
)

// commonOptions bounds how long and for how much a connection is used.
func commonOptions(pool *waypoint.ConnectionPool) *corev3.HttpProtocolOptions {
	out := &corev3.HttpProtocolOptions{}
	set := false
	if pool.GetIdleTimeout() != nil {
		out.IdleTimeout, set = durationpb.New(positive(pool.GetIdleTimeout())), true
	}
	if d := positive(pool.GetMaxConnectionDuration()); d > 0 {
		out.MaxConnectionDuration, set = durationpb.New(d), true
	}
	if n := pool.GetMaxRequestsPerConnection(); n > 0 {
		out.MaxRequestsPerConnection, set = uint32Value(n), true
	}
	if !set {
		return nil
	}
	return out
}
