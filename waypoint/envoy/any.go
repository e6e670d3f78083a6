package envoy

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// toAny wraps a message, always in the same bytes: Envoy takes a changed byte for a changed configuration.
func toAny(m proto.Message) *anypb.Any {
	a := new(anypb.Any)
	if err := anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true, AllowPartial: true}); err != nil {
		// Only text that is no UTF-8 gets here, and nothing of the kind passes the wire the facts came over.
		panic("waypoint/envoy: " + err.Error())
	}
	return a
}
