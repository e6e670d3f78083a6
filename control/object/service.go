package object

import "net/netip"

// ServiceType is spec.type of a Service.
type ServiceType uint8

// Types of Services.
const (
	ClusterIP ServiceType = iota
	NodePort
	LoadBalancer
	ExternalName
)

// String is the type as it is written in YAML.
func (t ServiceType) String() string {
	return [...]string{"ClusterIP", "NodePort", "LoadBalancer", "ExternalName"}[t]
}

// IPFamily of a Service.
type IPFamily uint8

// IP families.
const (
	IPv4 IPFamily = iota + 4
	_
	IPv6
)

// FamilyOf is the family of an address.
func FamilyOf(a netip.Addr) IPFamily {
	if a.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// IPFamilyPolicy is spec.ipFamilyPolicy.
type IPFamilyPolicy uint8

// IP family policies. FamilyUnset means that the object does not say.
const (
	FamilyUnset IPFamilyPolicy = iota
	SingleStack
	PreferDualStack
	RequireDualStack
)

// ServicePort is one port of a Service.
type ServicePort struct {
	Name     string
	Port     uint16
	Protocol Protocol
	// TargetPort is the number to reach at the endpoint; 0 when TargetName is set. It equals Port when the YAML has none.
	TargetPort  uint16
	TargetName  string
	AppProtocol string
	NodePort    uint16
}

// Service is a Kubernetes Service.
type Service struct {
	Meta
	Type ServiceType
	// ClusterIPs are the virtual addresses, without "None".
	ClusterIPs []netip.Addr
	// Headless is set when the cluster IP is "None".
	Headless     bool
	ExternalName string
	Ports        []ServicePort
	// Selector is absent for Services whose EndpointSlices somebody else writes.
	Selector                 Selector
	PublishNotReadyAddresses bool
	// InternalTrafficLocal is internalTrafficPolicy: Local.
	InternalTrafficLocal bool
	// TrafficDistribution is the field, not the annotation: PreferClose, PreferSameZone, PreferSameNode or "".
	TrafficDistribution string
	IPFamilies          []IPFamily
	IPFamilyPolicy      IPFamilyPolicy
	// SessionAffinity is sessionAffinity: ClientIP.
	SessionAffinity bool
	// Ingress are the addresses in status.loadBalancer.
	Ingress []netip.Addr
}

// Key implements Object.
func (s *Service) Key() Key { return Key{Kind: KindService, Namespace: s.Namespace, Name: s.Name} }

// SlicePort is one port of an EndpointSlice. Port 0 means every port.
type SlicePort struct {
	Name        string
	Port        uint16
	Protocol    Protocol
	AppProtocol string
}

// Endpoint is one endpoint of an EndpointSlice.
type Endpoint struct {
	Addresses []netip.Addr // empty for slices of type FQDN
	FQDNs     []string     // only for slices of type FQDN
	Hostname  string
	Node      string
	Zone      string
	// Ready, Serving and Terminating are the conditions with Kubernetes' defaults applied: unset ready means true,
	// unset serving follows ready, unset terminating means false.
	Ready       bool
	Serving     bool
	Terminating bool
	// TargetPod is the key of the pod the endpoint stands for; zero for anything that is not a pod.
	TargetPod Key
}

// EndpointSlice lists endpoints of a Service.
type EndpointSlice struct {
	Meta
	// Service is the name in label kubernetes.io/service-name, "" without one.
	Service   string
	Family    IPFamily // 0 for type FQDN
	Ports     []SlicePort
	Endpoints []Endpoint
}

// Key implements Object.
func (s *EndpointSlice) Key() Key {
	return Key{Kind: KindEndpointSlice, Namespace: s.Namespace, Name: s.Name}
}
