package analyze

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/jwks"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
	"github.com/ambit-mesh/ambit/control/waypoint"
)

// model asks the models what a control plane would say, unless it was asked itself, and which routes are attached to what.
func (w *world) model() {
	var visibility []model.VisibilityRule
	if w.cfg.NamespaceEntries {
		visibility = []model.VisibilityRule{{Visibility: model.NamespaceOnly}}
	}
	m := model.New(model.Config{
		TrustDomain: w.cfg.TrustDomain, ClusterID: w.cfg.ClusterID, ClusterDomain: w.cfg.ClusterDomain, RootNamespace: w.cfg.RootNamespace,
		DryRun: w.cfg.DryRunPolicies, NetworkPolicies: w.cfg.NetworkPolicies, Visibility: visibility,
	})
	l7 := waypoint.New(waypoint.Config{TrustDomain: w.cfg.TrustDomain, ClusterID: w.cfg.ClusterID, ClusterDomain: w.cfg.ClusterDomain, RootNamespace: w.cfg.RootNamespace})
	out := &listener{waypoints: l7, reports: map[object.Key][]model.Warning{}, parents: map[object.Key][]model.Part{}}
	var events []object.Event
	for _, k := range slices.SortedFunc(maps.Keys(w.objects), func(a, b object.Key) int { return strings.Compare(a.String(), b.String()) }) {
		events = append(events, object.Put(w.objects[k]))
	}
	m.Apply(events)
	l7.Apply(events)
	m.Flush(out)
	l7.Flush(out)
	w.parents = out.parents
	if w.cfg.Told {
		return
	}
	for k, warnings := range out.reports {
		for _, x := range warnings {
			if w.cfg.Live && x.Code == status.CertificateMissing {
				continue // Secrets of a mesh are not read
			}
			w.about(x.Code, k, x.Field, "%s", x.Problem).Fix = x.Fix
		}
	}
}

// listener is an output of models that keeps what they say about objects.
type listener struct {
	waypoints *waypoint.Model
	reports   map[object.Key][]model.Warning
	parents   map[object.Key][]model.Part // of routes
}

var (
	_ model.Output    = (*listener)(nil)
	_ waypoint.Output = (*listener)(nil)
)

// Everything is handed over once, so one sum will do.
const sum = 1

func (l *listener) Workload(*workload.Workload, []string, uint64) uint64               { return sum }
func (l *listener) Service(*workload.Service, uint64) uint64                           { return sum }
func (l *listener) Policy(*security.Authorization, uint64) uint64                      { return sum }
func (l *listener) RemoveAddress(string)                                               {}
func (l *listener) RemovePolicy(string)                                                {}
func (l *listener) Host(h model.Host)                                                  { l.waypoints.Host(h) }
func (l *listener) Fact(string, string, string, proto.Message, uint64) (before uint64) { return sum }
func (l *listener) RemoveFact(string, string)                                          {}
func (l *listener) KeySets([]jwks.Source)                                              {}

func (l *listener) Report(of object.Key, r model.Report) { l.say(of, r) }

func (l *listener) FactReport(of object.Key, r model.Report) { l.say(of, r) }

func (l *listener) say(of object.Key, r model.Report) {
	l.reports[of] = append(l.reports[of], r.Warnings...)
	l.parents[of] = append(l.parents[of], r.Parents...)
}
