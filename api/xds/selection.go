package xds

import (
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// interest is what a stream that does not want everything has of one type.
type interest interface {
	// resume answers the first request: names, and what a reconnecting client says it has.
	resume(c *Collection, names []string, have known) *batch
	// update answers a later one. The batch may be empty.
	update(c *Collection, subscribe, unsubscribe []string) *batch
	// changes collects what happened beyond cursor, at most about one chunk of it.
	changes(c *Collection, cursor uint64) (*batch, uint64, error)
	// size counts the names asked for.
	size() int
}

// selection is a subscription by name that is kept exactly: the client has what it asked for, the endpoints of services it
// asked for, everything in the scopes it asked for, and is told to drop the rest. That is delta xDS as the protocol
// describes it; demand is what node proxies of Istio speak, where whatever was sent once stays subscribed.
//
// Unlike demand it goes by the names in the request alone: versions of a reconnecting client say what need not be sent
// again, and nothing about what is wanted.
type selection struct {
	asked    map[string]struct{} // canonical spelling, scopes too
	scopes   map[string]struct{} // gateways whose scope is asked for
	resolved map[string]struct{} // names of the resources that asked names lead to: endpoints of these are wanted too
	sent     map[string]struct{} // names the client has
}

func newSelection() *selection {
	return &selection{
		asked:    make(map[string]struct{}),
		scopes:   make(map[string]struct{}),
		resolved: make(map[string]struct{}),
		sent:     make(map[string]struct{}),
	}
}

// scopeOf is the gateway of a scope's name. Other names have no such form: a resource's name has at least three parts where
// the last may be a star.
func scopeOf(name string) (gateway string, ok bool) {
	gateway, ok = strings.CutSuffix(name, "/"+wildcard)
	if !ok {
		return "", false
	}
	namespace, gw, found := strings.Cut(gateway, "/")
	return gateway, found && namespace != "" && gw != "" && !strings.Contains(gw, "/")
}

// permission is the gateway whose readers may subscribe to the name; empty when everybody may.
func permission(typeURL, name string) string {
	if gateway, ok := scopeOf(name); ok {
		return gateway
	}
	if !mesh.IsWaypointType(typeURL) {
		return ""
	}
	parts := strings.SplitN(name, "/", 3)
	if len(parts) == 3 {
		return parts[0] + "/" + parts[1]
	}
	return name // leads nowhere, but that is not for everybody to know
}

func (s *selection) size() int { return len(s.asked) }

func (s *selection) ask(names []string) {
	for _, name := range names {
		s.asked[canonicalAlias(name)] = struct{}{}
		if gateway, ok := scopeOf(name); ok {
			s.scopes[gateway] = struct{}{}
		}
	}
}

func (s *selection) resume(c *Collection, names []string, have known) *batch {
	versions := make(map[string]string, min(have.n, maxAsked))
	for name, version := range have.each {
		versions[string(name)] = string(version)
	}
	s.ask(names)
	c.mu.RLock()
	defer c.mu.RUnlock()
	s.resolved = s.resolve(c)
	b := &batch{version: c.version}
	for name, version := range versions {
		switch e := c.entries[name]; {
		case e == nil || e.item == nil || !s.wants(e.item):
			b.remove(name)
		case e.item.version != "" && e.item.version == version:
			s.sent[name] = struct{}{}
		default:
			s.give(b, e)
		}
	}
	for _, name := range names {
		gateway, scope := scopeOf(name)
		if scope {
			s.giveMissing(b, c.scoped[gateway])
			continue
		}
		if _, told := versions[name]; !told && len(c.find(name)) == 0 {
			b.remove(name)
		}
	}
	s.follow(c, b, nil)
	return b
}

func (s *selection) update(c *Collection, subscribe, unsubscribe []string) *batch {
	for _, name := range unsubscribe {
		delete(s.asked, canonicalAlias(name))
		if gateway, ok := scopeOf(name); ok {
			delete(s.scopes, gateway)
		}
	}
	s.ask(subscribe)
	c.mu.RLock()
	defer c.mu.RUnlock()
	b := &batch{version: c.version}
	given := make(map[*entry]struct{}, len(subscribe))
	give := func(e *entry) { // what is asked for again is sent again
		if _, twice := given[e]; !twice {
			given[e] = struct{}{}
			s.give(b, e)
		}
	}
	for _, name := range subscribe {
		if gateway, ok := scopeOf(name); ok {
			for e := range c.scoped[gateway] {
				give(e)
			}
			continue
		}
		hits := c.find(name)
		if len(hits) == 0 {
			b.remove(name)
			delete(s.sent, name)
		}
		for _, e := range hits {
			give(e)
		}
	}
	s.settle(c, b)
	if len(unsubscribe) > 0 {
		s.prune(c, b)
	}
	return b
}

func (s *selection) changes(c *Collection, cursor uint64) (*batch, uint64, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if cursor < c.horizon {
		return nil, cursor, errBehind
	}
	b := &batch{version: c.version}
	var touched []*entry
	size, stale := 0, false
	cursor = c.after(cursor, func(e *entry) bool {
		_, was := s.resolved[e.name]
		_, has := s.sent[e.name]
		if e.item == nil {
			stale = stale || was
			if has {
				delete(s.sent, e.name)
				b.remove(e.name)
			}
			return b.bytes+size < chunkSize
		}
		_, named := s.asked[e.name]
		moved := was != named || asksForAlias(s.asked, e.item)
		stale = stale || moved
		if moved || has || s.wants(e.item) {
			touched = append(touched, e)
			size += e.item.encoded.Len()
		}
		return b.bytes+size < chunkSize
	})
	lost := false
	before := s.resolved
	if stale {
		s.resolved = s.resolve(c)
		lost = lacks(s.resolved, before)
	}
	// Only now is it certain who is wanted, and no name may be both given and removed.
	for _, e := range touched {
		if s.wants(e.item) {
			s.give(b, e)
		} else if _, has := s.sent[e.name]; has {
			delete(s.sent, e.name)
			b.remove(e.name)
		}
	}
	if stale {
		s.follow(c, b, before)
	}
	if lost {
		s.prune(c, b)
	}
	return b, cursor, nil
}

// settle resolves all names anew and gives and takes what follows from it.
func (s *selection) settle(c *Collection, b *batch) {
	before := s.resolved
	s.resolved = s.resolve(c)
	s.follow(c, b, before)
	if lacks(s.resolved, before) {
		s.prune(c, b)
	}
}

func (s *selection) resolve(c *Collection) map[string]struct{} {
	resolved := make(map[string]struct{}, len(s.asked))
	for name := range s.asked {
		if _, scope := scopeOf(name); scope {
			continue
		}
		for _, e := range c.find(name) {
			resolved[e.name] = struct{}{}
		}
	}
	return resolved
}

// follow gives what is resolved and was not before, with its endpoints, unless the client has it.
func (s *selection) follow(c *Collection, b *batch, before map[string]struct{}) {
	for name := range s.resolved {
		if _, was := before[name]; was {
			continue
		}
		if _, has := s.sent[name]; !has {
			s.give(b, c.entries[name])
		}
		s.giveMissing(b, c.members[name])
	}
}

// prune takes back what the client has and no longer wants.
func (s *selection) prune(c *Collection, b *batch) {
	for name := range s.sent {
		if e := c.entries[name]; e == nil || e.item == nil || !s.wants(e.item) {
			delete(s.sent, name)
			b.remove(name)
		}
	}
}

func (s *selection) wants(it *item) bool {
	if _, ok := s.resolved[it.name]; ok {
		return true
	}
	for _, service := range it.services {
		if _, ok := s.resolved[service]; ok {
			return true
		}
	}
	for _, gateway := range it.scopes {
		if _, ok := s.scopes[gateway]; ok {
			return true
		}
	}
	return false
}

func (s *selection) give(b *batch, e *entry) {
	b.add(e.item)
	s.sent[e.name] = struct{}{}
}

func (s *selection) giveMissing(b *batch, set map[*entry]struct{}) {
	for e := range set {
		if _, has := s.sent[e.name]; !has {
			s.give(b, e)
		}
	}
}

// lacks reports whether some of before is not in now.
func lacks(now, before map[string]struct{}) bool {
	for name := range before {
		if _, ok := now[name]; !ok {
			return true
		}
	}
	return false
}
