// Package render turns values into the objects that make up a mesh: pure, from the charts in package charts.
//
// It executes the charts' templates with text/template and the functions of Helm's that they use, so that what ambitctl
// installs and what Helm installs is one thing; a test with Helm's own engine holds it to that. Values are strict: a key
// that means nothing is an error that names the nearest one that does. It does not know the cluster. It starts no
// goroutine. Start reading at Render, then Values.
package render

import (
	"bytes"
	"cmp"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/install/charts"
)

// Object is a document as decoded from JSON.
type Object = map[string]any

// Component is what one chart renders to.
type Component struct {
	Name    string
	Objects []Object
}

// Options are what a release is, beside its values.
type Options struct {
	// Namespace the mesh is installed into; "ambit-system" by default.
	Namespace string
	// Version is the tag of images where values name none.
	Version string
	// KubeMinor is the minor version of the API server; 0 means a recent one.
	KubeMinor int
}

// recentKube is the API server that is assumed where none is asked.
const recentKube = 36

// Render makes the objects of all components that the values turn on, in the order in which they are to be installed:
// within a component by kind, as Helm does it.
func Render(v *Values, o Options) ([]Component, error) {
	o.Namespace = cmp.Or(o.Namespace, "ambit-system")
	if !label.MatchString(o.Namespace) {
		return nil, fmt.Errorf("%q is no name for a namespace: use at most 63 lower-case letters, digits and dashes", o.Namespace)
	}
	var out []Component
	for _, name := range charts.Names() {
		if !v.Enabled(name) {
			continue
		}
		objects, err := Chart(name, v.Chart(name), name, o)
		if err != nil {
			return nil, err
		}
		out = append(out, Component{Name: name, Objects: objects})
	}
	return out, nil
}

// Chart renders one chart with complete values.
func Chart(name string, values map[string]any, release string, o Options) ([]Object, error) {
	meta, err := chartMeta(name)
	if err != nil {
		return nil, err
	}
	if o.Version != "" {
		meta["AppVersion"] = o.Version
	}
	e := &engine{root: map[string]any{
		"Values":       values,
		"Release":      map[string]any{"Name": release, "Namespace": o.Namespace, "Service": "ambitctl", "IsInstall": true, "IsUpgrade": false, "Revision": 1},
		"Chart":        meta,
		"Files":        newFiles(name),
		"Capabilities": map[string]any{"KubeVersion": map[string]any{"Major": "1", "Minor": strconv.Itoa(cmp.Or(o.KubeMinor, recentKube))}},
	}}
	rendered, err := e.render(name)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", name, err)
	}
	var out []Object
	for _, r := range rendered {
		objects, err := documents(r.text)
		if err != nil {
			return nil, fmt.Errorf("chart %s: %s: %w", name, r.path, err)
		}
		out = append(out, objects...)
	}
	Sort(out)
	return out, nil
}

// chartMeta is what templates see of Chart.yaml.
func chartMeta(name string) (map[string]any, error) {
	data, err := charts.Files.ReadFile(name + "/Chart.yaml")
	if err != nil {
		return nil, err
	}
	var raw struct{ Name, Version, AppVersion string }
	if err := yaml.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("chart %s: %w", name, err)
	}
	return map[string]any{"Name": raw.Name, "Version": raw.Version, "AppVersion": raw.AppVersion}, nil
}

// documents splits rendered text. Templates indent everything within a document, so a line of dashes is a border.
func documents(text string) ([]Object, error) {
	var out []Object
	var doc strings.Builder
	flush := func() error {
		var o Object
		if err := yaml.Unmarshal([]byte(doc.String()), &o); err != nil {
			return err
		}
		doc.Reset()
		if len(o) > 0 {
			out = append(out, o)
		}
		return nil
	}
	for line := range strings.Lines(text) {
		if strings.TrimRight(line, " \r\n") == "---" {
			if err := flush(); err != nil {
				return nil, err
			}
			continue
		}
		doc.WriteString(line)
	}
	return out, flush()
}

// order of kinds, those first that others need. Kinds that are not listed come last.
var order = []string{
	"Namespace", "CustomResourceDefinition", "PriorityClass", "ResourceQuota", "NetworkPolicy", "PodDisruptionBudget", "ServiceAccount",
	"Secret", "ConfigMap", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Service", "DaemonSet", "Deployment",
	"HorizontalPodAutoscaler", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
}

// Sort orders objects by kind, then by namespace and name.
func Sort(objects []Object) {
	rank := func(o Object) int {
		if i := slices.Index(order, Text(o, "kind")); i >= 0 {
			return i
		}
		return len(order)
	}
	slices.SortStableFunc(objects, func(a, b Object) int {
		return cmp.Or(rank(a)-rank(b), cmp.Compare(Text(a, "kind"), Text(b, "kind")),
			cmp.Compare(Text(a, "metadata", "namespace"), Text(b, "metadata", "namespace")), cmp.Compare(Text(a, "metadata", "name"), Text(b, "metadata", "name")))
	})
}

// Text is the string at a path, or "".
func Text(o Object, path ...string) string {
	var v any = o
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	s, _ := v.(string)
	return s
}

// Namespace is the object of the mesh's own namespace. Helm makes namespaces itself.
func Namespace(v *Values, name string) Object {
	labels := map[string]any{
		"app.kubernetes.io/part-of": "ambit",
		// Node agents work in the network namespaces of others, which no restricted pod may.
		"pod-security.kubernetes.io/enforce": "privileged",
	}
	if network := Text(v.Chart(charts.Control), "global", "network"); network != "" {
		labels["topology.istio.io/network"] = network
	}
	return Object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name, "labels": labels}}
}

// YAML prints objects as a stream of documents.
func YAML(objects []Object) ([]byte, error) {
	var out bytes.Buffer
	for i, o := range objects {
		if i > 0 {
			out.WriteString("---\n")
		}
		data, err := yaml.Marshal(o)
		if err != nil {
			return nil, err
		}
		out.Write(data)
	}
	return out.Bytes(), nil
}

// templates are the paths of a chart's templates, in order.
func templates(chart string) ([]string, error) {
	names, err := fs.Glob(charts.Files, path.Join(chart, "templates", "*"))
	slices.Sort(names)
	return names, err
}
