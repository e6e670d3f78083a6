package envoy

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// policyFor merges a destination's settings for one port and subset: the destination's, its port's, the subset's, and the
// subset's for the port, each replacing the fields it sets. Istio pilot/pkg/networking/util MergeTrafficPolicy has the order.
func policyFor(d *waypoint.Destination, port uint32, subset string) *waypoint.TrafficPolicy {
	layers := []*waypoint.TrafficPolicy{d.GetPolicy(), d.GetPorts()[port]}
	for _, s := range d.GetSubsets() {
		if subset != "" && s.GetName() == subset {
			layers = append(layers, s.GetPolicy(), s.GetPorts()[port])
			break
		}
	}
	out := &waypoint.TrafficPolicy{}
	for _, layer := range layers {
		overlay(out, layer)
	}
	return out
}

// overlay replaces the fields of a policy that another sets. The parts are shared, not copied: nothing changes them.
func overlay(onto, p *waypoint.TrafficPolicy) {
	if p.GetLoadBalancer() != nil {
		onto.LoadBalancer = p.GetLoadBalancer()
	}
	if p.GetPool() != nil {
		onto.Pool = p.GetPool()
	}
	if p.GetOutliers() != nil {
		onto.Outliers = p.GetOutliers()
	}
	if p.GetTls() != nil {
		onto.Tls = p.GetTls()
	}
	if p.GetProxyProtocol() != 0 {
		onto.ProxyProtocol = p.GetProxyProtocol()
	}
	if p.GetRetryBudget() != nil {
		onto.RetryBudget = p.GetRetryBudget()
	}
}

// applyPolicy sets what a traffic policy says on a cluster, and the defaults where it says nothing: load balancing,
// connection pool, outlier detection, and with HTTP the protocol. Name, discovery, endpoints and transport sockets are not
// its business.
func (e *Env) applyPolicy(c *clusterv3.Cluster, p *waypoint.TrafficPolicy, kind string, protocol waypoint.Protocol) []Problem {
	var problems []Problem
	object := destinationName(e.Destination(about(c)))
	problem := func(text string) {
		problems = append(problems, Problem{Object: object, Text: text})
	}
	if p.GetLoadBalancer().GetAlgorithm() == waypoint.LoadBalancer_PASSTHROUGH && !e.isOriginal(c) {
		problem("PASSTHROUGH means nothing for a service with endpoints of its own, which is balanced by least requests: " +
			"name an algorithm, or give the ServiceEntry resolution NONE")
	}
	c.ConnectTimeout = e.connectTimeout(p)
	setBalancer(c, p.GetLoadBalancer(), problem)
	setBreakers(c, p)
	setKeepalive(c, p.GetPool())
	setOutliers(c, p.GetOutliers())
	if kind == kindHTTP {
		setProtocol(c, p, protocol, e.Gateway.GetKind() == waypoint.Gateway_EDGE)
	}
	return problems
}

// about is the namespace and hostname of a cluster's destination.
func about(c *clusterv3.Cluster) (namespace, hostname string) {
	fields := c.GetMetadata().GetFilterMetadata()[metaService].GetFields()
	return fields["namespace"].GetStringValue(), fields["host"].GetStringValue()
}

// isOriginal: connections go to the address the client dialed.
func (e *Env) isOriginal(c *clusterv3.Cluster) bool {
	return e.Destination(about(c)).GetResolution() == waypoint.Destination_ORIGINAL
}

// connectTimeout: of the destination, of the mesh, or 2 s.
func (e *Env) connectTimeout(p *waypoint.TrafficPolicy) *durationpb.Duration {
	for _, d := range []*durationpb.Duration{p.GetPool().GetConnectTimeout(), e.Gateway.GetMesh().GetConnectTimeout()} {
		if t := positive(d); t > 0 {
			return durationpb.New(t)
		}
	}
	return seconds(2)
}
