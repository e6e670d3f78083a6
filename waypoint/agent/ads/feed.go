package ads

import (
	"context"
	"errors"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	streamv3 "github.com/envoyproxy/go-control-plane/pkg/server/stream/v3"
)

// feed is what one open stream of Envoy's is given: go-control-plane's server asks it for each type (cache.ConfigWatcher),
// and tells it of the stream (delta.Callbacks).
//
// The server opens a watch with each request and closes it with the next. A watch is answered once at most; after that there is
// none until Envoy has taken or refused the response, or asks for something else.
type feed struct {
	server     *Server
	aggregated bool

	// guarded by server.mu
	types map[string]*typeFeed
	// warming are clusters sent anew whose endpoints Envoy has not accepted yet, and until when routes wait for them.
	warming map[string]time.Time
	timer   *time.Timer // of the end of such a wait
}

// typeFeed is the part of a feed that is about one type.
type typeFeed struct {
	watch *watch          // nil while the server has none
	fresh bool            // a wildcard that has had no answer
	news  map[string]bool // names to look at; true: send it even if Envoy has this version
	sent  *response       // not answered yet
	limit int             // resources in a response while looking for the one that is refused; 0: no limit
}

// watch is what the server waits for.
type watch struct {
	req *cache.DeltaRequest
	sub cache.Subscription
	out chan<- cache.DeltaResponse // has room for every type: there is one response of each at a time
}

// response is what a nonce stands for.
type response struct {
	nonce string
	put   map[string]string // name → version
}

type aggregated struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	server *Server
}

// DeltaAggregatedResources serves Envoy's one aggregated stream.
func (a *aggregated) DeltaAggregatedResources(w discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	select {
	case <-a.server.opened:
	case <-w.Context().Done():
		return w.Context().Err()
	}
	return a.server.serve(w, resource.AnyType)
}

type secrets struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	server *Server
}

// DeltaSecrets serves secrets alone.
func (x *secrets) DeltaSecrets(w secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	return x.server.serve(w, TypeSecret)
}

func (s *Server) serve(w streamv3.DeltaStream, typeURL string) error {
	f := &feed{server: s, aggregated: typeURL == resource.AnyType, types: map[string]*typeFeed{}, warming: map[string]time.Time{}}
	return delta.NewServer(w.Context(), f, f).DeltaStreamHandler(w, typeURL)
}

// OnDeltaStreamOpen is part of delta.Callbacks.
func (f *feed) OnDeltaStreamOpen(context.Context, int64, string) error {
	f.server.count(f, func() { f.server.feeds[f] = struct{}{} })
	return nil
}

// OnDeltaStreamClosed is part of delta.Callbacks. The watches are closed by then.
func (f *feed) OnDeltaStreamClosed(int64, *corev3.Node) {
	f.server.count(f, func() {
		delete(f.server.feeds, f)
		if f.timer != nil {
			f.timer.Stop()
		}
	})
}

func (s *Server) count(f *feed, change func()) {
	s.mu.Lock()
	change()
	n := s.aggregated()
	s.mu.Unlock()
	if f.aggregated && s.events.Connected != nil {
		s.events.Connected(n)
	}
}

// OnStreamDeltaRequest is part of delta.Callbacks.
func (f *feed) OnStreamDeltaRequest(_ int64, req *discoveryv3.DeltaDiscoveryRequest) error {
	f.server.log.Debug("asked", "type", req.GetTypeUrl(), "nonce", req.GetResponseNonce(), "refused", req.GetErrorDetail() != nil,
		"subscribe", len(req.GetResourceNamesSubscribe()), "unsubscribe", len(req.GetResourceNamesUnsubscribe()))
	return nil
}

// OnStreamDeltaResponse is part of delta.Callbacks: the server has numbered a response and is about to send it.
func (f *feed) OnStreamDeltaResponse(_ int64, _ *discoveryv3.DeltaDiscoveryRequest, resp *discoveryv3.DeltaDiscoveryResponse) {
	f.server.log.Debug("sent", "type", resp.GetTypeUrl(), "put", len(resp.GetResources()), "removed", len(resp.GetRemovedResources()), "nonce", resp.GetNonce())
	f.server.mu.Lock()
	defer f.server.mu.Unlock()
	f.types[resp.GetTypeUrl()].sent.nonce = resp.GetNonce()
}

// CreateWatch is part of cache.ConfigWatcher. Nobody asks for whole states here.
func (f *feed) CreateWatch(*cache.Request, cache.Subscription, chan cache.Response) (func(), error) {
	return nil, errors.New("only delta xDS is served")
}

// CreateDeltaWatch is part of cache.ConfigWatcher: Envoy has sent a request, which is an answer to a response, a change of
// what it subscribes to, or both at once, and waits for news.
func (f *feed) CreateDeltaWatch(req *cache.DeltaRequest, sub cache.Subscription, out chan cache.DeltaResponse) (func(), error) {
	s := f.server
	s.mu.Lock()
	entries, known := s.types[req.GetTypeUrl()]
	if !known {
		s.mu.Unlock()
		s.log.Debug("Envoy asks for a type there is nothing of", "type", req.GetTypeUrl())
		return nil, nil
	}
	t := f.types[req.GetTypeUrl()]
	if t == nil {
		t = &typeFeed{fresh: sub.IsWildcard(), news: map[string]bool{}}
		f.types[req.GetTypeUrl()] = t
		t.lookAtAll(sub, entries)
	}
	answer := f.settle(req, t)
	for _, name := range req.GetResourceNamesSubscribe() {
		// Asked for again means that Envoy wants to have it again.
		_, has := req.GetInitialResourceVersions()[name]
		t.look(name, !has && entries[name] != nil)
	}
	t.watch = &watch{req: req, sub: sub, out: out}
	f.push()
	s.mu.Unlock()
	answer.tell(s.events, req.GetTypeUrl())
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		t.watch = nil
	}, nil
}

// lookAtAll begins with what Envoy has from an earlier stream, and with everything if it asks for everything.
func (t *typeFeed) lookAtAll(sub cache.Subscription, entries map[string]*entry) {
	for name := range sub.ReturnedResources() {
		t.look(name, false)
	}
	if sub.IsWildcard() {
		for name := range entries {
			t.look(name, false)
		}
	}
}

func (t *typeFeed) look(name string, again bool) { t.news[name] = t.news[name] || again }

func (w *watch) asks(name string) bool {
	_, ok := w.sub.SubscribedResources()[name]
	return ok || w.sub.IsWildcard()
}

func sortedNames(set map[string]bool) []string {
	out := make([]string, 0, len(set))
	for name := range set {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
