package envoy

import (
	"cmp"
	"fmt"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
)

// StaticClusters are those every gateway has.
func StaticClusters(e *Env) []*clusterv3.Cluster {
	return []*clusterv3.Cluster{
		internalCluster(),
		detectCluster(),
		e.originateCluster(),
		encapCluster(),
		plainCluster(),
		{
			Name:                 ClusterBlackHole,
			ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
			ConnectTimeout:       seconds(1),
		},
	}
}

// leg is one cluster of a destination: a port, as HTTP or TCP, and all endpoints or those of a subset.
type leg struct {
	name     string
	port     uint32
	kind     string
	protocol waypoint.Protocol
	subset   *waypoint.Subset // nil: all endpoints
}

// legs are all clusters of a destination, in a fixed order.
func (e *Env) legs(d *waypoint.Destination) []leg {
	served, label := e.Service(d.GetNamespace(), d.GetHostname()), e.label(d.GetNamespace(), d.GetHostname())
	subsets := append([]*waypoint.Subset{nil}, d.GetSubsets()...)
	var out []leg
	for _, port := range e.ports(d, served) {
		for _, subset := range subsets {
			l := leg{port: port.GetNumber(), protocol: port.GetProtocol(), subset: subset, kind: kindOf(port.GetProtocol())}
			if served == nil {
				l.name = outboundName(l.port, subset.GetName(), label)
				out = append(out, l)
				continue
			}
			l.name = servedName(l.port, l.kind, subset.GetName(), label)
			out = append(out, l)
			if l.protocol == waypoint.Protocol_AUTO {
				l.kind = kindTCP
				l.name = servedName(l.port, l.kind, subset.GetName(), label)
				out = append(out, l)
			}
		}
	}
	return out
}

// ports of a destination are those of the service served here, or those the fact has along, or what istio.workload says.
func (e *Env) ports(d *waypoint.Destination, served *waypoint.Service) []*waypoint.ServicePort {
	ports := d.GetServicePorts()
	if served != nil {
		ports = served.GetPorts()
	}
	if len(ports) == 0 {
		for _, p := range e.Address(d.GetNamespace(), d.GetHostname()).GetPorts() {
			ports = append(ports, &waypoint.ServicePort{Number: p.GetServicePort(), Protocol: waypoint.Protocol(p.GetAppProtocol())})
		}
	}
	ports = slices.Clone(ports)
	slices.SortStableFunc(ports, func(a, b *waypoint.ServicePort) int { return cmp.Compare(a.GetNumber(), b.GetNumber()) })
	return slices.CompactFunc(ports, func(a, b *waypoint.ServicePort) bool { return a.GetNumber() == b.GetNumber() })
}

// Clusters are all clusters of one destination: every port, and every subset of it.
func Clusters(e *Env, d *waypoint.Destination) ([]*clusterv3.Cluster, []Problem) {
	var out []*clusterv3.Cluster
	var problems []Problem
	_, detour := e.detour(d)
	for _, l := range e.legs(d) {
		if detour && l.subset != nil {
			problems = append(problems, Problem{Object: objectName(d.GetOrigin()), Text: fmt.Sprintf(
				"subset %s of %s: the service is behind another waypoint, which is asked for the service as a whole; "+
					"requests for the subset are answered 503: let that waypoint pick the subset", l.subset.GetName(), d.GetHostname())})
		}
		c, p := e.cluster(d, l)
		out, problems = append(out, c), append(problems, p...)
	}
	return out, problems
}

func (e *Env) cluster(d *waypoint.Destination, l leg) (*clusterv3.Cluster, []Problem) {
	policy := policyFor(d, l.port, l.subset.GetName())
	c := &clusterv3.Cluster{
		Name:           l.name,
		ConnectTimeout: seconds(2),
		Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
			metaService: stringStruct("host", d.GetHostname(), "namespace", d.GetNamespace(),
				"name", e.shortName(d.GetNamespace(), d.GetHostname()), "subset", l.subset.GetName(), "destination_rule", ruleOf(d)),
		}},
	}
	if l.kind == kindHTTP {
		c.TypedExtensionProtocolOptions = e.upstreamProtocol(l)
	}
	problems := e.applyPolicy(c, policy, l.kind, l.protocol)
	inner, p := e.destinationTransport(d, policy)
	problems = append(problems, p...)
	e.discovery(c, d, l, inner)
	return c, problems
}

// ruleOf is for people who look at a cluster and wonder where its settings come from.
func ruleOf(d *waypoint.Destination) string {
	if o := d.GetOrigin(); o.GetKind() != "" {
		return o.GetNamespace() + "/" + o.GetName()
	}
	return ""
}

// discovery is how the endpoints become known, and what is spoken to them. Envoy agrees on HTTP versions by ALPN only when
// every transport socket can, the one no endpoint uses included.
func (e *Env) discovery(c *clusterv3.Cluster, d *waypoint.Destination, l leg, inner *corev3.TransportSocket) {
	switch d.GetResolution() {
	case waypoint.Destination_DYNAMIC:
		c.UpstreamBindConfig = e.ownSource()
		c.ClusterDiscoveryType = dynamicDiscovery()
		c.LbPolicy, c.LoadBalancingPolicy, c.LbConfig = clusterv3.Cluster_CLUSTER_PROVIDED, nil, nil
		c.TransportSocket = inner
	case waypoint.Destination_ORIGINAL:
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST}
		c.LbPolicy, c.LoadBalancingPolicy, c.LbConfig = clusterv3.Cluster_CLUSTER_PROVIDED, nil, nil
		c.CleanupInterval = seconds(60)
		c.TransportSocket = inner
	case waypoint.Destination_DNS:
		c.UpstreamBindConfig = e.ownSource()
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
		c.DnsLookupFamily = lookupFamily(e.Address(d.GetNamespace(), d.GetHostname()).GetIpFamilies())
		c.DnsRefreshRate = seconds(60)
		c.RespectDnsTtl = true
		c.LoadAssignment = e.assignment(d, l)
		c.TransportSocketMatches, c.TransportSocket = tunnelOrPlain(inner), inner
	default:
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
		c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: fromADS(), ServiceName: l.name}
		c.TransportSocketMatches, c.TransportSocket = tunnelOrPlain(inner), inner
	}
}

func lookupFamily(f workload.IPFamilies) clusterv3.Cluster_DnsLookupFamily {
	switch f {
	case workload.IPFamilies_IPV4_ONLY:
		return clusterv3.Cluster_V4_ONLY
	case workload.IPFamilies_IPV6_ONLY:
		return clusterv3.Cluster_V6_ONLY
	case workload.IPFamilies_DUAL:
		return clusterv3.Cluster_ALL
	}
	return clusterv3.Cluster_V4_PREFERRED
}

// shortName is the name of the Kubernetes object, for telemetry.
func (e *Env) shortName(namespace, hostname string) string {
	if s := e.Service(namespace, hostname); s.GetName() != "" {
		return s.GetName()
	}
	if a := e.Address(namespace, hostname); a.GetName() != "" {
		return a.GetName()
	}
	return hostname
}

// upstreamProtocol is HTTP/2 where the port says so, and otherwise what the client spoke.
func (e *Env) upstreamProtocol(l leg) map[string]*anypb.Any {
	if l.protocol == waypoint.Protocol_HTTP2 || l.protocol == waypoint.Protocol_GRPC {
		return http2Upstream(nil, &corev3.Http2ProtocolOptions{})
	}
	return downstreamProtocol()
}

func downstreamProtocol() map[string]*anypb.Any {
	return map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": toAny(&httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
			UseDownstreamProtocolConfig: &httpv3.HttpProtocolOptions_UseDownstreamHttpConfig{
				HttpProtocolOptions:  &corev3.Http1ProtocolOptions{},
				Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
			},
		},
	})}
}

// Assignments are the endpoints of a destination's clusters, under the clusters' names.
func Assignments(e *Env, d *waypoint.Destination) []*endpointv3.ClusterLoadAssignment {
	if d.GetResolution() != waypoint.Destination_WORKLOADS {
		return nil
	}
	var out []*endpointv3.ClusterLoadAssignment
	for _, l := range e.legs(d) {
		out = append(out, e.assignment(d, l))
	}
	return out
}
