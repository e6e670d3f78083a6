package intake

import (
	"fmt"
	"math"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

func (r *reader) loadBalancer(in *networking.LoadBalancerSettings, path []any) *waypoint.LoadBalancer {
	if in == nil {
		return nil
	}
	out := &waypoint.LoadBalancer{Locality: r.locality(in.LocalityLbSetting, sub(path, "localityLbSetting"))}
	switch p := in.LbPolicy.(type) {
	case *networking.LoadBalancerSettings_Simple:
		switch p.Simple {
		case networking.LoadBalancerSettings_ROUND_ROBIN:
			out.Algorithm = waypoint.LoadBalancer_ROUND_ROBIN
		case networking.LoadBalancerSettings_RANDOM:
			out.Algorithm = waypoint.LoadBalancer_RANDOM
		case networking.LoadBalancerSettings_PASSTHROUGH:
			out.Algorithm = waypoint.LoadBalancer_PASSTHROUGH
		}
	case *networking.LoadBalancerSettings_ConsistentHash:
		out.Algorithm = waypoint.LoadBalancer_HASH
		out.Hash = r.consistentHash(p.ConsistentHash, sub(path, "consistentHash"))
	}
	if d := in.WarmupDurationSecs; d != nil { //nolint:staticcheck // people still write it
		out.Warmup = r.duration(d, sub(path, "warmupDurationSecs"), false)
	}
	if w, p := in.Warmup, sub(path, "warmup"); w != nil {
		if w.Duration == nil {
			r.refuse(sub(p, "duration"), "the field is missing", "write how long a new endpoint is spared, like 60s")
		}
		out.Warmup = r.duration(w.Duration, sub(p, "duration"), false)
		if w.MinimumPercent != nil {
			r.perMillion(w.MinimumPercent.Value, sub(p, "minimumPercent"))
			out.WarmupMinimumPercent = uint32(math.Round(min(100, max(0, w.MinimumPercent.Value))))
		}
		if a := w.Aggression; a != nil {
			if a.Value < 1 {
				r.refuse(sub(p, "aggression"), fmt.Sprintf("%v is less than 1", a.Value), "write 1 or more")
			}
			out.WarmupAggression = a.Value
		}
	}
	if out.Warmup != nil && out.Algorithm != waypoint.LoadBalancer_ROUND_ROBIN && out.Algorithm != waypoint.LoadBalancer_LEAST_REQUEST {
		r.warn(path, "there is no warm-up but with ROUND_ROBIN and LEAST_REQUEST", "choose one of them, or remove the warm-up")
		out.Warmup, out.WarmupMinimumPercent, out.WarmupAggression = nil, 0, 0
	}
	return out
}

func (r *reader) consistentHash(in *networking.LoadBalancerSettings_ConsistentHashLB, path []any) *waypoint.ConsistentHash {
	out := &waypoint.ConsistentHash{MinimumRingSize: in.MinimumRingSize} //nolint:staticcheck // people still write it
	switch k := in.HashKey.(type) {
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpHeaderName:
		out.Key = &waypoint.ConsistentHash_Header{Header: r.header(k.HttpHeaderName, sub(path, "httpHeaderName"))}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpQueryParameterName:
		out.Key = &waypoint.ConsistentHash_Query{Query: k.HttpQueryParameterName}
	case *networking.LoadBalancerSettings_ConsistentHashLB_UseSourceIp:
		out.Key = &waypoint.ConsistentHash_SourceIp{SourceIp: true}
		if !k.UseSourceIp {
			r.refuse(sub(path, "useSourceIp"), "nothing is hashed", "write true, or another field")
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpCookie:
		c, p := k.HttpCookie, sub(path, "httpCookie")
		if !isHeader(c.Name) {
			r.refuse(sub(p, "name"), fmt.Sprintf("%q is not the name of a cookie", clip(c.Name)), "use letters, digits and dashes")
		}
		r.headerValue(c.Path, sub(p, "path"))
		out.Key = &waypoint.ConsistentHash_Cookie{Cookie: &waypoint.HashCookie{Name: c.Name, Path: c.Path, Ttl: r.duration(c.Ttl, sub(p, "ttl"), true)}}
	default:
		r.refuse(path, "it is not said what is hashed", "write httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName")
	}
	switch a := in.HashAlgorithm.(type) {
	case *networking.LoadBalancerSettings_ConsistentHashLB_RingHash_:
		out.MinimumRingSize = a.RingHash.GetMinimumRingSize()
	case *networking.LoadBalancerSettings_ConsistentHashLB_Maglev:
		out.Maglev = uint64Value(a.Maglev.GetTableSize())
		if n := a.Maglev.GetTableSize(); n != 0 && !(n <= 5000011 && prime(n)) {
			r.refuse(sub(path, "maglev", "tableSize"), fmt.Sprintf("%d is not a prime number up to 5000011", n), "write one, like 65537")
		}
	}
	if out.MinimumRingSize > 8<<20 { // Envoy's RingHashLbConfig
		r.refuse(path, fmt.Sprintf("a ring of %d is too large", out.MinimumRingSize), "write at most 8388608")
	}
	return out
}

func prime(n uint64) bool {
	if n < 2 {
		return false
	}
	for i := uint64(2); i*i <= n; i++ {
		if n%i == 0 {
			return false
		}
	}
	return true
}

// locality converts which places are preferred. Istio pkg/config/validation validateLocalityLbSetting.
func (r *reader) locality(in *networking.LocalityLoadBalancerSetting, path []any) *waypoint.Locality {
	if in == nil {
		return nil
	}
	out := &waypoint.Locality{Enabled: in.Enabled, FailoverPriority: in.FailoverPriority}
	if len(in.Distribute) > 0 && (len(in.Failover) > 0 || len(in.FailoverPriority) > 0) {
		r.refuse(path, "distribute excludes failover and failoverPriority", "keep one of them")
	}
	if !r.fewer(len(in.Distribute)+len(in.Failover)+len(in.FailoverPriority), maxValues, path, "entry") {
		return nil
	}
	for i, d := range in.Distribute {
		p, sum := sub(path, "distribute", i), uint64(0)
		if d.From == "" {
			r.refuse(sub(p, "from"), "the field is missing", "write a region, region/zone or region/zone/subzone, or *")
		}
		for _, w := range d.To {
			sum += uint64(w)
		}
		if sum != 100 {
			r.refuse(sub(p, "to"), fmt.Sprintf("the shares add up to %d", sum), "make it 100")
		}
		out.Distribute = append(out.Distribute, &waypoint.Locality_Distribute{From: d.From, To: d.To})
	}
	for i, f := range in.Failover {
		p := sub(path, "failover", i)
		if f.From == "" || f.To == "" || f.From == f.To {
			r.refuse(p, "from and to must be two different regions", "write both")
		}
		out.Failover = append(out.Failover, &waypoint.Locality_Failover{From: f.From, To: f.To})
	}
	return out
}
