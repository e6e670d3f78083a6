package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/ambit-mesh/ambit/cni/enroll"
	"github.com/ambit-mesh/ambit/cni/redirect"
)

// step is what is to be done for a pod on its way out of the mesh.
type step int

// Steps, in their order.
const (
	stay    step = iota // nothing yet: look again later
	release             // capture nothing new any more
	finish              // take everything away, what is still open included
)

// departure is how a pod that lives on leaves the mesh.
//
//	peers are told ──grace──► released ──grace──► nothing is open any more, or limit is over ──► out
//
// In the first grace peers that have not heard yet are still answered. In the second, connections that were on their way
// to the proxy arrive there and count as open.
type departure struct{ grace, limit time.Duration }

// next says what to do for a pod that left at one time and was released at another, which is zero before it was; and if
// that is nothing, how long not to look again. open is how many captured connections there are.
func (d departure) next(left, released time.Time, open int, now time.Time) (step, time.Duration) {
	if rest := d.grace - now.Sub(left); rest > 0 {
		return stay, rest
	}
	if released.IsZero() {
		return release, 0
	}
	since := now.Sub(released)
	if rest := d.grace - since; rest > 0 {
		return stay, rest
	}
	if open == 0 || since >= d.limit {
		return finish, 0
	}
	return stay, min(pauseAfter(since), d.limit-since)
}

// Bounds of how often open connections are counted.
const (
	firstCount = 250 * time.Millisecond
	lastCount  = 10 * time.Second
)

// pauseAfter is the pause before the next count: what has gone on for long is likely to go on.
func pauseAfter(since time.Duration) time.Duration { return min(max(since/4, firstCount), lastCount) }

// unenrol undoes what was done for a pod that lives on without the mesh.
func (a *Agent) unenrol(ctx context.Context, pod enroll.Pod, rec *record, reason string) error {
	// Peers learn from the annotation that the pod speaks plaintext again.
	if err := a.annotate(ctx, pod, ""); err != nil {
		return err
	}
	if rec.leaving.IsZero() {
		rec = a.revise(rec, func(next *record) { next.leaving = time.Now() })
	}
	rec = a.count(rec)
	k := pod.Key()
	do, pause := departure{a.cfg.LeaveGrace, a.cfg.LeaveLimit}.next(rec.leaving, rec.released, rec.open, time.Now())
	switch do {
	case stay:
		a.queue.AddAfter(k, pause)
		return nil
	case release:
		a.queue.AddAfter(k, a.cfg.LeaveGrace)
		return a.release(rec)
	}
	if err := a.backend.Remove(rec.ns); err != nil {
		return fmt.Errorf("pod %s: %w", k, err)
	}
	a.drop(ctx, k, rec)
	a.leftMesh(rec, reason)
	return nil
}

// count notes how many captured connections a released pod has. Where the kernel does not tell, there are none: the pod
// leaves as if there were no waiting for them.
func (a *Agent) count(rec *record) *record {
	if rec.released.IsZero() {
		return rec
	}
	open, err := redirect.Open(rec.ns)
	if err != nil {
		a.log.Warn("connections through the proxy cannot be counted, and are cut", "pod", rec.pod.Key(), "err", err)
	}
	if len(open) == rec.open {
		return rec
	}
	return a.revise(rec, func(next *record) { next.open = len(open) })
}

// release captures no connection of a pod any more.
func (a *Agent) release(rec *record) error {
	k := rec.pod.Key()
	if err := a.backend.Release(rec.ns, rec.options); err != nil {
		return fmt.Errorf("pod %s: %w", k, err)
	}
	// Probes reach the application by themselves now.
	if err := a.node.Set(rec.pod.UID, nil); err != nil {
		return err
	}
	rec = a.revise(rec, func(next *record) { next.released = time.Now() })
	rec = a.count(rec)
	a.log.Info("pod's traffic is not captured any more", "pod", k, "uid", rec.pod.UID, "open", rec.open)
	return nil
}

// leftMesh tells of a pod that is out.
func (a *Agent) leftMesh(rec *record, reason string) {
	k := rec.pod.Key()
	if rec.open > 0 {
		a.log.Warn("connections through the proxy are cut: they were open for longer than a pod that leaves waits", "pod", k, "connections", rec.open)
	}
	a.log.Info("pod left the mesh", "pod", k, "reason", reason)
	a.metrics.events.WithLabelValues("unenrol").Inc()
}

// revise records a copy of what is known of a pod, changed, and returns it.
func (a *Agent) revise(rec *record, change func(*record)) *record {
	next := *rec
	change(&next)
	a.setRecord(next.pod.Key(), &next)
	return &next
}
