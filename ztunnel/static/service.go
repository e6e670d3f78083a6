package static

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/workload"
)

type balancerIn struct {
	Preferences  []string `json:"routingPreferences"`
	Mode         string   `json:"mode"`
	HealthPolicy string   `json:"healthPolicy"`
}

type serviceIn struct {
	Name            string            `json:"name"`
	Namespace       string            `json:"namespace"`
	Hostname        string            `json:"hostname"`
	VIPs            []string          `json:"vips"`
	CIDRs           []string          `json:"cidrVips"`
	Ports           map[uint16]uint16 `json:"ports"`
	SubjectAltNames []string          `json:"subjectAltNames"`
	Waypoint        *gatewayIn        `json:"waypoint"`
	LoadBalancer    *balancerIn       `json:"loadBalancer"`
	IPFamilies      string            `json:"ipFamilies"`
	Canonical       bool              `json:"canonical"`
	Visibility      string            `json:"visibility"`
	// Endpoints follow from the workloads; a dump has them all the same.
	Endpoints map[string]any `json:"endpoints"`
}

func (in *serviceIn) proto() (*workload.Service, error) {
	s := &workload.Service{
		Name: in.Name, Namespace: in.Namespace, Hostname: in.Hostname, Ports: portList(in.Ports), SubjectAltNames: in.SubjectAltNames, Canonical: in.Canonical,
	}
	for _, v := range in.VIPs {
		network, ip, _ := strings.Cut(v, "/")
		a, err := netip.ParseAddr(ip)
		if err != nil {
			return nil, fmt.Errorf("vips: %q is not network/ip (the network may be empty: /10.0.0.1)", v)
		}
		s.Addresses = append(s.Addresses, &workload.NetworkAddress{Network: network, Address: a.Unmap().AsSlice()})
	}
	for _, v := range in.CIDRs {
		network, cidr, _ := strings.Cut(v, "/")
		p, err := netip.ParsePrefix(cidr)
		if err != nil {
			return nil, fmt.Errorf("cidrVips: %q is not network/ip/length", v)
		}
		s.Addresses = append(s.Addresses, &workload.NetworkAddress{Network: network, Address: p.Addr().AsSlice(), Length: proto.Uint32(uint32(p.Bits()))})
	}
	var err error
	if s.Waypoint, err = in.Waypoint.proto(); err != nil {
		return nil, fmt.Errorf("waypoint: %w", err)
	}
	if s.IpFamilies, err = choose("ipFamilies", in.IPFamilies, map[string]workload.IPFamilies{
		"": workload.IPFamilies_AUTOMATIC, "IPv4": workload.IPFamilies_IPV4_ONLY, "IPv6": workload.IPFamilies_IPV6_ONLY, "Dual": workload.IPFamilies_DUAL,
	}); err != nil {
		return nil, err
	}
	if s.Visibility, err = choose("visibility", in.Visibility, map[string]workload.Service_Visibility{
		"": workload.Service_PUBLIC, "Public": workload.Service_PUBLIC, "Namespace": workload.Service_NAMESPACE,
	}); err != nil {
		return nil, err
	}
	s.LoadBalancing, err = in.LoadBalancer.proto()
	return s, err
}

func (in *balancerIn) proto() (*workload.LoadBalancing, error) {
	if in == nil {
		return nil, nil
	}
	out := &workload.LoadBalancing{}
	var err error
	if out.Mode, err = choose("loadBalancer.mode", in.Mode, map[string]workload.LoadBalancing_Mode{
		"": workload.LoadBalancing_UNSPECIFIED_MODE, "Standard": workload.LoadBalancing_UNSPECIFIED_MODE, "Strict": workload.LoadBalancing_STRICT,
		"Failover": workload.LoadBalancing_FAILOVER, "Passthrough": workload.LoadBalancing_PASSTHROUGH,
	}); err != nil {
		return nil, err
	}
	if out.HealthPolicy, err = choose("loadBalancer.healthPolicy", in.HealthPolicy, map[string]workload.LoadBalancing_HealthPolicy{
		"": workload.LoadBalancing_ONLY_HEALTHY, "OnlyHealthy": workload.LoadBalancing_ONLY_HEALTHY, "AllowAll": workload.LoadBalancing_ALLOW_ALL,
	}); err != nil {
		return nil, err
	}
	for _, p := range in.Preferences {
		scope, err := choose("loadBalancer.routingPreferences", p, map[string]workload.LoadBalancing_Scope{
			"Region": workload.LoadBalancing_REGION, "Zone": workload.LoadBalancing_ZONE, "Subzone": workload.LoadBalancing_SUBZONE,
			"Node": workload.LoadBalancing_NODE, "Cluster": workload.LoadBalancing_CLUSTER, "Network": workload.LoadBalancing_NETWORK,
		})
		if err != nil {
			return nil, err
		}
		out.RoutingPreference = append(out.RoutingPreference, scope)
	}
	return out, nil
}

func portList(ports map[uint16]uint16) (out []*workload.Port) {
	for _, p := range slices.Sorted(maps.Keys(ports)) {
		out = append(out, &workload.Port{ServicePort: uint32(p), TargetPort: uint32(ports[p])})
	}
	return out
}

func sorted(words []string) string {
	slices.Sort(words)
	return strings.Join(words, ", ")
}
