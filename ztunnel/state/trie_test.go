package state

import (
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// A trie must say what a map says, in the current version and in every older one somebody kept.
func TestTrieIsAMapAndOldVersionsStay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var now table[int, int]
		naive := map[int]int{}
		type version struct {
			table table[int, int]
			naive map[int]int
		}
		var kept []version
		by := &edit{}
		for range rapid.IntRange(0, 300).Draw(t, "steps") {
			key := rapid.IntRange(0, 80).Draw(t, "key")
			switch rapid.IntRange(0, 5).Draw(t, "op") {
			case 0, 1, 2:
				val := rapid.Int().Draw(t, "val")
				now.Set(by, key, val)
				naive[key] = val
			case 3, 4:
				_, had := naive[key]
				if got := now.Delete(by, key); got != had {
					t.Fatalf("Delete(%d) = %v, want %v", key, got, had)
				}
				delete(naive, key)
			case 5:
				kept = append(kept, version{now, maps.Clone(naive)})
				by = &edit{}
			}
		}
		for _, v := range append(kept, version{now, naive}) {
			if got := maps.Collect(v.table.All()); !maps.Equal(got, v.naive) || v.table.Len() != len(v.naive) {
				t.Fatalf("table holds %v (len %d), want %v", got, v.table.Len(), v.naive)
			}
			for key := range 81 {
				want, had := v.naive[key]
				if got, ok := v.table.Get(key); ok != had || got != want {
					t.Fatalf("Get(%d) = %d, %v, want %d, %v", key, got, ok, want, had)
				}
			}
		}
	})
}

// Whole-hash collisions cannot be had from a good hash, so the deepest level is driven directly.
func TestTrieCollisions(t *testing.T) {
	by := &edit{}
	n := &node[string, int]{owner: by}
	for i, key := range []string{"a", "b", "c", "b"} {
		n, _ = n.set(by, 7, trieLevel, key, i)
	}
	if len(n.entries) != 3 || n.entries[1].val != 3 {
		t.Fatalf("entries = %v", n.entries)
	}
	next := &edit{}
	m, removed := n.delete(next, 7, trieLevel, "a")
	if !removed || len(m.entries) != 2 || len(n.entries) != 3 {
		t.Fatalf("delete gave %v, left %v", m.entries, n.entries)
	}
	if _, removed := m.delete(next, 7, trieLevel, "zz"); removed {
		t.Fatal("deleted what was not there")
	}
}
