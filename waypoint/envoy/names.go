package envoy

import (
	"strconv"
	"strings"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// Names of what there is once in every configuration.
const (
	// ListenerTerminate accepts HBONE from peers; ListenerInternal sorts its streams by destination; ListenerOriginate
	// opens HBONE to endpoints. Istio pilot/pkg/networking/core/waypoint.go has the same names.
	ListenerTerminate = "connect_terminate"
	ListenerInternal  = "main_internal"
	ListenerOriginate = "connect_originate"

	// ClusterXDS and ClusterSDS are the agent's sockets, ClusterAdmin is Envoy's own admin port.
	ClusterXDS = "agent-xds"
	ClusterSDS = "agent-sds"
	// HeaderAgentToken is metadata of streams to the agent, see Options.AgentToken.
	HeaderAgentToken = "x-ambit-agent-token"
	ClusterAdmin     = "admin"
	// ClusterEncap reaches pods by their own address.
	ClusterEncap = "encap"
	// ClusterBlackHole has no endpoints: what goes there fails at once.
	ClusterBlackHole = "blackhole"

	// SecretIdentity is the proxy's own certificate and SecretRoots the roots it trusts, as SDS resources.
	SecretIdentity = "default"
	SecretRoots    = "ROOTCA"

	chainDirectHTTP = "direct-http"
	chainDirectTCP  = "direct-tcp"
	chainBlackHole  = "blackhole"
)

// Filter state, which connect_terminate sets from the verified peer and hands over to main_internal, once. Values never
// come from anything inside the tunnel.
const (
	// statePeer is the peer's SPIFFE id, stateSelf our own, stateAuthority what the CONNECT asked for.
	statePeer      = "io.istio.peer_principal"
	stateSelf      = "io.istio.local_principal"
	stateAuthority = "io.istio.connect_authority"
	// stateSource holds "workload", "namespace", ... of the source, as its baggage says: good for telemetry only.
	stateSource = "ambit.source."
	// stateClient and stateClientAddress are who a stream to an endpoint is opened for.
	stateClient        = "ambit.client"
	stateClientAddress = "ambit.client_address"
	// stateDestination is the pod address that was dialed, for traffic not addressed to a service.
	stateDestination = "ambit.destination"

	// stateDestinationSAN is the identity the pod there must have.
	stateDestinationSAN = "ambit.destination_san"

	stateLocalIP  = "envoy.filters.listener.original_dst.local_ip"
	stateRemoteIP = "envoy.filters.listener.original_dst.remote_ip"
	stateSANs     = "envoy.network.upstream_subject_alt_names"

	// hashable is the factory of filter state strings that also keep upstream connections of different values apart.
	hashable = "envoy.hashable_string"

	// metaPeer is endpoint metadata about the workload: san, workload, namespace, ...; metaService is cluster metadata.
	metaPeer    = "ambit.peer"
	metaService = "ambit.service"
)

// kinds of clusters and chains, the third part of their names.
const (
	kindHTTP = "http"
	kindTCP  = "tcp"
)

// kindOf is the kind of cluster a protocol needs; AUTO needs both and is called http here.
func kindOf(p waypoint.Protocol) string {
	if p == waypoint.Protocol_TCP || p == waypoint.Protocol_TLS {
		return kindTCP
	}
	return kindHTTP
}

// servedName is the name of a cluster of a service served here and of the chain and routes of the same port:
// inbound-vip|<port>|<http|tcp>[/<subset>]|<hostname>, as Istio pilot/pkg/model/context.go BuildSubsetKey has them.
func servedName(port uint32, kind, subset, hostname string) string {
	if subset != "" {
		kind += "/" + subset
	}
	return "inbound-vip|" + strconv.FormatUint(uint64(port), 10) + "|" + kind + "|" + hostname
}

// outboundName is the name of a cluster of a service that is not served here.
func outboundName(port uint32, subset, hostname string) string {
	return "outbound|" + strconv.FormatUint(uint64(port), 10) + "|" + subset + "|" + hostname
}

// clusterName is the cluster that leads to a backend, for HTTP or TCP.
func (e *Env) clusterName(b *waypoint.Backend, kind string) string {
	label := e.label(b.GetNamespace(), b.GetHostname())
	if e.Service(b.GetNamespace(), b.GetHostname()) != nil {
		return servedName(b.GetPort(), kind, b.GetSubset(), label)
	}
	return outboundName(b.GetPort(), b.GetSubset(), label)
}

// ClusterFor is the name of the cluster that leads to a backend.
func (e *Env) ClusterFor(b *waypoint.Backend, tcp bool) string {
	if tcp {
		return e.clusterName(b, kindTCP)
	}
	return e.clusterName(b, kindHTTP)
}

// Panics reports whether a backend whose endpoints all failed is sent to all the same.
func (e *Env) Panics(b *waypoint.Backend) bool {
	return policyFor(e.Destination(b.GetNamespace(), b.GetHostname()), b.GetPort(), b.GetSubset()).GetOutliers().GetMinHealthPercent().GetValue() > 0
}

// label is the hostname in names of clusters, chains and routes. Namespaces that share a proxy may each have a
// ServiceEntry for one hostname: what is theirs must not be mixed up, or one would have the other's traffic, or its
// service without its policies. The service that the name means everywhere has the plain name.
func (e *Env) label(namespace, hostname string) string {
	_, after, _ := strings.Cut(hostname, ".")
	if strings.HasPrefix(after, namespace+".svc.") || e.Address == nil {
		return hostname
	}
	if svc := e.Address(namespace, hostname); svc == nil || svc.GetCanonical() {
		return hostname
	}
	return namespace + "/" + hostname
}

// edgeName is the name of an edge listener's filter chain, routes or virtual host.
func edgeName(parts ...string) string { return "edge|" + strings.Join(parts, "|") }
