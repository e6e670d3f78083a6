package status

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestSinceSurvivesWhileTheProblemDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New()
		e := Entry{Severity: Refused, File: "a.yaml", Line: 3, Kind: "Pod", Namespace: "n", Name: "p", Problem: "bad"}
		r.Set("a.yaml", e)
		first := r.List()[0].Since
		time.Sleep(time.Minute)
		moved := e
		moved.Line, moved.Kept = 9, true
		r.Set("a.yaml", moved)
		if got := r.List()[0]; !got.Since.Equal(first) || got.Line != 9 || !got.Kept {
			t.Errorf("a problem that only moved was taken for a new one: %+v", got)
		}
		r.Set("a.yaml")
		r.Set("a.yaml", e)
		if got := r.List()[0]; got.Since.Equal(first) {
			t.Error("a problem that came back kept its old time")
		}
	})
}

func TestOrderAndText(t *testing.T) {
	r := New()
	r.Set("model", Entry{Severity: Warning, Kind: "Service", Namespace: "n", Name: "s", Problem: "odd"})
	r.Set("b.yaml", Entry{Severity: Refused, File: "b.yaml", Line: 1, Problem: "p"})
	r.Set("a.yaml",
		Entry{Severity: Refused, File: "a.yaml", Line: 9, Kind: "Pod", Namespace: "n", Name: "x", Field: "spec.a", Problem: "p", Fix: "f", Kept: true},
		Entry{Severity: Refused, File: "a.yaml", Line: 2, Kind: "Node", Name: "x", Problem: "p"})
	var got []string
	for _, e := range r.List() {
		got = append(got, e.String())
	}
	want := "a.yaml:2: Node x: p\na.yaml:9: Pod n/x: spec.a: p; f (the earlier version stays in force)\nb.yaml:1: p\nService n/s: odd"
	if s := strings.Join(got, "\n"); s != want {
		t.Errorf("got\n%s\nwant\n%s", s, want)
	}
	if a, b := r.Counts(); a != 3 || b != 1 {
		t.Errorf("counts %d %d", a, b)
	}
	if _, err := json.Marshal(r.List()); err != nil {
		t.Error(err)
	}
}

func TestBounded(t *testing.T) {
	r := New()
	many := make([]Entry, MaxEntries+5)
	for i := range many {
		many[i] = Entry{Severity: Refused, Line: i, Problem: "p"}
	}
	r.Set("a", many...)
	list := r.List()
	if len(list) != MaxEntries+1 || !strings.Contains(list[MaxEntries].Problem, "5 more") {
		t.Errorf("%d entries, last %v", len(list), list[len(list)-1])
	}
	r.Set("a")
	if len(r.List()) != 0 {
		t.Error("not empty")
	}
}

func TestConcurrentUse(t *testing.T) {
	r := New()
	ch := r.Changed()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			owner := fmt.Sprint(i)
			for range 100 {
				r.Set(owner, Entry{Severity: Refused, Problem: owner})
				r.List()
			}
		})
	}
	wg.Wait()
	<-ch
	if n := len(r.List()); n != 8 {
		t.Errorf("%d entries", n)
	}
}
