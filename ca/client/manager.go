package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/identity"
)

// Signer gets one certificate from an authority. *Client is the real one, catest.CA the twin.
type Signer interface {
	Sign(ctx context.Context, id identity.ID) (*certs.SVID, error)
}

// Options of a Manager. Zero fields take the defaults named beside them.
type Options struct {
	Logger     *slog.Logger          // discard
	Registerer prometheus.Registerer // none
	// Workers is how many requests may be under way at the authority at once.
	Workers int // 4
	// SignTimeout bounds one request.
	SignTimeout time.Duration // 10 s
	// MinBackoff doubles after each failure up to MaxBackoff, each wait varied by ±20 %.
	MinBackoff time.Duration // 500 ms
	MaxBackoff time.Duration // 150 s
	// Linger is how long a certificate nobody holds any more is kept, so that a restarting pod finds it again.
	Linger time.Duration // 30 s
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Workers <= 0 {
		o.Workers = 4
	}
	if o.SignTimeout <= 0 {
		o.SignTimeout = 10 * time.Second
	}
	if o.MinBackoff <= 0 {
		o.MinBackoff = 500 * time.Millisecond
	}
	if o.MaxBackoff <= 0 {
		o.MaxBackoff = 150 * time.Second
	}
	if o.Linger <= 0 {
		o.Linger = 30 * time.Second
	}
	return o
}

// Manager keeps a certificate for each identity somebody holds or asks for. It renews at half of the lifetime, and goes on
// serving the last good certificate while renewing fails, until that certificate expires.
//
//	           Hold / Get                 signed
//	(absent) ────────────► wanted ──────────────────► valid ──┐ half-life: renew,
//	    ▲                    ▲  └─ failed: back off ─┐  │ ▲   │ failed: back off,
//	    │                    └───────────────────────┘  │ └───┘ certificate stays
//	    │                    ▲         expired          │
//	    │                    └──────────────────────────┘
//	    └── nobody holds it, Linger over
//
// Run does the work; Get, Hold and Dump may be called before, during and after it.
type Manager struct {
	signer  Signer
	opts    Options
	metrics *metrics
	wake    chan struct{} // buffered, 1: the queue changed

	mu sync.RWMutex
	// guarded by mu
	entries map[identity.ID]*entry
	seq     uint64
	bundle  *certs.Bundle // the newest roots any answer brought
	asked   time.Time     // when the request that brought them was made
}

// entry is one identity.
type entry struct {
	id   identity.ID
	svid atomic.Pointer[certs.SVID] // last good, also after it expired

	// guarded by Manager.mu
	holds      int
	waiting    int           // Get calls blocked on this entry
	changed    chan struct{} // closed and replaced when svid or err changes
	err        error         // of the last attempt, nil after success
	attempts   int           // failures in a row
	generation uint64
	job        job
	expires    time.Time // when to drop an entry without holds; zero while held
}

// NewManager starts nothing.
func NewManager(signer Signer, opts Options) *Manager {
	m := &Manager{signer: signer, opts: opts.withDefaults(), wake: make(chan struct{}, 1), entries: map[identity.ID]*entry{}}
	m.metrics = newMetrics(opts.Registerer, m)
	return m
}

// ErrNoCertificate is wrapped by what Get returns when its context ends before there is a certificate.
var ErrNoCertificate = errors.New("no certificate yet")

// Get returns a valid certificate of id. If there is none it waits for one, ahead of every request nobody waits for, until
// ctx ends; the error then names what the authority last said.
func (m *Manager) Get(ctx context.Context, id identity.ID) (*certs.SVID, error) {
	if svid := m.valid(id); svid != nil {
		return svid, nil
	}
	if err := id.Validate(); err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	m.mu.Lock()
	e := m.ensure(id)
	e.waiting++
	// Looked at again under the lock: a certificate that came in between must not be asked for a second time.
	if e.usable() == nil {
		m.want(e, blocking)
	}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		e.waiting--
		m.retire(e)
		m.mu.Unlock()
	}()
	for {
		m.mu.RLock()
		changed, lastErr := e.changed, e.err
		m.mu.RUnlock()
		if svid := e.usable(); svid != nil {
			return svid, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if lastErr != nil {
				return nil, fmt.Errorf("%w for %s: %w (last answer: %w)", ErrNoCertificate, id, ctx.Err(), lastErr)
			}
			return nil, fmt.Errorf("%w for %s: %w", ErrNoCertificate, id, ctx.Err())
		}
	}
}

// valid is the fast path of Get: no allocation, a shared lock.
func (m *Manager) valid(id identity.ID) *certs.SVID {
	m.mu.RLock()
	e := m.entries[id]
	m.mu.RUnlock()
	if e == nil {
		return nil
	}
	return e.usable()
}

// usable is the last good certificate while it lasts.
func (e *entry) usable() *certs.SVID {
	svid := e.svid.Load()
	if svid == nil || time.Now().After(svid.NotAfter) {
		return nil
	}
	return svid
}

// Hold asks for a certificate of id ahead of need and keeps it renewed until release is called. Several holders of one
// identity share it. release may be called more than once.
func (m *Manager) Hold(id identity.ID) (release func()) {
	if id.Validate() != nil {
		return func() {}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.ensure(id)
	e.holds++
	e.expires = time.Time{}
	if e.usable() == nil {
		m.want(e, warmup)
	} else if e.job.state == idle {
		m.schedule(e, background, m.renewal(e))
	}
	var once sync.Once
	return func() {
		once.Do(func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			e.holds--
			m.retire(e)
		})
	}
}

// Watch returns the certificate of id now, or nil, and a channel that is closed when there is news of it. The identity
// should be held, or it may be forgotten.
func (m *Manager) Watch(id identity.ID) (*certs.SVID, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.ensure(id)
	m.retire(e)
	return e.usable(), e.changed
}

// ensure returns the entry of id, making it if need be. Callers hold m.mu.
func (m *Manager) ensure(id identity.ID) *entry {
	e := m.entries[id]
	if e == nil {
		e = &entry{id: id, changed: make(chan struct{})}
		m.entries[id] = e
	}
	return e
}

// retire starts the countdown of an entry nobody needs. Callers hold m.mu.
func (m *Manager) retire(e *entry) {
	if e.holds > 0 || e.waiting > 0 || m.entries[e.id] != e {
		return
	}
	e.expires = time.Now().Add(m.opts.Linger)
	m.signal()
}

func (m *Manager) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}
