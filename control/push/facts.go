package push

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/control/jwks"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
)

// factOrder is the order in which facts are put: what is named before what names it. They are removed the other way round.
var factOrder = [...]string{
	mesh.TypeWaypointSecret, mesh.TypeWaypointDestination, mesh.TypeWaypointService, mesh.TypeWaypointVirtualHost, mesh.TypeWaypointGateway,
}

// factSets is what the collections of facts are about to be told, in factOrder.
type factSets [len(factOrder)]struct {
	collection *xds.Collection // nil when facts of the type go nowhere
	resources
}

func (f *factSets) init(cs []*xds.Collection) {
	for _, c := range cs {
		if i := slices.Index(factOrder[:], c.TypeURL()); i >= 0 {
			f[i].collection = c
		}
	}
}

func (f *factSets) apply() {
	for i := range f {
		if s := &f[i]; len(s.put) > 0 && s.collection != nil {
			s.collection.Apply(s.put, nil)
		}
	}
	for i := range f {
		if s := &f[len(f)-1-i]; len(s.remove) > 0 && s.collection != nil {
			s.collection.Apply(nil, s.remove)
		}
	}
	for i := range f {
		f[i].clear()
	}
}

// Fact implements waypoint.Output.
func (b *batch) Fact(typeURL, name, scope string, m proto.Message, before uint64) uint64 {
	sum, ok := b.encode(m, before)
	i := slices.Index(factOrder[:], typeURL)
	if !ok || i < 0 {
		return sum
	}
	b.put++
	s := &b.facts[i]
	s.remove = slices.DeleteFunc(s.remove, func(n string) bool { return n == name })
	s.put = append(s.put, &xds.Resource{Name: name, Version: version(sum), Body: slices.Clone(b.buf), Scopes: []string{scope}})
	return sum
}

// RemoveFact implements waypoint.Output.
func (b *batch) RemoveFact(typeURL, name string) {
	i := slices.Index(factOrder[:], typeURL)
	if i < 0 {
		return
	}
	b.removed++
	s := &b.facts[i]
	s.put = slices.DeleteFunc(s.put, func(r *xds.Resource) bool { return r.Name == name })
	s.remove = append(s.remove, name)
}

// FactReport implements waypoint.Output.
func (b *batch) FactReport(of object.Key, r model.Report) {
	b.reports.set(fromWaypoints, of, r)
	if of.Kind == object.KindGateway {
		if b.gateways == nil {
			b.gateways = map[object.Key]model.Report{}
		}
		b.gateways[of] = r
	}
}

// KeySets implements waypoint.Output.
func (b *batch) KeySets(needed []jwks.Source) {
	if b.keySets != nil {
		b.keySets(needed)
	}
}
