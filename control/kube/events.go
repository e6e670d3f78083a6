package kube

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/ambit-mesh/ambit/control/status"
)

// Events makes a Kubernetes Event of each refusal, where `kubectl describe` shows it beside the object. It is the leader's
// to do.
type Events struct {
	source *Source
	status *status.Registry
	log    *slog.Logger
	// Home is the namespace for Events about objects that have none.
	home string
	said map[told]saying
}

// told is what an Event says, once.
type told struct{ kind, namespace, name, problem string }

// saying is how far the Event of a refusal is.
type saying struct {
	done bool
	failure
}

const (
	// eventsPause is how long refusals are collected before Events are made of them.
	eventsPause = time.Second
	// eventsMost bounds the Events of one pause: a thousand refusals at once have one cause, which the log names.
	eventsMost = 20
	// messageMost is what the API server takes.
	messageMost = 1000
	// nameMost leaves room for a dot and sixteen digits in a name of 253.
	nameMost = 236
	// eventsLater is how long at the most an Event that could not be made waits for the next try.
	eventsLater = 30 * time.Second
)

// NewEvents does nothing before Run.
func NewEvents(s *Source, registry *status.Registry, home string, log *slog.Logger) *Events {
	return &Events{source: s, status: registry, home: home, log: cmp.Or(log, slog.New(slog.DiscardHandler)), said: make(map[told]saying)}
}

// Run makes Events until ctx ends.
func (e *Events) Run(ctx context.Context) {
	for ctx.Err() == nil {
		changed := e.status.Changed()
		next := e.round(ctx)
		sleep(ctx, eventsPause)
		var again <-chan time.Time // there are some left to say
		if !next.IsZero() {
			again = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-again:
		}
	}
}

// round makes Events of what is new, and returns when some that are left are due, if there are any. Those that could not be
// made wait each for their own time, so that they keep no other from being made.
func (e *Events) round(ctx context.Context) (next time.Time) {
	said := make(map[told]saying)
	var due []status.Entry
	start := time.Now()
	later := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	for _, entry := range e.status.List() {
		t := tell(entry)
		if _, twice := said[t]; twice || entry.Severity != status.Refused || entry.Name == "" {
			continue
		}
		was := e.said[t]
		switch said[t] = was; {
		case was.done:
		case was.at.After(start):
			later(was.at)
		default:
			due = append(due, entry)
		}
	}
	slices.SortStableFunc(due, func(a, b status.Entry) int { return said[tell(a)].at.Compare(said[tell(b)].at) })
	if len(due) > eventsMost {
		due = due[:eventsMost]
		later(start)
	}
	for _, entry := range due {
		err := e.make(ctx, entry)
		now := saying{done: true}
		if err != nil && !final(err) {
			now = saying{failure: said[tell(entry)].again(eventsPause, eventsLater)}
			later(now.at)
		}
		said[tell(entry)] = now
		if err != nil {
			e.log.Debug("an event was not made", "object", entry.ID(), "err", err)
		}
	}
	e.said = said
	return next
}

func tell(e status.Entry) told { return told{e.Kind, e.Namespace, e.Name, e.Problem} }

// clip shortens a text to so many bytes, at a whole character.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "")
}

func (e *Events) make(ctx context.Context, entry status.Entry) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	about := map[string]any{"kind": entry.Kind, "namespace": entry.Namespace, "name": entry.Name}
	if r, ok := e.source.place(entry.Kind); ok {
		about["apiVersion"] = r.GroupVersion().String()
		c := e.source.cfg.Cluster.dynamic.Resource(r)
		var u *unstructured.Unstructured
		var err error
		if entry.Namespace != "" {
			u, err = c.Namespace(entry.Namespace).Get(ctx, entry.Name, metav1.GetOptions{})
		} else {
			u, err = c.Get(ctx, entry.Name, metav1.GetOptions{})
		}
		if err != nil {
			return err
		}
		about["uid"] = string(u.GetUID())
	}
	text := entry.Problem
	if entry.Field != "" {
		text = entry.Field + ": " + text
	}
	if entry.Fix != "" {
		text += "; " + entry.Fix
	}
	if entry.Kept {
		text += " (the earlier version stays in force)"
	}
	text = clip(text, messageMost)
	now := time.Now().UTC().Format(time.RFC3339)
	namespace := cmp.Or(entry.Namespace, e.home)
	_, err := e.source.cfg.Cluster.dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "events"}).Namespace(namespace).Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": "Refused", "message": text,
		"metadata":       map[string]any{"name": fmt.Sprintf("%s.%x", strings.TrimRight(clip(entry.Name, nameMost), "-."), time.Now().UnixNano()), "namespace": namespace},
		"involvedObject": about, "source": map[string]any{"component": "ambitd"}, "reportingComponent": "ambitd",
		"firstTimestamp": now, "lastTimestamp": now, "count": int64(1),
	}}, metav1.CreateOptions{FieldManager: manager})
	return err
}

// place is where any kind that is read is.
func (s *Source) place(kind string) (schema.GroupVersionResource, bool) {
	for k, b := range builtins() {
		if k.String() == kind {
			return b.version.WithResource(b.resource), true
		}
	}
	return s.Resource(kind)
}
