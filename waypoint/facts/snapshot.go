package facts

import (
	"slices"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
)

// A Snapshot is everything known at one moment. It and the messages in it are immutable: nobody may change either.
type Snapshot struct {
	generation   uint64
	gateway      *waypoint.Gateway
	services     table[*waypoint.Service]     // by namespace/hostname
	destinations table[*waypoint.Destination] // by namespace/hostname
	hosts        table[*waypoint.VirtualHost] // by resource name
	secrets      table[*waypoint.Secret]      // by resource name
	addresses    table[*workload.Service]     // by namespace/hostname
	workloads    table[*held]                 // by uid
	// endpoints are sorted by uid, so that the same facts always give the same answer.
	endpoints table[[]*held] // by namespace/hostname
	bound     []*held
}

// Generation counts the responses of the control plane that led to this snapshot.
func (s *Snapshot) Generation() uint64 { return s.generation }

// Gateway is the Gateway this proxy is an instance of; nil until the control plane has sent it.
func (s *Snapshot) Gateway() *waypoint.Gateway { return s.gateway }

// Service is a service behind the Gateway; nil if it is not.
func (s *Snapshot) Service(namespace, hostname string) *waypoint.Service {
	v, _ := s.services.get(mesh.ServiceName(namespace, hostname))
	return v
}

// Services lists the services behind the Gateway by name.
func (s *Snapshot) Services() []*waypoint.Service { return s.services.values() }

// Destination says how a service is talked to; nil if nothing was said.
func (s *Snapshot) Destination(namespace, hostname string) *waypoint.Destination {
	v, _ := s.destinations.get(mesh.ServiceName(namespace, hostname))
	return v
}

// Destinations lists the destinations by name.
func (s *Snapshot) Destinations() []*waypoint.Destination { return s.destinations.values() }

// VirtualHosts lists the virtual hosts of an edge gateway by name.
func (s *Snapshot) VirtualHosts() []*waypoint.VirtualHost { return s.hosts.values() }

// Secret is a certificate by its resource name; nil if there is none.
func (s *Snapshot) Secret(name string) *waypoint.Secret {
	v, _ := s.secrets.get(name)
	return v
}

// SecretNames lists the resource names of the secrets.
func (s *Snapshot) SecretNames() []string {
	out := make([]string, 0, s.secrets.n)
	for name := range s.secrets.all() {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// Address is a service as istio.workload has it; nil if it is not known.
func (s *Snapshot) Address(namespace, hostname string) *workload.Service {
	v, _ := s.addresses.get(mesh.ServiceName(namespace, hostname))
	return v
}

// Endpoints are the workloads behind a service, sorted by uid. They are decoded anew for every caller.
func (s *Snapshot) Endpoints(namespace, hostname string) []*workload.Workload {
	v, _ := s.endpoints.get(mesh.ServiceName(namespace, hostname))
	return workloads(v)
}

// Bound are the workloads bound to the Gateway themselves, sorted by uid. They are decoded anew for every caller.
func (s *Snapshot) Bound() []*workload.Workload { return workloads(s.bound) }

// Counts are the numbers of things known, for metrics and logs.
type Counts struct{ Services, Destinations, VirtualHosts, Secrets, Addresses, Workloads int }

// Counts counts.
func (s *Snapshot) Counts() Counts {
	return Counts{s.services.n, s.destinations.n, s.hosts.n, s.secrets.n, s.addresses.n, s.workloads.n}
}

// Set is a set of names.
type Set map[string]struct{}

// Has reports whether the name is in the set.
func (s Set) Has(name string) bool { _, ok := s[name]; return ok }

// Changes is what became different between two snapshots: names of things that came, changed or went.
type Changes struct {
	// Gateway: the Gateway's own settings.
	Gateway bool
	// Bound: the set of workloads bound to the Gateway, or one of them.
	Bound bool
	// By namespace/hostname. Endpoints names the services whose endpoints changed.
	Services, Destinations, Addresses, Endpoints Set
	// Outlines are those of Services of which more changed than what HTTP rules do and than policies, and Policies those whose
	// policies changed for more than HTTP requests: what concerns all services together need not look at every route and every
	// policy again.
	Outlines, Policies Set
	// By resource name.
	VirtualHosts, Secrets Set
}

// Empty reports that nothing changed.
func (c *Changes) Empty() bool {
	return !c.Gateway && !c.Bound &&
		len(c.Services)+len(c.Destinations)+len(c.Addresses)+len(c.Endpoints)+len(c.VirtualHosts)+len(c.Secrets) == 0
}

func (s *Set) add(name string) {
	if *s == nil {
		*s = make(Set)
	}
	(*s)[name] = struct{}{}
}
