package envoy

import (
	"math/bits"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// Envoy's bounds, config/cluster/v3/cluster.proto RingHashLbConfig and MaglevLbConfig.
const (
	maxRingSize    = 8 << 20
	maxMaglevTable = 5_000_011
)

// setBalancer sets how an endpoint is picked.
func setBalancer(c *clusterv3.Cluster, lb *waypoint.LoadBalancer, problem func(string)) {
	// Only healthy endpoints are ever told to Envoy; when it finds out itself that most fail, the others still fail.
	c.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{Value: 0}}
	if len(lb.GetLocality().GetDistribute()) > 0 {
		c.CommonLbConfig.LocalityConfigSpecifier = &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{
			LocalityWeightedLbConfig: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig{},
		}
	}
	if c.LbPolicy == clusterv3.Cluster_CLUSTER_PROVIDED {
		return
	}
	switch lb.GetAlgorithm() {
	case waypoint.LoadBalancer_ROUND_ROBIN:
		c.LbPolicy = clusterv3.Cluster_ROUND_ROBIN
		if s := slowStart(lb); s != nil {
			c.LbConfig = &clusterv3.Cluster_RoundRobinLbConfig_{RoundRobinLbConfig: &clusterv3.Cluster_RoundRobinLbConfig{SlowStartConfig: s}}
		}
	case waypoint.LoadBalancer_RANDOM:
		c.LbPolicy = clusterv3.Cluster_RANDOM
	case waypoint.LoadBalancer_HASH:
		setHash(c, lb.GetHash(), problem)
	default:
		c.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
		if s := slowStart(lb); s != nil {
			c.LbConfig = &clusterv3.Cluster_LeastRequestLbConfig_{LeastRequestLbConfig: &clusterv3.Cluster_LeastRequestLbConfig{SlowStartConfig: s}}
		}
	}
}

// slowStart lets new endpoints warm up: their share grows over a while.
func slowStart(lb *waypoint.LoadBalancer) *clusterv3.Cluster_SlowStartConfig {
	window := positive(lb.GetWarmup())
	if window == 0 {
		return nil
	}
	s := &clusterv3.Cluster_SlowStartConfig{SlowStartWindow: durationpb.New(window)}
	if a := lb.GetWarmupAggression(); a > 0 {
		s.Aggression = &corev3.RuntimeDouble{DefaultValue: a, RuntimeKey: "ambit.warmup.aggression"}
	}
	if p := lb.GetWarmupMinimumPercent(); p > 0 {
		s.MinWeightPercent = &typev3.Percent{Value: float64(min(p, 100))}
	}
	return s
}

func setHash(c *clusterv3.Cluster, h *waypoint.ConsistentHash, problem func(string)) {
	if h.GetKey() == nil {
		problem("consistent hashing needs a key: name a header, cookie, query parameter or the source address; endpoints are picked at random")
	}
	if h.GetMaglev() == nil {
		c.LbPolicy = clusterv3.Cluster_RING_HASH
		size := h.GetMinimumRingSize()
		if size == 0 {
			size = 1024 // Istio API, ConsistentHashLB minimumRingSize
		}
		c.LbConfig = &clusterv3.Cluster_RingHashLbConfig_{RingHashLbConfig: &clusterv3.Cluster_RingHashLbConfig{
			MinimumRingSize: wrapperspb.UInt64(min(size, maxRingSize)),
		}}
		return
	}
	c.LbPolicy = clusterv3.Cluster_MAGLEV
	if size := h.GetMaglev().GetValue(); size > 0 {
		prime := tableSize(size)
		if prime != size {
			problem("the table size of Maglev must be a prime of at most 5000011: the next one is used")
		}
		c.LbConfig = &clusterv3.Cluster_MaglevLbConfig_{MaglevLbConfig: &clusterv3.Cluster_MaglevLbConfig{TableSize: wrapperspb.UInt64(prime)}}
	}
}

// tableSize is the smallest prime from n on; Envoy refuses others.
func tableSize(n uint64) uint64 {
	if n >= maxMaglevTable {
		return maxMaglevTable
	}
	for !isPrime(n) {
		n++
	}
	return n
}

func isPrime(n uint64) bool {
	if n < 4 {
		return n > 1
	}
	if bits.TrailingZeros64(n) > 0 {
		return false
	}
	for d := uint64(3); d*d <= n; d += 2 {
		if n%d == 0 {
			return false
		}
	}
	return true
}

// hashPolicies say what of a request is hashed. They are the cluster's own, so that each of several weighted backends
// hashes what its own destination asks for.
func hashPolicies(lb *waypoint.LoadBalancer) []*routev3.RouteAction_HashPolicy {
	if lb.GetAlgorithm() != waypoint.LoadBalancer_HASH {
		return nil
	}
	p := &routev3.RouteAction_HashPolicy{}
	switch key := lb.GetHash().GetKey().(type) {
	case *waypoint.ConsistentHash_Header:
		name, err := headerName(key.Header)
		if err != nil {
			return nil
		}
		p.PolicySpecifier = &routev3.RouteAction_HashPolicy_Header_{Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: name}}
	case *waypoint.ConsistentHash_Cookie:
		if !isToken(key.Cookie.GetName()) {
			return nil
		}
		cookie := &routev3.RouteAction_HashPolicy_Cookie{Name: key.Cookie.GetName(), Path: key.Cookie.GetPath()}
		// With a lifetime, 0 being the browser's session, Envoy hands out a cookie to who has none.
		if key.Cookie.GetTtl() != nil {
			cookie.Ttl = durationpb.New(positive(key.Cookie.GetTtl()))
		}
		p.PolicySpecifier = &routev3.RouteAction_HashPolicy_Cookie_{Cookie: cookie}
	case *waypoint.ConsistentHash_SourceIp:
		p.PolicySpecifier = &routev3.RouteAction_HashPolicy_ConnectionProperties_{
			ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true},
		}
	case *waypoint.ConsistentHash_Query:
		if strings.TrimSpace(key.Query) == "" {
			return nil
		}
		p.PolicySpecifier = &routev3.RouteAction_HashPolicy_QueryParameter_{
			QueryParameter: &routev3.RouteAction_HashPolicy_QueryParameter{Name: key.Query},
		}
	default:
		return nil
	}
	return []*routev3.RouteAction_HashPolicy{p}
}
