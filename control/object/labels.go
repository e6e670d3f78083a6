package object

import (
	"encoding/binary"
	"encoding/json"
	"iter"
	"maps"
	"slices"
	"strings"
	"unique"
)

// Labels is an immutable set of key-value pairs in eight bytes. Equal sets share one copy and compare equal with ==, so
// that a thousand pods of one Deployment hold their labels once. The zero value is the empty set.
type Labels struct {
	// A sorted run of length-prefixed keys and values; the zero handle stands for the empty run.
	packed unique.Handle[string]
}

// MakeLabels copies a map.
func MakeLabels(m map[string]string) Labels {
	if len(m) == 0 {
		return Labels{}
	}
	keys := slices.Sorted(maps.Keys(m))
	var b []byte
	for _, k := range keys {
		b = binary.AppendUvarint(b, uint64(len(k)))
		b = append(b, k...)
		v := m[k]
		b = binary.AppendUvarint(b, uint64(len(v)))
		b = append(b, v...)
	}
	return Labels{packed: unique.Make(string(b))}
}

// LabelsOf is MakeLabels of alternating keys and values; handy in tests. A key without a value gets the empty one.
func LabelsOf(kv ...string) Labels {
	m := make(map[string]string, len(kv)/2)
	for i := 0; i < len(kv); i += 2 {
		v := ""
		if i+1 < len(kv) {
			v = kv[i+1]
		}
		m[kv[i]] = v
	}
	return MakeLabels(m)
}

func (l Labels) run() string {
	if l == (Labels{}) {
		return ""
	}
	return l.packed.Value()
}

// next splits one length-prefixed string off a run that MakeLabels built.
func next(s string) (item, rest string) {
	n, shift := uint64(0), 0
	for i := 0; i < len(s); i++ {
		n |= uint64(s[i]&0x7f) << shift
		if s[i] < 0x80 {
			return s[i+1 : i+1+int(n)], s[i+1+int(n):]
		}
		shift += 7
	}
	return "", ""
}

// All walks the pairs in the order of their keys.
func (l Labels) All() iter.Seq2[string, string] {
	return func(yield func(k, v string) bool) {
		for s := l.run(); s != ""; {
			var k, v string
			k, s = next(s)
			v, s = next(s)
			if !yield(k, v) {
				return
			}
		}
	}
}

// Lookup returns the value of a key and whether the key is there.
func (l Labels) Lookup(key string) (string, bool) {
	for k, v := range l.All() {
		if k == key {
			return v, true
		}
		if k > key {
			break
		}
	}
	return "", false
}

// Get returns the value of a key, or "".
func (l Labels) Get(key string) string {
	v, _ := l.Lookup(key)
	return v
}

// Has reports whether the key is there.
func (l Labels) Has(key string) bool {
	_, ok := l.Lookup(key)
	return ok
}

// Len is the number of pairs.
func (l Labels) Len() int {
	n := 0
	for range l.All() {
		n++
	}
	return n
}

// Empty reports whether there is no pair at all.
func (l Labels) Empty() bool { return l == Labels{} }

// Contains reports whether every pair of sub is also in l. The empty set is contained in every set: callers decide
// themselves what an empty selector means.
func (l Labels) Contains(sub Labels) bool {
	if sub == l || sub.Empty() {
		return true
	}
	s := l.run()
	for wk, wv := range sub.All() {
		found := false
		for s != "" && !found {
			var k, v string
			k, s = next(s)
			v, s = next(s)
			if k > wk || k == wk && v != wv {
				return false
			}
			found = k == wk
		}
		if !found {
			return false
		}
	}
	return true
}

// Map copies the pairs into a new map, nil when there is none.
func (l Labels) Map() map[string]string {
	if l.Empty() {
		return nil
	}
	m := make(map[string]string)
	for k, v := range l.All() {
		m[k] = v
	}
	return m
}

// String is "k=v,k2=v2".
func (l Labels) String() string {
	var b strings.Builder
	for k, v := range l.All() {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(k + "=" + v)
	}
	return b.String()
}

// MarshalJSON writes an object of strings.
func (l Labels) MarshalJSON() ([]byte, error) {
	m := l.Map()
	if m == nil {
		return []byte("{}"), nil
	}
	return json.Marshal(m)
}

// UnmarshalJSON reads an object of strings.
func (l *Labels) UnmarshalJSON(b []byte) error {
	var m map[string]string
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	*l = MakeLabels(m)
	return nil
}

// Selector is an optional `matchLabels`. Absent and empty differ: a policy without a selector is about a namespace, one
// with an empty selector is about every workload by selection.
type Selector struct {
	Present bool
	Labels  Labels
}

// Matches reports whether the selector is present and all its labels are in l.
func (s Selector) Matches(l Labels) bool { return s.Present && l.Contains(s.Labels) }

// LabelSelector is Kubernetes' selector with expressions.
type LabelSelector struct {
	MatchLabels Labels
	Expressions []Requirement
}

// Operator of a Requirement.
type Operator string

// Operators of Kubernetes label selectors.
const (
	In           Operator = "In"
	NotIn        Operator = "NotIn"
	Exists       Operator = "Exists"
	DoesNotExist Operator = "DoesNotExist"
)

// Requirement is one `matchExpressions` entry.
type Requirement struct {
	Key      string
	Operator Operator
	Values   []string
}

// Matches reports whether every label and every expression holds; the empty selector matches everything.
func (s LabelSelector) Matches(l Labels) bool {
	if !l.Contains(s.MatchLabels) {
		return false
	}
	for _, r := range s.Expressions {
		v, ok := l.Lookup(r.Key)
		switch r.Operator {
		case In:
			ok = ok && slices.Contains(r.Values, v)
		case NotIn:
			ok = !ok || !slices.Contains(r.Values, v)
		case Exists:
		case DoesNotExist:
			ok = !ok
		default:
			return false
		}
		if !ok {
			return false
		}
	}
	return true
}
