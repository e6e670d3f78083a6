package intake

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// Convert turns an object that somebody else decoded into the same values, by the same rules, as if it had been read from
// a file: spec is a pointer to the spec of the kind (a protobuf message of istio.io/api, a spec of the Gateway API, or the
// whole corev1.Secret or corev1.ConfigMap). The object is nil when it was refused; the entries say why, without lines.
func (d *Decoder) Convert(kind object.Kind, meta metav1.ObjectMeta, spec any) (object.Object, []status.Entry) {
	budget := d.limits.Nodes
	r := &reader{d: d, kind: kind.String(), name: meta.Name, namespace: meta.Namespace, budget: &budget}
	o := r.convert(kind, r.meta(&meta, !kind.ClusterScoped(), isSubdomain), spec)
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
