package facts

import (
	"hash/maphash"
	"iter"
	"maps"
	"slices"
)

// shardCount makes a change of one entry among ten thousand copy forty of them.
const shardCount = 256

// seed is the process's own; it only spreads names.
var seed = maphash.MakeSeed()

func shardOf(key string) uint8 { return uint8(maphash.String(seed, key)) }

// table is an immutable map from names; an editor makes the next one.
type table[V any] struct {
	shards *[shardCount]map[string]V
	n      int
}

func (t table[V]) get(key string) (V, bool) {
	if t.shards == nil {
		var none V
		return none, false
	}
	v, ok := t.shards[shardOf(key)][key]
	return v, ok
}

// all visits the entries in no order.
func (t table[V]) all() iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		if t.shards == nil {
			return
		}
		for _, shard := range t.shards {
			for k, v := range shard {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}

// values lists the entries in order of name.
func (t table[V]) values() []V {
	keys := make([]string, 0, t.n)
	for k := range t.all() {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	out := make([]V, len(keys))
	for i, k := range keys {
		out[i], _ = t.get(k)
	}
	return out
}

// editor changes copies of the shards it touches; the table it started from stays as it was.
type editor[V any] struct {
	table[V]
	own [shardCount]bool
	any bool
}

func edit[V any](t table[V]) *editor[V] { return &editor[V]{table: t} }

func (e *editor[V]) shard(key string) map[string]V {
	if !e.any {
		next := new([shardCount]map[string]V)
		if e.shards != nil {
			*next = *e.shards
		}
		e.shards, e.any = next, true
	}
	i := shardOf(key)
	if !e.own[i] {
		if e.shards[i] == nil {
			e.shards[i] = make(map[string]V)
		} else {
			e.shards[i] = maps.Clone(e.shards[i])
		}
		e.own[i] = true
	}
	return e.shards[i]
}

func (e *editor[V]) set(key string, v V) {
	if _, had := e.get(key); !had {
		e.n++
	}
	e.shard(key)[key] = v
}

func (e *editor[V]) remove(key string) {
	if _, had := e.get(key); had {
		e.n--
		delete(e.shard(key), key)
	}
}
