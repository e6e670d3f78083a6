// Package envoy gives the facts of the waypoint API their meaning in Envoy's words: it expands a Gateway, its services,
// routes, policies and destinations into Envoy's bootstrap, listeners, filter chains, routes, clusters, endpoints and
// extension configurations. It is pure: no socket, clock, file or goroutine; the same Env gives the same bytes.
//
// It deliberately does not know where facts come from (waypoint/facts), how the result reaches Envoy (waypoint/agent), or
// anything of Kubernetes. Everything it makes is for an unmodified Envoy 1.40.
//
// The way of a connection through a waypoint:
//
//	peer --mTLS, HTTP/2 CONNECT--> connect_terminate --> main_internal: one filter chain per service and port
//	  --> cluster of the service --> connect_originate --mTLS, HTTP/2 CONNECT--> the pod's node proxy
//
// Start reading here, then terminate.go, internal.go, chain.go, cluster.go and originate.go follow that way; detect.go is the
// way around where a protocol must be found out, edge.go the start of it for clients outside the mesh.
package envoy

import (
	"log/slog"
	"net/netip"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
)

// Env is what the expansion of one thing may look at. It is immutable while in use: an expansion that ran with it can be
// repeated with the same result.
type Env struct {
	Gateway *waypoint.Gateway
	Options Options

	// Services are all services served here, in any order.
	Services func() []*waypoint.Service
	// Service is a service served here; nil otherwise.
	Service func(namespace, hostname string) *waypoint.Service
	// Destinations are all destinations known here, in any order.
	Destinations func() []*waypoint.Destination
	// Destination is how a service is talked to; nil if unknown.
	Destination func(namespace, hostname string) *waypoint.Destination
	// Address is the service as istio.workload has it; nil if unknown.
	Address func(namespace, hostname string) *workload.Service
	// Endpoints are the workloads behind a service.
	Endpoints func(namespace, hostname string) []*workload.Workload
	// Workloads are those bound to the Gateway, to be served when addressed by their own IP.
	Workloads func() []*workload.Workload
	// VirtualHosts are those of an edge gateway, in any order.
	VirtualHosts func() []*waypoint.VirtualHost
	// Secret is a certificate by its resource name; nil if unknown. A nil func leaves certificates unchecked.
	Secret func(name string) *waypoint.Secret
	// WasmFile is where a Wasm module was put after its hash was checked; nil: no modules are fetched. An error says why
	// it is not there, or not yet.
	WasmFile func(url, sha256 string) (string, error)
}

// Options is what the process around Envoy decides; facts never change it.
type Options struct {
	// NodeID and NodeCluster name this Envoy to whoever it talks to.
	NodeID      string
	NodeCluster string

	// Namespace, Pod, Workload, ServiceAccount and TrustDomain are this proxy's own identity.
	Namespace      string
	Pod            string
	Workload       string
	ServiceAccount string
	TrustDomain    string
	// Cluster and Network are where it runs.
	Cluster string
	Network string
	// Address is the pod's own.
	Address netip.Addr
	// Node, Region, Zone and Subzone say what is near.
	Node    string
	Region  string
	Zone    string
	Subzone string

	// Bind is the address of the listeners for others; the unspecified IPv6 address (the default) takes both families.
	Bind netip.Addr
	// Ports. Zero takes the mesh's (15008, 15021, 15090, 15000); AdminPort is on loopback. HBONEPort is the port
	// listened on, PeerHBONEPort the port peers are dialed at.
	HBONEPort     uint32
	PeerHBONEPort uint32
	ReadyPort     uint32
	StatsPort     uint32
	AdminPort     uint32

	// XDSSocket and SDSSocket are unix sockets of the agent.
	XDSSocket string
	SDSSocket string
	// AgentToken is what the agent wants to see of who opens a stream to it, in HeaderAgentToken. Empty: nothing.
	AgentToken string
	// AdminSocket is where Envoy's admin interface is instead of AdminPort: a port on loopback can be reached by whoever
	// has the proxy dial a name of his choice.
	AdminSocket string

	// InlineChains puts filter chains into the listener instead of delivering them one by one (FCDS).
	InlineChains bool
	// MaxConnections bounds connections from peers, MaxHeap the memory in bytes; zero takes the defaults.
	MaxConnections uint64
	MaxHeap        uint64
	// MaxMetricSeries bounds the series of each metric; zero takes the default.
	MaxMetricSeries uint32

	// Stats of Envoy's own that are kept besides a short list, by prefix, suffix or RE2 of the whole name, as
	// proxyStatsMatcher has them.
	StatsPrefixes, StatsSuffixes, StatsRegexps []string

	// Runtime is added to the bootstrap's static runtime layer.
	Runtime map[string]string
	// LogLevel is only for the agent that starts Envoy; it is here so that one value describes a proxy.
	LogLevel slog.Level
}

// Problem says what could not be expanded. The part concerned answers with an error or denies; everything else stands.
type Problem struct {
	// Object is what to mend, as "VirtualService namespace/name".
	Object string
	// Text says what is wrong and how to mend it.
	Text string
}

// target is what policies apply to: one port of a service, traffic to pods by their own address, or a host of an edge
// gateway.
type target struct {
	// key tells targets apart in names: "namespace/hostname", "direct", or "edge/listener/hostname".
	key       string
	namespace string
	hostname  string
	// port is the service's; zero when any port may be meant.
	port uint32
	// protocol is the port's.
	protocol waypoint.Protocol
	// edge: the peer is a client outside the mesh and has no mesh identity.
	edge bool
	// policies apply all; the Gateway's come first.
	policies []*waypoint.Policies
}

func (e *Env) serviceTarget(svc *waypoint.Service, port *waypoint.ServicePort) target {
	return target{
		key:       svc.GetNamespace() + "/" + svc.GetHostname(),
		namespace: svc.GetNamespace(),
		hostname:  svc.GetHostname(),
		port:      port.GetNumber(),
		protocol:  port.GetProtocol(),
		policies:  policies(e.Gateway.GetPolicies(), svc.GetPolicies()),
	}
}

func (e *Env) directTarget() target {
	return target{key: "direct", policies: policies(e.Gateway.GetPolicies())}
}

func (e *Env) edgeTarget(h *waypoint.VirtualHost) target {
	return target{
		key:      "edge/" + h.GetListener() + "/" + h.GetHostname(),
		hostname: h.GetHostname(),
		edge:     true,
		policies: policies(e.Gateway.GetPolicies(), h.GetPolicies()),
	}
}

// policies leaves out what is not there.
func policies(all ...*waypoint.Policies) []*waypoint.Policies {
	var out []*waypoint.Policies
	for _, p := range all {
		if p != nil {
			out = append(out, p)
		}
	}
	return out
}
