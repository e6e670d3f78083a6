package kube

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/ambit-mesh/ambit/control/intake"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// convert turns what a watch delivers into what the model reads.
//
// Kubernetes' own kinds have been checked by the API server, and may have fields that are newer than this program: what it
// does not know of them it leaves out. Policies and routes are read like files, strictly: one with a field that is not
// understood would mean something else without it.
func convert(d *intake.Decoder, kind object.Kind, in any) (object.Object, []status.Entry) {
	switch o := in.(type) {
	case *corev1.Namespace:
		return d.Convert(kind, o.ObjectMeta, o)
	case *corev1.Node:
		return d.Convert(kind, o.ObjectMeta, o)
	case *corev1.Pod:
		return d.Convert(kind, o.ObjectMeta, o)
	case *corev1.Service:
		return d.Convert(kind, o.ObjectMeta, o)
	case *corev1.Secret:
		return d.Convert(kind, o.ObjectMeta, o)
	case *corev1.ConfigMap:
		return d.Convert(kind, o.ObjectMeta, o)
	case *discoveryv1.EndpointSlice:
		return d.Convert(kind, o.ObjectMeta, o)
	case *unstructured.Unstructured:
		return read(d, o)
	}
	return nil, []status.Entry{{Severity: status.Refused, Problem: fmt.Sprintf("the API server answered with a %T", in), Fix: "this is a mistake in the program; report it"}}
}

// read reads an object as if it stood in a file.
func read(d *intake.Decoder, o *unstructured.Unstructured) (object.Object, []status.Entry) {
	data, err := json.Marshal(o.Object)
	if err != nil {
		return nil, []status.Entry{{Severity: status.Refused, Problem: err.Error(), Fix: "write the object again"}}
	}
	var out object.Object
	var entries []status.Entry
	for _, doc := range d.File("", data, nil) {
		for _, it := range doc.Items {
			out = it.Object
			entries = append(entries, it.Entries...)
		}
	}
	for i := range entries {
		entries[i].Line = 0
	}
	if out == nil && len(entries) == 0 {
		entries = []status.Entry{{Severity: status.Refused, Problem: "the object was not understood", Fix: "this is a mistake in the program; report it"}}
	}
	return out, entries
}

// slim drops what nobody here reads before an object is held anywhere.
func slim(in any) (any, error) {
	m, err := meta.Accessor(in)
	if err != nil {
		return in, nil // a tombstone or a bookmark
	}
	m.SetManagedFields(nil)
	if a := m.GetAnnotations(); a[corev1.LastAppliedConfigAnnotation] != "" {
		kept := make(map[string]string, len(a))
		for k, v := range a {
			if k != corev1.LastAppliedConfigAnnotation {
				kept[k] = v
			}
		}
		m.SetAnnotations(kept)
	}
	return in, nil
}

// nameOf is the key of an object of a kind.
func nameOf(kind object.Kind, in any) (object.Key, metav1.Object, error) {
	m, err := meta.Accessor(in)
	if err != nil {
		return object.Key{}, nil, err
	}
	return object.Key{Kind: kind, Namespace: m.GetNamespace(), Name: m.GetName()}, m, nil
}
