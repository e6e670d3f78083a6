package file

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/control/intake"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// ledger knows which file every object in force comes from. It holds neither YAML nor objects, only names and sums, so
// that it costs little beside the model. Its one owner is the source's Run.
type ledger struct {
	files   map[string]*record
	claims  map[object.Key]claim
	ignored map[string]int // documents of kinds that are not read
}

// holding is an object in force.
type holding struct {
	key  object.Key
	sum  intake.Sum // of the document whose version is in force
	line int32
	// plain is set when the document has this one object and nothing was to be said about it: it need not be read again.
	plain bool
}

// claim says whose version of an object is in force, and who else has one.
type claim struct {
	owner   *record
	waiting []waiter
	// seen is when the object first turned up, in Unix nanoseconds. It stands in for a creation time the YAML does not
	// tell, or what was written last would count as older than everything that does tell its own.
	seen int64
	// line is where the owner has it. A file may hold thousands of objects, each of which may be asked for.
	line int32
}

// put is the event for an object in force.
func (c claim) put(o object.Object) object.Event {
	if m := o.Metadata(); m.Created.IsZero() {
		m.Created = time.Unix(0, c.seen).UTC()
	}
	return object.Put(o)
}

// waiter is a good object that another file has in force. It is kept whole, because it takes over when that one goes.
type waiter struct {
	from    *record
	holding holding
	object  object.Object
}

// place is where the version of an object that is in force is written.
func (l *ledger) place(key object.Key) (path string, line int) {
	c := l.claims[key]
	if c.owner == nil {
		return "", 0
	}
	return c.owner.path, int(c.line)
}

func newLedger() *ledger {
	return &ledger{files: make(map[string]*record), claims: make(map[object.Key]claim), ignored: make(map[string]int)}
}

// known returns the test for documents of a file that need not be read again. It may be called while nothing changes.
func (l *ledger) known(path string) func(intake.Sum) bool {
	rec := l.files[path]
	if rec == nil {
		return nil
	}
	sums := make(map[intake.Sum]bool, len(rec.held))
	for _, h := range rec.held {
		if h.plain {
			sums[h.sum] = true
		}
	}
	return func(s intake.Sum) bool { return sums[s] }
}

// outcome of a batch.
type outcome struct {
	events []object.Event
	files  []told // whose entries may have changed, by path
}

type told struct {
	path        string
	before, now []status.Entry
}

// batch is one apply under way.
type batch struct {
	*ledger
	events  map[object.Key]object.Event
	order   []object.Key
	freed   []object.Key // released by their file
	touched map[string][]status.Entry
}

// step is one file of a batch between its two phases; rec is nil when nothing is to be placed.
type step struct {
	rec   *record
	found []finding
	when  int64
}

// finding is a good object in a file.
type finding struct {
	holding
	object object.Object // nil when the version in force is this one
}

// apply takes readings of files in. First every file lets go of what it does not name any more, then the new objects
// find their place: an object that moves from one file to another within a batch is not missed in between.
func (l *ledger) apply(rs []reading) outcome {
	b := &batch{ledger: l, events: make(map[object.Key]object.Event), touched: make(map[string][]status.Entry)}
	steps := make([]step, 0, len(rs))
	for _, r := range rs {
		steps = append(steps, b.take(r))
	}
	for _, s := range steps {
		if s.rec != nil {
			b.place(s)
		}
	}
	b.settle()
	out := outcome{events: make([]object.Event, 0, len(b.order))}
	for _, k := range b.order {
		out.events = append(out.events, b.events[k])
	}
	for path, before := range b.touched {
		t := told{path: path, before: before}
		if rec := l.files[path]; rec != nil {
			t.now = rec.all()
		}
		if len(t.before)+len(t.now) > 0 {
			out.files = append(out.files, t)
		}
	}
	slices.SortFunc(out.files, func(a, b told) int { return strings.Compare(a.path, b.path) })
	return out
}

func (b *batch) touch(rec *record) {
	if _, ok := b.touched[rec.path]; !ok {
		b.touched[rec.path] = rec.all()
	}
}

func (b *batch) emit(e object.Event) {
	if _, ok := b.events[e.Key]; !ok {
		b.order = append(b.order, e.Key)
	}
	b.events[e.Key] = e
}

// take compares a reading with what the file had and releases what is gone.
func (b *batch) take(r reading) step {
	rec := b.files[r.path]
	if rec == nil {
		if r.removed {
			return step{}
		}
		rec = &record{path: r.path}
		b.files[r.path] = rec
	}
	b.touch(rec)
	if r.err != nil {
		rec.entries = []status.Entry{unusable(r, len(rec.held) > 0)}
		return step{}
	}
	b.unwait(rec)
	b.count(rec.ignored, -1)
	if r.removed {
		delete(b.files, r.path)
		b.release(rec, rec.held)
		return step{}
	}
	return b.compare(rec, r)
}

// compare goes through the documents of a file that can be read.
func (b *batch) compare(rec *record, r reading) step {
	old := make(map[object.Key]holding, len(rec.held))
	bySum := make(map[intake.Sum]holding, len(rec.held))
	for _, h := range rec.held {
		old[h.key] = h
		if h.plain {
			bySum[h.sum] = h
		}
	}
	s := step{rec: rec, when: r.when}
	named := make(map[object.Key]int, len(r.docs)) // line by key
	rec.entries, rec.ignored, rec.held = nil, nil, nil
	cut := b.cut(rec, r)
	broken := cut
	for i, doc := range r.docs {
		broken = broken || doc.Broken
		if doc.Ignored != "" {
			if rec.ignored == nil {
				rec.ignored = make(map[string]int)
			}
			rec.ignored[doc.Ignored]++
		}
		if doc.Unchanged {
			h := bySum[doc.Sum]
			h.line = int32(doc.Line)
			s.add(finding{holding: h}, named)
			continue
		}
		for _, it := range doc.Items {
			if cut && i == len(r.docs)-1 && it.Object != nil {
				it.Entries = []status.Entry{cutOff(r.path, it)}
				it.Object = nil
			}
			h, had := old[it.Key]
			for _, e := range it.Entries {
				e.Kept = e.Severity == status.Refused && had
				rec.entries = append(rec.entries, e)
			}
			f := finding{holding: holding{key: it.Key, sum: doc.Sum, line: int32(it.Line), plain: len(doc.Items) == 1 && len(it.Entries) == 0}, object: it.Object}
			switch {
			case it.Key == object.Key{}:
			case it.Object == nil && had:
				s.add(finding{holding: h}, named) // the last good version stays
			case it.Object == nil:
				named[it.Key] = it.Line
			default:
				if had && h.sum == doc.Sum {
					f.object = nil
				}
				s.add(f, named)
			}
		}
	}
	b.count(rec.ignored, +1)
	rec.size, rec.newline = r.size, r.newline
	b.missing(&s, old, named, broken)
	return s
}

// add takes a finding in unless the file names the object twice.
func (s *step) add(f finding, named map[object.Key]int) {
	if first, twice := named[f.key]; twice {
		s.rec.entries = append(s.rec.entries, status.Entry{
			Severity: status.Refused, File: s.rec.path, Line: int(f.line),
			Kind: f.key.Kind.String(), Namespace: f.key.Namespace, Name: f.key.Name,
			Problem: fmt.Sprintf("the object stands twice in this file, first on line %d", first), Fix: "remove one of the two, or give it another name",
		})
		return
	}
	named[f.key] = int(f.line)
	s.found = append(s.found, f)
}

// cut reports whether a file looks as if only its beginning was written: it has become shorter and its last line has lost
// its end. Much of what is cut off reads well, and a policy without its last rules is another policy.
func (b *batch) cut(rec *record, r reading) bool {
	n := len(r.docs)
	return rec.newline && !r.newline && r.size < rec.size && n > 0 && !r.docs[n-1].Unchanged
}

// missing handles what the file had and does not name any more: it is released, or kept when the file could not be
// understood to its end.
func (b *batch) missing(s *step, old map[object.Key]holding, named map[object.Key]int, broken bool) {
	var gone []holding
	for k, h := range old {
		if _, ok := named[k]; !ok {
			gone = append(gone, h)
		}
	}
	if !broken {
		b.release(s.rec, gone)
		return
	}
	for _, h := range gone {
		s.found = append(s.found, finding{holding: h})
	}
	if len(gone) == 0 {
		return
	}
	for i := range s.rec.entries {
		if e := &s.rec.entries[i]; e.Severity == status.Refused && e.Name == "" {
			e.Kept = true
			e.Problem += fmt.Sprintf(" (%d objects the file had before cannot be found in it)", len(gone))
			break
		}
	}
}

// release gives up objects of a file.
func (b *batch) release(rec *record, hs []holding) {
	for _, h := range hs {
		if c, ok := b.claims[h.key]; ok && c.owner == rec {
			c.owner = nil
			b.claims[h.key] = c
			b.freed = append(b.freed, h.key)
		}
	}
}

// unwait takes back what a file has waiting.
func (b *batch) unwait(rec *record) {
	for _, e := range rec.duplicates {
		k, _ := object.ParseKind(e.Kind)
		key := object.Key{Kind: k, Namespace: e.Namespace, Name: e.Name}
		if c, ok := b.claims[key]; ok {
			c.waiting = slices.DeleteFunc(c.waiting, func(w waiter) bool { return w.from == rec })
			b.claims[key] = c
		}
	}
	rec.duplicates = nil
}

// place puts the objects of a file in force, or has them wait behind another file's.
func (b *batch) place(s step) {
	for _, f := range s.found {
		c := b.claims[f.key]
		if c.seen == 0 {
			c.seen = s.when
		}
		switch {
		case c.owner == s.rec:
			c.line = f.line
			b.claims[f.key] = c
			s.rec.held = append(s.rec.held, f.holding)
			if f.object != nil {
				b.emit(c.put(f.object))
			}
		case c.owner == nil && f.object != nil:
			c.owner, c.line = s.rec, f.line
			b.claims[f.key] = c
			s.rec.held = append(s.rec.held, f.holding)
			b.emit(c.put(f.object))
		case f.object != nil:
			c.waiting = append(c.waiting, waiter{from: s.rec, holding: f.holding, object: f.object})
			b.claims[f.key] = c
			s.rec.duplicates = append(s.rec.duplicates, duplicate(s.rec, f, c))
		}
	}
	s.rec.trim()
}

// settle decides about objects that were let go: somebody else's version takes over, or they are gone.
func (b *batch) settle() {
	for _, key := range b.freed {
		c, ok := b.claims[key]
		if !ok || c.owner != nil {
			continue
		}
		if len(c.waiting) == 0 {
			delete(b.claims, key)
			b.emit(object.Delete(key))
			continue
		}
		slices.SortFunc(c.waiting, func(x, y waiter) int { return strings.Compare(x.from.path, y.from.path) })
		w := c.waiting[0]
		c.owner, c.line, c.waiting = w.from, w.holding.line, slices.Clone(c.waiting[1:])
		b.claims[key] = c
		b.touch(w.from)
		w.from.held = append(w.from.held, w.holding)
		w.from.forget(key)
		for _, o := range c.waiting {
			b.touch(o.from)
			o.from.forget(key)
			o.from.duplicates = append(o.from.duplicates, duplicate(o.from, finding{holding: o.holding}, c))
		}
		b.emit(c.put(w.object))
	}
}

func (b *batch) count(ignored map[string]int, sign int) {
	for k, n := range ignored {
		if b.ignored[k] += sign * n; b.ignored[k] == 0 {
			delete(b.ignored, k)
		}
	}
}
