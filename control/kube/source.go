package kube

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/ambit-mesh/ambit/control/intake"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// SourceConfig of a Source. Cluster, Sink and Status are required.
type SourceConfig struct {
	Cluster *Cluster
	Sink    object.Sink
	Status  *status.Registry
	Limits  intake.Limits
	// ClusterDomain completes short names of hosts; "cluster.local" when it is empty.
	ClusterDomain string
	// Namespace is where the last good versions of refused policies are noted, in a Secret; empty for nowhere.
	Namespace string
	// RootNamespace is where policies are about the whole mesh: when there is not room for all, theirs are noted first.
	RootNamespace string
	// Places, when given, hears where pods run.
	Places *Places
	// Discover is how often the API server is asked which kinds it serves, beside news of CustomResourceDefinitions; 30 s.
	Discover time.Duration
	// Grace is how long policies whose kind was not served stay in force when it is again and they are not there; a minute.
	Grace time.Duration
	// NetworkPolicies has Kubernetes NetworkPolicies read too, for which a permission of its own is needed.
	NetworkPolicies bool
	// Secrets are the namespaces whose Secrets may be read.
	Secrets Spaces
	Logger  *slog.Logger
}

// Source reads one cluster.
type Source struct {
	cfg   SourceConfig
	log   *slog.Logger
	dec   *intake.Decoder
	feeds []*feed // one for each kind that is read, in the order of kinds
	refs  references
	// fetches are those of named Secrets; Run waits for them.
	fetches sync.WaitGroup
	keep    *keep

	wake chan struct{} // something is queued, or a feed's state changed
	news chan struct{} // it is to be asked what is served

	mu     sync.Mutex
	queue  map[object.Key]object.Event // what the sink is to hear; the latest of each object
	order  []object.Key
	said   map[object.Key]string // what was told of objects
	served bool                  // the API server has said which kinds it serves
	// resources is where kinds are that not every API server has.
	resources map[object.Kind]schema.GroupVersionResource
	// failing is how many kinds cannot be asked about, and missing how many are not served any more.
	failing, missing int
}

// NewSource returns a source; it does nothing until Run.
func NewSource(cfg SourceConfig) *Source {
	cfg.Discover, cfg.Grace = cmp.Or(cfg.Discover, 30*time.Second), cmp.Or(cfg.Grace, time.Minute)
	s := &Source{
		cfg: cfg, log: cfg.Logger, dec: intake.NewDecoder(cfg.Limits, intake.ClusterDomain(cfg.ClusterDomain)),
		keep: newKeep(cfg.Namespace), wake: make(chan struct{}, 1), news: make(chan struct{}, 1), queue: make(map[object.Key]object.Event), said: make(map[object.Key]string),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for _, r := range intake.Resources() {
		if r.Kind == object.KindServiceAccount {
			continue // accounts are known by the pods that use them
		}
		if r.Kind == object.KindNetworkPolicy && !cfg.NetworkPolicies {
			continue
		}
		s.feeds = append(s.feeds, &feed{kind: r.Kind, to: s, have: make(map[object.Key]seen), raw: make(map[object.Key][]byte)})
	}
	s.refs.init()
	return s
}

// Run follows the cluster until ctx ends, which returns nil. The sink gets the complete initial state, then Synced, then
// changes. An API server that is away, and one that restarts, takes nothing back.
func (s *Source) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.fetches.Wait()
	defer cancel()
	wg.Go(func() { s.discover(ctx) })
	start, synced := time.Now(), false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case f := <-s.refs.done:
			if events := s.landed(f); len(events) > 0 {
				s.cfg.Sink.Apply(events)
			}
		}
		if !synced {
			// A feed is complete only after its events were queued: asked first, nothing of it can be missed below.
			complete := len(s.Waiting()) == 0
			s.flush(ctx, false)
			if synced = complete && len(s.refs.flights) == 0; synced {
				refused, warnings := s.cfg.Status.Counts()
				s.log.Info("the cluster is read", "refused", refused, "warnings", warnings, "dur", time.Since(start))
				s.cfg.Sink.Synced()
				if s.cfg.Places != nil {
					s.cfg.Places.Synced()
				}
			}
			continue
		}
		s.flush(ctx, true)
	}
}

// flush hands what is queued to the sink, and once it is synced the Secrets that this names with it.
func (s *Source) flush(ctx context.Context, synced bool) {
	s.mu.Lock()
	queue, order := s.queue, s.order
	s.queue, s.order = make(map[object.Key]object.Event), nil
	s.mu.Unlock()
	events := make([]object.Event, 0, len(order))
	for _, key := range order {
		events = append(events, queue[key])
	}
	events, begun := s.referred(ctx, events)
	if synced { // before, nobody looks at the parts
		events = append(events, s.arrived(ctx, begun)...)
	}
	if len(events) > 0 {
		s.cfg.Sink.Apply(events)
	}
}

// emit queues an event. It never waits: what a sink that is slow does not hear is what was overtaken.
func (s *Source) emit(e object.Event) {
	if s.cfg.Places != nil && e.Key.Kind == object.KindPod {
		s.cfg.Places.take(e)
	}
	s.mu.Lock()
	if _, ok := s.queue[e.Key]; !ok {
		s.order = append(s.order, e.Key)
	}
	s.queue[e.Key] = e
	s.mu.Unlock()
	s.poke()
}

func (s *Source) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// tell says what is wrong with an object, once; nothing clears.
func (s *Source) tell(key object.Key, entries []status.Entry, kept bool) {
	var all strings.Builder
	for i := range entries {
		e := &entries[i]
		e.Kind, e.Namespace, e.Name = key.Kind.String(), key.Namespace, key.Name
		e.Kept = kept && e.Severity == status.Refused
		all.WriteString(e.String() + "\n")
	}
	s.mu.Lock()
	same := s.said[key] == all.String()
	if s.said[key] = all.String(); len(entries) == 0 {
		delete(s.said, key)
	}
	s.mu.Unlock()
	if same {
		return // writing the status is a change of the object, too
	}
	for _, e := range entries {
		level := slog.LevelWarn
		if e.Severity == status.Refused {
			level = slog.LevelError
		}
		s.log.Log(context.Background(), level, e.String())
	}
	s.cfg.Status.Set("kube/"+key.String(), entries...)
}

// Waiting says what a complete picture of the cluster lacks.
func (s *Source) Waiting() []string {
	s.mu.Lock()
	served := s.served
	s.mu.Unlock()
	if !served {
		return []string{"the API server has not said yet what it serves"}
	}
	var out []string
	for _, f := range s.feeds {
		if done, err := f.complete(); !done {
			why := f.kind.String() + " is being read"
			if err != nil {
				why = fmt.Sprintf("%s cannot be read: %v", f.kind, err)
			}
			out = append(out, why)
		}
	}
	return out
}

// Failing is how many kinds cannot be read at the moment, those that are not served any more among them.
func (s *Source) Failing() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failing + s.missing
}
