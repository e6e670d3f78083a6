package object

import "net/netip"

// Resolution of a ServiceEntry.
type Resolution uint8

// Resolutions.
const (
	ResolutionNone Resolution = iota
	ResolutionStatic
	ResolutionDNS
	ResolutionDNSRoundRobin
	ResolutionDynamicDNS
)

// String is the resolution as it is written in YAML.
func (r Resolution) String() string {
	return [...]string{"NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"}[r]
}

// EntryPort is one port of a ServiceEntry.
type EntryPort struct {
	Name   string
	Number uint16
	// Protocol is upper case as in YAML: HTTP, HTTPS, GRPC, TLS, TCP … TCP when unset.
	Protocol string
	// TargetPort equals Number when the YAML has none.
	TargetPort uint16
}

// HostAddress is an address assigned to one host of a ServiceEntry.
type HostAddress struct {
	Host    string // "" when the status names no host
	Address netip.Addr
}

// ServiceEntry describes services outside Kubernetes' own Services.
type ServiceEntry struct {
	Meta
	Hosts []string // lower case, without a trailing dot
	// Addresses are spec.addresses; a single address is a prefix of full length.
	Addresses []netip.Prefix
	// Assigned are status.addresses, the automatically allocated ones.
	Assigned         []HostAddress
	Ports            []EntryPort
	Resolution       Resolution
	MeshInternal     bool // location: MESH_INTERNAL
	Endpoints        []Workload
	WorkloadSelector Selector
	SubjectAltNames  []string
	ExportTo         []string
}

// Key implements Object.
func (s *ServiceEntry) Key() Key {
	return Key{Kind: KindServiceEntry, Namespace: s.Namespace, Name: s.Name}
}

// NamedPort is an entry of a workload's port map: the number behind a service port's name.
type NamedPort struct {
	Name string
	Port uint16
}

// Workload is a workload outside Kubernetes: a WorkloadEntry's spec or an inline endpoint of a ServiceEntry.
type Workload struct {
	// Exactly one of Address, Host and Unix is set, unless the YAML leaves the address to Network's gateway.
	Address netip.Addr
	Host    string
	Unix    string
	// Ports are sorted by name.
	Ports          []NamedPort
	Labels         Labels
	Network        string
	Locality       string // region/zone/subzone
	Weight         uint32 // 0 when unset
	ServiceAccount string
}

// Port finds the number behind a service port's name.
func (w *Workload) Port(name string) (uint16, bool) {
	for _, p := range w.Ports {
		if p.Name == name {
			return p.Port, true
		}
	}
	return 0, false
}

// WorkloadEntry is one workload outside Kubernetes. Its labels are both those of the object and those of its spec; the
// spec's are in Workload.Labels.
type WorkloadEntry struct {
	Meta
	Workload Workload
}

// Key implements Object.
func (w *WorkloadEntry) Key() Key {
	return Key{Kind: KindWorkloadEntry, Namespace: w.Namespace, Name: w.Name}
}
