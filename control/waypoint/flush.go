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

// Flush computes everything that events since the last Flush may have touched and hands it to out.
func (m *Model) Flush(out Output) {
	// What is taken back may be news to others, so that a second round can be due; taking back wants nothing new.
	for round := true; round || m.Pending(); round = false {
		m.retire(out)
		m.build(out)
		m.retire(out)
		m.pruneKeys()
	}
	m.needKeys(out)
}

// build computes all marked units, phase by phase.
func (m *Model) build(out Output) {
	for p := range phases {
		for len(m.graph.dirty[p]) > 0 {
			todo := m.graph.dirty[p]
			m.graph.dirty[p] = set[*unit]{}
			for u := range todo {
				if m.graph.units[u.id] == u {
					m.compute(out, u)
				}
			}
		}
	}
}

// retire takes back what nobody wants any more, and what only that wanted.
func (m *Model) retire(out Output) {
	for len(m.graph.orphans) > 0 {
		for u := range m.graph.orphans {
			m.takeBack(out, u)
			m.graph.drop(u)
		}
	}
}

// compute builds a unit anew and hands over what came of it.
func (m *Model) compute(out Output, u *unit) {
	m.graph.builds++
	r := &m.reader
	r.begin()
	var msg proto.Message
	switch u.id.phase {
	case gatewayPhase:
		msg = m.buildGateway(r, u.id.gw)
	case attachPhase:
		m.publish(u, u.id.key, m.buildAttachment(r, u.id.gw, u.id.key))
	case hostPhase:
		msg = m.buildVirtualHost(r, u.id.gw, u.id.key.Name, u.id.host)
	case servicePhase:
		msg = m.buildService(r, u.id.gw, hostName{u.id.key.Namespace, u.id.host})
	case destinationPhase:
		name := hostName{u.id.key.Namespace, u.id.host}
		msg = m.buildDestination(r, u.id.gw, name)
		if isNil(msg) {
			m.publish(u, u.id.gw.key(), nil)
		} else {
			m.publish(u, u.id.gw.key(), []topic{named(usedBy, name.ns, name.host)})
		}
	case secretPhase:
		msg = m.buildSecret(r, u.id.gw, u.id.key)
	case reportPhase:
		m.say(out, u.id.key, m.buildReport(r, u.id.key))
	}
	m.graph.read(u, r.topics, r.wants)
	if u.id.phase == attachPhase || u.id.phase == reportPhase {
		return
	}
	if isNil(msg) {
		m.takeBack(out, u)
		return
	}
	typ, name := resource(u.id)
	u.sum = out.Fact(typ, name, u.id.gw.String(), msg, u.sum)
}

func isNil(m proto.Message) bool { return m == nil || !m.ProtoReflect().IsValid() }

func (m *Model) takeBack(out Output, u *unit) {
	switch u.id.phase {
	case attachPhase:
		m.publish(u, u.id.key, nil)
	case reportPhase:
		m.say(out, u.id.key, model.Report{})
	default:
		if u.id.phase == destinationPhase {
			m.publish(u, u.id.gw.key(), nil)
		}
		if u.sum != 0 {
			out.RemoveFact(resource(u.id))
			u.sum = 0
		}
	}
}

func (m *Model) say(out Output, k object.Key, r model.Report) {
	if r.Equal(m.reports[k]) {
		return
	}
	if r.Empty() {
		delete(m.reports, k)
	} else {
		m.reports[k] = r
	}
	out.FactReport(k, r)
}

// resource is the type and name of what a unit hands over. Names are those of api/waypoint.
func resource(id unitID) (typeURL, name string) {
	gw := id.gw.String() + "/"
	switch id.phase {
	case gatewayPhase:
		return mesh.TypeWaypointGateway, gw + "gateway"
	case hostPhase:
		return mesh.TypeWaypointVirtualHost, gw + id.key.Name + "/" + cmp.Or(id.host, "*")
	case servicePhase:
		return mesh.TypeWaypointService, gw + id.key.Namespace + "/" + id.host
	case destinationPhase:
		return mesh.TypeWaypointDestination, gw + id.key.Namespace + "/" + id.host
	}
	return mesh.TypeWaypointSecret, gw + id.key.Namespace + "/" + id.key.Name
}

// pruneKeys forgets the key sets that nobody needs any more.
func (m *Model) pruneKeys() {
	for s := range m.keys {
		if len(m.graph.readers[keysTopic(theKeys, s)]) == 0 {
			delete(m.keys, s)
			m.keysChanged = true
			m.graph.touch(keysTopic(keysNews, s))
		}
	}
}

// needKeys says which key sets are needed, when that has changed.
func (m *Model) needKeys(out Output) {
	if !m.keysChanged {
		return
	}
	m.keysChanged = false
	all := make([]jwks.Source, 0, len(m.keys))
	for s := range m.keys {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b jwks.Source) int {
		return cmp.Or(cmp.Compare(a.URI, b.URI), cmp.Compare(a.Issuer, b.Issuer), cmp.Compare(a.Timeout, b.Timeout))
	})
	out.KeySets(all)
}
