package xds

import (
	"errors"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// errBehind ends a stream that stood still while the removals it missed were forgotten. Its client connects again and
// says what it has, which tells both sides what is gone.
var errBehind = errors.New("the client did not read for so long that removals it missed are forgotten; it has to connect again")

// chunkSize is where a push is cut. An answer is never cut: proxies take the first one for the whole.
const chunkSize = 1 << 20

// after calls fn with the changed entries beyond cursor, oldest first, until fn returns false. It returns the new cursor.
// Caller holds mu for reading.
func (c *Collection) after(cursor uint64, fn func(e *entry) bool) uint64 {
	from := sort.Search(len(c.log), func(i int) bool { return c.log[i].seq > cursor })
	for _, s := range c.log[from:] {
		if s.entry.seq != s.seq {
			continue
		}
		cursor = s.seq
		if !fn(s.entry) {
			return cursor
		}
	}
	return c.seq
}

// pending reports whether anything happened beyond cursor.
func (c *Collection) pending(cursor uint64) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.seq > cursor
}

// now is the cursor of who has read everything.
func (c *Collection) now() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.seq
}

// changes collects what a subscriber to everything missed, at most one chunk of it.
func (c *Collection) changes(cursor uint64) (*batch, uint64, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if cursor < c.horizon {
		return nil, cursor, errBehind
	}
	if p := c.last.Load(); p != nil && p.from == cursor && p.to == c.seq {
		return p.batch, p.to, nil
	}
	p := &push{from: cursor}
	b := &batch{version: c.version}
	p.to = c.after(cursor, func(e *entry) bool {
		if e.item != nil {
			b.add(e.item)
		} else {
			b.remove(e.name)
		}
		return b.bytes < chunkSize
	})
	if p.to == c.seq && !b.empty() {
		// Cursors only grow from one push of a stream to the next, so they number the pushes of every stream alike.
		p.sent = sentResponse{nonce: "p" + strconv.FormatUint(p.to, 36), version: versionText(b.version)}
		p.batch, p.response, b.push = b, b.response(c.typeURL, p.sent.nonce, p.sent.version), p
		c.last.Store(p)
	}
	return b, p.to, nil
}

// resumeStep is how many names are looked up before producers get a turn.
const resumeStep = 2048

// resume collects what differs from what a reconnecting subscriber to everything says it has. Changes may come in between
// steps; the walk at the end sees them, because it starts from what the first step knew.
func (c *Collection) resume(have known) (*batch, uint64, error) {
	c.mu.RLock()
	start := c.seq
	same := make([]uint64, 0, min(have.n, c.live))
	b := &batch{}
	n := 0
	for name, version := range have.each {
		if n++; n%resumeStep == 0 {
			c.mu.RUnlock()
			c.mu.RLock()
		}
		e := c.entries[string(name)]
		switch {
		case e == nil || e.item == nil:
			b.remove(string(name))
		case e.item.version != "" && e.item.version == string(version):
			same = append(same, e.seq)
		}
	}
	c.mu.RUnlock()
	slices.Sort(same)

	c.mu.RLock()
	defer c.mu.RUnlock()
	if start < c.horizon {
		return nil, 0, errBehind // removals since the first step are forgotten already
	}
	// Clients may handle removals last, so a name that came back meanwhile must not be among them.
	b.removed = slices.DeleteFunc(b.removed, func(name string) bool { e := c.entries[name]; return e != nil && e.item != nil })
	b.version = c.version
	cursor := c.after(0, func(e *entry) bool { // in the order of seq as well
		for len(same) > 0 && same[0] < e.seq {
			same = same[1:]
		}
		switch {
		case e.item == nil && e.seq > start:
			b.remove(e.name)
		case e.item != nil && (len(same) == 0 || same[0] != e.seq):
			b.add(e.item)
		}
		return true
	})
	return b, cursor, nil
}

// Snapshot lists the resources in order of name, for people who look. Bodies are shared with what is sent: read them only.
func (c *Collection) Snapshot() []Resource {
	c.mu.RLock()
	items := make([]*item, 0, c.live)
	for _, e := range c.entries {
		if e.item != nil {
			items = append(items, e.item)
		}
	}
	c.mu.RUnlock()
	slices.SortFunc(items, func(a, b *item) int { return strings.Compare(a.name, b.name) })
	out := make([]Resource, len(items))
	for i, it := range items {
		out[i] = Resource{Name: it.name, Aliases: it.aliases, Version: it.version, Node: it.node, Services: it.services, Scopes: it.scopes, Body: it.body()}
	}
	return out
}

// body finds the payload within the encoded resource.
func (it *item) body() (body []byte) {
	// Our own encoding: it cannot fail to decode.
	_ = fields(it.encoded.ReadOnlyData(), func(_ protowire.Number, resource []byte) error {
		raw, err := decodeResource(resource)
		body = raw.Body
		return err
	})
	return body
}

// image is everything at one moment, encoded in a few large pieces that all clients starting at about that time share.
type image struct {
	slabs   mem.BufferSlice
	cursor  uint64
	version uint64
}

// imageCache keeps the last image for as long as it is useful: a fleet connecting at once needs it many times, a quiet one not at all.
type imageCache struct {
	mu    sync.Mutex
	last  *image
	timer *time.Timer
}

// How long an unused image is kept, and how large its pieces are.
const (
	imageIdle = 5 * time.Second
	slabSize  = 1 << 20
)

// everything returns an image that is at most slightly old; the caller reads the rest from the log.
func (c *Collection) everything() *image {
	c.images.mu.Lock()
	defer c.images.mu.Unlock()
	c.mu.RLock()
	last := c.images.last
	if last == nil || last.cursor < c.horizon || c.seq-last.cursor > uint64(c.live/8) {
		items := make([]*item, 0, c.live)
		last = &image{version: c.version}
		last.cursor = c.after(0, func(e *entry) bool {
			if e.item != nil {
				items = append(items, e.item)
			}
			return true
		})
		c.mu.RUnlock()
		last.slabs = slabs(items) // the copying happens outside the lock
		c.images.last = last
	} else {
		c.mu.RUnlock()
	}
	if c.images.timer == nil {
		c.images.timer = time.AfterFunc(imageIdle, c.dropImage)
	} else {
		c.images.timer.Reset(imageIdle)
	}
	return last
}

func (c *Collection) dropImage() {
	c.images.mu.Lock()
	defer c.images.mu.Unlock()
	c.images.last = nil
}

func slabs(items []*item) mem.BufferSlice {
	var out mem.BufferSlice
	for len(items) > 0 {
		n, size := 0, 0
		for n < len(items) && (n == 0 || size+items[n].encoded.Len() <= slabSize) {
			size += items[n].encoded.Len()
			n++
		}
		slab := make([]byte, 0, size)
		for _, it := range items[:n] {
			slab = append(slab, it.encoded.ReadOnlyData()...)
		}
		out = append(out, mem.SliceBuffer(slab))
		items = items[n:]
	}
	return out
}
