// Package status keeps what is wrong with the configuration, for those who ask: the admin endpoint, ambitctl and the
// log. Sources put in what they refuse and the model puts in what it cannot honour.
//
// It does not know YAML or what a policy means, and it decides nothing. It starts no goroutine; a Registry may be used
// from any. Start reading at Entry.
package status

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Severity says what became of the thing an Entry is about.
type Severity string

const (
	// Refused things have no effect; where an earlier good version was seen, that one stays in force.
	Refused Severity = "refused"
	// Warning is about things in force that probably do not do what their author meant.
	Warning Severity = "warning"
)

// Entry is one thing that is wrong.
type Entry struct {
	Severity  Severity `json:"severity"`
	Code      Code     `json:"code,omitempty"`
	File      string   `json:"file,omitempty"`
	Line      int      `json:"line,omitempty"`
	Kind      string   `json:"kind,omitempty"`
	Namespace string   `json:"namespace,omitempty"`
	Name      string   `json:"name,omitempty"`
	// Field is the path of the field, like spec.ports[0].port.
	Field   string `json:"field,omitempty"`
	Problem string `json:"problem"`
	Fix     string `json:"fix,omitempty"`
	// Kept is set when an earlier good version of the refused object stays in force.
	Kept bool `json:"kept,omitempty"`
	// Since is when the registry first heard of it.
	Since time.Time `json:"since"`
}

// String is the entry on one line, as a compiler would say it.
func (e Entry) String() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d", e.Line)
		}
		b.WriteString(": ")
	}
	if id := e.ID(); id != "" {
		b.WriteString(id + ": ")
	}
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	b.WriteString(e.Problem)
	if e.Fix != "" {
		b.WriteString("; " + e.Fix)
	}
	if e.Kept {
		b.WriteString(" (the earlier version stays in force)")
	}
	return b.String()
}

// ID names the object: "Kind namespace/name", shorter where parts are not known.
func (e Entry) ID() string {
	id := e.Name
	if e.Namespace != "" && e.Name != "" {
		id = e.Namespace + "/" + e.Name
	}
	return strings.TrimSpace(e.Kind + " " + id)
}

// same reports whether two entries are about the same problem, even if its line has moved.
func (e Entry) same(o Entry) bool {
	e.Line, o.Line = 0, 0
	e.Since, o.Since = time.Time{}, time.Time{}
	e.Kept, o.Kept = false, false
	return e == o
}

// MaxEntries bounds what a Registry keeps for all its owners together.
const MaxEntries = 20_000

// Registry holds the entries of all owners. The zero value is not usable; see New.
type Registry struct {
	mu      sync.Mutex
	owners  map[string][]Entry
	total   int
	dropped map[string]int // entries beyond MaxEntries, by owner
	changed chan struct{}
}

// New returns an empty registry.
func New() *Registry {
	return &Registry{owners: make(map[string][]Entry), dropped: make(map[string]int), changed: make(chan struct{})}
}

// Set replaces all entries of an owner; none removes it. An owner is whatever reports as one: a file, an object, a
// daemon. Entries that were there already keep their Since.
func (r *Registry) Set(owner string, entries ...Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.owners[owner]
	if len(old) == 0 && len(entries) == 0 && r.dropped[owner] == 0 {
		return
	}
	r.total -= len(old)
	delete(r.dropped, owner)
	if room := max(0, MaxEntries-r.total); len(entries) > room {
		r.dropped[owner] = len(entries) - room
		entries = entries[:room]
	}
	if len(entries) == 0 {
		delete(r.owners, owner)
	} else {
		r.owners[owner] = keepSince(entries, old)
	}
	r.total += len(entries)
	close(r.changed)
	r.changed = make(chan struct{})
}

func keepSince(entries, old []Entry) []Entry {
	now := time.Now()
	entries = slices.Clone(entries)
	for i := range entries {
		e := &entries[i]
		if j := slices.IndexFunc(old, e.same); j >= 0 {
			e.Since = old[j].Since
		} else if e.Since.IsZero() {
			e.Since = now
		}
	}
	return entries
}

// List returns all entries: refusals first, then by file and line, then by object.
func (r *Registry) List() []Entry {
	r.mu.Lock()
	all := make([]Entry, 0, r.total)
	for _, es := range r.owners {
		all = append(all, es...)
	}
	dropped := 0
	for _, n := range r.dropped {
		dropped += n
	}
	r.mu.Unlock()
	slices.SortFunc(all, compare)
	if dropped > 0 {
		all = append(all, Entry{Severity: Warning, Problem: fmt.Sprintf("%d more entries are not kept", dropped), Fix: "mend those above first"})
	}
	return all
}

func compare(a, b Entry) int {
	if a.Severity != b.Severity {
		return strings.Compare(string(a.Severity), string(b.Severity)) // "refused" sorts before "warning"
	}
	if c := strings.Compare(a.File, b.File); c != 0 {
		return c
	}
	if a.Line != b.Line {
		return a.Line - b.Line
	}
	if c := strings.Compare(a.ID(), b.ID()); c != 0 {
		return c
	}
	if c := strings.Compare(a.Field, b.Field); c != 0 {
		return c
	}
	return strings.Compare(a.Problem, b.Problem)
}

// Counts returns how many refusals and warnings there are.
func (r *Registry) Counts() (refused, warnings int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, es := range r.owners {
		for _, e := range es {
			if e.Severity == Refused {
				refused++
			} else {
				warnings++
			}
		}
	}
	return refused, warnings
}

// Changed returns a channel that is closed at the next change. Take it before calling List, so that nothing is missed.
func (r *Registry) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}
