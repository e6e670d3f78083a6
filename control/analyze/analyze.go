// Package analyze judges configuration without a control plane: files that nobody has applied yet, objects of a mesh that
// runs, or the one laid over the other. It says what the control plane would say about them (the same code says it) and
// what a control plane does not look at: what other parts of a cluster make of it.
//
// It does no I/O, starts no goroutine and keeps nothing. Every kind of finding has a code of control/status and a place in
// Catalog. What needs a running mesh, such as which proxies are connected, is not here: the control plane itself says it,
// with the same codes. Start reading at Run.
package analyze

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// Level says how bad a finding is.
type Level string

// Levels. An Error is something that is refused, answers errors, or is not enforced; a Warning probably does not do what
// its author meant; an Info is worth knowing.
const (
	Error   Level = "error"
	Warning Level = "warning"
	Info    Level = "info"
)

// Severity orders levels: the higher, the worse. It is 0 for what is no level.
func (l Level) Severity() int { return slices.Index([]Level{Info, Warning, Error}, l) + 1 }

// Finding is something that is wrong with an object.
type Finding struct {
	Level     Level       `json:"level"`
	Code      status.Code `json:"code"`
	Name      string      `json:"analyzer,omitempty"`
	File      string      `json:"file,omitempty"`
	Line      int         `json:"line,omitempty"`
	Kind      string      `json:"kind,omitempty"`
	Namespace string      `json:"namespace,omitempty"`
	Object    string      `json:"name,omitempty"`
	Field     string      `json:"field,omitempty"`
	Problem   string      `json:"problem"`
	Fix       string      `json:"fix,omitempty"`
}

// Same reports whether two findings are about the same thing, wherever it is written.
func (f Finding) Same(o Finding) bool {
	f.File, f.Line, o.File, o.Line = "", 0, "", 0
	return f == o
}

// Document is a file, or an object of a mesh as JSON, without a name.
type Document struct {
	Name string
	Data []byte
	// Found says that nobody named it: it was found in a folder, which may have other things in it than objects.
	Found bool
}

// Config is what the whole mesh has in common. Empty strings mean the control plane's defaults.
type Config struct {
	TrustDomain, ClusterID, ClusterDomain, RootNamespace string
	// Namespace is that of documents that name none, as with kubectl; "default" when it is empty.
	Namespace string
	// NetworkPolicies says that node proxies enforce NetworkPolicies.
	NetworkPolicies bool
	// DryRunPolicies says that policies may be annotated as dry run.
	DryRunPolicies bool
	// Revisions are those whose Gateways the control plane serves; none means "default".
	Revisions []string
	// NamespaceEntries says that only their own namespace sees ServiceEntries.
	NamespaceEntries bool
	// Live says that documents without a name are objects of a mesh that runs, and come first: what is wrong with their
	// text is for its control plane to say. For documents with a name, which are about to be applied, the pods of
	// Deployments and the like are imagined, and Gateways are taken to be served.
	Live bool
	// Told says that the mesh's control plane was asked already, so that nothing is said here that it says.
	Told bool
}

// Result is what came of judging documents.
type Result struct {
	Findings []Finding `json:"findings"`
	// Objects is how many were looked at.
	Objects int `json:"objects"`
	// In says how many of them are of a namespace. The namespace itself is.
	In map[string]int `json:"-"`
}

// Run judges documents. Of several about one object the last one counts.
func Run(cfg Config, docs []Document) Result {
	w := newWorld(cfg)
	for _, d := range docs {
		w.read(d)
	}
	w.imagine()
	w.gather()
	w.model()
	for _, a := range []func(*world){
		(*world).kinds, (*world).versions, (*world).classes, (*world).revisions,
		(*world).enrolment, (*world).unread, (*world).ownWaypoints, (*world).sidecars, (*world).missed, (*world).outside,
		(*world).selectors, (*world).strict, (*world).portLevel, (*world).policyPorts, (*world).tokens,
		(*world).subsets, (*world).duplicates, (*world).rivals,
		(*world).networkPolicies,
	} {
		a(w)
	}
	return Result{Findings: w.finish(), Objects: len(w.raw), In: w.inNamespaces()}
}

// inNamespaces counts objects.
func (w *world) inNamespaces() map[string]int {
	in := map[string]int{}
	for _, r := range w.raw {
		if r.kind == "Namespace" {
			in[r.name.name]++
		} else if r.namespace != "" {
			in[r.namespace]++
		}
	}
	return in
}

// From makes a finding of what a control plane says.
func From(e status.Entry) Finding {
	f := Finding{Code: e.Code, File: e.File, Line: e.Line, Kind: e.Kind, Namespace: e.Namespace, Object: e.Name, Field: e.Field, Problem: e.Problem, Fix: e.Fix}
	if f.Code == "" {
		f.Code = status.Operational
	}
	a := catalog[f.Code]
	f.Name, f.Level = a.Name, a.Level
	if e.Severity == status.Refused || f.Level == "" {
		f.Level = Error
	}
	return f
}

// about makes a finding about an object.
func (w *world) about(code status.Code, k object.Key, field, format string, args ...any) *Finding {
	f := From(status.Entry{Severity: status.Warning, Code: code, Kind: k.Kind.String(), Namespace: k.Namespace, Name: k.Name, Field: field, Problem: fmt.Sprintf(format, args...)})
	if p, ok := w.places[k]; ok {
		f.File, f.Line = p.file, p.line
	}
	w.findings = append(w.findings, f)
	return &w.findings[len(w.findings)-1]
}

// aboutRaw is about for objects of kinds that the mesh does not read.
func (w *world) aboutRaw(code status.Code, r *raw, field, format string, args ...any) *Finding {
	f := From(status.Entry{Severity: status.Warning, Code: code, File: r.file, Line: r.line, Kind: r.kind, Namespace: r.namespace, Name: r.name.name, Field: field, Problem: fmt.Sprintf(format, args...)})
	w.findings = append(w.findings, f)
	return &w.findings[len(w.findings)-1]
}

// fix says what to do.
func (f *Finding) fix(format string, args ...any) { f.Fix = fmt.Sprintf(format, args...) }

// AnnotationSuppress on an object lists codes, with commas, that are not to be said about it; "*" stands for all.
const AnnotationSuppress = "ambit.io/analyze-suppress"

// finish leaves out what is not to be said and puts the rest in order.
func (w *world) finish() []Finding {
	out := slices.DeleteFunc(w.findings, func(f Finding) bool {
		return w.suppressed[name{f.Kind, f.Namespace, f.Object}].has(f.Code)
	})
	Sort(out)
	return slices.CompactFunc(out, func(a, b Finding) bool { return a == b })
}

// Sort puts the worst first, then goes by place and object.
func Sort(all []Finding) {
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(b.Level.Severity(), a.Level.Severity()), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Object, b.Object),
			cmp.Compare(a.Code, b.Code), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Problem, b.Problem))
	})
}

// Decode reads what a control plane answers about refusals.
func Decode(entries json.RawMessage) ([]Finding, error) {
	var all []status.Entry
	if err := json.Unmarshal(entries, &all); err != nil {
		return nil, fmt.Errorf("decode refusals: %w", err)
	}
	out := make([]Finding, 0, len(all))
	for _, e := range all {
		out = append(out, From(e))
	}
	return out, nil
}

// codes is what an object does not want to hear.
type codes []string

func (c codes) has(code status.Code) bool {
	return slices.ContainsFunc(c, func(s string) bool {
		return s == "*" || strings.EqualFold(s, string(code)) || strings.EqualFold(s, catalog[code].Name)
	})
}
