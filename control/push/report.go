package push

import (
	"cmp"
	"slices"
	"sync"

	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// ObjectReport is what there is to say about one object.
type ObjectReport struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	model.Report
}

// reports keeps what the model last said about each object, for people who ask.
type reports struct {
	registry *status.Registry

	mu sync.Mutex
	of map[object.Key][reporters]model.Report // guarded by mu
	// changed is closed at the next change; guarded by mu.
	changed chan struct{}
}

// Who reports.
const (
	fromModel = iota
	fromWaypoints
	reporters
)

func (r *reports) init(registry *status.Registry) {
	r.registry = registry
	r.of = map[object.Key][reporters]model.Report{}
	r.changed = make(chan struct{})
}

func (r *reports) set(who int, k object.Key, rep model.Report) {
	r.mu.Lock()
	all := r.of[k]
	was := len(all[who].Warnings)
	all[who] = rep
	if all[fromModel].Empty() && all[fromWaypoints].Empty() {
		delete(r.of, k)
	} else {
		r.of[k] = all
	}
	close(r.changed)
	r.changed = make(chan struct{})
	r.mu.Unlock()
	if r.registry == nil || was+len(rep.Warnings) == 0 {
		return
	}
	var entries []status.Entry
	for _, w := range rep.Warnings {
		entries = append(entries, status.Entry{
			Severity: status.Warning, Kind: k.Kind.String(), Namespace: k.Namespace, Name: k.Name,
			Code: w.Code, Field: w.Field, Problem: w.Problem, Fix: w.Fix,
		})
	}
	r.registry.Set([...]string{"model/", "waypoints/"}[who]+k.String(), entries...)
}

// merged is what all reporters say together.
func merged(all [reporters]model.Report) model.Report {
	var out model.Report
	for _, r := range all {
		out.Generation = max(out.Generation, r.Generation)
		if r.UID != "" {
			out.UID = r.UID
		}
		out.Conditions = append(out.Conditions, r.Conditions...)
		out.Parents = append(out.Parents, r.Parents...)
		out.Listeners = append(out.Listeners, r.Listeners...)
		out.Warnings = append(out.Warnings, r.Warnings...)
		out.Addresses = append(out.Addresses, r.Addresses...)
	}
	return out
}

func (r *reports) list() []ObjectReport {
	r.mu.Lock()
	all := make([]ObjectReport, 0, len(r.of))
	for k, rep := range r.of {
		all = append(all, ObjectReport{Kind: k.Kind.String(), Namespace: k.Namespace, Name: k.Name, Report: merged(rep)})
	}
	r.mu.Unlock()
	slices.SortFunc(all, func(a, b ObjectReport) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return all
}
