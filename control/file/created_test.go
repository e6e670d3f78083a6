package file

import (
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/control/object"
)

// TestCreated: an object that does not say when it was made is as old as its first sight, through edits and moves, so that
// what is typed last takes nothing away from what says its age.
func TestCreated(t *testing.T) {
	w := newWorld(t)
	const aged = "apiVersion: v1\nkind: Service\nmetadata: {name: aged, creationTimestamp: 2026-01-02T03:04:05Z}\nspec: {ports: [{port: 80}]}\n"
	const young = "apiVersion: v1\nkind: Service\nmetadata: {name: young}\nspec: {ports: [{port: 80}]}\n"
	const edited = "# by hand\napiVersion: v1\nkind: Service\nmetadata: {name: young}\nspec: {ports: [{port: 81}]}\n"
	w.src.synced = true
	created := func(name string) time.Time {
		return w.sink.objects[object.Key{Kind: object.KindService, Namespace: "default", Name: name}].Metadata().Created
	}
	place := func(want string, line int) {
		t.Helper()
		path, at := w.src.Place(object.Key{Kind: object.KindService, Namespace: "default", Name: "young"})
		if path != want || at != line {
			t.Errorf("young is at %s:%d, want %s:%d", path, at, want, line)
		}
	}
	w.apply(change{"a.yaml", aged}, change{"b.yaml", young})
	first := created("young")
	if !first.After(created("aged")) || time.Since(first) > time.Hour {
		t.Errorf("young is of %v, aged of %v", first, created("aged"))
	}
	place("b.yaml", 1)
	w.apply(change{"b.yaml", edited})
	if got := created("young"); got != first {
		t.Errorf("after an edit young is of %v, before of %v", got, first)
	}
	w.apply(change{"b.yaml", ""}, change{"c.yaml", edited})
	if got := created("young"); got != first {
		t.Errorf("after a move young is of %v, before of %v", got, first)
	}
	w.apply(change{"c.yaml", ""})
	place("", 0)
	w.apply(change{"c.yaml", edited})
	if got := created("young"); !got.After(first) {
		t.Errorf("made anew, young is of %v, the one before of %v", got, first)
	}
}
