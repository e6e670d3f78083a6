// Package intake reads what people write: Kubernetes YAML and JSON, as it stands in files. Each document becomes one of
// the slim values of control/object or is refused on its own, with the line, the field, what is wrong and how to mend it.
//
// It is as strict as the Kubernetes API server and Istio's validation together, because what it lets through moves
// traffic, and stricter about typing errors. It knows neither folders nor what came before: what a refusal means for
// objects already in force is decided by its callers. It does no I/O and starts no goroutine. A Decoder may be used from
// several goroutines. Start reading at Decoder.File; what Istio's and the Gateway API's kinds become is decided in
// converters that do not know YAML either, see Decoder.Convert.
package intake

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"sync"

	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// Limits of what is read. The zero value means the defaults.
type Limits struct {
	// Bytes of a file; 4 MiB.
	Bytes int
	// Documents of a file, the items of lists included; 10,000.
	Documents int
	// Nodes of one document: its keys, values and list entries, counted after aliases are followed; 600,000.
	Nodes int
	// Problems that are reported for one document; 10.
	Problems int
}

func (l Limits) withDefaults() Limits {
	set := func(v *int, def int) {
		if *v <= 0 {
			*v = def
		}
	}
	set(&l.Bytes, folder.MaxFileSize)
	set(&l.Documents, 10_000)
	set(&l.Nodes, 600_000)
	set(&l.Problems, 10)
	return l
}

// maxDepth bounds how deep a document may nest. Kubernetes' own objects stay below 20.
const maxDepth = 100

// Sum identifies the bytes of a document for one Decoder.
type Sum uint64

// Item is one object that a file names.
type Item struct {
	Line int
	// Key names the object; its kind is zero when the item could not be told apart, see Document.Broken.
	Key object.Key
	// Object is nil when the item was refused.
	Object object.Object
	// Entries are the refusals, when Object is nil, or warnings.
	Entries []status.Entry
}

// Document is one document of a file.
type Document struct {
	Line int
	Sum  Sum
	// Data is the text, a part of what File was given.
	Data []byte
	// Unchanged is set when the caller said it knows the document; then there are no items.
	Unchanged bool
	// Broken is set when it is not known which objects the document is about, or not all of them: nothing can be said
	// about objects that were in the file before and seem to be missing.
	Broken bool
	// Items are the objects, in their order. A document of a kind the mesh does not read has none.
	Items []Item
	// Ignored is the kind that was accepted and not read, like apps/Deployment; "" for documents with items.
	Ignored string
}

// Decoder turns files into documents.
type Decoder struct {
	limits Limits
	seed   maphash.Seed
	shapes sync.Map // reflect.Type → *shape
	words  words
	domain string
	// namespace is where objects are that do not say
	namespace string
	groups    map[string]group // immutable
}

// Option changes how a Decoder reads.
type Option func(*Decoder)

// ClusterDomain is the domain that short names of hosts are completed with; "cluster.local" without the option.
func ClusterDomain(domain string) Option {
	return func(d *Decoder) {
		if domain != "" {
			d.domain = domain
		}
	}
}

// Namespace is where objects are that do not say, as with kubectl's -n; "default" without the option.
func Namespace(name string) Option {
	return func(d *Decoder) {
		if name != "" {
			d.namespace = name
		}
	}
}

// NewDecoder returns a Decoder. It remembers strings that many objects share, so use one for all files.
func NewDecoder(l Limits, options ...Option) *Decoder {
	d := &Decoder{limits: l.withDefaults(), seed: maphash.MakeSeed(), domain: "cluster.local", namespace: defaultNamespace, groups: groups()}
	for _, o := range options {
		o(d)
	}
	return d
}

// File reads one file. known, which may be nil, says which documents the caller has already and does not need read.
func (d *Decoder) File(name string, data []byte, known func(Sum) bool) []Document {
	if len(data) > d.limits.Bytes {
		return []Document{d.broken(name, 0, fmt.Sprintf("the file has %d bytes, the limit is %d", len(data), d.limits.Bytes), "split it into several files")}
	}
	if len(data) == 0 {
		// An editor or a shell redirection empties a file before it writes: that must not take everything back.
		return []Document{d.broken(name, 0, "the file is empty", "delete the file if its objects are to go, or leave a comment in it")}
	}
	var docs []Document
	count := 0
	for part := range folder.Documents(data) {
		if count >= d.limits.Documents {
			docs = append(docs, d.broken(name, part.Line, fmt.Sprintf("the file has more than %d documents, this one and the following are not read", d.limits.Documents), "split it into several files"))
			break
		}
		// Blank lines around a document come and go as others are put before and behind it.
		sum := Sum(maphash.Bytes(d.seed, bytes.Trim(part.Data, "\r\n")))
		if known != nil && known(sum) {
			docs = append(docs, Document{Line: part.Line, Sum: sum, Data: part.Data, Unchanged: true})
			count++
			continue
		}
		doc := d.document(name, part, sum, d.limits.Documents-count)
		count += max(1, len(doc.Items))
		docs = append(docs, doc)
	}
	return docs
}

// broken is a document about which nothing is known but what is wrong with it.
func (d *Decoder) broken(file string, line int, problem, fix string) Document {
	e := status.Entry{Severity: status.Refused, Code: status.NotUnderstood, File: file, Line: line, Problem: problem, Fix: fix}
	return Document{Line: line, Broken: true, Items: []Item{{Line: line, Entries: []status.Entry{e}}}}
}

// words keeps one copy of strings that many objects share, like the names of nodes and service accounts.
type words struct {
	mu  sync.Mutex
	set map[string]string
}

// maxWords bounds the memory of words; beyond it, it starts afresh.
const maxWords = 1 << 16

func (w *words) one(s string) string {
	if s == "" {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if have, ok := w.set[s]; ok {
		return have
	}
	if w.set == nil || len(w.set) >= maxWords {
		w.set = make(map[string]string)
	}
	w.set[s] = s
	return s
}
