package ads

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
)

// Types of resources.
const (
	TypeSecret    = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	TypeCluster   = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	TypeEndpoint  = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	TypeExtension = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
	TypeListener  = "type.googleapis.com/envoy.config.listener.v3.Listener"
	TypeChain     = "type.googleapis.com/envoy.config.listener.v3.FilterChain"
	TypeRoute     = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
)

// order is that of additions: what is referred to comes before what refers to it. Routes come last, since they are what
// sends traffic somewhere.
var order = []string{TypeSecret, TypeCluster, TypeEndpoint, TypeExtension, TypeListener, TypeChain, TypeRoute}

// removals is the order of taking away: first what refers.
var removals = []string{TypeChain, TypeListener, TypeRoute, TypeExtension, TypeCluster, TypeEndpoint, TypeSecret}

// Resource is one named message, encoded. It must not change after it was given to Apply.
type Resource struct {
	Name string
	Body []byte
}

// Update is a change of the resources of one type.
type Update struct {
	Type   string
	Put    []Resource
	Remove []string
}

// Refusal is a resource Envoy does not take.
type Refusal struct {
	Type, Name string
	// Reason is Envoy's.
	Reason string
	Since  time.Time
	// Kept: an earlier version of the resource stays in force. Otherwise there is none.
	Kept bool
}

// Events are told as they happen, from the goroutine of a stream and without a lock held. Nil functions are not called.
type Events struct {
	// Refused: Envoy refuses a resource.
	Refused func(Refusal)
	// Accepted and Nacked count responses.
	Accepted, Nacked func(typeURL string)
	// Connected: the number of open aggregated streams changed.
	Connected func(streams int)
}

// Server holds what Envoy shall have.
type Server struct {
	log    *slog.Logger
	events Events
	opened chan struct{}

	mu sync.Mutex
	// guarded by mu
	types  map[string]map[string]*entry
	feeds  map[*feed]struct{}
	isOpen bool
	packer packer
}

// entry is one name.
type entry struct {
	want *version // nil: shall not exist
	good *version // the last one Envoy accepted, nil if none
	// refused is why Envoy does not take want, since when; empty when it has not said so.
	refused string
	since   time.Time
}

// version is one content.
type version struct {
	id   string
	body []byte
	size int // of the content when body holds it compressed, otherwise 0
}

// NewServer returns a server that holds nothing and answers nobody before Open.
func NewServer(log *slog.Logger, events Events) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{log: log, events: events, opened: make(chan struct{}), types: map[string]map[string]*entry{}, feeds: map[*feed]struct{}{}}
	for _, t := range order {
		s.types[t] = map[string]*entry{}
	}
	return s
}

// Register puts the services on a gRPC server.
func (s *Server) Register(g *grpc.Server) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, &aggregated{server: s})
	secretv3.RegisterSecretDiscoveryServiceServer(g, &secrets{server: s})
}

// Open lets Envoy have answers. Until then its aggregated streams wait: what it was told too early, such as that there are
// no clusters, it would take for the truth and become ready. Secrets are served regardless.
func (s *Server) Open() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isOpen {
		s.isOpen = true
		close(s.opened)
	}
}

// Apply changes what Envoy shall have, as one step. A name both put and removed is put.
func (s *Server) Apply(updates ...Update) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range updates {
		entries := s.types[u.Type]
		if entries == nil {
			panic("ads: unknown type " + u.Type)
		}
		put := make(map[string]bool, len(u.Put))
		for _, r := range u.Put {
			put[r.Name] = true
			s.put(u.Type, entries, r)
		}
		for _, name := range u.Remove {
			if e := entries[name]; e != nil && !put[name] {
				delete(entries, name)
				s.touch(u.Type, name)
			}
		}
	}
	for f := range s.feeds {
		f.push()
	}
}

// Trim lets go of what only speeds up the next Apply.
func (s *Server) Trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packer = packer{}
}

func (s *Server) put(typeURL string, entries map[string]*entry, r Resource) {
	e := entries[r.Name]
	if e == nil {
		e = &entry{}
		entries[r.Name] = e
	}
	if e.want != nil && e.want.id == digest(r.Body) {
		return
	}
	e.want, e.refused = s.packer.version(r.Body), ""
	s.touch(typeURL, r.Name)
}

// touch tells the feeds to look at a name. Callers hold mu.
func (s *Server) touch(typeURL, name string) {
	for f := range s.feeds {
		if t := f.types[typeURL]; t != nil {
			t.look(name, false)
		}
	}
}

// effective is the version Envoy should have now: the wanted one, or the last good one while that is refused.
func (e *entry) effective() *version {
	switch {
	case e == nil:
		return nil
	case e.refused != "":
		return e.good
	}
	return e.want
}

// Refusals lists what Envoy does not take at present, sorted.
func (s *Server) Refusals() []Refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Refusal
	for _, t := range order {
		from := len(out)
		for name, e := range s.types[t] {
			if e.refused != "" {
				out = append(out, e.refusal(t, name))
			}
		}
		slices.SortFunc(out[from:], func(a, b Refusal) int { return strings.Compare(a.Name, b.Name) })
	}
	return out
}

func (e *entry) refusal(typeURL, name string) Refusal {
	return Refusal{Type: typeURL, Name: name, Reason: e.refused, Since: e.since, Kept: e.good != nil}
}

// Counts is the number of resources by type.
func (s *Server) Counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]int, len(s.types))
	for t, entries := range s.types {
		out[t] = len(entries)
	}
	return out
}

// Streams is the number of open aggregated streams: one while Envoy runs.
func (s *Server) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.aggregated()
}

func (s *Server) aggregated() (n int) {
	for f := range s.feeds {
		if f.aggregated {
			n++
		}
	}
	return n
}

// Pending names the types of which an open stream has not accepted or refused everything there is for it.
func (s *Server) Pending() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, t := range order {
		for f := range s.feeds {
			x := f.types[t]
			if x != nil && (x.sent != nil || len(x.news) > 0) || t == TypeEndpoint && len(f.warming) > 0 {
				out = append(out, t)
				break
			}
		}
	}
	return out
}

// refuse notes that Envoy does not take a version of a resource. Callers hold mu.
func (s *Server) refuse(typeURL, name string, id string, reason string) (Refusal, bool) {
	e := s.types[typeURL][name]
	if e == nil || e.want == nil {
		return Refusal{}, false
	}
	if e.good != nil && e.good.id == id {
		e.good = nil // an Envoy that was restarted does not take what the one before did
	}
	if e.want.id != id || e.refused != "" {
		return Refusal{}, false // replaced meanwhile
	}
	e.refused, e.since = reason, time.Now()
	return e.refusal(typeURL, name), true
}

// accept notes that Envoy took a version of a resource. Callers hold mu.
func (s *Server) accept(typeURL, name string, id string) {
	if e := s.types[typeURL][name]; e != nil && e.want != nil && e.want.id == id {
		e.good = e.want
	}
}

// digest is the version of a content: the same after a restart, so that an Envoy that stayed is sent differences alone.
func digest(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:8])
}
