package analyze

import (
	"bytes"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/ambit-mesh/ambit/control/intake"
	"github.com/ambit-mesh/ambit/control/status"
)

// textKind is what a document that is not understood may be.
type textKind uint8

const (
	other    textKind = iota
	template          // of Helm: it becomes YAML when it is rendered
	stranger          // something of another program's, like values of a chart or a workflow
)

// kindOfText looks at a document from afar.
func kindOfText(data []byte) textKind {
	var doc any
	err := yaml.Unmarshal(data, &doc)
	o, isMap := doc.(map[string]any)
	has := func(key string) bool { _, ok := o[key]; return ok }
	switch {
	case !utf8.Valid(data), bytes.IndexByte(data, 0) >= 0:
		return other
	case bytes.Contains(data, []byte("{{")) && (err != nil || !has("apiVersion") || !has("kind")):
		return template
	case err != nil:
		return other
	// A chart describes itself with an apiVersion, and is no object for that.
	case !isMap, !has("kind") && !(has("apiVersion") && has("metadata")):
		return stranger
	}
	return other
}

// template says of all that is wrong with a template only that it is one.
func (w *world) template(doc intake.Document) {
	for _, it := range doc.Items {
		for _, e := range it.Entries {
			f := From(e)
			f.fix("it looks like a Helm template: render it first, as in \"helm template . | ambitctl analyze -\"")
			w.findings = append(w.findings, f)
			return
		}
	}
}

// stranger says that something of a folder was left alone.
func (w *world) stranger(file string, doc intake.Document) {
	f := From(status.Entry{Severity: status.Warning, Code: status.NotUnderstood, File: file, Line: doc.Line, Problem: "it is no Kubernetes object, and left alone"})
	f.fix("nothing needs to be done, unless it was meant as one: then write apiVersion, kind and metadata")
	f.Level = Info
	w.findings = append(w.findings, f)
}
