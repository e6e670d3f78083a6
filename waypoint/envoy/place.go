package envoy

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
)

// place is where endpoints are, and whose turn it is.
type place struct {
	priority              uint32
	region, zone, subzone string
}

// places puts endpoints together by locality and priority. What the service itself says of near and far
// (trafficDistribution) goes before the destination's settings.
func (e *Env) places(d *waypoint.Destination, l leg, all []candidate) []*endpointv3.LocalityLbEndpoints {
	lb := e.Address(d.GetNamespace(), d.GetHostname()).GetLoadBalancing()
	policy := policyFor(d, l.port, l.subset.GetName())
	groups := map[place][]candidate{}
	for _, c := range all {
		priority, ok := e.rank(lb, c.workload)
		if !ok {
			continue
		}
		priority = priority*maxDistance + e.distance(policy, c.workload)
		where := c.workload.GetLocality()
		p := place{priority, where.GetRegion(), where.GetZone(), where.GetSubzone()}
		groups[p] = append(groups[p], c)
	}
	return e.distributed(policy, group(groups))
}

// group makes what Envoy wants of places: priorities without gaps (endpoint.proto), everything in a fixed order.
func group(groups map[place][]candidate) []*endpointv3.LocalityLbEndpoints {
	var out []*endpointv3.LocalityLbEndpoints
	priority, last := uint32(0), uint32(0)
	for i, p := range slices.SortedFunc(maps.Keys(groups), place.compare) {
		if i > 0 && p.priority != last {
			priority++
		}
		last = p.priority
		members := groups[p]
		slices.SortFunc(members, func(a, b candidate) int { return strings.Compare(a.key(), b.key()) })
		at := &endpointv3.LocalityLbEndpoints{
			Locality: &corev3.Locality{Region: p.region, Zone: p.zone, SubZone: p.subzone},
			Priority: priority,
		}
		weight := uint32(0)
		for _, m := range members {
			at.LbEndpoints = append(at.LbEndpoints, m.endpoint)
			weight += max(m.endpoint.GetLoadBalancingWeight().GetValue(), 1)
		}
		at.LoadBalancingWeight = uint32Value(weight)
		out = append(out, at)
	}
	return out
}

func (p place) compare(o place) int {
	return cmp.Or(cmp.Compare(p.priority, o.priority), strings.Compare(p.region, o.region),
		strings.Compare(p.zone, o.zone), strings.Compare(p.subzone, o.subzone))
}

// key orders endpoints of one place.
func (c candidate) key() string {
	a := c.endpoint.GetEndpoint().GetAddress()
	if i := a.GetEnvoyInternalAddress(); i != nil {
		return i.GetEndpointId()
	}
	return a.GetSocketAddress().GetAddress()
}

// rank is how far away a workload is by what the service prefers: the number of leading scopes that are not ours. False:
// it is not to be used at all.
func (e *Env) rank(lb *workload.LoadBalancing, w *workload.Workload) (uint32, bool) {
	mode := lb.GetMode()
	if mode != workload.LoadBalancing_FAILOVER && mode != workload.LoadBalancing_STRICT {
		return 0, true
	}
	scopes := lb.GetRoutingPreference()
	matched := 0
	for matched < len(scopes) && e.near(scopes[matched], w) {
		matched++
	}
	if mode == workload.LoadBalancing_STRICT && matched < len(scopes) {
		return 0, false
	}
	return uint32(len(scopes) - matched), true
}

func (e *Env) near(scope workload.LoadBalancing_Scope, w *workload.Workload) bool {
	o := e.options()
	switch scope {
	case workload.LoadBalancing_REGION:
		return o.Region == w.GetLocality().GetRegion()
	case workload.LoadBalancing_ZONE:
		return o.Zone == w.GetLocality().GetZone()
	case workload.LoadBalancing_SUBZONE:
		return o.Subzone == w.GetLocality().GetSubzone()
	case workload.LoadBalancing_NODE:
		return o.Node == w.GetNode()
	case workload.LoadBalancing_CLUSTER:
		return o.Cluster == cmp.Or(w.GetClusterId(), mesh.DefaultClusterID)
	case workload.LoadBalancing_NETWORK:
		return o.Network == w.GetNetwork()
	}
	return true
}
