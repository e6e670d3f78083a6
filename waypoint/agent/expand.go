package agent

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/waypoint/agent/ads"
	"github.com/ambit-mesh/ambit/waypoint/agent/render"
	"github.com/ambit-mesh/ambit/waypoint/agent/wasm"
	"github.com/ambit-mesh/ambit/waypoint/facts"
)

// expand turns changed facts into changed configuration until ctx ends. The first change after a quiet time is expanded
// at once; those that follow within Config.Coalesce are taken together.
func (a *agent) expand(ctx context.Context) error {
	if !a.awaitFacts(ctx) {
		return nil
	}
	gap := time.NewTimer(0)
	defer gap.Stop()
	for first := true; ; first = false {
		snapshot, changes := a.facts.Take()
		modules := a.wasm.Take()
		if !changes.Empty() || len(modules) > 0 || first {
			a.apply(snapshot, changes, modules)
		}
		a.built.Store(snapshot.Generation())
		if first && snapshot.Gateway() != nil {
			a.ads.Open()
			close(a.rendered)
		}
		gap.Reset(a.cfg.Coalesce)
		select {
		case <-gap.C:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-a.facts.Changed():
		case <-a.wasm.News():
		case <-ctx.Done():
			return nil
		}
		a.awaitWhole(ctx)
		a.awaitAnswers(ctx)
	}
}

// What belongs together comes in several messages, one for each type, directly after each other. A subset without the
// labels of its pods, or the other way round, would have nobody in it for the time between two of them. A control plane that
// knows of steps says when one is complete; for one that does not there is a pause between messages.
const (
	settleGap  = 2 * time.Millisecond
	settleMost = 5
	stepTime   = 50 * time.Millisecond // more than a step takes on its way
)

// steps is what the control plane says of what belongs together.
type steps struct {
	under atomic.Bool   // a part came, and the last one has not
	ended atomic.Uint64 // how many were completed
	end   chan struct{} // capacity 1
}

// awaitWhole waits until what has come is complete.
func (a *agent) awaitWhole(ctx context.Context) {
	late := time.NewTimer(stepTime)
	defer late.Stop()
	for a.steps.under.Load() {
		select {
		case <-a.steps.end:
		case <-late.C:
			a.steps.under.Store(false) // the stream was cut in the middle
			return
		case <-ctx.Done():
			return
		}
	}
	if ended := a.steps.ended.Load(); ended != a.stepsSeen {
		a.stepsSeen = ended
		return
	}
	for range settleMost { // nothing was said: it is no step, or an older control plane
		select {
		case <-a.facts.Changed():
		case <-time.After(settleGap):
			return
		case <-ctx.Done():
			return
		}
	}
}

// awaitAnswers gives the control plane the time of a round trip to tell the addresses and endpoints of services it has just
// named. Without them the services would be expanded to no use, and listeners, which know all services, twice.
func (a *agent) awaitAnswers(ctx context.Context) {
	if a.facts.Unanswered() == 0 {
		return
	}
	late := time.NewTimer(answerTime)
	defer late.Stop()
	for a.facts.Unanswered() > 0 {
		select {
		case <-a.facts.Changed():
		case <-late.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// answerTime is many round trips to a control plane nearby.
const answerTime = 50 * time.Millisecond

// awaitFacts waits until the control plane has told everything there is to tell at first, as far as it ever will: an Envoy
// that became ready with half of its endpoints would answer 503 for the other half.
func (a *agent) awaitFacts(ctx context.Context) bool {
	select {
	case <-a.xds.Synced():
	case <-ctx.Done():
		return false
	}
	deadline := time.NewTimer(settleTime)
	defer deadline.Stop()
	late := false
	for {
		if a.facts.Current().Gateway() != nil && (late || a.facts.Unanswered() == 0) {
			return true
		}
		select {
		case <-a.facts.Changed():
		case <-deadline.C:
			late = true
			if n := a.facts.Unanswered(); n > 0 {
				a.log.Warn("the control plane has not answered for all services that were asked for; going on without", "services", n)
			}
			if a.facts.Current().Gateway() == nil {
				a.log.Error("the control plane knows no such Gateway, or does not let us read it: Envoy stays unready until it does",
					"gateway", a.cfg.PodNamespace+"/"+a.cfg.GatewayName)
			}
		case <-ctx.Done():
			return false
		}
	}
}

func (a *agent) apply(s *facts.Snapshot, c facts.Changes, modules []wasm.Key) {
	start := time.Now()
	var keys []string
	for _, m := range modules {
		keys = append(keys, render.Module(m.URL, m.SHA256))
	}
	a.mu.Lock()
	updates := a.renderer.Render(s, c, keys...)
	problems := a.renderer.Problems()
	a.mu.Unlock()
	if a.deps.alter != nil {
		a.deps.alter(updates)
	}
	if len(updates) > 0 {
		a.ads.Apply(updates...)
	}
	took := time.Since(start)
	a.own.expansions.Observe(took.Seconds())
	n := 0
	for _, u := range updates {
		n += len(u.Put) + len(u.Remove)
	}
	a.log.Debug("expanded", "resources", n, "problems", len(problems), "dur", took)
}

// handler notes which facts were refused, besides storing the others.
type handler struct{ a *agent }

// Apply implements xds.Handler.
func (h handler) Apply(typeURL string, upserts []xds.Raw, removed []string) []xds.Rejected {
	rejected := h.a.facts.Apply(typeURL, upserts, removed)
	h.a.noteRejected(typeURL, upserts, removed, rejected)
	return rejected
}

// Step implements xds.Stepper.
func (h handler) Step(under bool) {
	s := &h.a.steps
	s.under.Store(under)
	if under {
		return
	}
	s.ended.Add(1)
	select {
	case s.end <- struct{}{}:
	default:
	}
}

// refused is told by the ADS server that Envoy does not take a resource.
func (a *agent) refused(r ads.Refusal) {
	a.mu.Lock()
	unit, objects := a.renderer.Objects(a.facts.Current(), r.Type, r.Name)
	a.mu.Unlock()
	a.own.refusals.WithLabelValues(shortType(r.Type)).Inc()
	a.log.Error("Envoy refuses a part of its configuration; everything else is in force", "type", shortType(r.Type), "resource", r.Name,
		"unit", unit, "objects", objects, "kept", r.Kept, "reason", r.Reason)
}

// behind names what of the facts received so far is not in force in Envoy yet; nothing when it is, as far as Envoy takes
// it.
func (a *agent) behind() []string {
	var out []string
	select {
	case <-a.rendered:
	default:
		return []string{"first configuration"}
	}
	if a.built.Load() != a.facts.Current().Generation() || a.facts.Unanswered() > 0 {
		out = append(out, "expansion")
	}
	if a.ads.Streams() == 0 {
		out = append(out, "Envoy")
	}
	for _, t := range a.ads.Pending() {
		out = append(out, shortType(t))
	}
	return out
}
