package xds

import (
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/mem"
)

// Collection holds the current resources of one type and the order in which they changed.
//
// Streams do not queue changes; each keeps the sequence number up to which its client is up to date and reads on from
// there:
//
//	log   [1:a] [2:b] [3:c] [4:b] [5:-c] [6:d]       b moved from 2 to 4; 3 is stale since c was removed at 5
//	                   ▲                        ▲
//	          slow client (2): b, -c, d         fast client (6): nothing
//
// A name has one live slot however often it changed, so a client that fell behind reads each name once, and neither the log
// nor a stream grows with the number of missed changes.
type Collection struct {
	typeURL string

	mu      sync.RWMutex
	entries map[string]*entry // by canonical name; removed ones stay until sweep forgets them
	log     []slot            // ascending; a slot whose seq is not its entry's is stale
	stale   int               // stale slots in log
	live    int               // entries that exist
	keep    int               // how many removals to remember at least
	sweepAt int               // number of removals at which to look for forgettable ones
	seq     uint64            // last number handed out
	version uint64            // counts Apply calls; what clients see as system version
	// horizon is the newest removal already forgotten. Who has not read that far cannot be told what is gone.
	horizon uint64
	names   aliasIndex
	byNode  groupIndex // workloads of a node
	members groupIndex // endpoints of a service
	scoped  groupIndex // what belongs to a gateway
	readers map[*reader]struct{}

	images imageCache
	last   atomic.Pointer[push] // the push most streams need next
}

type slot struct {
	seq   uint64
	entry *entry
}

// entry is a name's place in the collection.
type entry struct {
	name string
	seq  uint64
	item *item // nil once removed
}

// item is one version of a resource; immutable.
type item struct {
	name     string
	version  string
	aliases  []string
	node     string
	services []string
	scopes   []string
	encoded  mem.Buffer
}

// reader is a stream's place in the log.
type reader struct {
	cursor atomic.Uint64
	wake   chan<- struct{}
}

// tombstones is how many removals are remembered at least, whatever the streams have read.
const tombstones = 4096

// NewCollection returns an empty collection of one resource type.
func NewCollection(typeURL string) *Collection {
	return &Collection{
		typeURL: typeURL,
		entries: make(map[string]*entry),
		sweepAt: tombstones,
		keep:    tombstones,
		names:   newAliasIndex(),
		byNode:  make(groupIndex),
		members: make(groupIndex),
		scoped:  make(groupIndex),
		readers: make(map[*reader]struct{}),
	}
}

// TypeURL is the type of the resources within.
func (c *Collection) TypeURL() string { return c.typeURL }

// Len counts the resources.
func (c *Collection) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.live
}

// Version counts the changes applied so far, in the spelling clients see.
func (c *Collection) Version() string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return versionText(c.version)
}

func versionText(v uint64) string { return strconv.FormatUint(v, 10) }

// Apply removes and then puts resources as one step and wakes every stream. A name in both lists ends up present. Putting a
// resource whose version is known and unchanged is not a change. Apply does not wait for any client.
func (c *Collection) Apply(put []*Resource, remove []string) {
	encoded := make([]*item, len(put))
	for i, r := range put { // before taking the lock: encoding is the expensive part
		encoded[i] = &item{
			name: r.Name, version: r.Version, aliases: r.Aliases, node: r.Node, services: r.Services, scopes: r.Scopes,
			encoded: encodeResource(c.typeURL, r),
		}
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.seq
	for _, name := range remove {
		if e := c.entries[name]; e != nil && e.item != nil {
			c.unindex(e)
			e.item = nil
			c.live--
			c.touch(e)
		}
	}
	for _, it := range encoded {
		c.put(it)
	}
	if c.seq == before {
		return
	}
	c.version++
	c.compact()
	c.sweep()
	for r := range c.readers {
		select {
		case r.wake <- struct{}{}:
		default: // already woken; it will see this change too
		}
	}
}

func (c *Collection) put(it *item) {
	e := c.entries[it.name]
	if e == nil {
		e = &entry{name: it.name}
		c.entries[it.name] = e
	}
	old := e.item
	reindex := old == nil || !sameRouting(old, it)
	switch {
	case old == nil:
		c.live++
	case reindex:
		c.unindex(e)
	case old.version != "" && old.version == it.version:
		return
	}
	e.item = it
	if reindex {
		c.index(e)
	}
	c.touch(e)
}

// touch gives the entry a new place at the end of the log.
func (c *Collection) touch(e *entry) {
	if e.seq != 0 {
		c.stale++
	}
	c.seq++
	e.seq = c.seq
	c.log = append(c.log, slot{seq: c.seq, entry: e})
}

// compact drops stale slots once they are the majority, which makes it free over time.
func (c *Collection) compact() {
	if len(c.log) < 1024 || c.stale*2 < len(c.log) {
		return
	}
	kept := c.log[:0]
	for _, s := range c.log {
		if s.entry.seq == s.seq {
			kept = append(kept, s)
		}
	}
	clear(c.log[len(kept):])
	c.log, c.stale = kept, 0
}

// sweep forgets removals every stream has read. When a stream stands still for so long that removals outnumber what
// exists, they are forgotten all the same and that stream has to start over.
func (c *Collection) sweep() {
	removed := len(c.entries) - c.live
	if removed < c.sweepAt {
		return
	}
	limit := max(c.keep, c.live)
	read := c.seq
	for r := range c.readers {
		read = min(read, r.cursor.Load())
	}
	kept := c.log[:0]
	for _, s := range c.log {
		if s.entry.seq != s.seq {
			continue
		}
		if s.entry.item == nil && (s.seq <= read || removed > 2*limit) {
			c.horizon = max(c.horizon, s.seq)
			delete(c.entries, s.entry.name)
			removed--
			continue
		}
		kept = append(kept, s)
	}
	clear(c.log[len(kept):])
	c.log, c.stale = kept, 0
	c.sweepAt = max(c.keep, 2*removed)
}

func sameRouting(a, b *item) bool {
	return a.node == b.node && slices.Equal(a.aliases, b.aliases) && slices.Equal(a.services, b.services) &&
		slices.Equal(a.scopes, b.scopes)
}

// index makes the entry's item findable by everything but its name; unindex undoes it.
func (c *Collection) index(e *entry) {
	for _, a := range e.item.aliases {
		c.names.add(a, e)
	}
	if e.item.node != "" {
		c.byNode.add(e.item.node, e)
	}
	for _, s := range e.item.services {
		c.members.add(s, e)
	}
	for _, s := range e.item.scopes {
		c.scoped.add(s, e)
	}
}

func (c *Collection) unindex(e *entry) {
	for _, a := range e.item.aliases {
		c.names.remove(a, e)
	}
	if e.item.node != "" {
		c.byNode.remove(e.item.node, e)
	}
	for _, s := range e.item.services {
		c.members.remove(s, e)
	}
	for _, s := range e.item.scopes {
		c.scoped.remove(s, e)
	}
}

// join registers a stream, for now as one that has read nothing; leave undoes it.
func (c *Collection) join(r *reader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readers[r] = struct{}{}
}

func (c *Collection) leave(r *reader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.readers, r)
}
