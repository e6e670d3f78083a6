// Package gateways keeps what runs for Gateways in step with them: for a Gateway of a class of the mesh it has a
// ServiceAccount, a Deployment and a Service made, removes them when the Gateway goes, and writes the Gateway's status.
//
//	Folder.Run (or a cluster's watch) ──► Reconciler.Put/Remove ──► Run: waypoint/deploy.Render ──► Applier
//	control/waypoint ──► Reconciler.Report (attached routes …) ──────┘
//
// What is rendered is waypoint/deploy's decision, and where objects are kept is the Applier's business. The package does
// not know how pods are run, nor what Gateways mean for traffic. One goroutine, Run's caller, does all the work; Put, Remove
// and Report may come from any. Start reading at Reconciler, then reconcile.go.
package gateways

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/control/status"
	"github.com/ambit-mesh/ambit/waypoint/deploy"
)

// Object is a Kubernetes document as decoded from JSON.
type Object = deploy.Object

// Key names an object. Namespace is empty for kinds that have none.
type Key struct{ Kind, Namespace, Name string }

// String is the key as people write it.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Kind + " " + k.Name
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

// Applier keeps objects where the mesh's objects are kept. All calls come from one goroutine.
type Applier interface {
	// Apply makes the object or changes it to say what o says. Fields that o does not speak of stay as they are.
	Apply(ctx context.Context, o Object) error
	// Delete removes the object. One that is not there is no error.
	Delete(ctx context.Context, k Key) error
	// SetStatus replaces the status by what change makes of the one there, which may be nil. change must not keep or alter
	// its argument. An object that is not there, or has another uid, is left alone.
	SetStatus(ctx context.Context, k Key, uid string, change func(old Object) Object) error
}

// Config of a Reconciler.
type Config struct {
	Applier Applier
	// Deploy is what the mesh knows about the pods it runs.
	Deploy deploy.Config
	// TrustParameters lets the ConfigMap that a Gateway names change anything that is rendered for it. Otherwise that is for
	// the ConfigMaps of the system namespace: whoever may make Gateways need not be one who may run pods.
	TrustParameters bool
	// Namespaces are those in which Gateways are run; empty means all.
	Namespaces []string
	// Revisions are which Gateways are ours, by label istio.io/rev of them or their namespace; those without it always are. The
	// first is what pods are marked with. None means "default".
	Revisions []string
	// Status hears what cannot be done as asked; nil for nobody.
	Status *status.Registry
	Logger *slog.Logger
	// Now is the clock; nil means the real one.
	Now func() time.Time
}

// Reconciler is described at the package.
type Reconciler struct {
	cfg  Config
	wake chan struct{}
	told map[string]bool // owners of entries in the status; Run's alone

	mu sync.Mutex
	// guarded by mu
	objects map[Key]Object
	shelves map[shelf]map[Key]Object // the same
	reports map[name]Report
	synced  bool
	dirty   map[name]bool
	all     bool // every Gateway is dirty
}

// name is of a Gateway.
type name struct{ namespace, name string }

// shelf is where objects are looked for: there are few of a kind in a namespace, and many of all.
type shelf struct{ kind, namespace string }

// New returns a Reconciler, which does nothing before Run.
func New(cfg Config) *Reconciler {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if len(cfg.Revisions) == 0 {
		cfg.Revisions = []string{mesh.DefaultRevision}
	}
	cfg.Deploy.Revision = cfg.Revisions[0]
	return &Reconciler{
		cfg: cfg, wake: make(chan struct{}, 1), told: map[string]bool{},
		objects: map[Key]Object{}, shelves: map[shelf]map[Key]Object{}, reports: map[name]Report{}, dirty: map[name]bool{},
	}
}

// Report is what the mesh made of a Gateway's listeners and of what is attached to them.
type Report struct {
	Namespace, Name string
	Listeners       []ListenerReport
	// ListenerSets is how many of them add listeners.
	ListenerSets int
	// Conditions are written beside Accepted and Programmed.
	Conditions []Condition
	// Refused says why the Gateway as a whole is not accepted; empty means that it is.
	Refused string
}

// ListenerReport is about one listener. Nil SupportedKinds and no Conditions mean the usual ones.
type ListenerReport struct {
	Name           string
	AttachedRoutes int
	SupportedKinds []RouteKind
	// Conditions replace those of the same type that would be written otherwise.
	Conditions []Condition
}

// RouteKind is a kind of route that may attach.
type RouteKind struct{ Group, Kind string }

// Condition of a listener.
type Condition struct {
	Type            string
	True            bool
	Reason, Message string
}

// Report takes in what is known of a Gateway's listeners, over what was known before.
func (r *Reconciler) Report(rep Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := name{rep.Namespace, rep.Name}
	if old, ok := r.reports[id]; ok && equalReport(old, rep) {
		return
	}
	r.reports[id] = rep
	r.mark(id)
}

func equalReport(a, b Report) bool {
	return a.Refused == b.Refused && a.ListenerSets == b.ListenerSets && slices.Equal(a.Conditions, b.Conditions) && slices.EqualFunc(a.Listeners, b.Listeners, func(x, y ListenerReport) bool {
		return x.Name == y.Name && x.AttachedRoutes == y.AttachedRoutes && slices.Equal(x.SupportedKinds, y.SupportedKinds) && slices.Equal(x.Conditions, y.Conditions)
	})
}

// mark makes Run look at a Gateway. r.mu is held.
func (r *Reconciler) mark(id name) {
	r.dirty[id] = true
	r.poke()
}

func (r *Reconciler) markAll() {
	r.all = true
	r.poke()
}

func (r *Reconciler) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// retryAfter is how soon Run tries again what failed, and retryMost how long it waits at the most: a Gateway that cannot be
// brought up to date as it is written must not take the API server's time from all others. Any news of it ends the waiting.
const (
	retryAfter = time.Second
	retryMost  = 30 * time.Second
)

// attempts are how often a Gateway failed one after the other, and when it is tried again.
type attempts struct {
	count int
	next  time.Time
}

// Run reconciles until ctx ends. It starts when the complete state is there, see Synced: before that, an object without
// its Gateway is no orphan. It may run again after it ended.
func (r *Reconciler) Run(ctx context.Context) error {
	defer r.untell()
	failing := map[name]attempts{}
	retry := time.NewTimer(retryAfter)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-retry.C:
			r.again(failing)
		}
		tried, failed := r.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if wait := later(failing, tried, failed); wait > 0 {
			retry.Reset(wait)
		}
	}
}

// again marks what is due.
func (r *Reconciler) again(failing map[name]attempts) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, a := range failing {
		if !time.Now().Before(a.next) {
			r.dirty[id] = true
		}
	}
}

// later takes in how a round went, and returns how long to wait for the next Gateway that is due, 0 without any.
func later(failing map[name]attempts, tried []name, failed map[name]error) (wait time.Duration) {
	for _, id := range tried {
		if failed[id] == nil {
			delete(failing, id)
			continue
		}
		a := failing[id]
		a.next = time.Now().Add(min(retryAfter<<min(a.count, 10), retryMost))
		a.count++
		failing[id] = a
	}
	for _, a := range failing {
		if d := max(time.Until(a.next), time.Millisecond); wait == 0 || d < wait {
			wait = d
		}
	}
	return wait
}

// round looks at everything that is marked and returns what that was and what went wrong.
func (r *Reconciler) round(ctx context.Context) (tried []name, failed map[name]error) {
	r.mu.Lock()
	if !r.synced {
		r.mu.Unlock()
		return nil, nil
	}
	todo, all := r.dirty, r.all
	r.dirty, r.all = map[name]bool{}, false
	if all {
		for k := range r.objects {
			if id, ok := r.owner(k); ok {
				todo[id] = true
			}
		}
	}
	r.mu.Unlock()
	tried, failed = sorted(todo), map[name]error{}
	if all {
		tried = append(tried, name{})
		if err := r.classes(ctx); err != nil {
			r.cfg.Logger.Error("gateway classes", "error", err)
			r.mu.Lock()
			r.all = true
			r.mu.Unlock()
			failed[name{}] = err
		}
	}
	for _, id := range sorted(todo) {
		if err := r.gateway(ctx, id); err != nil && !errors.Is(err, context.Canceled) {
			r.cfg.Logger.Error("gateway cannot be brought up to date, trying again", "gateway", id.namespace+"/"+id.name, "error", err)
			failed[id] = err
		}
	}
	return tried, failed
}

func sorted(set map[name]bool) []name {
	list := make([]name, 0, len(set))
	for id := range set {
		if id != (name{}) {
			list = append(list, id)
		}
	}
	slices.SortFunc(list, func(a, b name) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
	})
	return list
}
