package intake

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// Convert turns an object that somebody else decoded into the same values, by the same rules, as if it had been read from
// a file. spec is a pointer: to the spec of a kind of Istio's (a message of istio.io/api; *ServiceEntry for that kind) or of
// the Gateway API's routes and policies, and to the whole object for Kubernetes' own kinds, Gateways and GatewayClasses.
// The object is nil when it was refused; the entries say why, without lines. Convert may change what spec points at.
func (d *Decoder) Convert(kind object.Kind, meta metav1.ObjectMeta, spec any) (object.Object, []status.Entry) {
	budget := d.limits.Nodes
	r := &reader{d: d, kind: kind.String(), name: meta.Name, namespace: meta.Namespace, budget: &budget}
	var o object.Object
	if convert, ok := wholes[kind]; ok {
		o = convert(r, spec)
	} else {
		o = r.convert(kind, r.meta(&meta, !kind.ClusterScoped(), isSubdomain), spec)
	}
	if r.refused > 0 {
		return nil, r.entries
	}
	return o, r.entries
}

// convert is where the kinds of routes and policies are told apart, whatever they were decoded from.
func (r *reader) convert(kind object.Kind, m object.Meta, spec any) object.Object {
	c, ok := converters[kind]
	if !ok {
		r.refuse(nil, fmt.Sprintf("a %s cannot be converted", kind), "this is a mistake in the program; report it")
		return nil
	}
	return c(r, m, spec)
}

type converter func(*reader, object.Meta, any) object.Object

// from adapts a conversion of one type of spec. A nil object means it was refused.
func from[S any, O any, P interface {
	*O
	object.Object
}](convert func(*reader, object.Meta, S) P) converter {
	return func(r *reader, m object.Meta, spec any) object.Object {
		s, ok := spec.(S)
		if !ok {
			r.refuse(nil, fmt.Sprintf("the spec is a %T", spec), "this is a mistake in the program; report it")
			return nil
		}
		if o := convert(r, m, s); o != nil {
			return o
		}
		return nil
	}
}

// whole adapts a conversion of one type of object. A nil object means it was refused.
func whole[S any, O any, P interface {
	*O
	object.Object
}](convert func(*reader, *S) P) func(*reader, any) object.Object {
	return func(r *reader, in any) object.Object {
		s, ok := in.(*S)
		if !ok {
			r.refuse(nil, fmt.Sprintf("the object is a %T", in), "this is a mistake in the program; report it")
			return nil
		}
		if o := convert(r, s); o != nil {
			return o
		}
		return nil
	}
}

// readWhole reads an object with its status and converts it.
func readWhole[S any](kind object.Kind) func(*reader) object.Object {
	return func(r *reader) object.Object {
		in := new(S)
		r.object(in)
		return wholes[kind](r, in)
	}
}

// istioSpec reads a custom resource of Istio and converts it.
func istioSpec[S any, P interface {
	*S
	proto.Message
}](kind object.Kind) func(*reader) object.Object {
	return func(r *reader) object.Object {
		var in custom
		spec := P(new(S))
		r.object(&in)
		r.spec(in.Spec, spec)
		m := r.meta(&in.ObjectMeta, true, isSubdomain)
		if r.refused > 0 {
			return nil
		}
		return r.convert(kind, m, spec)
	}
}

// plain reads a resource whose spec is a Go struct and converts it.
func plain[S any](kind object.Kind) func(*reader) object.Object {
	return func(r *reader) object.Object {
		var in struct {
			metav1.TypeMeta   `json:",inline"`
			metav1.ObjectMeta `json:"metadata,omitempty"`
			Spec              S       `json:"spec"`
			Status            ignored `json:"status,omitempty"`
		}
		r.object(&in)
		m := r.meta(&in.ObjectMeta, true, isSubdomain)
		if r.refused > 0 {
			return nil
		}
		if child(r.root, "spec") == nil {
			r.refuse(at("spec"), "the field is missing", "write what the object is to do")
			return nil
		}
		return r.convert(kind, m, &in.Spec)
	}
}

// ignored is a part of an object that others write and nobody here reads.
type ignored struct{}

// UnmarshalJSON makes the decoder pass over the value.
func (*ignored) UnmarshalJSON([]byte) error { return nil }
