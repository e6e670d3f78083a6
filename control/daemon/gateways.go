package daemon

import (
	"context"
	"sync"

	"github.com/ambit-mesh/ambit/control/conditions"
	"github.com/ambit-mesh/ambit/control/gateways"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/push"
	"github.com/ambit-mesh/ambit/control/status"
)

// gatewayRunner keeps what runs for Gateways in step with them, over the folder of configuration, and writes into objects'
// status what there is to say about them.
type gatewayRunner struct {
	folder     *gateways.Folder // nil in a cluster
	reconciler *gateways.Reconciler
	writer     *conditions.Writer // nil in a cluster, where every leader has one of its own
}

// newGateways is nil when nobody asked for Gateways to be run.
func newGateways(d *Daemon) *gatewayRunner {
	log := d.logger.With("part", "gateways")
	g := &gatewayRunner{}
	var applier gateways.Applier
	switch {
	case d.cluster != nil:
		applier = d.cluster.writer
	case d.cfg.GatewaysFolder != "":
		g.folder = gateways.NewFolder(d.cfg.ConfigDir, d.cfg.GatewaysFolder, log)
		applier = g.folder
		g.writer = conditions.New(conditionsOver(d, store{g.folder}))
	default:
		return nil
	}
	g.reconciler = gateways.New(gateways.Config{
		Applier: applier, Status: d.status, Logger: log,
		// Who may write to the folder may write anything into it.
		Namespaces:      d.cfg.GatewayNamespaces,
		Revisions:       d.cfg.Revisions,
		TrustParameters: d.cluster == nil || d.cfg.GatewayOverlays == OverlaysAny,
		Deploy:          d.cfg.deploy(),
	})
	return g
}

// conditionsOver writes what there is to say about objects into a store. In a cluster that has no file to name, objects
// that are refused say so themselves.
func conditionsOver(d *Daemon, s conditions.Store) conditions.Config {
	return conditions.Config{
		Store: s, Logger: d.logger.With("part", "conditions"),
		Reports: func() []conditions.Report {
			list := reportsOf(d.pusher.Reports(), d.cluster != nil)
			if d.cluster != nil {
				list = withRefusals(list, d.status.List())
			}
			return list
		},
		Changed: func() []<-chan struct{} { return []<-chan struct{}{d.pusher.ReportsChanged(), d.status.Changed()} },
	}
}

// conditionRefused is on objects of which a version is refused.
const conditionRefused = "ambit.io/Refused"

// withRefusals adds to reports what is refused as a whole. Kubernetes' own objects and routes have no place for it.
func withRefusals(list []conditions.Report, entries []status.Entry) []conditions.Report {
	at := make(map[conditions.Key]int, len(list))
	for i, r := range list {
		at[r.Key] = i
	}
	told := map[conditions.Key]bool{}
	for _, e := range entries {
		kind, ok := object.ParseKind(e.Kind)
		k := conditions.Key{Kind: e.Kind, Namespace: e.Namespace, Name: e.Name}
		if e.Severity != status.Refused || !ok || kind < object.KindServiceEntry || kind == object.KindSecret || kind == object.KindConfigMap || e.Name == "" || told[k] {
			continue
		}
		told[k] = true
		text := e.Problem
		if e.Field != "" {
			text = e.Field + ": " + text
		}
		if e.Fix != "" {
			text += "; " + e.Fix
		}
		reason := "Invalid"
		if e.Kept {
			reason, text = "EarlierVersionInForce", text+" (the earlier version stays in force)"
		}
		if _, ok := at[k]; !ok {
			at[k] = len(list)
			list = append(list, conditions.Report{Key: k})
		}
		r := &list[at[k]]
		r.Conditions = append(r.Conditions, conditions.Condition{Type: conditionRefused, True: true, Reason: reason, Message: text})
	}
	return list
}

// store is the folder as the writer of conditions sees it.
type store struct{ folder *gateways.Folder }

func (s store) Update(ctx context.Context, k conditions.Key, change func(conditions.Object) conditions.Object) error {
	return s.folder.Update(ctx, gateways.Key(k), change)
}

// reportsOf are reports as they are written. In a cluster the addresses that ServiceEntries were given are among them: every
// replica and the next process must give the same.
func reportsOf(list []push.ObjectReport, allocated bool) []conditions.Report {
	out := make([]conditions.Report, 0, len(list))
	for _, r := range list {
		rep := conditions.Report{
			Key: conditions.Key{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}, Generation: r.Generation, UID: r.UID, Conditions: conditionsOf(r.Conditions),
		}
		if allocated && r.Kind == object.KindServiceEntry.String() {
			rep.Addresses = []conditions.Address{}
			for _, a := range r.Addresses {
				rep.Addresses = append(rep.Addresses, conditions.Address{Host: a.Host, Value: a.Address.String()})
			}
		}
		if r.Kind == object.KindListenerSet.String() {
			for _, l := range r.Listeners {
				rep.Listeners = append(rep.Listeners, conditions.Listener{Name: l.Name, Attached: l.Attached, Kinds: l.Kinds, Conditions: conditionsOf(l.Conditions)})
			}
		}
		for _, p := range r.Parents {
			rep.Parents = append(rep.Parents, conditions.Parent{Name: p.Name, Conditions: conditionsOf(p.Conditions)})
		}
		out = append(out, rep)
	}
	return out
}

func conditionsOf(list []model.Condition) []conditions.Condition {
	var out []conditions.Condition
	for _, c := range list {
		out = append(out, conditions.Condition{Type: c.Type, True: c.Status, Reason: c.Reason, Message: c.Message})
	}
	return out
}

// run follows the folder and reconciles until ctx ends or one of the two cannot go on.
func (g *gatewayRunner) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = g.reconciler.Run(ctx) // ends only with ctx
	})
	wg.Go(func() {
		_ = g.writer.Run(ctx) // ends only with ctx
	})
	err := g.folder.Run(ctx, g.reconciler)
	cancel()
	wg.Wait()
	return err
}
