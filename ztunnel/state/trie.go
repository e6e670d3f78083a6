package state

import (
	"hash/maphash"
	"iter"
	"math/bits"
)

// The indexes of a snapshot are persistent hash tries: a change copies the path from the root to the entry and nothing
// else, so the previous snapshot stays whole for whoever still reads it, and the cost of an update does not grow with
// the mesh. A batch owns the nodes it has copied already (the edit token) and changes those in place; without that, the
// first sync of 50,000 workloads would copy every path thousands of times.
//
// Each level consumes five bits of the hash. Below the last level entries whose whole hash collides sit in a list.

const (
	trieBits  = 5
	trieLevel = 60 / trieBits
)

// edit is the token of one batch. It has a field, so that two tokens never share an address.
type edit struct{ _ byte }

type entry[K comparable, V any] struct {
	key K
	val V
}

// node holds entries and children in two dense slices; the bitmaps say which of the 32 slots each one fills. At the
// deepest level there are no bitmaps and entries is a plain list.
type node[K comparable, V any] struct {
	owner    *edit
	entryMap uint32
	childMap uint32
	entries  []entry[K, V]
	children []*node[K, V]
}

// table is one persistent map. The zero value is empty; a table may be copied freely.
type table[K comparable, V any] struct {
	root *node[K, V]
	size int
}

// seed is fixed for the life of the process: tables built at different times must agree on hashes.
var seed = maphash.MakeSeed()

func slot(hash uint64, level int) uint32 {
	return 1 << (hash >> (level * trieBits) & (1<<trieBits - 1))
}

func rank(bitmap, bit uint32) int { return bits.OnesCount32(bitmap & (bit - 1)) }

// Len returns the number of entries.
func (t table[K, V]) Len() int { return t.size }

// Get returns the value of a key.
func (t table[K, V]) Get(key K) (val V, ok bool) {
	n := t.root
	if n == nil {
		return val, false
	}
	hash := maphash.Comparable(seed, key)
	for level := 0; level < trieLevel; level++ {
		bit := slot(hash, level)
		if n.entryMap&bit != 0 {
			e := &n.entries[rank(n.entryMap, bit)]
			if e.key == key {
				return e.val, true
			}
			return val, false
		}
		if n.childMap&bit == 0 {
			return val, false
		}
		n = n.children[rank(n.childMap, bit)]
	}
	for i := range n.entries {
		if n.entries[i].key == key {
			return n.entries[i].val, true
		}
	}
	return val, false
}

// All yields the entries in no particular order.
func (t table[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		if t.root != nil {
			t.root.each(yield)
		}
	}
}

func (n *node[K, V]) each(yield func(K, V) bool) bool {
	for i := range n.entries {
		if !yield(n.entries[i].key, n.entries[i].val) {
			return false
		}
	}
	for _, c := range n.children {
		if !c.each(yield) {
			return false
		}
	}
	return true
}

// Set stores a value, copying only nodes the batch does not own yet.
func (t *table[K, V]) Set(by *edit, key K, val V) {
	if t.root == nil {
		t.root = &node[K, V]{owner: by}
	}
	root, added := t.root.set(by, maphash.Comparable(seed, key), 0, key, val)
	t.root = root
	if added {
		t.size++
	}
}

// Delete removes a key; it reports whether the key was there.
func (t *table[K, V]) Delete(by *edit, key K) bool {
	if t.root == nil {
		return false
	}
	root, removed := t.root.delete(by, maphash.Comparable(seed, key), 0, key)
	t.root = root
	if removed {
		t.size--
	}
	if t.size == 0 {
		t.root = nil
	}
	return removed
}

// mine returns the node itself when the batch owns it, else a copy that it does.
func (n *node[K, V]) mine(by *edit) *node[K, V] {
	if n.owner == by {
		return n
	}
	return &node[K, V]{
		owner:    by,
		entryMap: n.entryMap,
		childMap: n.childMap,
		entries:  append([]entry[K, V](nil), n.entries...),
		children: append([]*node[K, V](nil), n.children...),
	}
}

func (n *node[K, V]) set(by *edit, hash uint64, level int, key K, val V) (*node[K, V], bool) {
	if level == trieLevel {
		return n.setColliding(by, key, val)
	}
	bit := slot(hash, level)
	switch {
	case n.childMap&bit != 0:
		i := rank(n.childMap, bit)
		child, added := n.children[i].set(by, hash, level+1, key, val)
		n = n.mine(by)
		n.children[i] = child
		return n, added
	case n.entryMap&bit == 0:
		n = n.mine(by)
		n.entries = insertAt(n.entries, rank(n.entryMap, bit), entry[K, V]{key, val})
		n.entryMap |= bit
		return n, true
	}
	i := rank(n.entryMap, bit)
	n = n.mine(by)
	if n.entries[i].key == key {
		n.entries[i].val = val
		return n, false
	}
	// Two keys in one slot: both move a level down.
	old := n.entries[i]
	child := &node[K, V]{owner: by}
	child, _ = child.set(by, maphash.Comparable(seed, old.key), level+1, old.key, old.val)
	child, _ = child.set(by, hash, level+1, key, val)
	n.entries = removeAt(n.entries, i)
	n.entryMap &^= bit
	n.children = insertAt(n.children, rank(n.childMap, bit), child)
	n.childMap |= bit
	return n, true
}

func (n *node[K, V]) setColliding(by *edit, key K, val V) (*node[K, V], bool) {
	n = n.mine(by)
	for i := range n.entries {
		if n.entries[i].key == key {
			n.entries[i].val = val
			return n, false
		}
	}
	n.entries = append(n.entries, entry[K, V]{key, val})
	return n, true
}

func (n *node[K, V]) delete(by *edit, hash uint64, level int, key K) (*node[K, V], bool) {
	if level == trieLevel {
		for i := range n.entries {
			if n.entries[i].key == key {
				n = n.mine(by)
				n.entries = removeAt(n.entries, i)
				return n, true
			}
		}
		return n, false
	}
	bit := slot(hash, level)
	if n.entryMap&bit != 0 {
		i := rank(n.entryMap, bit)
		if n.entries[i].key != key {
			return n, false
		}
		n = n.mine(by)
		n.entries = removeAt(n.entries, i)
		n.entryMap &^= bit
		return n, true
	}
	if n.childMap&bit == 0 {
		return n, false
	}
	i := rank(n.childMap, bit)
	child, removed := n.children[i].delete(by, hash, level+1, key)
	if !removed {
		return n, false
	}
	n = n.mine(by)
	switch {
	case len(child.entries)+len(child.children) == 0:
		n.children = removeAt(n.children, i)
		n.childMap &^= bit
	case len(child.entries) == 1 && len(child.children) == 0:
		// A lone entry moves back up, else tries grow deep and empty over months of pod churn.
		n.children = removeAt(n.children, i)
		n.childMap &^= bit
		n.entries = insertAt(n.entries, rank(n.entryMap, bit), child.entries[0])
		n.entryMap |= bit
	default:
		n.children[i] = child
	}
	return n, true
}

// insertAt and removeAt always allocate to size: the slices live for as long as the snapshot, and spare capacity would
// be paid for in every one of some ten thousand nodes.
func insertAt[T any](s []T, i int, v T) []T {
	out := make([]T, len(s)+1)
	copy(out, s[:i])
	out[i] = v
	copy(out[i+1:], s[i:])
	return out
}

func removeAt[T any](s []T, i int) []T {
	if len(s) == 1 {
		return nil
	}
	out := make([]T, len(s)-1)
	copy(out, s[:i])
	copy(out[i:], s[i+1:])
	return out
}
