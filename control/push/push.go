// Package push carries what the model computes to the collections that xDS streams read from: it encodes each resource
// once, names its version after its content, and decides when to hand over.
//
// The first change after a quiet time goes out at once. Changes that follow within the window go out together when it
// ends; a later one never makes it longer, so nothing waits for more than one window however busy the mesh is.
//
//	event      e1      e2 e3                  e4
//	push       p1             p2(e2,e3)       p3
//	window     [──────────────][──────────────]
//
// The package knows encoding, versions and time. It knows no rule of the mesh (package model) and no protocol (api/xds).
// Run is the one goroutine that pushes; events come in on the goroutines of their sources. Start reading at Pusher.Run.
package push

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/control/jwks"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
	"github.com/ambit-mesh/ambit/control/waypoint"
)

// MaxWindow bounds how long a change may wait for others.
const MaxWindow = 50 * time.Millisecond

// Config tunes a Pusher.
type Config struct {
	// Window is how long changes after a push are collected. Zero and anything above MaxWindow mean MaxWindow.
	Window time.Duration
	// Addresses and Policies receive the resources.
	Addresses, Policies *xds.Collection
	// Step is what all collections are changed with, so that clients can tell what belongs together. Nil does without.
	Step *xds.Step
	// Waypoints works out what waypoints must know; nil for a mesh without. Facts receive that, one collection for each
	// type of it.
	Waypoints *waypoint.Model
	Facts     []*xds.Collection
	// Gateways is told what there is to say about each Gateway when that changes; nil for nobody.
	Gateways func(of object.Key, r model.Report)
	// KeySets is told which key sets are needed when that changes; see Pusher.SetKeys. Nil leaves them missing.
	KeySets func([]jwks.Source)
	// Status receives what objects are warned about. Nil drops it.
	Status *status.Registry
	// Logger reports what happens. Nil discards it.
	Logger *slog.Logger
	// Registerer receives the metrics. Nil keeps them unexposed.
	Registerer prometheus.Registerer
}

// Pusher is an object.Sink that ends in collections.
type Pusher struct {
	cfg     Config
	metrics *metrics
	wake    chan struct{}
	ready   chan struct{}

	mu     sync.Mutex
	model  *model.Model // guarded by mu, as is cfg.Waypoints
	synced bool         // guarded by mu
	since  time.Time    // of the oldest change not pushed yet; guarded by mu

	reports reports
	batch   batch // owned by Run
}

// New returns a Pusher for a model that nobody else may touch from now on.
func New(m *model.Model, cfg Config) *Pusher {
	if cfg.Window <= 0 || cfg.Window > MaxWindow {
		cfg.Window = MaxWindow
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Pusher{
		cfg:     cfg,
		metrics: newMetrics(cfg.Registerer),
		wake:    make(chan struct{}, 1),
		ready:   make(chan struct{}),
		model:   m,
	}
	p.reports.init(cfg.Status)
	p.batch.addresses, p.batch.policies, p.batch.reports = cfg.Addresses, cfg.Policies, &p.reports
	p.batch.waypoints, p.batch.keySets = cfg.Waypoints, cfg.KeySets
	p.batch.facts.init(cfg.Facts)
	return p
}

// Apply implements object.Sink.
func (p *Pusher) Apply(events []object.Event) {
	p.mu.Lock()
	p.model.Apply(events)
	if p.cfg.Waypoints != nil {
		p.cfg.Waypoints.Apply(events)
	}
	if p.since.IsZero() {
		p.since = time.Now()
	}
	synced := p.synced
	p.mu.Unlock()
	p.metrics.events.Add(float64(len(events)))
	if synced {
		p.poke()
	}
}

// Synced implements object.Sink. Nothing is pushed before: half a mesh would take away from clients what they still have.
func (p *Pusher) Synced() {
	p.mu.Lock()
	p.synced = true
	p.mu.Unlock()
	p.poke()
}

// SetKeys takes in what became of fetching a key set.
func (p *Pusher) SetKeys(s jwks.Source, set jwks.Set) {
	p.mu.Lock()
	if p.cfg.Waypoints != nil {
		p.cfg.Waypoints.SetKeys(s, set)
	}
	synced := p.synced
	p.mu.Unlock()
	if synced {
		p.poke()
	}
}

// MayReadGateway says why a service account may not read what belongs to a Gateway, given as namespace/name; nil when it
// may. Only the Gateway's own proxies may: its facts have private keys among them.
func (p *Pusher) MayReadGateway(gateway, namespace, account string) error {
	ns, name, _ := strings.Cut(gateway, "/")
	p.mu.Lock()
	accounts, ok := p.model.Accounts(ns, name)
	p.mu.Unlock()
	switch {
	case !ok:
		return fmt.Errorf("there is no Gateway %s", gateway)
	case ns != namespace || !slices.Contains(accounts, account):
		return fmt.Errorf("service account %s/%s is not that of Gateway %s, which is %s/%s", namespace, account, gateway, ns, strings.Join(accounts, " or "))
	}
	return nil
}

func (p *Pusher) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Ready is closed once the complete initial state is in the collections.
func (p *Pusher) Ready() <-chan struct{} { return p.ready }

// Reports are the conditions and warnings of all objects that have any.
func (p *Pusher) Reports() []ObjectReport { return p.reports.list() }

// ReportsChanged returns a channel that is closed when there is something new to say about an object. Take it before
// calling Reports, so that nothing is missed.
func (p *Pusher) ReportsChanged() <-chan struct{} {
	p.reports.mu.Lock()
	defer p.reports.mu.Unlock()
	return p.reports.changed
}

// Run pushes until ctx ends.
func (p *Pusher) Run(ctx context.Context) error {
	window := time.NewTimer(0)
	defer window.Stop()
	<-window.C
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		}
		p.flush()
		if first {
			close(p.ready)
		}
		window.Reset(p.cfg.Window)
		select {
		case <-ctx.Done():
			return nil
		case <-window.C:
		}
		p.batch.retire()
	}
}

// flush computes and hands over everything that is due.
func (p *Pusher) flush() {
	begin := time.Now()
	b := &p.batch
	p.mu.Lock()
	since := p.since
	p.since = time.Time{}
	p.model.Flush(b)
	if p.cfg.Waypoints != nil {
		before := p.cfg.Waypoints.Builds()
		p.cfg.Waypoints.Flush(b)
		p.metrics.builds.Add(float64(p.cfg.Waypoints.Builds() - before))
	}
	p.mu.Unlock()
	p.cfg.Step.Do(b.apply)
	put, removed := b.counts()
	if b.failed != nil {
		p.cfg.Logger.Error("a resource cannot be encoded and stays as it was", "err", b.failed)
	}
	if p.cfg.Gateways != nil {
		for k, r := range b.gateways {
			p.cfg.Gateways(k, r)
		}
	}
	b.release()
	p.metrics.observe(begin, since, put, removed)
	if put+removed > 0 {
		p.cfg.Logger.Debug("pushed", "put", put, "removed", removed, "dur", time.Since(begin))
	}
}
