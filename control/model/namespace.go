package model

import (
	"fmt"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/object"
)

// namespace is everything that lives in one namespace. It exists as soon as anything in it does.
type namespace struct {
	name string
	obj  *object.Namespace // nil while only its contents are known

	pods     map[string]*source
	entries  map[string]*source
	external map[string]*source // endpoints of ServiceEntries
	slices   map[string]*source

	services       map[string]*service
	serviceEntries map[string]*service
	slots          map[string]*slot // by hostname
	policies       map[string]*policy
	peers          map[string]*peer
	// authentications are RequestAuthentications.
	authentications map[string]*authentication
	networkPolicies map[string]*networkPolicy

	groups    map[object.Labels]*group
	groupsBy  map[pair]set[*group]
	selectors *selectors

	// slicesOf are the EndpointSlices of each service name, targetedBy those that list a pod by name.
	slicesOf   map[string]set[*source]
	targetedBy map[string]set[*source]

	// named are the labels with the namespace's name among them, made of namedOf.
	named, namedOf object.Labels

	// mode is the mutual TLS mode of the namespace's own PeerAuthentication, strict what its workloads have without one of theirs.
	mode   object.MTLSMode
	strict bool
}

// node is a machine with the pods on it.
type node struct {
	obj      *object.Node
	locality *workload.Locality // nil without any
	pods     set[*source]
}

// in returns a namespace, known or not.
func (m *Model) in(name string) *namespace {
	n := m.namespaces[name]
	if n == nil {
		n = &namespace{
			name: name,
			pods: map[string]*source{}, entries: map[string]*source{}, external: map[string]*source{}, slices: map[string]*source{},
			services: map[string]*service{}, serviceEntries: map[string]*service{}, slots: map[string]*slot{},
			policies: map[string]*policy{}, peers: map[string]*peer{}, authentications: map[string]*authentication{}, networkPolicies: map[string]*networkPolicy{},
			groups: map[object.Labels]*group{}, groupsBy: map[pair]set[*group]{}, selectors: newSelectors(),
			slicesOf: map[string]set[*source]{}, targetedBy: map[string]set[*source]{},
		}
		m.namespaces[name] = n
		if root := m.namespaces[m.cfg.RootNamespace]; root != nil {
			n.strict = root.mode == object.Strict
		}
		m.dirty.emptied.add(n)
	}
	return n
}

// labels of the namespace, empty while it is unknown.
func (n *namespace) labels() object.Labels {
	if n.obj == nil {
		return object.Labels{}
	}
	return n.obj.Labels
}

func (n *namespace) annotations() object.Labels {
	if n.obj == nil {
		return object.Labels{}
	}
	return n.obj.Annotations
}

func (n *namespace) empty() bool {
	return n.obj == nil && len(n.pods)+len(n.entries)+len(n.external)+len(n.slices)+len(n.services)+len(n.serviceEntries)+
		len(n.slots)+len(n.policies)+len(n.peers)+len(n.authentications)+len(n.networkPolicies)+len(n.targetedBy)+len(n.selectors.byPair)+len(n.selectors.all) == 0
}

// forget drops what nothing is left of.
func (m *Model) forget() {
	for s := range m.dirty.gone {
		if s.obj != nil {
			continue
		}
		if s.kind == object.KindService {
			delete(s.ns.services, s.name)
		} else {
			delete(s.ns.serviceEntries, s.name)
		}
		m.dirty.emptied.add(s.ns)
	}
	m.dirty.gone.empty()
	for w := range m.dirty.idle {
		if w.obj == nil && w.allow == 0 && len(w.services)+len(w.sources)+len(w.namespaces) == 0 {
			delete(m.waypoints, w.id)
		}
	}
	m.dirty.idle.empty()
	for n := range m.dirty.emptied {
		if n.empty() {
			delete(m.namespaces, n.name)
		}
	}
	m.dirty.emptied.empty()
}

func (m *Model) putNamespace(name string, o *object.Namespace) {
	n := m.in(name)
	labels, annotations := n.labels(), n.annotations()
	refs := references(labels, name)
	n.obj = o
	m.dirty.reports.add(n)
	if o == nil {
		m.dirty.emptied.add(n)
	}
	m.moveNamespaceRefs(n, refs, references(n.labels(), name))
	if name == m.cfg.RootNamespace {
		m.setNetwork(n)
	}
	if labels == n.labels() && annotations == n.annotations() {
		return
	}
	m.touchServicesOf(n)
	if annotations.Get(mesh.AnnotationEnforcement) != n.annotations().Get(mesh.AnnotationEnforcement) {
		m.touchWorkloadsOf(n)
	}
	if labels != n.labels() {
		m.touchWorkloadsOf(n)
		for _, e := range n.entries {
			m.dirty.reports.add(e)
		}
	}
}

// report of a namespace: what becomes of its wish for a waypoint, once for all that is in it.
func (n *namespace) report(m *Model) (object.Key, Report) {
	k := object.Key{Kind: object.KindNamespace, Name: n.name}
	var r Report
	id, _ := reference(n.labels(), n.name, mesh.LabelUseWaypoint, mesh.LabelUseWaypointNS)
	if id.name == "" {
		return k, r
	}
	w, p := m.attach(n, id)
	if w != nil && !w.fact.services {
		p = unsupported(w, "service")
	}
	asking := n.inheriting(m)
	if p == nil || asking == 0 {
		return k, r
	}
	r.About(n.obj)
	r.warn(p.code(), "metadata.labels", fmt.Sprintf("%s; until that is mended traffic to what asks for no other waypoint (%d in the namespace) goes directly, without the waypoint's routes", p.message, asking), p.fix())
	return k, r
}

// inheriting counts what has the waypoint that the namespace asks for.
func (n *namespace) inheriting(m *Model) (count int) {
	for _, by := range []map[string]*service{n.services, n.serviceEntries} {
		for _, s := range by {
			if s.obj != nil && !s.obj.Metadata().Labels.Has(mesh.LabelUseWaypoint) && !m.isWaypointInstance(n, s.obj.Metadata().Labels) {
				count++
			}
		}
	}
	for _, s := range n.entries {
		if s.obj != nil && !s.obj.Metadata().Labels.Has(mesh.LabelUseWaypoint) {
			count++
		}
	}
	return count
}

// setNetwork takes the network of the mesh from the root namespace. A change is about everything there is.
func (m *Model) setNetwork(root *namespace) {
	network := m.cfg.Network
	if v, ok := root.labels().Lookup(mesh.LabelNetwork); ok {
		network = v
	}
	if network == m.network {
		return
	}
	m.network = network
	for _, n := range m.namespaces {
		m.touchServicesOf(n)
		m.touchWorkloadsOf(n)
	}
	for _, w := range m.waypoints {
		m.dirty.waypoints.add(w)
	}
}

func (m *Model) touchServicesOf(n *namespace) {
	for _, s := range n.slots {
		m.dirty.slots.add(s)
	}
}

func (m *Model) touchWorkloadsOf(n *namespace) {
	for _, by := range []map[string]*source{n.pods, n.entries, n.external, n.slices} {
		for _, s := range by {
			m.touch(s)
		}
	}
}

func (m *Model) node(name string) *node {
	n := m.nodes[name]
	if n == nil {
		n = &node{pods: set[*source]{}}
		m.nodes[name] = n
	}
	return n
}

func (m *Model) putNode(name string, o *object.Node) {
	n := m.node(name)
	n.obj = o
	var l *workload.Locality
	if o != nil {
		region, zone, subzone := o.Labels.Get(mesh.LabelRegion), o.Labels.Get(mesh.LabelZone), o.Labels.Get(mesh.LabelSubzone)
		if region+zone+subzone != "" {
			l = &workload.Locality{Region: region, Zone: zone, Subzone: subzone}
		}
	}
	changed := l.GetRegion() != n.locality.GetRegion() || l.GetZone() != n.locality.GetZone() || l.GetSubzone() != n.locality.GetSubzone()
	n.locality = l
	if changed {
		for p := range n.pods {
			m.touch(p)
		}
	}
	m.dropNode(name, n)
}

func (m *Model) dropNode(name string, n *node) {
	if n.obj == nil && len(n.pods) == 0 {
		delete(m.nodes, name)
	}
}
