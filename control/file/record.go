package file

import (
	"errors"
	"fmt"
	"slices"

	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/control/intake"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// record is what is remembered of a file.
type record struct {
	path    string
	size    int
	newline bool
	held    []holding      // what this file has in force
	ignored map[string]int // nil for most
	// refused and warned are about the file's documents, duplicates about objects another file has in force.
	entries    []status.Entry
	duplicates []status.Entry
}

// forget drops what is said about an object another file has in force.
func (rec *record) forget(key object.Key) {
	rec.duplicates = slices.DeleteFunc(slices.Clone(rec.duplicates), func(e status.Entry) bool {
		return e.Kind == key.Kind.String() && e.Namespace == key.Namespace && e.Name == key.Name
	})
}

// trim drops spare room: most files hold one object for a long time.
func (rec *record) trim() { rec.held = slices.Clip(slices.Clone(rec.held)) }

// maxEntries bounds what is said about one file.
const maxEntries = 200

// all is everything that is to be said about a file.
func (rec *record) all() []status.Entry {
	es := slices.Concat(rec.entries, rec.duplicates)
	if more := len(es) - maxEntries; more > 0 {
		es = append(es[:maxEntries:maxEntries], status.Entry{
			Severity: status.Refused, File: rec.path, Problem: fmt.Sprintf("there is more to say about this file, %d times", more), Fix: "mend the first ones",
		})
	}
	return es
}

// unusable is the refusal of a whole file.
func unusable(r reading, kept bool) status.Entry {
	e := status.Entry{Severity: status.Refused, File: r.path, Problem: r.err.Error(), Fix: "check the file's permissions", Kept: kept}
	switch {
	case errors.Is(r.err, folder.ErrTooLarge):
		e.Fix = "split it into several files"
	case errors.Is(r.err, folder.ErrTooMany):
		e.Fix = "put several objects into one file, or remove files"
	case errors.Is(r.err, folder.ErrOutside):
		e.Fix = "copy the file into the folder"
	case errors.Is(r.err, folder.ErrNotFound), errors.Is(r.err, folder.ErrNotRegular):
		e.Fix = "replace it by a file, or remove it"
	}
	return e
}

func cutOff(path string, it intake.Item) status.Entry {
	return status.Entry{
		Severity: status.Refused, File: path, Line: it.Line, Kind: it.Key.Kind.String(), Namespace: it.Key.Namespace, Name: it.Key.Name,
		Problem: "the file seems to be cut off: it is shorter than before and its last line has no end",
		Fix:     "write the file again; if it is complete, end its last line",
	}
}

// duplicate is the refusal of an object another file has in force.
func duplicate(rec *record, f finding, c claim) status.Entry {
	return status.Entry{
		Severity: status.Refused, File: rec.path, Line: int(f.line),
		Kind: f.key.Kind.String(), Namespace: f.key.Namespace, Name: f.key.Name,
		Problem: fmt.Sprintf("the object is also in %s:%d, and that version is in force", c.owner.path, c.line),
		Fix:     "remove it from one of the two files",
	}
}
