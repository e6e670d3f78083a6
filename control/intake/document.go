package intake

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// document reads one document, which may be a list of objects.
func (d *Decoder) document(file string, part folder.Document, sum Sum, room int) Document {
	if !utf8.Valid(part.Data) || bytes.IndexByte(part.Data, 0) >= 0 {
		doc := d.broken(file, part.Line, "it is not text in UTF-8", "write the file as UTF-8, or take it away if it is none of the configuration")
		doc.Line, doc.Sum, doc.Data = part.Line, sum, part.Data
		return doc
	}
	root, err := parse(part.Data, part.Line, d.limits.Nodes)
	if err != nil {
		line, problem := part.Line, err.Error()
		var se *syntaxError
		if errors.As(err, &se) {
			line, problem = se.line, se.text
		}
		if strings.Contains(problem, "unknown anchor") && bytes.Contains(part.Data, []byte("Secret")) {
			problem = "unknown anchor" // its name may be a value that was to be quoted
		}
		doc := d.broken(file, line, "not understood: "+problem, syntaxFix(problem))
		doc.Line, doc.Sum, doc.Data = part.Line, sum, part.Data
		return doc
	}
	budget := d.limits.Nodes
	doc := Document{Line: part.Line, Sum: sum, Data: part.Data}
	d.root(&doc, file, root, &budget, room)
	return doc
}

// syntaxFix turns the parser's words into advice where they are known.
func syntaxFix(problem string) string {
	switch {
	case strings.Contains(problem, "tab") || strings.Contains(problem, "cannot start any token"):
		return "indent with spaces, not tabs, and put text that begins with a special character in quotes"
	case strings.Contains(problem, "mapping values are not allowed"):
		return "check the indentation, and put text that contains a colon in quotes"
	case strings.Contains(problem, "did not find expected"):
		return "check the indentation of this line and the one before, and that quotes and brackets are closed"
	case strings.Contains(problem, "could not find expected ':'"):
		return "each line needs a field name and a colon; the file may have been cut off"
	case strings.Contains(problem, "ends too early"), strings.Contains(problem, "unexpected end"):
		return "the file may have been cut off; write it again"
	case strings.Contains(problem, "more than"):
		return "split the document"
	case strings.Contains(problem, "unknown anchor"):
		return "define the anchor in the same document, before it is used"
	}
	return "check the indentation, quotes and brackets around this line"
}

// root reads the top of a document or an item of a list.
func (d *Decoder) root(doc *Document, file string, root *yaml.Node, budget *int, room int) {
	root = follow(root)
	r := &reader{d: d, file: file, root: root, budget: budget}
	if !r.spend(root) {
		d.finish(doc, r, nil)
		return
	}
	if kindOf(root) != mapping {
		r.refuseLine(root.Line, nil, "a document must be a mapping with apiVersion, kind and metadata, not "+describe(root), "write one object in each document")
		d.finish(doc, r, nil)
		return
	}
	apiVersion, kindName := scalar(root, "apiVersion"), scalar(root, "kind")
	r.kind, r.name = clip(kindName), clip(scalar(child(root, "metadata"), "name"))
	r.namespace = clip(scalar(child(root, "metadata"), "namespace"))
	switch {
	case apiVersion == "":
		r.refuse(at("apiVersion"), "the field is missing or not text", d.missingFix(root, "apiVersion", kindName))
	case kindName == "":
		r.refuse(at("kind"), "the field is missing or not text", d.missingFix(root, "kind", ""))
	case d.isList(apiVersion, kindName):
		d.list(doc, r, root, budget, room)
		return
	default:
		v := d.classify(apiVersion, kindName)
		switch {
		case v.read:
			d.one(doc, r, v.known)
			return
		case v.ignored != "":
			doc.Ignored = v.ignored
			return
		}
		r.refuseAs(status.UnknownKind, locate(r.root, at(v.field)), at(v.field), v.problem, v.fix)
	}
	d.finish(doc, r, nil)
}

// missingFix recognises a mistyped or misplaced name of a field without which nothing else can be told.
func (d *Decoder) missingFix(root *yaml.Node, field, kindName string) string {
	for i := 0; i+1 < len(root.Content); i += 2 {
		if k := root.Content[i].Value; k != field && k != "kind" && nearest(k, []string{field}) != "" {
			return fmt.Sprintf("did you mean %s where it says %s?", field, clip(k))
		}
	}
	for g, grp := range d.groups {
		if k, ok := grp.read[kindName]; ok {
			return fmt.Sprintf("write %s: %s", field, join(g, k.versions[0]))
		}
	}
	return "each document needs apiVersion, kind and metadata.name"
}

// isList reports whether the object is a container of others: the general List or one kind's, as kubectl prints them.
func (d *Decoder) isList(apiVersion, kindName string) bool {
	single, ok := strings.CutSuffix(kindName, "List")
	if !ok {
		return false
	}
	if single == "" {
		return apiVersion == "v1"
	}
	v := d.classify(apiVersion, single)
	return v.read
}

func (d *Decoder) list(doc *Document, r *reader, root *yaml.Node, budget *int, room int) {
	items := child(root, "items")
	if items != nil {
		items = follow(items)
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		if k := root.Content[i]; !slices.Contains([]string{"apiVersion", "kind", "metadata", "items"}, k.Value) {
			r.unknown(k, &shape{names: []string{"apiVersion", "items", "kind", "metadata"}, child: func(string) *shape { return nil }})
		}
	}
	if items == nil || kindOf(items) != list {
		if items != nil && kindOf(items) != null {
			r.enter("items")
			r.mismatch(items, wantList)
		}
		if r.refused > 0 {
			d.finish(doc, r, nil)
		}
		return
	}
	if r.refused > 0 {
		d.finish(doc, r, nil)
	}
	for i, n := range items.Content {
		if len(doc.Items) >= room {
			over := d.broken(r.file, n.Line, fmt.Sprintf("the file has more than %d objects, this one and the following are not read", d.limits.Documents), "split it into several files")
			doc.Broken = true
			doc.Items = append(doc.Items, over.Items...)
			return
		}
		if m := follow(n); d.isList(scalar(m, "apiVersion"), scalar(m, "kind")) {
			over := d.broken(r.file, n.Line, fmt.Sprintf("items[%d] is a list in a list", i), "put its items into the outer list")
			doc.Broken = true
			doc.Items = append(doc.Items, over.Items...)
			continue
		}
		d.root(doc, r.file, n, budget, room)
	}
	if len(doc.Items) > 0 {
		doc.Ignored = ""
	}
}

// one reads an object of a kind that is known.
func (d *Decoder) one(doc *Document, r *reader, k known) {
	obj := k.read(r)
	if r.refused > 0 {
		obj = nil
	}
	key := object.Key{Kind: k.kind, Namespace: r.namespace, Name: r.name}
	if !k.kind.ClusterScoped() && key.Namespace == "" {
		key.Namespace = d.namespace
	}
	if k.kind.ClusterScoped() {
		key.Namespace = ""
	}
	if obj != nil {
		key = obj.Key()
	} else if key.Name == "" || child(r.root, "metadata") == nil {
		key = object.Key{} // not known which object this is
	}
	d.finish(doc, r, &Item{Line: r.root.Line, Key: key, Object: obj})
}

func byPlace(a, b status.Entry) int {
	return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Field, b.Field))
}

// finish adds what a reader found to the document.
func (d *Decoder) finish(doc *Document, r *reader, it *Item) {
	if it == nil {
		it = &Item{Line: r.root.Line}
	}
	if it.Key.Kind == 0 {
		doc.Broken = true
	}
	for i := range r.entries {
		e := &r.entries[i]
		e.Namespace, e.Name = r.namespace, r.name
	}
	slices.SortStableFunc(r.entries, byPlace)
	if more := r.refused - d.limits.Problems; more > 0 {
		r.entries[len(r.entries)-1].Problem += fmt.Sprintf(" (and %s more)", count(more, "problem"))
	}
	it.Entries = r.entries
	doc.Items = append(doc.Items, *it)
}
