package state

import (
	"net/netip"

	"github.com/ambit-mesh/ambit/ca/identity"
)

// Tunnel is how a workload receives mesh traffic.
type Tunnel uint8

// The tunnel protocols, named as config_dump shows them.
const (
	TCP Tunnel = iota
	HBONE
)

// String returns "TCP" or "HBONE".
func (t Tunnel) String() string {
	if t == HBONE {
		return "HBONE"
	}
	return "TCP"
}

// WorkloadType is the kind of object a workload belongs to.
type WorkloadType uint8

// The workload types, in the order of the wire enum.
const (
	Deployment WorkloadType = iota
	CronJob
	Pod
	Job
)

// String returns the type as baggage and config_dump spell it: "deployment", "cronjob", "pod", "job".
func (t WorkloadType) String() string {
	return [...]string{"deployment", "cronjob", "pod", "job"}[t&3]
}

// NetAddr is an address on a named network. The same IP may exist on several networks.
type NetAddr struct {
	Network string
	Addr    netip.Addr
}

// String returns "network/ip", the form of config_dump and of on-demand requests.
func (a NetAddr) String() string { return a.Network + "/" + a.Addr.String() }

// NetPrefix is a CIDR range on a named network.
type NetPrefix struct {
	Network string
	Prefix  netip.Prefix
}

// String returns "network/ip/len".
func (p NetPrefix) String() string { return p.Network + "/" + p.Prefix.String() }

// Gateway names a waypoint or a network gateway: either by hostname (a service) or by address.
type Gateway struct {
	Namespace, Hostname string  // by hostname, when Hostname is set
	Addr                NetAddr // by address otherwise
	Port                uint16  // the service port that accepts HBONE
}

// Locality is where a workload runs.
type Locality struct{ Region, Zone, Subzone string }

// AppTunnel is a tunnel the application itself terminates, as a waypoint in sandwich mode does.
type AppTunnel struct {
	Proxy bool // PROXY protocol v2 first
	Port  uint16
}

// ServicePort is one port of a service or of a workload as its endpoint.
type ServicePort struct {
	Service uint16
	Target  uint16 // 0: resolved per workload
}

// Endpoint is a workload's membership in one service.
type Endpoint struct {
	Workload *Workload
	Service  string        // namespace/hostname
	Ports    []ServicePort // what the workload itself maps; may be empty
}

// TargetPort returns the port the endpoint maps a service port to, or 0.
func (e *Endpoint) TargetPort(service uint16) uint16 {
	for _, p := range e.Ports {
		if p.Service == service {
			return p.Target
		}
	}
	return 0
}

// Workload is one thing that sends or receives traffic, usually a pod. It is immutable.
type Workload struct {
	UID                   string
	Name, Namespace       string
	Addrs                 []netip.Addr
	Hostname              string // resolved on demand when there is no address
	Network               string
	TrustDomain           string
	ServiceAccount        string
	Node                  string
	ClusterID             string
	CanonicalName         string
	CanonicalRevision     string
	WorkloadName          string
	Locality              *Locality // nil when none is known
	Waypoint              *Gateway
	NetworkGateway        *Gateway
	AppTunnel             *AppTunnel
	AuthorizationPolicies []string   // namespace/name of the selector policies
	Endpoints             []Endpoint // one per service, in order of name
	Guards                *Guards    // nil: traffic need not come through a waypoint
	Capacity              uint32     // relative weight, 0 is never chosen
	Tunnel                Tunnel
	Type                  WorkloadType
	Healthy               bool
	NativeTunnel          bool
	HostNetwork           bool
}

// Identity returns the SPIFFE identity the workload runs as.
func (w *Workload) Identity() identity.ID {
	return identity.ID{TrustDomain: w.TrustDomain, Namespace: w.Namespace, ServiceAccount: w.ServiceAccount}
}

// HasAddr reports whether an IP belongs to the workload.
func (w *Workload) HasAddr(a netip.Addr) bool {
	for _, own := range w.Addrs {
		if own == a {
			return true
		}
	}
	return false
}

// Endpoint returns the workload's membership in a service, nil when it is not part of it.
func (w *Workload) Endpoint(service string) *Endpoint {
	for i := range w.Endpoints {
		if w.Endpoints[i].Service == service {
			return &w.Endpoints[i]
		}
	}
	return nil
}

// Mode is how a service's endpoints are chosen.
type Mode uint8

// The modes, in the order of the wire enum.
const (
	Unspecified Mode = iota
	Strict
	Failover
	Passthrough
)

// String returns the mode as config_dump spells it.
func (m Mode) String() string {
	return [...]string{"Standard", "Strict", "Failover", "Passthrough"}[m&3]
}

// Scope is one thing that may be equal between a client and an endpoint.
type Scope uint8

// The scopes, in the order of the wire enum.
const (
	ScopeUnspecified Scope = iota
	Region
	Zone
	Subzone
	Node
	Cluster
	Network
)

// String returns the scope as config_dump spells it.
func (s Scope) String() string {
	if s > Network {
		return "Unspecified"
	}
	return [...]string{"Unspecified", "Region", "Zone", "Subzone", "Node", "Cluster", "Network"}[s]
}

// Families restricts the address families of a service.
type Families uint8

// The family settings, in the order of the wire enum.
const (
	Automatic Families = iota
	IPv4Only
	IPv6Only
	Dual
)

// Allow reports whether an address may be used for the service.
func (f Families) Allow(a netip.Addr) bool {
	switch f {
	case IPv4Only:
		return a.Is4()
	case IPv6Only:
		return a.Is6()
	}
	return true
}

// AppProtocol is what a service says it speaks on a port.
type AppProtocol uint8

// Port is one port of a service.
type Port struct {
	ServicePort
	App AppProtocol
}

// WeightedGateway is one of several waypoints traffic is split between.
type WeightedGateway struct {
	Gateway
	Weight uint32
}

// Service is a name and usually a virtual IP in front of workloads. It is immutable; its endpoints are found in the
// Snapshot, because they change far more often.
type Service struct {
	Name, Namespace, Hostname string
	VIPs                      []NetAddr
	CIDRs                     []NetPrefix
	Ports                     []Port
	SubjectAltNames           []string      // as received
	Accept                    []identity.ID // those of SubjectAltNames that are SPIFFE ids
	Waypoint                  *Gateway
	Waypoints                 []WeightedGateway // if any, sampled instead of Waypoint
	Preference                []Scope
	Guards                    *Guards // set where no proxy of the mesh is at the other end to keep traffic out
	Mode                      Mode
	Families                  Families
	AllowUnhealthy            bool
	Canonical                 bool
	Private                   bool // visible in its own namespace only
	IngressUseWaypoint        bool

	key string
}

// Key returns the service's resource name, namespace/hostname.
func (s *Service) Key() string { return s.key }

// Port returns the service's port with this number.
func (s *Service) Port(number uint16) (Port, bool) {
	for _, p := range s.Ports {
		if p.Service == number {
			return p, true
		}
	}
	return Port{}, false
}

// VisibleFrom reports whether clients of a namespace may use the service.
func (s *Service) VisibleFrom(namespace string) bool { return !s.Private || s.Namespace == namespace }
