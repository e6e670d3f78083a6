package envoy

import (
	"strconv"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	dfpclusterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dynamic_forward_proxy/v3"
	dfpcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/dynamic_forward_proxy/v3"
	dfphttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/dynamic_forward_proxy/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	snidfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/sni_dynamic_forward_proxy/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// Destinations with a wildcard for a hostname are looked up when a client asks for a name below it. The name asked for
// decides the address, never the address the client dialed.

// nameCache is shared by all dynamic destinations. Filters and clusters must have it to the letter.
func nameCache() *dfpcommonv3.DnsCacheConfig {
	return &dfpcommonv3.DnsCacheConfig{
		Name:            "dynamic",
		DnsLookupFamily: clusterv3.Cluster_V4_PREFERRED,
		HostTtl:         seconds(300),
		MaxHosts:        uint32Value(1024),
		DnsQueryTimeout: durationpb.New(5e9),
	}
}

func portText(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// domains of a service's routes: everything that comes to its address, or with a wildcard for a hostname only what is
// below it. There the port in a request's host decides where it goes, so it must be the service's.
func (e *Env) domains(svc *waypoint.Service, port uint32) []string {
	if !e.isDynamic(e.serviceTarget(svc, &waypoint.ServicePort{Number: port})) || !strings.HasPrefix(svc.GetHostname(), "*.") {
		return []string{"*"}
	}
	domains := []string{svc.GetHostname() + ":" + portText(port)}
	if port == 80 || port == 443 { // the port of a host without one
		domains = append(domains, svc.GetHostname())
	}
	return domains
}

func (e *Env) isDynamic(t target) bool {
	return t.hostname != "" && !t.edge && e.Destination(t.namespace, t.hostname).GetResolution() == waypoint.Destination_DYNAMIC
}

// dynamicForward looks a request's host up; nil when the target is not dynamic.
func (e *Env) dynamicForward(t target) *hcmv3.HttpFilter {
	if !e.isDynamic(t) {
		return nil
	}
	return httpFilter("envoy.filters.http.dynamic_forward_proxy", &dfphttpv3.FilterConfig{
		ImplementationSpecifier: &dfphttpv3.FilterConfig_DnsCacheConfig{DnsCacheConfig: nameCache()},
	})
}

// dynamicNameFilter looks the server name of a TLS client up.
func dynamicNameFilter(port uint32) *listenerv3.Filter {
	return networkFilter("envoy.filters.network.sni_dynamic_forward_proxy", &snidfpv3.FilterConfig{
		DnsCacheConfig: nameCache(),
		PortSpecifier:  &snidfpv3.FilterConfig_PortValue{PortValue: port},
	})
}

func dynamicDiscovery() *clusterv3.Cluster_ClusterType {
	return &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
		Name: "envoy.clusters.dynamic_forward_proxy",
		TypedConfig: toAny(&dfpclusterv3.ClusterConfig{
			ClusterImplementationSpecifier: &dfpclusterv3.ClusterConfig_DnsCacheConfig{DnsCacheConfig: nameCache()},
			// With HTTP/1.1 a request asked to go elsewhere must not ride on another host's connection.
			AllowCoalescedConnections: false,
			// Whom the certificate must be for is decided in setProtocol and clientTLS, which know what the destination asks for.
			AllowInsecureClusterOptions: true,
		}),
	}}
}
