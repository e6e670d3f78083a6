package client

import (
	"context"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/ca/certs"
)

// priority orders what is due; the lowest goes first.
type priority int

const (
	blocking   priority = iota // a connection waits for it
	warmup                     // held, no certificate yet
	background                 // renewal of a valid certificate
)

type jobState int

const (
	idle    jobState = iota // nothing planned
	planned                 // due at job.due
	running                 // a worker has it
)

// job is the next request for one identity.
type job struct {
	state    jobState
	priority priority
	due      time.Time
	seq      uint64    // order of arrival within a priority
	last     time.Time // when the last attempt ended
}

// want plans a request for an entry without a usable certificate, as soon as may be. Callers hold m.mu.
func (m *Manager) want(e *entry, p priority) {
	due := time.Now()
	if e.attempts > 0 {
		// Somebody waits, so the long back-off is cut short; MinBackoff still keeps a refusing authority from being hammered.
		due = e.job.last.Add(m.jitter(m.opts.MinBackoff))
	}
	switch e.job.state {
	case running:
		// Its outcome decides: success serves the waiter, failure plans the next attempt for it.
	case planned:
		e.job.priority = min(e.job.priority, p)
		if due.Before(e.job.due) {
			e.job.due = due
		}
		m.signal()
	case idle:
		m.schedule(e, p, due)
	}
}

// schedule plans the next request. Callers hold m.mu.
func (m *Manager) schedule(e *entry, p priority, due time.Time) {
	m.seq++
	e.job.state, e.job.priority, e.job.due, e.job.seq = planned, p, due, m.seq
	m.signal()
}

// renewal is half of the remaining lifetime away, ±10 % so that certificates born together do not stay together. It
// counts from now and not from NotBefore: that is back-dated, by more than a short lifetime may last.
func (m *Manager) renewal(e *entry) time.Time {
	left := time.Until(e.svid.Load().NotAfter)
	half := time.Duration(float64(left) / 2 * (0.9 + 0.2*rand.Float64()))
	return time.Now().Add(max(half, m.opts.MinBackoff))
}

func (m *Manager) jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// Run asks the authority for what is wanted until ctx ends, and returns nil when its workers have ended.
func (m *Manager) Run(ctx context.Context) error {
	var workers sync.WaitGroup
	defer workers.Wait()
	done := make(chan struct{}, m.opts.Workers)
	free := m.opts.Workers
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var next time.Time
		for free > 0 {
			e, at := m.take()
			if e == nil {
				next = at
				break
			}
			free--
			workers.Go(func() {
				m.sign(ctx, e)
				done <- struct{}{}
			})
		}
		if free == 0 {
			next = m.nextExpiry()
		}
		wait := time.Hour
		if !next.IsZero() {
			wait = max(0, time.Until(next))
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-done:
			free++
		case <-m.wake:
		case <-timer.C:
		}
	}
}

// take drops entries whose time is over and picks the due request to do first. With none due it says when to look again,
// zero meaning not before something changes.
func (m *Manager) take() (*entry, time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	var best *entry
	var next time.Time
	soonest := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for id, e := range m.entries {
		if !e.expires.IsZero() && e.holds == 0 && e.waiting == 0 {
			if !now.Before(e.expires) && e.job.state != running {
				delete(m.entries, id)
				continue
			}
			if e.job.state != running {
				soonest(e.expires)
			}
		}
		if e.job.state != planned {
			continue
		}
		if now.Before(e.job.due) {
			soonest(e.job.due)
			continue
		}
		if best == nil || e.job.before(best.job) {
			best = e
		}
	}
	if best != nil {
		best.job.state = running
	}
	return best, next
}

// before orders two due jobs.
func (j job) before(o job) bool {
	if j.priority != o.priority {
		return j.priority < o.priority
	}
	return j.seq < o.seq
}

// nextExpiry is when the first unneeded entry may go, while all workers are busy.
func (m *Manager) nextExpiry() time.Time {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var next time.Time
	for _, e := range m.entries {
		if !e.expires.IsZero() && e.expires.After(time.Now()) && (next.IsZero() || e.expires.Before(next)) {
			next = e.expires
		}
	}
	return next
}

// sign makes one request and files its outcome.
func (m *Manager) sign(ctx context.Context, e *entry) {
	attempt, cancel := context.WithTimeout(ctx, m.opts.SignTimeout)
	defer cancel()
	start := time.Now()
	svid, err := m.signer.Sign(attempt, e.id)
	if err == nil && (svid == nil || svid.ID != e.id) {
		err = errors.New("the authority answered for another identity")
	}
	if ctx.Err() != nil && err != nil {
		// Stopping: not the authority's fault, and nobody will look.
		m.mu.Lock()
		e.job.state = idle
		m.mu.Unlock()
		return
	}
	m.metrics.signed(err, time.Since(start))
	m.mu.Lock()
	defer m.mu.Unlock()
	e.job.last = time.Now()
	e.job.state = idle
	if err != nil {
		m.failed(e, err)
	} else {
		m.succeeded(e, m.learn(e, svid, start))
	}
	e.announce()
}

// announce wakes whoever waits for news of e. Callers hold Manager.mu.
func (e *entry) announce() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// learn compares the roots of an answer with those known. Newer roots apply to every identity at once rather than at its
// own renewal, and an identity whose certificate they no longer cover is renewed right away; the roots of an answer that
// was overtaken by another are replaced by the newer ones. Callers hold m.mu.
func (m *Manager) learn(from *entry, svid *certs.SVID, asked time.Time) *certs.SVID {
	if m.bundle != nil && asked.Before(m.asked) {
		if m.bundle.Equal(svid.Bundle()) {
			return svid
		}
		return svid.WithBundle(m.bundle)
	}
	old := m.bundle
	m.bundle, m.asked = svid.Bundle(), asked
	if old == nil || old.Equal(m.bundle) {
		return svid
	}
	m.opts.Logger.Info("trust roots changed", "roots", len(m.bundle.Certificates()))
	for _, e := range m.entries {
		held := e.svid.Load()
		if held == nil || e == from {
			continue
		}
		e.generation++
		fresh := held.WithBundle(m.bundle)
		fresh.Generation = e.generation
		e.svid.Store(fresh)
		e.announce()
		if e.job.state == planned && m.bundle.Verify(held.Chain(), x509.ExtKeyUsageAny, time.Now()) != nil {
			e.job.due = time.Now().Add(time.Duration(rand.Int64N(int64(m.opts.MinBackoff))))
		}
	}
	m.signal()
	return svid
}

// failed keeps the last good certificate and plans the next attempt. Callers hold m.mu.
func (m *Manager) failed(e *entry, err error) {
	e.err = err
	e.attempts++
	backoff := m.opts.MinBackoff << min(e.attempts-1, 16)
	if backoff <= 0 || backoff > m.opts.MaxBackoff {
		backoff = m.opts.MaxBackoff
	}
	p := background
	good := e.usable()
	if good == nil {
		p = warmup
	}
	if e.waiting > 0 && good == nil {
		p, backoff = blocking, m.opts.MinBackoff
	}
	due := time.Now().Add(m.jitter(backoff))
	m.schedule(e, p, due)
	log := m.opts.Logger.With("identity", e.id.String(), "attempt", e.attempts, "retry", time.Until(due).Round(time.Millisecond).String(), "err", err)
	if good == nil {
		log.Warn("no certificate")
		return
	}
	log.Warn("certificate not renewed, the current one stays in use", "expires", good.NotAfter)
}

// succeeded publishes svid. Callers hold m.mu.
func (m *Manager) succeeded(e *entry, svid *certs.SVID) {
	e.generation++
	fresh := *svid
	fresh.Generation = e.generation
	e.svid.Store(&fresh)
	e.err, e.attempts = nil, 0
	m.schedule(e, background, m.renewal(e))
	m.opts.Logger.Debug("certificate", "identity", e.id.String(), "expires", svid.NotAfter, "generation", e.generation)
}
