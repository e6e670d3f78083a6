// Package cluster is where ambitctl finds the objects of a mesh, its daemons and their logs, whoever keeps them: a lab on
// this machine, or a cluster's API server (package apply/live).
//
// It knows objects by kind, namespace and name, and not what they mean; of daemons it knows where they answer questions.
// Implementations start no goroutines that outlive a call. Start reading at Cluster and Mesh.
package cluster

import (
	"context"
	"errors"
	"strings"

	"github.com/ambit-mesh/ambit/api/document"
)

// ErrNotFound is wrapped by errors about an object that is not there.
var ErrNotFound = errors.New("not found")

// Cluster keeps objects. Kinds are written as in YAML. An empty namespace is for kinds that have none, and in List and
// Watch means all.
type Cluster interface {
	// Get returns an object, or an error that wraps ErrNotFound.
	Get(ctx context.Context, kind, namespace, name string) (Object, error)
	// List returns all objects of a kind, ordered by namespace and name.
	List(ctx context.Context, kind, namespace string) ([]Object, error)
	// Apply makes the object, or changes what it says about an existing one.
	Apply(ctx context.Context, o Object) error
	// Label sets and removes labels of an object.
	Label(ctx context.Context, kind, namespace, name string, set map[string]string, remove ...string) error
	// Delete deletes an object. One that is not there is ErrNotFound.
	Delete(ctx context.Context, kind, namespace, name string) error
	// Watch tells seen all objects of a kind, now and after every change, until it says true or ctx ends.
	Watch(ctx context.Context, kind, namespace string, seen func([]Object) bool) error
}

// Object is a document as decoded from JSON.
type Object map[string]any

// At returns the value at a path, or nil.
func (o Object) At(path ...string) any {
	return document.At(o, path...)
}

// Text is the string at a path, or "".
func (o Object) Text(path ...string) string {
	return document.Text(o, path...)
}

// Number is the number at a path, or 0.
func (o Object) Number(path ...string) int64 {
	return document.Number(o, path...)
}

// Items are the mappings in the list at a path.
func (o Object) Items(path ...string) []Object {
	var out []Object
	for _, m := range document.Items(o, path...) {
		out = append(out, m)
	}
	return out
}

// Name is the object's name.
func (o Object) Name() string { return o.Text("metadata", "name") }

// Namespace is the object's namespace.
func (o Object) Namespace() string { return o.Text("metadata", "namespace") }

// Label is the value of a label and whether the object has it.
func (o Object) Label(key string) (string, bool) {
	labels, _ := o.At("metadata", "labels").(map[string]any)
	v, ok := labels[key].(string)
	return v, ok
}

// String names the object as people do.
func (o Object) String() string { return name(o.Text("kind"), o.Namespace(), o.Name()) }

func name(kind, namespace, name string) string {
	if namespace == "" {
		return strings.ToLower(kind) + " " + name
	}
	return strings.ToLower(kind) + " " + namespace + "/" + name
}
