// Package resource holds Kubernetes objects as the lab sees them: documents with a key, read where the lab needs it and
// carried through unchanged where it does not.
//
// It does not validate kinds it does not run: whether an AuthorizationPolicy makes sense is for the control plane to say.
// It starts no goroutines. Start reading at Object.
package resource

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/api/document"
)

// Object is one document.
type Object map[string]any

// Key names an object. Namespace is empty for kinds that have none.
type Key struct{ Kind, Namespace, Name string }

// String is the key as people write it.
func (k Key) String() string {
	if k.Namespace == "" {
		return strings.ToLower(k.Kind) + "/" + k.Name
	}
	return strings.ToLower(k.Kind) + " " + k.Namespace + "/" + k.Name
}

// File is the name of the object's file in a configuration folder.
func (k Key) File() string {
	name := k.Name
	if k.Namespace != "" {
		name = k.Namespace + "_" + name
	}
	return strings.ToLower(k.Kind) + "_" + strings.ReplaceAll(name, "/", "-") + ".yaml"
}

// clusterScoped says whether objects of the kind have no namespace.
func clusterScoped(kind string) bool {
	switch kind {
	case "Namespace", "Node", "GatewayClass", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition",
		"PersistentVolume", "PriorityClass", "StorageClass", "IngressClass", "ValidatingWebhookConfiguration",
		"MutatingWebhookConfiguration", "ClusterTrustBundle":
		return true
	}
	return false
}

var nameRule = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.:]*[a-z0-9])?$`)

// Parse reads one document. An object of a namespaced kind without a namespace gets namespace.
func Parse(data []byte, namespace string) (Object, error) {
	raw, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, fmt.Errorf("not valid YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var o Object
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, errors.New("not an object: a document starts with apiVersion, kind and metadata")
	}
	for _, field := range []string{"apiVersion", "kind"} {
		if s, _ := o[field].(string); s == "" {
			return nil, fmt.Errorf("%s is missing", field)
		}
	}
	meta, ok := o["metadata"].(map[string]any)
	if !ok {
		return nil, errors.New("metadata is missing")
	}
	if !nameRule.MatchString(o.Name()) || len(o.Name()) > 253 {
		return nil, fmt.Errorf("metadata.name %q: lower case letters, digits, '-' and '.' only, and it must not be empty", o.Name())
	}
	switch {
	case clusterScoped(o.Kind()):
		delete(meta, "namespace")
	case o.Namespace() == "":
		meta["namespace"] = namespace
	}
	return o, nil
}

// List returns the objects of a document of a List kind, or nil for any other.
func (o Object) List() []Object {
	if !strings.HasSuffix(o.Kind(), "List") {
		return nil
	}
	items, _ := o["items"].([]any)
	var list []Object
	for _, it := range items {
		if m, ok := it.(map[string]any); ok {
			list = append(list, m)
		}
	}
	return list
}

// Marshal writes the object as YAML.
func (o Object) Marshal() ([]byte, error) {
	data, err := yaml.Marshal(map[string]any(o))
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", o.Key(), err)
	}
	return data, nil
}

// Clone is a deep copy.
func (o Object) Clone() Object { return Object(cloneMap(o)) }

func cloneMap(m map[string]any) map[string]any {
	c := make(map[string]any, len(m))
	for k, v := range m {
		c[k] = cloneAny(v)
	}
	return c
}

func cloneAny(v any) any {
	switch v := v.(type) {
	case map[string]any:
		return cloneMap(v)
	case Object:
		return cloneMap(v)
	case []any:
		c := make([]any, len(v))
		for i := range v {
			c[i] = cloneAny(v[i])
		}
		return c
	}
	return v
}

// Into decodes the value at a path into a struct with json tags. A path that is not there leaves out as it is.
func (o Object) Into(out any, path ...string) error {
	v := o.At(path...)
	if v == nil {
		return nil
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s: %w", o.Key(), err)
	}
	if err := json.Unmarshal(data, out); err != nil {
		if t := (*json.UnmarshalTypeError)(nil); errors.As(err, &t) {
			return fmt.Errorf("%s.%s: %s where %s belongs", strings.Join(path, "."), t.Field, t.Value, t.Type)
		}
		return fmt.Errorf("%s: %w", strings.Join(path, "."), err)
	}
	return nil
}

// At returns the value at a path, or nil.
func (o Object) At(path ...string) any {
	return document.At(o, path...)
}

// Text returns the string at a path, or "".
func (o Object) Text(path ...string) string {
	return document.Text(o, path...)
}

// Set puts v at a path, making the maps on the way.
func (o Object) Set(v any, path ...string) {
	m := map[string]any(o)
	for _, p := range path[:len(path)-1] {
		next, ok := m[p].(map[string]any)
		if !ok {
			next = map[string]any{}
			m[p] = next
		}
		m = next
	}
	m[path[len(path)-1]] = v
}

// Kind is the object's kind.
func (o Object) Kind() string { return o.Text("kind") }

// Name is the object's name.
func (o Object) Name() string { return o.Text("metadata", "name") }

// Namespace is the object's namespace, empty for kinds that have none.
func (o Object) Namespace() string { return o.Text("metadata", "namespace") }

// UID is the object's unique id.
func (o Object) UID() string { return o.Text("metadata", "uid") }

// Key is the object's key.
func (o Object) Key() Key { return Key{o.Kind(), o.Namespace(), o.Name()} }

// Labels are the object's labels; never nil.
func (o Object) Labels() map[string]string { return o.Strings("metadata", "labels") }

// Annotations are the object's annotations; never nil.
func (o Object) Annotations() map[string]string { return o.Strings("metadata", "annotations") }

// Strings returns the map of strings at a path; never nil, and a copy.
func (o Object) Strings(path ...string) map[string]string {
	return document.Strings(o, path...)
}

// Number returns the number at a path, or missing.
func (o Object) Number(missing int, path ...string) int {
	if f, ok := o.At(path...).(float64); ok {
		return int(f)
	}
	return missing
}

// Matches says whether labels carry everything in selector. An empty selector matches nothing, as in a Service.
func Matches(selector, labels map[string]string) bool {
	if len(selector) == 0 {
		return false
	}
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// Inherit gives a newly applied object what the lab and its users put on the stored one besides the applied document:
// identity, allocated addresses, and labels and annotations that the last applied document did not have.
func Inherit(applied, stored, last Object) {
	for _, field := range []string{"uid", "creationTimestamp", "generation"} {
		if v := stored.At("metadata", field); v != nil {
			applied.Set(v, "metadata", field)
		}
	}
	for _, field := range []string{"labels", "annotations"} {
		merged := stored.Strings("metadata", field)
		for k := range last.Strings("metadata", field) {
			delete(merged, k)
		}
		maps.Copy(merged, applied.Strings("metadata", field))
		if len(merged) > 0 {
			applied.Set(toAny(merged), "metadata", field)
		}
	}
	if status := stored["status"]; status != nil && applied["status"] == nil {
		applied["status"] = status
	}
	if applied.Kind() != "Service" {
		return
	}
	for _, field := range []string{"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"} {
		if v := stored.At("spec", field); v != nil && applied.At("spec", field) == nil {
			applied.Set(v, "spec", field)
		}
	}
}

func toAny(m map[string]string) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// SetLabels sets and removes labels.
func (o Object) SetLabels(set map[string]string, remove []string) {
	labels := o.Labels()
	maps.Copy(labels, set)
	for _, k := range remove {
		delete(labels, k)
	}
	o.Set(toAny(labels), "metadata", "labels")
}
