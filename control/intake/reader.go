package intake

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ambit-mesh/ambit/control/status"
)

// reader reads one object out of nodes and collects what is wrong with it.
type reader struct {
	d    *Decoder
	file string
	root *yaml.Node

	// what the object says it is, as far as known
	kind, namespace, name string

	// hushed is set while values are read that must not be repeated in messages.
	hushed bool

	// where we are while values are read
	path   []segment
	shapes []*shape
	budget *int // nodes left for the whole document

	entries []status.Entry
	refused int
}

// segment is a step of a path: a key, or an index when key is not used.
type segment struct {
	key   string
	index int // -1 for keys
}

func (r *reader) enter(key string) { r.path = append(r.path, segment{key: key, index: -1}) }
func (r *reader) enterIndex(i int) { r.path = append(r.path, segment{index: i}) }
func (r *reader) leave()           { r.path = r.path[:len(r.path)-1] }

// here is the current path, with more steps if given.
func (r *reader) here(more ...any) []any {
	out := make([]any, 0, len(r.path)+len(more))
	for _, s := range r.path {
		if s.index < 0 {
			out = append(out, s.key)
		} else {
			out = append(out, s.index)
		}
	}
	return append(out, more...)
}

// at starts a path from the object's root.
func at(path ...any) []any { return path }

// sub continues a path.
func sub(path []any, more ...any) []any { return append(slices.Clip(slices.Clone(path)), more...) }

// refuse says that the object cannot be used as it is.
func (r *reader) refuse(path []any, problem, fix string) {
	r.refuseLine(locate(r.root, path), path, problem, fix)
}

func (r *reader) refuseLine(line int, path []any, problem, fix string) {
	r.refuseAs(status.WrongValue, line, path, problem, fix)
}

func (r *reader) refuseAs(code status.Code, line int, path []any, problem, fix string) {
	r.refused++
	if r.refused > r.d.limits.Problems {
		return
	}
	r.add(status.Refused, code, line, path, problem, fix)
}

// saidOf reports whether something was found wrong with a field.
func (r *reader) saidOf(field string) bool {
	return slices.ContainsFunc(r.entries, func(e status.Entry) bool { return e.Field == field })
}

// warn says that the object is used but probably does not do what its author meant.
func (r *reader) warn(path []any, problem, fix string) {
	r.warnAs(status.DoubtfulValue, path, problem, fix)
}

func (r *reader) warnAs(code status.Code, path []any, problem, fix string) {
	if len(r.entries) < 2*r.d.limits.Problems {
		r.add(status.Warning, code, locate(r.root, path), path, problem, fix)
	}
}

func (r *reader) add(sev status.Severity, code status.Code, line int, path []any, problem, fix string) {
	r.entries = append(r.entries, status.Entry{
		Severity: sev, Code: code, File: r.file, Line: line, Kind: r.kind, Namespace: r.namespace, Name: r.name,
		Field: pathString(path), Problem: problem, Fix: fix,
	})
}

// spend counts a node and reports whether there is any budget left. An alias makes a few bytes stand for many nodes, and
// a mapping that contains itself for endlessly many.
func (r *reader) spend(n *yaml.Node) bool {
	if *r.budget < 0 {
		return false
	}
	// Long text weighs more: an alias makes a few bytes stand for a megabyte, again and again.
	*r.budget -= 1 + len(n.Value)/64
	if *r.budget < 0 {
		r.refuseLine(n.Line, r.here(), fmt.Sprintf("the document has more than %d parts once its aliases are followed", r.d.limits.Nodes), "write the parts out, or split the document")
		return false
	}
	if len(r.path) > maxDepth {
		*r.budget = -1
		r.refuseLine(n.Line, nil, fmt.Sprintf("the document is nested more than %d deep", maxDepth), "remove the nesting")
		return false
	}
	return true
}

// pair is one entry of a mapping.
type pair struct{ key, value *yaml.Node }

// pairSet collects entries by key. Objects have few keys and searching them in a row is fastest; only large mappings get
// an index, so that reading one is not quadratic.
type pairSet struct {
	pairs []pair
	index map[string]*yaml.Node
}

func (s *pairSet) find(key string) *yaml.Node {
	if s.index != nil {
		return s.index[key]
	}
	for _, p := range s.pairs {
		if p.key.Value == key {
			return p.key
		}
	}
	return nil
}

func (s *pairSet) add(k, v *yaml.Node) {
	s.pairs = append(s.pairs, pair{k, v})
	if s.index == nil && len(s.pairs) > 32 {
		s.index = make(map[string]*yaml.Node)
		for _, p := range s.pairs {
			s.index[p.key.Value] = p.key
		}
	} else if s.index != nil {
		s.index[k.Value] = k
	}
}

// pairs lists a mapping's entries with merge keys followed. Keys that stand twice are refused: one of the two would be
// silently lost.
func (r *reader) pairs(n *yaml.Node) []pair {
	set := pairSet{pairs: make([]pair, 0, len(n.Content)/2)}
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := follow(n.Content[i])
		if !r.spend(k) {
			return nil
		}
		if k.Kind != yaml.ScalarNode {
			r.refuseLine(k.Line, r.here(), "a key must be text, not "+describe(k), "write a name before the colon")
			continue
		}
		if k.ShortTag() == "!!merge" {
			merges = append(merges, n.Content[i+1])
			continue
		}
		if first := set.find(k.Value); first != nil {
			r.refuseLine(k.Line, r.here(k.Value), fmt.Sprintf("the field stands twice, first on line %d", first.Line), "keep one of the two")
			continue
		}
		set.add(k, n.Content[i+1])
	}
	for _, m := range merges {
		r.merge(&set, follow(m), 0)
	}
	return set.pairs
}

// merge adds the entries of a `<<` value that are not there yet. YAML merge key 1.1: what stands in the mapping itself
// wins, and of several merged mappings the earlier one.
func (r *reader) merge(set *pairSet, m *yaml.Node, depth int) {
	if !r.spend(m) || depth > maxDepth {
		return
	}
	switch m.Kind {
	case yaml.SequenceNode:
		for _, e := range m.Content {
			r.merge(set, follow(e), depth+1)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(m.Content); i += 2 {
			k := follow(m.Content[i])
			if !r.spend(k) {
				return
			}
			if k.ShortTag() == "!!merge" {
				r.merge(set, follow(m.Content[i+1]), depth+1)
			} else if set.find(k.Value) == nil {
				set.add(k, m.Content[i+1])
			}
		}
	default:
		r.refuseLine(m.Line, r.here("<<"), "only mappings can be merged, this is "+r.describe(m), "name an anchor of a mapping")
	}
}

// mismatch refuses a value of the wrong kind.
func (r *reader) mismatch(n *yaml.Node, want string) {
	fix := "write " + want
	switch k := kindOf(n); {
	case r.hushed && want == wantText && (k == integer || k == float || k == boolean):
		fix = "put it in quotes"
	case r.hushed:
	case want == wantText && (k == integer || k == float || k == boolean):
		fix = fmt.Sprintf("put it in quotes: %q", clip(n.Value))
	case (want == wantNumber || want == wantBool) && k == text && looksLike(n.Value, want):
		fix = "write it without quotes: " + clip(n.Value)
	case want == wantList && k != list && k != null:
		fix = "put a dash before each entry"
	case want == wantMapping && k == list:
		fix = "leave out the dash"
	}
	r.refuseLine(n.Line, r.here(), fmt.Sprintf("takes %s, not %s", want, r.describe(n)), fix)
}

// describe is describe, without the value where that is nobody's business.
func (r *reader) describe(n *yaml.Node) string {
	if r.hushed && n.Kind == yaml.ScalarNode {
		return [...]string{null: "nothing", text: "other text", integer: "a number", float: "a number", boolean: "a boolean"}[kindOf(n)]
	}
	return describe(n)
}

const (
	wantText    = "text"
	wantNumber  = "a whole number"
	wantBool    = "true or false"
	wantList    = "a list"
	wantMapping = "a mapping"
)

func looksLike(s, want string) bool {
	if want == wantBool {
		return s == "true" || s == "false"
	}
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// decisive are the kinds that say who may. What is left of one without a field may be about more than was meant, so
// nobody is told to take one away.
var decisive = []string{"AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication", "NetworkPolicy"}

// unknown refuses a field that does not exist and says which one was probably meant.
func (r *reader) unknown(key *yaml.Node, sh *shape) {
	fix := "remove it"
	if best := nearest(key.Value, sh.names); best != "" {
		fix = fmt.Sprintf("did you mean %s?", best)
	} else if home := r.home(key.Value, sh); home != "" {
		fix = home
	} else if sh.has("matchLabels") {
		fix = fmt.Sprintf("labels stand one level deeper: write matchLabels: {%s: …}", clip(key.Value))
	} else if len(sh.names) > 0 && slices.Contains(decisive, r.kind) {
		fix = "there are: " + strings.Join(sh.names, ", ")
	}
	r.refuseAs(status.UnknownField, key.Line, r.here(key.Value), fmt.Sprintf("there is no field %q", clip(key.Value)), fix)
}

// home finds where a field belongs that stands one level too deep or too high, which is what a slip of the indentation
// looks like.
func (r *reader) home(name string, sh *shape) string {
	for i := len(r.shapes) - 2; i >= 0; i-- {
		if r.shapes[i] != nil && r.shapes[i].has(name) {
			where := "the top level"
			if i > 0 && i <= len(r.path) {
				where = pathString(r.here()[:i])
			}
			return fmt.Sprintf("it is a field of %s: check the indentation", where)
		}
	}
	around := []*shape{sh}
	if n := len(r.shapes); n > 1 && r.shapes[n-2] != nil {
		around = append(around, r.shapes[n-2])
	}
	for _, s := range around {
		for _, n := range s.names {
			if c := s.child(n); c != nil && c.has(name) {
				return fmt.Sprintf("it is a field of %s: check the indentation", n)
			}
		}
	}
	return ""
}

// shape is what is known of a mapping's fields.
type shape struct {
	names []string // sorted
	// child is the shape of a field that is a mapping or a list of mappings, else nil.
	child func(name string) *shape
}

func (s *shape) has(name string) bool {
	_, ok := slices.BinarySearch(s.names, name)
	return ok
}
