package object

import "net/netip"

// Namespace is a namespace; its labels and annotations are defaults for what lives in it.
type Namespace struct {
	Meta
}

// Key implements Object.
func (n *Namespace) Key() Key { return Key{Kind: KindNamespace, Name: n.Name} }

// Node is a machine pods run on; its labels give the locality of its pods.
type Node struct {
	Meta
	// Addresses are the node's own IP addresses, the internal one first.
	Addresses []netip.Addr
	PodCIDRs  []netip.Prefix
	Ready     bool
}

// Key implements Object.
func (n *Node) Key() Key { return Key{Kind: KindNode, Name: n.Name} }

// ServiceAccount is an identity pods can have.
type ServiceAccount struct {
	Meta
}

// Key implements Object.
func (s *ServiceAccount) Key() Key {
	return Key{Kind: KindServiceAccount, Namespace: s.Namespace, Name: s.Name}
}

// Phase of a pod.
type Phase uint8

// Phases of pods. An object without a status is Pending.
const (
	Pending Phase = iota
	Running
	Succeeded
	Failed
	Unknown
)

// String is the phase as it is written in YAML.
func (p Phase) String() string {
	switch p {
	case Pending:
		return "Pending"
	case Running:
		return "Running"
	case Succeeded:
		return "Succeeded"
	case Failed:
		return "Failed"
	}
	return "Unknown"
}

// Terminal reports whether the pod has ended and will not run again.
func (p Phase) Terminal() bool { return p == Succeeded || p == Failed }

// Owner is the controlling owner reference of a pod.
type Owner struct {
	APIVersion string
	Kind       string
	Name       string
}

// Protocol of a port.
type Protocol uint8

// Protocols; the zero value is TCP, which is also Kubernetes' default.
const (
	TCP Protocol = iota
	UDP
	SCTP
)

// String is the protocol as it is written in YAML.
func (p Protocol) String() string {
	switch p {
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return "TCP"
}

// ContainerPort is a named port of a pod's container.
type ContainerPort struct {
	Name     string
	Port     uint16
	Protocol Protocol
}

// Pod is one pod with what its status says.
type Pod struct {
	Meta
	// IPs are status.podIPs, or status.podIP alone; empty while the pod has none.
	IPs            []netip.Addr
	HostIP         netip.Addr
	Node           string
	ServiceAccount string // "default" when the YAML leaves it out
	Owner          Owner  // the controller, zero without one
	// Ports are the named ports of the containers and of the restartable init containers, in the order of the YAML.
	Ports       []ContainerPort
	Hostname    string
	Subdomain   string
	Phase       Phase
	Ready       bool // condition Ready is True
	HostNetwork bool
}

// Key implements Object.
func (p *Pod) Key() Key { return Key{Kind: KindPod, Namespace: p.Namespace, Name: p.Name} }

// NamedPort finds the number of a container port by its name and protocol.
func (p *Pod) NamedPort(name string, proto Protocol) (uint16, bool) {
	for _, c := range p.Ports {
		if c.Name == name && c.Protocol == proto {
			return c.Port, true
		}
	}
	return 0, false
}
