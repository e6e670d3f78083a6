package envoy

import (
	"cmp"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
)

// What a destination's settings say of near and far. Distribution gives weights to localities; otherwise traffic stays
// near and moves on when what is near fails, which Envoy can only tell with outlier detection: without the destination's
// own there is no preference, as in Istio (pilot/pkg/networking/core/loadbalancer ApplyLocalityLoadBalancer).

// prefersNear says whether endpoints have an order by distance.
func (e *Env) prefersNear(p *waypoint.TrafficPolicy) bool {
	l := p.GetLoadBalancer().GetLocality()
	return e.localityOn(l) && p.GetOutliers() != nil && len(l.GetDistribute()) == 0
}

func (e *Env) localityOn(l *waypoint.Locality) bool {
	if l.GetEnabled() != nil {
		return l.GetEnabled().GetValue()
	}
	return l != nil || e.Gateway.GetMesh().GetLocalityLoadBalancing()
}

// maxDistance is more than any distance: what the service itself says of near and far weighs more.
const maxDistance = 1000

// distance is a workload's place in the order by a destination's settings; 0 is nearest.
func (e *Env) distance(p *waypoint.TrafficPolicy, w *workload.Workload) uint32 {
	if !e.prefersNear(p) {
		return 0
	}
	l := p.GetLoadBalancer().GetLocality()
	far := uint32(0)
	if labels := l.GetFailoverPriority(); len(labels) > 0 {
		far = e.labelDistance(labels, w)
		if len(l.GetFailover()) == 0 {
			return min(far, maxDistance-1)
		}
	}
	// The order by labels comes first, that by regions decides among equals.
	return min(far*maxRegionDistance+e.regionDistance(l.GetFailover(), w), maxDistance-1)
}

// maxRegionDistance is one more than regionDistance gives.
const maxRegionDistance = 5

// regionDistance: the same subzone, zone, region, a region to fail over to, any other.
func (e *Env) regionDistance(failover []*waypoint.Locality_Failover, w *workload.Workload) uint32 {
	o, at := e.options(), w.GetLocality()
	switch {
	case o.Region != at.GetRegion():
		for _, f := range failover {
			if f.GetFrom() == o.Region {
				if f.GetTo() == at.GetRegion() {
					return 3
				}
				return 4
			}
		}
		return 3
	case o.Zone != at.GetZone():
		return 2
	case o.Subzone != at.GetSubzone():
		return 1
	}
	return 0
}

// labelDistance is how many of the labels are left from the first on that the workload does not have in common with us.
// A label may name the value it must have instead.
func (e *Env) labelDistance(labels []string, w *workload.Workload) uint32 {
	for i, label := range labels {
		name, want, given := strings.Cut(label, "=")
		if !given {
			want = e.ownLabel(name)
		}
		if got := e.labelOf(w, name); got != want || want == "" {
			return uint32(len(labels) - i)
		}
	}
	return 0
}

// Labels that say where something runs; others have to be on the workload.
const (
	labelRegion  = "topology.kubernetes.io/region"
	labelZone    = "topology.kubernetes.io/zone"
	labelSubzone = "topology.istio.io/subzone"
	labelNetwork = "topology.istio.io/network"
	labelCluster = "topology.istio.io/cluster"
	labelNode    = "kubernetes.io/hostname"
)

func (e *Env) ownLabel(name string) string {
	o := e.options()
	return map[string]string{
		labelRegion: o.Region, labelZone: o.Zone, labelSubzone: o.Subzone,
		labelNetwork: o.Network, labelCluster: o.Cluster, labelNode: o.Node,
	}[name]
}

func (e *Env) labelOf(w *workload.Workload, name string) string {
	switch name {
	case labelRegion:
		return w.GetLocality().GetRegion()
	case labelZone:
		return w.GetLocality().GetZone()
	case labelSubzone:
		return w.GetLocality().GetSubzone()
	case labelNetwork:
		return w.GetNetwork()
	case labelCluster:
		return cmp.Or(w.GetClusterId(), mesh.DefaultClusterID)
	case labelNode:
		return w.GetNode()
	}
	return labelsOf(w)[name]
}

// distributed gives localities the weights a destination asks for; those it does not name get nothing. What is given to
// several localities together is divided by the endpoints they have. Localities we have no weights for stay as they are.
func (e *Env) distributed(p *waypoint.TrafficPolicy, all []*endpointv3.LocalityLbEndpoints) []*endpointv3.LocalityLbEndpoints {
	l := p.GetLoadBalancer().GetLocality()
	if !e.localityOn(l) {
		return all
	}
	o := e.options()
	own := &corev3.Locality{Region: o.Region, Zone: o.Zone, SubZone: o.Subzone}
	for _, d := range l.GetDistribute() {
		if !covers(d.GetFrom(), own) {
			continue
		}
		var out []*endpointv3.LocalityLbEndpoints
		for _, at := range all {
			if w := localityWeight(d.GetTo(), at, all); w > 0 {
				at.LoadBalancingWeight = uint32Value(w)
				at.Priority = 0
				out = append(out, at)
			}
		}
		return out
	}
	return all
}

// localityWeight is a locality's part of what its pattern gives to all localities with that pattern.
func localityWeight(to map[string]uint32, at *endpointv3.LocalityLbEndpoints, all []*endpointv3.LocalityLbEndpoints) uint32 {
	pattern := bestPattern(to, at.GetLocality())
	if pattern == "" || to[pattern] == 0 {
		return 0
	}
	var sum uint64
	for _, o := range all {
		if bestPattern(to, o.GetLocality()) == pattern {
			sum += endpointWeight(o)
		}
	}
	if sum == 0 {
		return 0
	}
	// In hundredths, so that division by endpoints keeps the proportions.
	return uint32(max((uint64(to[pattern])*100*endpointWeight(at)+sum/2)/sum, 1))
}

// bestPattern is the most specific one that covers a locality.
func bestPattern(to map[string]uint32, at *corev3.Locality) string {
	best := ""
	for pattern := range to {
		if !covers(pattern, at) {
			continue
		}
		if best == "" || specific(pattern) > specific(best) || specific(pattern) == specific(best) && pattern < best {
			best = pattern
		}
	}
	return best
}

func endpointWeight(at *endpointv3.LocalityLbEndpoints) uint64 {
	var sum uint64
	for _, lb := range at.GetLbEndpoints() {
		sum += uint64(max(lb.GetLoadBalancingWeight().GetValue(), 1))
	}
	return sum
}

// covers: region/zone/subzone, of which what is left out or * is any. Istio API, LocalityLoadBalancerSetting.
func covers(pattern string, at *corev3.Locality) bool {
	if pattern == "" {
		return false
	}
	parts := strings.SplitN(pattern, "/", 3)
	for i, is := range []string{at.GetRegion(), at.GetZone(), at.GetSubZone()} {
		if i < len(parts) && parts[i] != "*" && parts[i] != is {
			return false
		}
	}
	return true
}

// specific counts the parts a pattern names.
func specific(pattern string) int {
	n := 0
	for _, part := range strings.Split(pattern, "/") {
		if part != "*" {
			n++
		}
	}
	return n
}
