package intake

import (
	"encoding/base64"
	"math"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// wellKnown reads the messages of protobuf itself that have a JSON form of their own. Of those only durations, wrapped
// scalars and free JSON steer anything; times stand in a status.
func (r *reader) wellKnown(n *yaml.Node, k kind, m protoreflect.Message) {
	switch md := m.Descriptor(); md.Name() {
	case "Duration":
		// As Istio reads it: Go's notation, not only seconds.
		d, err := time.ParseDuration(n.Value)
		if k != text || err != nil {
			r.refuseLine(n.Line, r.here(), "takes a duration, not "+r.describe(n), "write it like 30s")
			return
		}
		proto.Merge(m.Interface(), durationpb.New(d))
	case "DoubleValue", "FloatValue", "Int64Value", "UInt64Value", "Int32Value", "UInt32Value", "BoolValue", "StringValue", "BytesValue":
		fd := md.Fields().ByName("value")
		if v, ok := r.protoScalar(n, fd); ok {
			m.Set(fd, v)
		}
	case "Struct":
		if k != mapping {
			r.mismatch(n, wantMapping)
			return
		}
		if v := r.freeJSON(n); v != nil {
			proto.Merge(m.Interface(), v.GetStructValue())
		}
	}
}

// freeJSON reads any value.
func (r *reader) freeJSON(n *yaml.Node) *structpb.Value {
	n = follow(n)
	if !r.spend(n) {
		return nil
	}
	switch kindOf(n) {
	case mapping:
		s := &structpb.Struct{Fields: make(map[string]*structpb.Value)}
		for _, p := range r.pairs(n) {
			r.enter(p.key.Value)
			if v := r.freeJSON(p.value); v != nil {
				s.Fields[p.key.Value] = v
			}
			r.leave()
		}
		return structpb.NewStructValue(s)
	case list:
		l := &structpb.ListValue{}
		for i, e := range n.Content {
			r.enterIndex(i)
			if v := r.freeJSON(e); v != nil {
				l.Values = append(l.Values, v)
			}
			r.leave()
		}
		return structpb.NewListValue(l)
	case integer, float:
		f, err := strconv.ParseFloat(strings.ReplaceAll(n.Value, "_", ""), 64)
		if i, ierr := strconv.ParseInt(strings.ReplaceAll(n.Value, "_", ""), 0, 64); ierr == nil {
			f, err = float64(i), nil
		}
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			r.mismatch(n, "a number")
			return nil
		}
		return structpb.NewNumberValue(f)
	case boolean:
		return structpb.NewBoolValue(truth(n.Value))
	case text:
		return structpb.NewStringValue(n.Value)
	}
	return structpb.NewNullValue()
}

// base64 reads bytes as Kubernetes and protobuf write them.
func (r *reader) base64(n *yaml.Node, k kind) ([]byte, bool) {
	if k != text {
		r.mismatch(n, wantText)
		return nil, false
	}
	b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(n.Value), ""))
	if err != nil {
		r.refuseLine(n.Line, r.here(), "the value is not base64", "encode it with: base64 -w0 FILE")
		return nil, false
	}
	return b, true
}
