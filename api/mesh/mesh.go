// Package mesh holds the names every part of the mesh must agree on: ports, marks, labels, annotations, type URLs and
// the spelling of resource names. It imports nothing but the standard library and knows no behaviour.
//
// The values are those of Istio ambient, so that YAML, kernels rules and wire traffic mean the same to either mesh.
package mesh

// Ports, all TCP unless said otherwise.
const (
	// PortOutbound receives what a pod sends, redirected inside the pod's network namespace.
	PortOutbound = 15001
	// PortInboundPlaintext receives what reaches a pod outside HBONE, redirected inside the pod's network namespace.
	PortInboundPlaintext = 15006
	// PortHBONE is where ztunnels, waypoints and gateways accept HBONE.
	PortHBONE = 15008
	// PortDNS is the node proxy's DNS listener inside a pod, UDP and TCP, on loopback addresses.
	PortDNS = 15053
	// PortSOCKS5 is the optional SOCKS5 listener of a node proxy.
	PortSOCKS5 = 15080
	// PortAdmin, PortMetrics and PortReadiness belong to the proxies' own network namespace; PortAdmin is loopback only.
	PortAdmin     = 15000
	PortMetrics   = 15020
	PortReadiness = 15021
	// PortXDS is TLS xDS (and CreateCertificate where both live in one process).
	PortXDS = 15012
	// PortMonitoring is the control plane's metrics port.
	PortMonitoring = 15014
)

// Marks on sockets and connections inside a pod's network namespace.
const (
	// MarkMask selects the bits of a firewall mark the mesh owns.
	MarkMask = 0xfff
	// MarkProxy is on every socket the node proxy opens in a pod: such packets are never redirected again.
	MarkProxy = 0x539
	// MarkConn is put on connections opened by the proxy towards the app, so that replies come back to the proxy.
	MarkConn = 0x111
	// RouteTable and RulePriority bring packets marked MarkConn back to loopback.
	RouteTable   = 100
	RulePriority = 32764
)

// Source addresses of kubelet probes after the node's SNAT.
const (
	ProbeSourceIPv4 = "169.254.7.127"
	ProbeSourceIPv6 = "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"
)

// Labels and annotations, in Istio's spelling.
const (
	LabelDataplaneMode       = "istio.io/dataplane-mode"
	DataplaneModeAmbient     = "ambient"
	DataplaneModeNone        = "none"
	LabelUseWaypoint         = "istio.io/use-waypoint"
	LabelUseWaypointNS       = "istio.io/use-waypoint-namespace"
	LabelWaypointFor         = "istio.io/waypoint-for"
	LabelIngressUseWaypoint  = "istio.io/ingress-use-waypoint"
	LabelUseWaypointCanary   = "istio.io/use-waypoint-canary"
	LabelUseWaypointCanaryNS = "istio.io/use-waypoint-canary-namespace"
	LabelRevision            = "istio.io/rev"
	LabelNetwork             = "topology.istio.io/network"
	LabelSubzone             = "topology.istio.io/subzone"
	LabelRegion              = "topology.kubernetes.io/region"
	LabelZone                = "topology.kubernetes.io/zone"
	LabelTunnel              = "networking.istio.io/tunnel"
	LabelWorkloadName        = "service.istio.io/workload-name"
	LabelCanonicalName       = "service.istio.io/canonical-name"
	LabelCanonicalRevision   = "service.istio.io/canonical-revision"
	LabelGatewayManaged      = "gateway.istio.io/managed"
	LabelGatewayName         = "gateway.networking.k8s.io/gateway-name"
	// LabelDefaultsForClass is on ConfigMaps of the system namespace with an overlay for all Gateways of a class.
	LabelDefaultsForClass = "gateway.istio.io/defaults-for-class"
	LabelGatewayClassName = "gateway.networking.k8s.io/gateway-class-name"

	AnnotationRedirection         = "ambient.istio.io/redirection"
	RedirectionEnabled            = "enabled"
	RedirectionPending            = "pending"
	AnnotationBypassInbound       = "ambient.istio.io/bypass-inbound-capture"
	AnnotationDNSCapture          = "ambient.istio.io/dns-capture"
	AnnotationVirtualInterfaces   = "istio.io/reroute-virtual-interfaces"
	AnnotationSidecarStatus       = "sidecar.istio.io/status"
	AnnotationDryRun              = "istio.io/dry-run"
	AnnotationTrafficDistribution = "networking.istio.io/traffic-distribution"
	AnnotationCanaryWeight        = "istio.io/use-waypoint-canary-weight"
	AnnotationInboundBinding      = "ambient.istio.io/waypoint-inbound-binding"
	AnnotationNameOverride        = "gateway.istio.io/name-override"
	AnnotationServiceAccount      = "gateway.istio.io/service-account"
	AnnotationControllerVersion   = "gateway.istio.io/controller-version"
	// AnnotationForAccount on a waypoint's Gateway makes it the waypoint of that account's workloads in its namespace.
	AnnotationForAccount = "istio.io/for-service-account"

	// AnnotationEnforcement on a Service, ServiceEntry, pod or Namespace says what becomes of traffic that should have come
	// through a waypoint with a policy and did not: "closed" (refused, the default) or "open" (let through, counted).
	AnnotationEnforcement = "ambit.io/waypoint-enforcement"
	EnforcementClosed     = "closed"
	EnforcementOpen       = "open"
)

// GatewayClasses.
const (
	GatewayClassWaypoint = "istio-waypoint"
	GatewayClassIngress  = "istio"
	GatewayClassEastWest = "istio-east-west"
)

// What a proxy says of itself in the metadata of its xDS node. MetadataVersion is ours; Istio's proxies say MetadataIstioVersion,
// which ours keep quiet about: a control plane of Istio's would compare it with its own releases.
const (
	MetadataCluster      = "CLUSTER_ID"
	MetadataVersion      = "AMBIT_VERSION"
	MetadataIstioVersion = "ISTIO_VERSION"
)

// Defaults.
const (
	DefaultTrustDomain    = "cluster.local"
	DefaultClusterDomain  = "cluster.local"
	DefaultClusterID      = "Kubernetes"
	DefaultServiceAccount = "default"
	DefaultRevision       = "default"
	// SystemNamespace is where the mesh's own parts live, and the root namespace of mesh-wide policy.
	SystemNamespace = "ambit-system"
	// TokenAudience is the audience of the tokens proxies present to the control plane and the CA.
	TokenAudience = "istio-ca"
)

// The oldest kernel on which agents redirect with BPF programs, which is what `ambitctl check` asks of nodes: the first whose
// iterator over TCP sockets may put a socket into a map. Earlier ones hold the socket's spin lock while the program runs, and
// taking it again hangs the machine. Linux commit "bpf: tcp: Avoid taking fast sock lock in iterator".
const (
	EBPFKernelMajor = 6
	EBPFKernelMinor = 5
)

// Type URLs of delta xDS.
const (
	TypeAddress       = "type.googleapis.com/istio.workload.Address"
	TypeWorkload      = "type.googleapis.com/istio.workload.Workload"
	TypeAuthorization = "type.googleapis.com/istio.security.Authorization"

	// The waypoint API; resources belong to a Gateway, see GatewayScope.
	TypeWaypointGateway     = "type.googleapis.com/ambit.waypoint.Gateway"
	TypeWaypointVirtualHost = "type.googleapis.com/ambit.waypoint.VirtualHost"
	TypeWaypointService     = "type.googleapis.com/ambit.waypoint.Service"
	TypeWaypointDestination = "type.googleapis.com/ambit.waypoint.Destination"
	TypeWaypointSecret      = "type.googleapis.com/ambit.waypoint.Secret"
)

// IsWaypointType reports whether resources of the type belong to a gateway and are named after it.
func IsWaypointType(typeURL string) bool {
	switch typeURL {
	case TypeWaypointGateway, TypeWaypointVirtualHost, TypeWaypointService, TypeWaypointDestination, TypeWaypointSecret:
		return true
	}
	return false
}

// Extensions of istio.workload resources, by name. Who does not know them ignores them.
const (
	ExtensionGuards = "ambit.io/guards"
	ExtensionLabels = "ambit.io/labels"
)

// What a proxy calls itself in user_agent_name of its xDS node. Which of the extensions above it knows it says in
// client_features, by their names: who does not say so is taken to ignore them.
const (
	AgentZtunnel  = "ambit-ztunnel"
	AgentWaypoint = "ambit-waypoint"
)

// Request headers of an HBONE CONNECT with which a waypoint tells the destination's node proxy whom it speaks for. They
// are believed of a waypoint bound to the destination and of nobody else.
const (
	HeaderClientIdentity = "x-ambit-client-identity" // a SPIFFE id
	HeaderClientAddress  = "x-ambit-client-address"  // an IP address, without a port
)

// HeaderRefusal of an answer to CONNECT says why it is a refusal, where the caller can do something about it: a reason's code, a colon, a sentence.
const HeaderRefusal = "x-ambit-refusal"

// GatewayScope is the name under which a proxy subscribes to every resource that belongs to its Gateway, and to the
// workloads bound to it.
func GatewayScope(namespace, name string) string { return namespace + "/" + name + "/*" }

// StaticStrictPolicy is the name, in the root namespace, of the policy that refuses plaintext.
const StaticStrictPolicy = "istio_converted_static_strict"

// NetworkPolicyPrefix begins the names of policies made of Kubernetes NetworkPolicies, which follow, joined by "+". Nothing
// else can have such a name.
const NetworkPolicyPrefix = "networkpolicy:"

// PodUID is the workload uid of a pod.
func PodUID(cluster, namespace, name string) string {
	return cluster + "//Pod/" + namespace + "/" + name
}

// WorkloadEntryUID is the workload uid of a WorkloadEntry.
func WorkloadEntryUID(cluster, namespace, name string) string {
	return cluster + "/networking.istio.io/WorkloadEntry/" + namespace + "/" + name
}

// ServiceEntryUID is the workload uid of one inline endpoint of a ServiceEntry.
func ServiceEntryUID(cluster, namespace, name, addr string) string {
	return cluster + "/networking.istio.io/ServiceEntry/" + namespace + "/" + name + "/" + addr
}

// EndpointSliceUID is the workload uid of one address of an EndpointSlice without a pod behind it.
func EndpointSliceUID(cluster, namespace, name, addr string) string {
	return cluster + "/discovery.k8s.io/EndpointSlice/" + namespace + "/" + name + "/" + addr
}

// ServiceName is the resource name of a service.
func ServiceName(namespace, hostname string) string { return namespace + "/" + hostname }

// ServiceHostname is the DNS name of a Kubernetes Service.
func ServiceHostname(namespace, name, domain string) string {
	return name + "." + namespace + ".svc." + domain
}
