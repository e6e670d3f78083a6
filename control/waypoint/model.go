package waypoint

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/control/jwks"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
)

// Config is what the whole mesh has in common. Empty strings mean Istio's defaults.
type Config struct {
	TrustDomain   string
	ClusterID     string
	ClusterDomain string
	RootNamespace string
	Network       string
}

// Output receives what Flush computed.
type Output interface {
	// Fact hands over a resource of a type of api/mesh that belongs to one Gateway, scope. It is given the sum of what was
	// handed over before under the same name, 0 when nothing was, and returns the sum of what there is now.
	Fact(typeURL, name, scope string, m proto.Message, before uint64) (sum uint64)
	// RemoveFact names something handed over before.
	RemoveFact(typeURL, name string)
	// FactReport replaces what is to be said about an object; an empty report takes everything back.
	FactReport(of object.Key, r model.Report)
	// KeySets lists all key sets that are needed, when that has changed.
	KeySets(needed []jwks.Source)
}

// gatewayName names a Gateway.
type gatewayName struct{ ns, name string }

func (g gatewayName) String() string { return g.ns + "/" + g.name }

func (g gatewayName) key() object.Key {
	return object.Key{Kind: object.KindGateway, Namespace: g.ns, Name: g.name}
}

func gatewayOf(k object.Key) gatewayName { return gatewayName{k.Namespace, k.Name} }

// hostName is one hostname in one namespace.
type hostName struct{ ns, host string }

// Model is what waypoints must know, as the objects seen so far say.
type Model struct {
	cfg     Config
	objects map[object.Key]object.Object
	lists   map[topic]set[object.Key]
	hosts   map[hostName]model.Host
	// namespacesOf has the namespaces that have a hostname, hostsOf the names of an object, bound what is behind a Gateway.
	namespacesOf map[string]set[string]
	hostsOf      map[object.Key]set[hostName]
	bound        map[gatewayName]set[hostName]
	keys         map[jwks.Source]jwks.Set
	keysChanged  bool
	// attached are the routes of one hostname of one listener, by route what they are attached to.
	attached map[topic]set[object.Key]
	reports  map[object.Key]model.Report
	graph    graph
	reader   reader
}

// New returns an empty Model.
func New(cfg Config) *Model {
	cfg.TrustDomain = cmp.Or(cfg.TrustDomain, mesh.DefaultTrustDomain)
	cfg.ClusterID = cmp.Or(cfg.ClusterID, mesh.DefaultClusterID)
	cfg.ClusterDomain = cmp.Or(cfg.ClusterDomain, mesh.DefaultClusterDomain)
	cfg.RootNamespace = cmp.Or(cfg.RootNamespace, mesh.SystemNamespace)
	m := &Model{
		cfg:          cfg,
		objects:      map[object.Key]object.Object{},
		lists:        map[topic]set[object.Key]{},
		hosts:        map[hostName]model.Host{},
		namespacesOf: map[string]set[string]{},
		hostsOf:      map[object.Key]set[hostName]{},
		bound:        map[gatewayName]set[hostName]{},
		keys:         map[jwks.Source]jwks.Set{},
		attached:     map[topic]set[object.Key]{},
		reports:      map[object.Key]model.Report{},
		graph:        newGraph(),
	}
	m.reader.m = m
	return m
}

// Apply takes events in. Nothing is handed out before Flush.
func (m *Model) Apply(events []object.Event) {
	for _, e := range events {
		m.apply(e)
	}
}

func (m *Model) apply(e object.Event) {
	if !read(e.Key.Kind) {
		return
	}
	old := m.objects[e.Key]
	if old == nil && e.Object == nil {
		return
	}
	var was, now []topic
	if old != nil {
		was = m.filed(old)
	}
	if e.Object != nil {
		now = m.filed(e.Object)
		m.objects[e.Key] = e.Object
	} else {
		delete(m.objects, e.Key)
	}
	for _, t := range was {
		if !slices.Contains(now, t) {
			m.unlist(t, e.Key)
		}
	}
	for _, t := range now {
		if m.lists[t] == nil {
			m.lists[t] = set[object.Key]{}
		}
		if !m.lists[t].has(e.Key) {
			m.lists[t].add(e.Key)
			m.graph.touch(t)
		}
	}
	m.graph.touch(about(e.Key))
	if e.Key.Kind == object.KindConfigMap && e.Key.Namespace == m.cfg.RootNamespace && e.Key.Name == meshConfigName {
		m.graph.touch(topic{aspect: theMesh})
	}
	m.root(e.Key, old != nil, e.Object != nil)
}

func (m *Model) unlist(t topic, k object.Key) {
	delete(m.lists[t], k)
	if len(m.lists[t]) == 0 {
		delete(m.lists, t)
	}
	m.graph.touch(t)
}

// root makes the units that exist because an object does.
func (m *Model) root(k object.Key, was, is bool) {
	if was == is {
		return
	}
	var ids []unitID
	if k.Kind == object.KindGateway {
		ids = append(ids, unitID{phase: gatewayPhase, gw: gatewayOf(k)})
	}
	if reported(k.Kind) || m.strayMesh(k) {
		ids = append(ids, unitID{phase: reportPhase, key: k})
	}
	for _, id := range ids {
		if is {
			m.graph.want(id)
		} else {
			m.graph.unwant(id)
		}
	}
}

// Host takes in what package model says about a service name.
func (m *Model) Host(h model.Host) {
	name := hostName{h.Namespace, h.Hostname}
	old := m.hosts[name]
	gone := h.Object == object.Key{}
	if gone {
		delete(m.hosts, name)
	} else {
		m.hosts[name] = h
	}
	m.graph.touch(named(theHost, h.Namespace, h.Hostname))
	move(m, m.hostsOf, old.Object, h.Object, name, func(k object.Key) topic { return topic{hostsOf, k} })
	for _, pair := range [][2]object.Key{{old.Waypoint, h.Waypoint}, {old.Canary, h.Canary}} {
		move(m, m.bound, gatewayOf(pair[0]), gatewayOf(pair[1]), name, func(g gatewayName) topic { return topic{boundTo, g.key()} })
	}
	if (old.Object == object.Key{}) != gone {
		if gone {
			drop(m.namespacesOf, h.Hostname, h.Namespace)
		} else {
			put(m.namespacesOf, h.Hostname, h.Namespace)
		}
	}
	if old.Object != h.Object || old.Canonical != h.Canonical || old.Private != h.Private {
		m.graph.touch(named(hostname, "", h.Hostname))
	}
}

// move takes a value from one list to another; the zero key is no list.
func move[K comparable, V comparable](m *Model, lists map[K]set[V], from, to K, v V, t func(K) topic) {
	var none K
	if from == to {
		return
	}
	if from != none {
		drop(lists, from, v)
		m.graph.touch(t(from))
	}
	if to != none {
		put(lists, to, v)
		m.graph.touch(t(to))
	}
}

func put[K comparable, V comparable](lists map[K]set[V], k K, v V) {
	if lists[k] == nil {
		lists[k] = set[V]{}
	}
	lists[k].add(v)
}

func drop[K comparable, V comparable](lists map[K]set[V], k K, v V) {
	delete(lists[k], v)
	if len(lists[k]) == 0 {
		delete(lists, k)
	}
}

// SetKeys takes in what became of fetching a key set. What nobody needs is ignored.
func (m *Model) SetKeys(s jwks.Source, set jwks.Set) {
	if old, ok := m.keys[s]; !ok || old == set {
		return
	}
	m.keys[s] = set
	m.graph.touch(keysTopic(theKeys, s))
	m.graph.touch(keysTopic(keysNews, s))
}

// Builds counts the units computed so far, for tests and metrics.
func (m *Model) Builds() uint64 { return m.graph.builds }

// Pending reports whether Flush has anything to look at.
func (m *Model) Pending() bool {
	for _, d := range m.graph.dirty {
		if len(d) > 0 {
			return true
		}
	}
	return len(m.graph.orphans) > 0
}
