package render

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/waypoint/agent/ads"
	"github.com/ambit-mesh/ambit/waypoint/envoy"
	"github.com/ambit-mesh/ambit/waypoint/facts"
)

// pass is one run of Render.
type pass struct {
	r        *Renderer
	snapshot *facts.Snapshot
	updates  map[string]*ads.Update
	retry    []*unit

	// of the unit under way
	unit     *unit
	deps     map[string]struct{}
	out      map[resourceID][]byte
	problems []envoy.Problem
	gone     bool
}

// run expands one unit and notes how its result differs.
func (p *pass) run(u *unit) {
	p.unit, p.deps, p.out, p.problems, p.gone = u, map[string]struct{}{depGateway: {}}, map[resourceID][]byte{}, nil, false
	failure := p.expand(u)
	defer func() {
		delete(p.r.troubled, u)
		if len(u.problems) > 0 && !p.gone {
			p.r.troubled[u] = struct{}{}
		}
	}()
	p.r.depend(u, p.deps)
	if u.failed = failure != nil; u.failed {
		u.problems = []envoy.Problem{{Object: u.key, Text: failure.Error()}}
		return
	}
	u.problems = p.problems
	p.publish(u)
	if p.gone {
		p.r.depend(u, nil)
		delete(p.r.units, u.key)
	}
}

// expand calls the unit's expansion. A mistake of ours in one unit must not take the others down.
func (p *pass) expand(u *unit) (failure error) {
	defer func() {
		if v := recover(); v != nil {
			p.r.log.Error("expanding a part of the configuration failed, its last state stays", "unit", u.key, "err", v, "stack", string(debug.Stack()))
			failure = fmt.Errorf("internal error, the last state stays; please report it: %v", v)
		}
	}()
	u.expand(p)
	return nil
}

// publish turns the difference to what the unit was before into updates.
func (p *pass) publish(u *unit) {
	next := make([]resourceID, 0, len(p.out))
	has := make(map[resourceID]struct{}, len(p.out))
	for id, body := range p.out {
		if owner := p.r.owner[id]; owner != nil && owner != u {
			u.problems = append(u.problems, envoy.Problem{Object: u.key, Text: fmt.Sprintf(
				"%s is already the name of a part of %s, which stays; give one of the two another hostname", id.name, owner.key)})
			p.lose(owner, u)
			continue
		}
		p.r.owner[id] = u
		next, has[id] = append(next, id), struct{}{}
		p.update(id.typeURL).Put = append(p.update(id.typeURL).Put, ads.Resource{Name: id.name, Body: body})
	}
	released := false
	for _, id := range u.out {
		if _, still := has[id]; !still {
			delete(p.r.owner, id)
			p.update(id.typeURL).Remove = append(p.update(id.typeURL).Remove, id.name)
			released = true
		}
	}
	u.out = next
	if released {
		for loser := range p.r.losers[u] {
			p.retry = append(p.retry, loser)
		}
		delete(p.r.losers, u)
	}
}

func (p *pass) lose(owner, loser *unit) {
	if p.r.losers[owner] == nil {
		p.r.losers[owner] = map[*unit]struct{}{}
	}
	p.r.losers[owner][loser] = struct{}{}
}

func (p *pass) update(typeURL string) *ads.Update {
	u := p.updates[typeURL]
	if u == nil {
		u = &ads.Update{Type: typeURL}
		p.updates[typeURL] = u
	}
	return u
}

func (p *pass) list() []ads.Update {
	out := make([]ads.Update, 0, len(p.updates))
	for _, u := range p.updates {
		slices.SortFunc(u.Put, func(a, b ads.Resource) int { return strings.Compare(a.Name, b.Name) })
		slices.Sort(u.Remove)
		out = append(out, *u)
	}
	slices.SortFunc(out, func(a, b ads.Update) int { return strings.Compare(a.Type, b.Type) })
	return out
}

// put is a resource of the unit under way.
func (p *pass) put(typeURL, name string, m proto.Message) {
	body, err := proto.MarshalOptions{Deterministic: true, AllowPartial: true}.Marshal(m)
	if err != nil {
		p.problems = append(p.problems, envoy.Problem{Object: p.unit.key, Text: fmt.Sprintf("encode %s: %v", name, err)})
		return
	}
	p.out[resourceID{typeURL, name}] = body
}

func (p *pass) note(problems []envoy.Problem) { p.problems = append(p.problems, problems...) }
