package model

import (
	"net/netip"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/object"
)

// Config is what the whole mesh has in common. Empty strings mean Istio's defaults.
type Config struct {
	TrustDomain   string
	ClusterID     string
	ClusterDomain string
	// RootNamespace is where mesh-wide policies live.
	RootNamespace string
	// Network is the network of everything that does not say otherwise. A label topology.istio.io/network on the root
	// namespace wins over it.
	Network string
	// DryRun accepts AuthorizationPolicies annotated as dry run; without it they are refused.
	DryRun bool
	// AllowWaypoints lets a waypoint through the ALLOW policies of the workloads behind it.
	AllowWaypoints bool
	// NoAutoAllocate leaves ServiceEntries without addresses as they are.
	NoAutoAllocate bool
	// NetworkPolicies has node proxies enforce Kubernetes NetworkPolicies; without it they are not looked at.
	NetworkPolicies bool
	// Visibility of ServiceEntries by their namespace; the first rule that matches counts, none means Public.
	Visibility []VisibilityRule
}

// VisibilityRule gives the ServiceEntries of some namespaces a visibility.
type VisibilityRule struct {
	Namespaces object.LabelSelector
	Visibility Visibility
}

// Visibility says who learns of a ServiceEntry.
type Visibility uint8

// Visibilities.
const (
	Public Visibility = iota
	NamespaceOnly
	Nobody
)

// Output receives what Flush computed. Messages are only valid during the call; they are reused.
type Output interface {
	// Workload, Service and Policy are given the sum of what was handed over before under the same name, 0 when nothing
	// was, and return the sum of what there is now. Equal sums mean that nothing changed. A sum is never 0.
	// scopes are the Gateways, as namespace/name, that traffic addressed to the workload itself comes through.
	Workload(w *workload.Workload, scopes []string, before uint64) (sum uint64)
	Service(s *workload.Service, before uint64) (sum uint64)
	Policy(p *security.Authorization, before uint64) (sum uint64)
	// RemoveAddress and RemovePolicy name something handed over before.
	RemoveAddress(name string)
	RemovePolicy(name string)
	// Host says who has a service name now and what it is behind.
	Host(h Host)
	// Report replaces what is to be said about an object; an empty report takes everything back.
	Report(of object.Key, r Report)
}

// Model is the mesh as the objects seen so far describe it.
type Model struct {
	cfg     Config
	network string

	namespaces map[string]*namespace
	nodes      map[string]*node
	classes    map[string]*object.GatewayClass
	// hosts has every service name of the mesh, for names that several namespaces claim.
	hosts map[string]*host
	// podIPs has the addresses that belong to one pod alone.
	podIPs map[netip.Addr][]*source
	// sliceIPs has the addresses that EndpointSlices list without naming a pod.
	sliceIPs map[netip.Addr]set[*source]
	// vips has the virtual addresses services were given, with everyone who claims them.
	vips map[netip.Prefix]set[*slot]
	pool *pool
	// everywhere holds the selectors of the root namespace.
	everywhere *selectors
	waypoints  map[gatewayName]*waypoint
	// forAccount has the waypoints for the workloads of one account.
	forAccount map[accountName]set[*waypoint]
	// targets are the policies bound to an object by reference.
	targets map[object.Key]set[targeter]
	// subsets are the DestinationRules by the host they are about.
	subsets  map[string]set[object.Key]
	rules    map[object.Key]subsetRule
	networks networks
	peers    int // how many PeerAuthentications there are

	flushes      uint64 // so far
	staticStrict uint64
	reports      map[object.Key]Report
	dirty        dirty
	scratch      scratch
}

// dirty is what Flush must look at again.
type dirty struct {
	waypoints set[*waypoint]
	modes     set[*namespace]
	slots     set[*slot]
	sources   set[*source]
	policies  set[*policy]
	peers     set[*peer]
	// allow are waypoints whose implied ALLOW policy may have changed.
	allow   set[*waypoint]
	reports set[reporter]
	// gone are services and idle waypoints that may not be needed any more.
	gone set[*service]
	idle set[*waypoint]
	// emptied are namespaces that may have nothing left in them.
	emptied set[*namespace]
	// strict is set when the static policy that refuses plaintext may have come or gone.
	strict bool
}

// reporter is an object that has something to say about itself.
type reporter interface {
	report(*Model) (object.Key, Report)
}

// New returns an empty Model.
func New(cfg Config) *Model {
	for _, d := range []struct {
		v   *string
		def string
	}{
		{&cfg.TrustDomain, mesh.DefaultTrustDomain},
		{&cfg.ClusterID, mesh.DefaultClusterID},
		{&cfg.ClusterDomain, mesh.DefaultClusterDomain},
		{&cfg.RootNamespace, mesh.SystemNamespace},
	} {
		if *d.v == "" {
			*d.v = d.def
		}
	}
	m := &Model{
		cfg:        cfg,
		network:    cfg.Network,
		namespaces: map[string]*namespace{},
		nodes:      map[string]*node{},
		classes:    map[string]*object.GatewayClass{},
		hosts:      map[string]*host{},
		podIPs:     map[netip.Addr][]*source{},
		sliceIPs:   map[netip.Addr]set[*source]{},
		vips:       map[netip.Prefix]set[*slot]{},
		pool:       newPool(),
		everywhere: newSelectors(),
		waypoints:  map[gatewayName]*waypoint{},
		forAccount: map[accountName]set[*waypoint]{},
		targets:    map[object.Key]set[targeter]{},
		subsets:    map[string]set[object.Key]{},
		rules:      map[object.Key]subsetRule{},
		reports:    map[object.Key]Report{},
		networks:   newNetworks(),
	}
	m.dirty = dirty{
		waypoints: set[*waypoint]{},
		modes:     set[*namespace]{},
		slots:     set[*slot]{},
		sources:   set[*source]{},
		policies:  set[*policy]{},
		peers:     set[*peer]{},
		allow:     set[*waypoint]{},
		reports:   set[reporter]{},
		gone:      set[*service]{},
		idle:      set[*waypoint]{},
		emptied:   set[*namespace]{},
	}
	return m
}

// Apply takes events in. Nothing is handed out before Flush.
func (m *Model) Apply(events []object.Event) {
	for _, e := range events {
		m.apply(e)
	}
}

func (m *Model) apply(e object.Event) {
	ns := e.Key.Namespace
	switch e.Key.Kind {
	case object.KindNamespace:
		o, _ := e.Object.(*object.Namespace)
		m.putNamespace(e.Key.Name, o)
	case object.KindNode:
		o, _ := e.Object.(*object.Node)
		m.putNode(e.Key.Name, o)
	case object.KindPod:
		o, _ := e.Object.(*object.Pod)
		m.putPod(m.in(ns), e.Key.Name, o)
	case object.KindWorkloadEntry:
		o, _ := e.Object.(*object.WorkloadEntry)
		m.putWorkloadEntry(m.in(ns), e.Key.Name, o)
	case object.KindEndpointSlice:
		o, _ := e.Object.(*object.EndpointSlice)
		m.putSlice(m.in(ns), e.Key.Name, o)
	case object.KindService:
		o, _ := e.Object.(*object.Service)
		m.putService(m.in(ns), e.Key.Name, o)
	case object.KindServiceEntry:
		o, _ := e.Object.(*object.ServiceEntry)
		m.putServiceEntry(m.in(ns), e.Key.Name, o)
	case object.KindAuthorizationPolicy:
		o, _ := e.Object.(*object.AuthorizationPolicy)
		m.putPolicy(m.in(ns), e.Key.Name, o)
	case object.KindPeerAuthentication:
		o, _ := e.Object.(*object.PeerAuthentication)
		m.putPeer(m.in(ns), e.Key.Name, o)
	case object.KindGateway:
		o, _ := e.Object.(*object.Gateway)
		m.putGateway(ns, e.Key.Name, o)
	case object.KindGatewayClass:
		o, _ := e.Object.(*object.GatewayClass)
		m.putGatewayClass(e.Key.Name, o)
	case object.KindRequestAuthentication:
		o, _ := e.Object.(*object.RequestAuthentication)
		m.putAuthentication(m.in(ns), e.Key.Name, o)
	case object.KindDestinationRule:
		o, _ := e.Object.(*object.DestinationRule)
		m.putDestinationRule(e.Key, o)
	case object.KindNetworkPolicy:
		o, _ := e.Object.(*object.NetworkPolicy)
		m.putNetworkPolicy(m.in(ns), e.Key.Name, o)
	case object.KindServiceAccount:
		// Accounts are known by the workloads that use them.
	}
}

// Flush computes everything that events since the last Flush may have touched and hands it to out.
func (m *Model) Flush(out Output) {
	m.settleWaypoints()
	m.settleModes()
	m.settleSlots()
	m.flushSlots(out)
	m.settleNetworks()
	m.flushSources(out)
	m.flushNetworks(out)
	m.flushPolicies(out)
	m.flushReports(out)
	m.forget()
	m.flushes++
}

// Pending reports whether Flush has anything to look at.
func (m *Model) Pending() bool {
	d := &m.dirty
	return d.strict || len(d.waypoints)+len(d.modes)+len(d.slots)+len(d.sources)+len(d.policies)+len(d.peers)+len(d.allow)+len(d.reports)+len(m.networks.dirty) > 0
}

// touch marks a source of workloads.
func (m *Model) touch(s *source) { m.dirty.sources.add(s) }

func (m *Model) flushReports(out Output) {
	for r := range m.dirty.reports {
		key, rep := r.report(m)
		if rep.Equal(m.reports[key]) {
			continue
		}
		if rep.Empty() {
			delete(m.reports, key)
		} else {
			m.reports[key] = rep
		}
		out.Report(key, rep)
	}
	m.dirty.reports.empty()
}
