package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambit-mesh/ambit/waypoint/facts"
)

// What the control plane says belongs together is waited for, and nothing else is then; without a word there is a pause.
func TestAwaitWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &agent{facts: facts.New(facts.Config{}), steps: steps{end: make(chan struct{}, 1)}}
		h := handler{a}
		waited := func() time.Duration {
			start := time.Now()
			a.awaitWhole(t.Context())
			return time.Since(start)
		}
		h.Step(true)
		h.Step(false)
		if d := waited(); d != 0 {
			t.Errorf("a step of one response: %v", d)
		}
		h.Step(true)
		go func() {
			time.Sleep(7 * time.Millisecond)
			h.Step(true) // another part
			time.Sleep(7 * time.Millisecond)
			h.Step(false)
		}()
		if d := waited(); d != 14*time.Millisecond {
			t.Errorf("a step that took 14 ms: %v", d)
		}
		if d := waited(); d != settleGap {
			t.Errorf("no step: %v", d)
		}
		h.Step(true)
		if d := waited(); d != stepTime {
			t.Errorf("a step that never ended: %v", d)
		}
		if d := waited(); d != settleGap {
			t.Errorf("after it: %v", d)
		}
	})
}
