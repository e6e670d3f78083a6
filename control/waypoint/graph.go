package waypoint

import (
	"github.com/ambit-mesh/ambit/control/object"
)

type set[T comparable] map[T]struct{}

func (s set[T]) add(v T)      { s[v] = struct{}{} }
func (s set[T]) has(v T) bool { _, ok := s[v]; return ok }

// aspect is in which respect a topic is about its key.
type aspect uint8

const (
	// theObject is the object itself.
	theObject aspect = iota
	// Lists of objects, kept by index.
	routesOf    // routes with this parent
	virtualsOf  // VirtualServices of a namespace by host
	rulesOf     // DestinationRules of a namespace by host
	policiesOn  // policies bound to an object
	policiesIn  // policies of a namespace that are bound to nothing
	grantsIn    // ReferenceGrants of a namespace
	backendTLS  // BackendTLSPolicies bound to a Service
	listenersOf // ListenerSets of a Gateway
	// What package model says.
	theHost  // one hostname in one namespace
	hostname // a hostname wherever it is
	hostsOf  // hostnames of one object
	boundTo  // what is behind a Gateway
	// What units find out for later ones.
	attachedTo // routes of one hostname of one listener
	usedBy     // Gateways that talk to a hostname in one namespace
	theKeys    // a key set fetched by address, by those who need it
	keysNews   // the same, by those who only talk about it
	theMesh    // mesh configuration
)

// topic is something that units read.
type topic struct {
	aspect aspect
	key    object.Key
}

func about(k object.Key) topic { return topic{theObject, k} }

func named(a aspect, ns, name string) topic {
	return topic{a, object.Key{Namespace: ns, Name: name}}
}

// phase is when a unit is computed: after all units of the phases before.
type phase uint8

const (
	gatewayPhase phase = iota
	attachPhase
	hostPhase // virtual hosts
	servicePhase
	destinationPhase
	secretPhase
	reportPhase
	phases
)

// unitID names a unit. Which fields are set depends on the phase.
type unitID struct {
	phase phase
	gw    gatewayName
	key   object.Key
	host  string
}

// unit is something that is computed: a fact, or a report, or an intermediate result.
type unit struct {
	id     unitID
	topics []topic
	wants  []unitID
	wanted int    // by how many others; roots count themselves
	name   string // of the resource handed over
	sum    uint64 // of what was handed over, 0 for nothing
	// found is what an intermediate unit told others.
	found []topic
}

// graph knows who reads what.
type graph struct {
	units   map[unitID]*unit
	readers map[topic]set[*unit]
	dirty   [phases]set[*unit]
	// orphans are units that nobody wants any more.
	orphans set[*unit]
	builds  uint64
}

func newGraph() graph {
	g := graph{units: map[unitID]*unit{}, readers: map[topic]set[*unit]{}, orphans: set[*unit]{}}
	for i := range g.dirty {
		g.dirty[i] = set[*unit]{}
	}
	return g
}

// touch marks everything that read a topic.
func (g *graph) touch(t topic) {
	for u := range g.readers[t] {
		g.mark(u)
	}
}

func (g *graph) mark(u *unit) { g.dirty[u.id.phase].add(u) }

// want makes a unit needed once more.
func (g *graph) want(id unitID) {
	u := g.units[id]
	if u == nil {
		u = &unit{id: id}
		g.units[id] = u
		g.mark(u)
	}
	u.wanted++
	delete(g.orphans, u)
}

func (g *graph) unwant(id unitID) {
	u := g.units[id]
	if u == nil {
		return
	}
	if u.wanted--; u.wanted == 0 {
		g.orphans.add(u)
	}
}

// read replaces what a unit has read and wants.
func (g *graph) read(u *unit, topics set[topic], wants set[unitID]) {
	for _, t := range u.topics {
		if !topics.has(t) {
			delete(g.readers[t], u)
			if len(g.readers[t]) == 0 {
				delete(g.readers, t)
			}
		}
	}
	u.topics = u.topics[:0]
	for t := range topics {
		u.topics = append(u.topics, t)
		if g.readers[t] == nil {
			g.readers[t] = set[*unit]{}
		}
		g.readers[t].add(u)
	}
	was := u.wants
	u.wants = nil
	for id := range wants {
		u.wants = append(u.wants, id)
		g.want(id)
	}
	// Given up after the new ones are taken, so that what is wanted both times is never an orphan.
	for _, id := range was {
		g.unwant(id)
	}
}

// drop forgets a unit and all it read and wanted.
func (g *graph) drop(u *unit) {
	g.read(u, nil, nil)
	delete(g.units, u.id)
	delete(g.dirty[u.id.phase], u)
	delete(g.orphans, u)
}

// reset empties a set of units; a large one is left behind, so that walking it stays cheap.
func reset[T comparable](s *set[T]) {
	if len(*s) > 1024 {
		*s = set[T]{}
		return
	}
	clear(*s)
}
