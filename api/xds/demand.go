package xds

import "slices"

// demand is what an on-demand stream of Istio's kind subscribed to, and what followed from it. It knows no scopes; see selection.
//
// A client asks for a name it needs and gets that resource, the endpoints if it is a service, and all workloads of its own
// node. Everything it got stays subscribed. istio/istio pilot/pkg/xds/workload.go GenerateDeltas.
type demand struct {
	node     string
	asked    map[string]struct{} // canonical spelling
	resolved map[string]struct{} // names of the resources asked for: endpoints of these are wanted too
	sent     map[string]struct{} // names the client has
}

// maxAsked bounds what one client can make the server remember.
const maxAsked = 1 << 18

func newDemand(node string) *demand {
	return &demand{
		node:     node,
		asked:    make(map[string]struct{}),
		resolved: make(map[string]struct{}),
		sent:     make(map[string]struct{}),
	}
}

func (d *demand) size() int { return len(d.asked) }

func (d *demand) update(c *Collection, subscribe, unsubscribe []string) *batch {
	if len(unsubscribe) > 0 {
		d.forget(c, unsubscribe)
	}
	if len(subscribe) == 0 {
		return &batch{}
	}
	return d.answer(c, subscribe)
}

// answer collects what a request for names is owed: the named resources even if the client has them, the rest only if it
// has not. Names that mean nothing are reported as removed, spelled as they were asked.
func (d *demand) answer(c *Collection, names []string) *batch {
	c.mu.RLock()
	defer c.mu.RUnlock()
	b := &batch{version: c.version}
	d.answerInto(b, c, names)
	return b
}

// answerInto is answer for a caller that holds mu for reading.
func (d *demand) answerInto(b *batch, c *Collection, names []string) {
	var found []*entry
	given := make(map[*entry]struct{}, len(names))
	for _, name := range names {
		d.asked[canonicalAlias(name)] = struct{}{}
		hits := c.find(name)
		if len(hits) == 0 {
			b.remove(name)
			delete(d.sent, name)
		}
		for _, e := range hits {
			if _, twice := given[e]; twice {
				continue
			}
			given[e] = struct{}{}
			d.give(b, e)
			found = append(found, e)
		}
	}
	for _, e := range found {
		d.follow(c, b, e)
	}
	if d.node != "" {
		d.giveMissing(b, c.byNode[d.node])
	}
}

// resume answers a reconnecting client: what it says it has is asked for again and sent only where it differs.
func (d *demand) resume(c *Collection, names []string, known known) *batch {
	have := make(map[string]string, min(known.n, maxAsked))
	for name, version := range known.each {
		have[string(name)] = string(version)
	}
	fresh := slices.DeleteFunc(names, func(name string) bool { _, ok := have[name]; return ok })
	c.mu.RLock()
	defer c.mu.RUnlock() // for all of it: no name may be both given and removed
	b := &batch{version: c.version}
	for name, version := range have {
		d.asked[canonicalAlias(name)] = struct{}{}
		e := c.entries[name]
		if e == nil || e.item == nil {
			b.remove(name)
			continue
		}
		d.resolved[name] = struct{}{}
		if e.item.version != "" && e.item.version == version {
			d.sent[name] = struct{}{}
			continue
		}
		d.give(b, e)
	}
	for name := range have {
		if e := c.entries[name]; e != nil && e.item != nil {
			d.follow(c, b, e)
		}
	}
	d.answerInto(b, c, fresh)
	return b
}

// changes collects, from what happened beyond cursor, what concerns this client; at most one chunk.
func (d *demand) changes(c *Collection, cursor uint64) (*batch, uint64, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if cursor < c.horizon {
		return nil, cursor, errBehind
	}
	b := &batch{version: c.version}
	moved := false
	cursor = c.after(cursor, func(e *entry) bool {
		_, was := d.resolved[e.name]
		moved = moved || was
		if e.item == nil {
			delete(d.resolved, e.name)
			if _, has := d.sent[e.name]; has {
				delete(d.sent, e.name)
				b.remove(e.name)
			}
			return b.bytes < chunkSize
		}
		asked := d.names(e.item)
		if asked || d.implies(e.item) {
			d.give(b, e)
		}
		if asked && !was {
			d.follow(c, b, e)
		}
		return b.bytes < chunkSize
	})
	if moved && len(c.names.lengths) > 0 {
		d.settle(c, b)
	}
	return b, cursor, nil
}

// settle resolves all asked names again. When the holder of an address goes away, the holder of a prefix around it takes its
// place without having changed itself, so the log does not tell.
func (d *demand) settle(c *Collection, b *batch) {
	for name := range d.asked {
		for _, e := range c.find(name) {
			if _, has := d.sent[e.name]; !has {
				d.give(b, e)
			}
			if _, was := d.resolved[e.name]; !was {
				d.follow(c, b, e)
			}
		}
	}
}

// forget ends the subscription to names and to what only they brought along.
func (d *demand) forget(c *Collection, names []string) {
	for _, name := range names {
		delete(d.asked, canonicalAlias(name))
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	clear(d.resolved)
	for name := range d.asked {
		for _, e := range c.find(name) {
			d.resolved[e.name] = struct{}{}
		}
	}
	had := d.sent
	d.sent = make(map[string]struct{})
	for name := range had {
		if e := c.entries[name]; e != nil && (e.item == nil || d.names(e.item) || d.implies(e.item)) {
			d.sent[name] = struct{}{}
		}
	}
}

// names reports whether the client asked for the resource itself, by whatever name.
func (d *demand) names(it *item) bool {
	if _, ok := d.asked[it.name]; ok {
		return true
	}
	return asksForAlias(d.asked, it)
}

func asksForAlias(asked map[string]struct{}, it *item) bool {
	for _, alias := range it.aliases {
		a, ok := parseAddress(alias)
		if !ok {
			continue
		}
		if _, ok := asked[a.String()]; ok {
			return true
		}
		if !a.single && asksWithin(asked, a) {
			return true
		}
	}
	return false
}

// asksWithin looks for an asked address inside a prefix. Only resources that cover a prefix cost this walk; they are rare.
func asksWithin(asked map[string]struct{}, around address) bool {
	for name := range asked {
		if a, ok := parseAddress(name); ok && a.single && a.network == around.network && around.prefix.Contains(a.prefix.Addr()) {
			return true
		}
	}
	return false
}

// implies reports whether the resource comes with something the client asked for.
func (d *demand) implies(it *item) bool {
	if it.node != "" && it.node == d.node {
		return true
	}
	for _, s := range it.services {
		if _, ok := d.resolved[s]; ok {
			return true
		}
	}
	_, has := d.sent[it.name]
	return has
}

func (d *demand) give(b *batch, e *entry) {
	b.add(e.item)
	d.sent[e.name] = struct{}{}
}

func (d *demand) giveMissing(b *batch, set map[*entry]struct{}) {
	for e := range set {
		if _, has := d.sent[e.name]; !has {
			d.give(b, e)
		}
	}
}

// follow subscribes to the endpoints of an asked resource.
func (d *demand) follow(c *Collection, b *batch, e *entry) {
	d.resolved[e.name] = struct{}{}
	d.giveMissing(b, c.members[e.name])
}

// find returns the live entries that go by a name. Caller holds mu for reading.
func (c *Collection) find(name string) []*entry {
	if e := c.entries[name]; e != nil && e.item != nil {
		return []*entry{e}
	}
	return c.names.lookup(name)
}
