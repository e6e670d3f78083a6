// Package conditions writes what the mesh has to say about objects into their status, where their authors look: whether a
// policy is enforced, whether a route is attached to its parents, to which waypoint a service is bound.
//
// It knows the shape of a status and nothing of why a condition is what it is. Gateways and GatewayClasses are not its
// business, they have a writer of their own. Run's caller lends the one goroutine. Start reading at Writer.
package conditions

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Object is a Kubernetes document as decoded from JSON.
type Object = map[string]any

// Key names an object.
type Key struct{ Kind, Namespace, Name string }

// Report is what there is to say about one object.
type Report struct {
	Key
	Generation int64
	// UID tells an object from one of the same name that it replaced, and whose status is to be written anew.
	UID        string
	Conditions []Condition
	// Parents are those of a route, named as ParentName does, or the Gateways that a policy matters to.
	Parents []Parent
	// Listeners are those of a ListenerSet.
	Listeners []Listener
	// Addresses replace those in the status of a ServiceEntry; nil leaves them alone.
	Addresses []Address
}

// Address is one that a host was given.
type Address struct{ Host, Value string }

// Parent is one parent of a route.
type Parent struct {
	Name       string
	Conditions []Condition
}

// Listener is one listener of a ListenerSet.
type Listener struct {
	Name string
	// Attached counts the routes that are attached, and Kinds are those that may be, of the Gateway API's group.
	Attached   int
	Kinds      []string
	Conditions []Condition
}

// Condition is one condition.
type Condition struct {
	Type            string
	True            bool
	Reason, Message string
}

// Store keeps objects.
type Store interface {
	// Update replaces an object by what change makes of it; change must not keep its argument. An object that is not there
	// is fs.ErrNotExist.
	Update(ctx context.Context, k Key, change func(Object) Object) error
}

// Config of a Writer.
type Config struct {
	Store Store
	// Reports returns all reports there are.
	Reports func() []Report
	// Changed returns channels of which one is closed at the next change of a report; nil looks again and again.
	Changed func() []<-chan struct{}
	Logger  *slog.Logger
	// Now is the clock; nil means the real one.
	Now func() time.Time
}

// Writer is described at the package.
type Writer struct {
	cfg     Config
	written map[Key]Report
	// again is when what could not be written is tried again; zero when everything could.
	again time.Time
}

// retryAfter is when the API server is asked again about what it refused to take, by Run's clock: permissions come back,
// and kinds that have no place for a status get one.
const retryAfter = 5 * time.Second

// period is how often reports are looked at. A status is for people.
const period = 200 * time.Millisecond

// New returns a Writer, which does nothing before Run.
func New(cfg Config) *Writer {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Writer{cfg: cfg, written: map[Key]Report{}}
}

// Run writes until ctx ends.
func (w *Writer) Run(ctx context.Context) error {
	tick := time.NewTicker(period)
	defer tick.Stop()
	var changed []<-chan struct{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		retry := !w.again.IsZero() && !time.Now().Before(w.again)
		if !retry && !due(changed) {
			continue
		}
		w.again = time.Time{}
		if w.cfg.Changed != nil {
			changed = w.cfg.Changed() // first, or a change in between is missed
		}
		w.round(ctx)
	}
}

// due says whether something changed; nil means that it may have.
func due(changed []<-chan struct{}) bool {
	for _, c := range changed {
		select {
		case <-c:
			return true
		default:
		}
	}
	return changed == nil
}

// round writes what is different from what was written. What could not be written is tried again.
func (w *Writer) round(ctx context.Context) {
	now := map[Key]bool{}
	for _, r := range w.cfg.Reports() {
		if r.Kind == "Gateway" || r.Kind == "GatewayClass" {
			continue
		}
		now[r.Key] = true
		if old, ok := w.written[r.Key]; !ok || !reflect.DeepEqual(old, r) {
			if w.write(ctx, r) {
				w.written[r.Key] = r
			}
		}
	}
	for k, old := range w.written {
		last := Report{Key: k}
		if old.Addresses != nil {
			last.Addresses = []Address{}
		}
		if !now[k] && w.write(ctx, last) {
			delete(w.written, k)
		}
	}
}

func (w *Writer) write(ctx context.Context, r Report) bool {
	err := w.cfg.Store.Update(ctx, r.Key, func(o Object) Object { return w.status(o, r) })
	switch {
	case ctx.Err() != nil:
		return false
	case err == nil, errors.Is(err, fs.ErrNotExist):
		// An object that is gone will not have a status later either, until it changes.
		return true
	}
	w.cfg.Logger.Debug("no status can be written, trying again", "kind", r.Kind, "namespace", r.Namespace, "name", r.Name, "error", err)
	w.again = time.Now().Add(retryAfter)
	return false
}

// ours says whether nobody else writes a condition on the kinds that have reports. Istio pilot/pkg/model ConditionType
func ours(kind string) bool {
	return strings.HasPrefix(kind, "istio.io/") || strings.HasPrefix(kind, "ambit.io/") ||
		slices.Contains([]string{"ZtunnelAccepted", "WaypointAccepted", "Accepted", "ResolvedRefs", "Programmed", "Conflicted"}, kind)
}

// controller is who writes about routes. Istio pilot/pkg/features ManagedGatewayController
const controller = "istio.io/gateway-controller"

// status returns the object with the report in its status.
func (w *Writer) status(o Object, r Report) Object {
	out := clone(o)
	old, _ := o["status"].(map[string]any)
	status := clone(old)
	switch {
	case isRoute(r.Kind):
		status["parents"] = w.parents(o, old, r)
	case hasAncestors(r.Kind):
		status["ancestors"] = w.ancestors(old, r)
	default:
		status["conditions"] = w.conditions(old["conditions"], r.Generation, r.Conditions)
	}
	if len(r.Listeners) > 0 || status["listeners"] != nil {
		status["listeners"] = w.listeners(old, r)
	}
	if r.Addresses != nil {
		list := []any{}
		for _, a := range r.Addresses {
			list = append(list, Object{"host": a.Host, "value": a.Value})
		}
		status["addresses"] = list
	}
	for _, field := range []string{"conditions", "parents", "ancestors", "addresses", "listeners"} {
		// A status of a route or policy must have its list; an empty one takes back what was there.
		needed := (field == "parents" || field == "ancestors") && old[field] != nil
		if list, ok := status[field].([]any); ok && len(list) == 0 && !needed {
			delete(status, field)
		}
	}
	if len(status) == 0 {
		delete(out, "status")
		return out
	}
	out["status"] = status
	return out
}

// listeners are those of a report, each with the times of its conditions before.
func (w *Writer) listeners(old Object, r Report) []any {
	before := map[string]any{}
	all, _ := old["listeners"].([]any)
	for _, v := range all {
		l, _ := v.(map[string]any)
		name, _ := l["name"].(string)
		before[name] = l["conditions"]
	}
	list := []any{}
	for _, l := range r.Listeners {
		kinds := []any{}
		for _, k := range l.Kinds {
			kinds = append(kinds, Object{"group": "gateway.networking.k8s.io", "kind": k})
		}
		list = append(list, Object{
			"name": l.Name, "attachedRoutes": int64(l.Attached), "supportedKinds": kinds,
			"conditions": w.conditions(before[l.Name], r.Generation, l.Conditions),
		})
	}
	return list
}

// conditions replaces ours in a list. A time changes only with the status it belongs to.
func (w *Writer) conditions(old any, generation int64, want []Condition) []any {
	list := []any{}
	before := map[string]Object{}
	all, _ := old.([]any)
	for _, v := range all {
		c, _ := v.(map[string]any)
		kind, _ := c["type"].(string)
		if ours(kind) || slices.ContainsFunc(want, func(c Condition) bool { return c.Type == kind }) {
			before[kind] = c
			continue
		}
		list = append(list, v)
	}
	for _, c := range want {
		status := "False"
		if c.True {
			status = "True"
		}
		since, _ := before[c.Type]["lastTransitionTime"].(string)
		if since == "" || before[c.Type]["status"] != status {
			since = w.cfg.Now().UTC().Format(time.RFC3339)
		}
		list = append(list, Object{
			"type": c.Type, "status": status, "reason": c.Reason, "message": c.Message, "lastTransitionTime": since, "observedGeneration": generation,
		})
	}
	return list
}

func clone(o Object) Object {
	out := make(Object, len(o))
	for k, v := range o {
		out[k] = v
	}
	return out
}
