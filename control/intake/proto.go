package intake

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// message reads a node into a protobuf message, by the JSON names of its fields. Istio's custom resources are such
// messages. Unlike the usual JSON decoder it does not take the names with underscores: the API server does not either.
func (r *reader) message(n *yaml.Node, into proto.Message) {
	r.protoMessage(n, into.ProtoReflect())
}

func (r *reader) protoShape(md protoreflect.MessageDescriptor) *shape {
	if s, ok := r.d.shapes.Load(md.FullName()); ok {
		return s.(*shape)
	}
	s := &shape{}
	fields := md.Fields()
	for i := range fields.Len() {
		s.names = append(s.names, fields.Get(i).JSONName())
	}
	slices.Sort(s.names)
	s.child = func(name string) *shape {
		fd := fields.ByJSONName(name)
		if fd == nil || fd.Message() == nil || fd.IsMap() || wellKnown(fd.Message()) {
			return nil
		}
		return r.protoShape(fd.Message())
	}
	got, _ := r.d.shapes.LoadOrStore(md.FullName(), s)
	return got.(*shape)
}

func wellKnown(md protoreflect.MessageDescriptor) bool {
	return strings.HasPrefix(string(md.FullName()), "google.protobuf.")
}

func (r *reader) protoMessage(n *yaml.Node, m protoreflect.Message) {
	n = follow(n)
	if !r.spend(n) {
		return
	}
	md := m.Descriptor()
	k := kindOf(n)
	if k == null {
		return
	}
	if wellKnown(md) {
		r.wellKnown(n, k, m)
		return
	}
	if k != mapping {
		r.mismatch(n, wantMapping)
		return
	}
	sh := r.protoShape(md)
	r.shapes = append(r.shapes, sh)
	for _, p := range r.pairs(n) {
		fd := md.Fields().ByJSONName(p.key.Value)
		if fd == nil {
			r.unknown(p.key, sh)
			continue
		}
		if r.second(m, fd, p.key) {
			continue
		}
		r.enter(p.key.Value)
		r.protoField(follow(p.value), m, fd)
		r.leave()
	}
	r.shapes = r.shapes[:len(r.shapes)-1]
}

// second refuses a field that excludes one that is set already: the first would be lost.
func (r *reader) second(m protoreflect.Message, fd protoreflect.FieldDescriptor, key *yaml.Node) bool {
	one := fd.ContainingOneof()
	if one == nil {
		return false
	}
	other := m.WhichOneof(one)
	if other == nil || other == fd {
		return false
	}
	r.refuseLine(key.Line, r.here(key.Value), fmt.Sprintf("%s and %s exclude each other", other.JSONName(), fd.JSONName()), "keep one of the two")
	return true
}

func (r *reader) protoField(n *yaml.Node, m protoreflect.Message, fd protoreflect.FieldDescriptor) {
	k := kindOf(n)
	switch {
	case k == null:
	case fd.IsMap():
		r.protoMap(n, k, m.Mutable(fd).Map(), fd)
	case fd.IsList():
		if k != list {
			r.mismatch(n, wantList)
			return
		}
		l := m.Mutable(fd).List()
		r.shapes = append(r.shapes, nil)
		for i, e := range n.Content {
			r.enterIndex(i)
			e = follow(e)
			if kindOf(e) == null {
				r.refuseLine(e.Line, r.here(), "the entry is empty", "remove the dash or write something behind it")
			} else if fd.Message() != nil {
				r.protoMessage(e, l.AppendMutable().Message())
			} else if v, ok := r.protoScalar(e, fd); ok {
				l.Append(v)
			}
			r.leave()
		}
		r.shapes = r.shapes[:len(r.shapes)-1]
	case fd.Message() != nil:
		r.protoMessage(n, m.Mutable(fd).Message())
	default:
		if v, ok := r.protoScalar(n, fd); ok {
			m.Set(fd, v)
		}
	}
}

func (r *reader) protoMap(n *yaml.Node, k kind, m protoreflect.Map, fd protoreflect.FieldDescriptor) {
	if k != mapping {
		r.mismatch(n, wantMapping)
		return
	}
	r.shapes = append(r.shapes, nil)
	for _, p := range r.pairs(n) {
		r.enter(p.key.Value)
		if key, ok := r.protoKey(p.key, fd.MapKey()); ok {
			v := follow(p.value)
			if fd.MapValue().Message() != nil {
				r.protoMessage(v, m.Mutable(key).Message())
			} else if kindOf(v) != null {
				if pv, ok := r.protoScalar(v, fd.MapValue()); ok {
					m.Set(key, pv)
				}
			}
		}
		r.leave()
	}
	r.shapes = r.shapes[:len(r.shapes)-1]
}

func (r *reader) protoKey(n *yaml.Node, fd protoreflect.FieldDescriptor) (protoreflect.MapKey, bool) {
	if fd.Kind() == protoreflect.StringKind {
		return protoreflect.ValueOfString(n.Value).MapKey(), true
	}
	i, err := strconv.ParseUint(n.Value, 10, 32)
	if err != nil {
		r.refuseLine(n.Line, r.here(), fmt.Sprintf("the key %q is not a number", clip(n.Value)), "write a number before the colon")
		return protoreflect.MapKey{}, false
	}
	return protoreflect.ValueOfUint32(uint32(i)).MapKey(), true
}

func (r *reader) protoScalar(n *yaml.Node, fd protoreflect.FieldDescriptor) (v protoreflect.Value, ok bool) {
	if !r.spend(n) {
		return v, false
	}
	k := kindOf(n)
	switch fd.Kind() {
	case protoreflect.StringKind:
		if k != text {
			r.mismatch(n, wantText)
			return v, false
		}
		return protoreflect.ValueOfString(n.Value), true
	case protoreflect.BoolKind:
		if k != boolean {
			r.mismatch(n, wantBool)
			return v, false
		}
		return protoreflect.ValueOfBool(truth(n.Value)), true
	case protoreflect.EnumKind:
		return r.protoEnum(n, k, fd.Enum())
	case protoreflect.Uint32Kind:
		i, ok := r.integer(n, k)
		if ok && (i < 0 || i > math.MaxUint32) {
			r.outOfRange(n)
			return v, false
		}
		return protoreflect.ValueOfUint32(uint32(i)), ok
	case protoreflect.Int32Kind:
		i, ok := r.integer(n, k)
		if ok && i != int64(int32(i)) {
			r.outOfRange(n)
			return v, false
		}
		return protoreflect.ValueOfInt32(int32(i)), ok
	case protoreflect.Int64Kind:
		i, ok := r.integer(n, k)
		return protoreflect.ValueOfInt64(i), ok
	case protoreflect.Uint64Kind:
		i, ok := r.integer(n, k)
		if ok && i < 0 {
			r.outOfRange(n)
			return v, false
		}
		return protoreflect.ValueOfUint64(uint64(i)), ok
	case protoreflect.DoubleKind:
		f, err := strconv.ParseFloat(n.Value, 64)
		if err != nil || k != integer && k != float || math.IsNaN(f) || math.IsInf(f, 0) {
			r.mismatch(n, "a number")
			return v, false
		}
		return protoreflect.ValueOfFloat64(f), true
	case protoreflect.BytesKind:
		b, ok := r.base64(n, k)
		return protoreflect.ValueOfBytes(b), ok
	}
	return v, false // no message we read has a field of another kind
}

func (r *reader) protoEnum(n *yaml.Node, k kind, ed protoreflect.EnumDescriptor) (v protoreflect.Value, ok bool) {
	var names []string
	for i := range ed.Values().Len() {
		e := ed.Values().Get(i)
		if k == text && string(e.Name()) == n.Value {
			return protoreflect.ValueOfEnum(e.Number()), true
		}
		names = append(names, string(e.Name()))
	}
	r.notOneOf(n.Line, r.here(), n.Value, names)
	return v, false
}

// notOneOf refuses a value that is none of the allowed ones.
func (r *reader) notOneOf(line int, path []any, value string, allowed []string) {
	fix := "write one of " + strings.Join(allowed, ", ")
	if best := nearest(value, allowed); best != "" {
		fix = fmt.Sprintf("did you mean %s? Allowed are %s", best, strings.Join(allowed, ", "))
	}
	r.refuseLine(line, path, fmt.Sprintf("%q is not a value of this field", clip(value)), fix)
}
