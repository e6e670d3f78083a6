package ads

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
)

// patience is how long routes wait for a new cluster to have its endpoints. Then they are sent all the same: a cluster
// that never gets there must not stop the others.
const patience = time.Second

// chunk bounds a response about names that were asked for. An answer about everything is never cut: Envoy takes the first
// one for the whole.
const chunk = 2 << 20

// stream is one open call of Envoy.
type stream struct {
	server     *Server
	aggregated bool
	wake       chan struct{} // capacity 1

	// guarded by server.mu
	subs  map[string]*subscription
	nonce uint64
	// warming are clusters sent anew whose endpoints Envoy has not accepted yet, and until when routes wait for them.
	warming map[string]time.Time
}

// subscription is what the stream asked for and has of one type.
type subscription struct {
	wildcard bool
	fresh    bool // a wildcard that has had no answer
	names    map[string]struct{}
	have     map[string]uint64   // name → version sent; 0: sent, but Envoy may not have it
	dirty    map[string]struct{} // names to look at
	sent     *response           // not answered yet
	limit    int                 // resources in a response while looking for the one that is refused; 0: no limit
}

// response is what a nonce stands for.
type response struct {
	nonce string
	put   map[string]uint64
}

func (sub *subscription) asks(name string) bool {
	if sub.wildcard {
		return true
	}
	_, ok := sub.names[name]
	return ok
}

// wire is what both kinds of stream have in common.
type wire interface {
	Context() context.Context
	Send(*discoveryv3.DeltaDiscoveryResponse) error
	Recv() (*discoveryv3.DeltaDiscoveryRequest, error)
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
	return a.server.serve(w, true)
}

type secrets struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	server *Server
}

// DeltaSecrets serves secrets alone.
func (x *secrets) DeltaSecrets(w secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	return x.server.serve(w, false)
}

func (s *Server) serve(w wire, aggregated bool) error {
	st := &stream{server: s, aggregated: aggregated, wake: make(chan struct{}, 1), subs: map[string]*subscription{}, warming: map[string]time.Time{}}
	s.join(st)
	defer s.leave(st)
	ctx, cancel := context.WithCancel(w.Context())
	defer cancel()
	requests := make(chan *discoveryv3.DeltaDiscoveryRequest)
	ended := make(chan error, 1)
	// gRPC ends Recv when this call returns, so the reader never outlives it by more than that.
	go func() {
		for {
			req, err := w.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case requests <- req:
			case <-ctx.Done():
				return
			}
		}
	}()
	tick := time.NewTimer(time.Hour)
	defer tick.Stop()
	for {
		for {
			resp, wait := st.next(time.Now())
			if resp == nil {
				tick.Reset(wait)
				break
			}
			s.log.Debug("sent", "type", resp.GetTypeUrl(), "put", len(resp.GetResources()), "removed", len(resp.GetRemovedResources()), "nonce", resp.GetNonce())
			if err := w.Send(resp); err != nil {
				return err
			}
		}
		select {
		case req := <-requests:
			s.log.Debug("asked", "type", req.GetTypeUrl(), "nonce", req.GetResponseNonce(), "refused", req.GetErrorDetail() != nil,
				"subscribe", len(req.GetResourceNamesSubscribe()), "unsubscribe", len(req.GetResourceNamesUnsubscribe()))
			st.take(req)
		case <-st.wake:
		case <-tick.C:
		case err := <-ended:
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil
			}
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Server) join(st *stream) {
	s.mu.Lock()
	s.streams[st] = struct{}{}
	n := s.aggregated()
	s.mu.Unlock()
	if st.aggregated && s.events.Connected != nil {
		s.events.Connected(n)
	}
}

func (s *Server) leave(st *stream) {
	s.mu.Lock()
	delete(s.streams, st)
	n := s.aggregated()
	s.mu.Unlock()
	if st.aggregated && s.events.Connected != nil {
		s.events.Connected(n)
	}
}

func (st *stream) poke() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// take handles one request: an answer to a response, a change of the subscription, or both at once.
func (st *stream) take(req *discoveryv3.DeltaDiscoveryRequest) {
	s := st.server
	s.mu.Lock()
	entries, known := s.types[req.GetTypeUrl()]
	if !known {
		s.mu.Unlock()
		s.log.Debug("Envoy asks for a type there is nothing of", "type", req.GetTypeUrl())
		return
	}
	sub := st.subs[req.GetTypeUrl()]
	if sub == nil {
		sub = &subscription{names: map[string]struct{}{}, have: map[string]uint64{}, dirty: map[string]struct{}{}}
		st.subs[req.GetTypeUrl()] = sub
		sub.begin(req, entries)
	}
	refusals, accepted, nacked := st.settle(req, sub)
	for _, name := range req.GetResourceNamesSubscribe() {
		if name == "*" {
			continue
		}
		// Asked for again means that Envoy wants to have it again.
		sub.names[name] = struct{}{}
		if _, has := req.GetInitialResourceVersions()[name]; !has {
			delete(sub.have, name)
		}
		sub.dirty[name] = struct{}{}
	}
	for _, name := range req.GetResourceNamesUnsubscribe() {
		delete(sub.names, name)
		delete(sub.have, name)
		delete(sub.dirty, name)
	}
	s.mu.Unlock()
	if accepted && s.events.Accepted != nil {
		s.events.Accepted(req.GetTypeUrl())
	}
	if nacked && s.events.Nacked != nil {
		s.events.Nacked(req.GetTypeUrl())
	}
	for _, r := range refusals {
		if s.events.Refused != nil {
			s.events.Refused(r)
		}
	}
}

// begin reads the first request of a type: no names at all mean everything. xDS protocol, "Subscribing to resources".
func (sub *subscription) begin(req *discoveryv3.DeltaDiscoveryRequest, entries map[string]*entry) {
	names := req.GetResourceNamesSubscribe()
	sub.wildcard = len(names) == 0 || slices.Contains(names, "*")
	sub.fresh = sub.wildcard
	for name, v := range req.GetInitialResourceVersions() {
		sub.have[name] = parseVersion(v)
		sub.dirty[name] = struct{}{}
	}
	if sub.wildcard {
		for name := range entries {
			sub.dirty[name] = struct{}{}
		}
	}
}

// settle handles the answer to the response under way. Callers hold mu.
func (st *stream) settle(req *discoveryv3.DeltaDiscoveryRequest, sub *subscription) (refusals []Refusal, accepted, nacked bool) {
	sent := sub.sent
	if sent == nil || req.GetResponseNonce() != sent.nonce {
		return nil, false, false
	}
	sub.sent = nil
	if req.GetErrorDetail() == nil {
		for name, id := range sent.put {
			st.server.accept(req.GetTypeUrl(), name, id)
			if req.GetTypeUrl() == TypeEndpoint {
				delete(st.warming, name)
			}
		}
		if len(sub.dirty) == 0 {
			sub.limit = 0
		}
		return nil, true, false
	}
	bad := blamed(req.GetErrorDetail().GetMessage(), sent.put)
	if len(bad) == 0 && len(sent.put) == 1 {
		for name := range sent.put {
			bad = append(bad, name)
		}
	}
	reason := legible(req.GetErrorDetail().GetMessage())
	for _, name := range bad {
		if r, news := st.server.refuse(req.GetTypeUrl(), name, sent.put[name], reason); news {
			refusals = append(refusals, r)
		}
	}
	if len(bad) == 0 {
		sub.limit = max(1, len(sent.put)/2)
	}
	// Envoy may have taken any part of the response. Everything in it is sent again, which changes nothing where it has
	// it already, except that the refused resource goes back to its last good version.
	for name := range sent.put {
		sub.have[name] = 0
		if sub.asks(name) {
			sub.dirty[name] = struct{}{}
		}
		delete(st.warming, name)
	}
	return refusals, false, true
}

// blamed finds the resources that Envoy's reason names. One name may be part of another; then the longer one is meant.
func blamed(reason string, put map[string]uint64) []string {
	var found []string
	for name := range put {
		if strings.Contains(reason, name) {
			found = append(found, name)
		}
	}
	slices.SortFunc(found, func(a, b string) int { return len(b) - len(a) })
	var out []string
	for _, name := range found {
		if !slices.ContainsFunc(out, func(longer string) bool { return strings.Contains(longer, name) }) {
			out = append(out, name)
		}
	}
	return out
}

// legible makes one short line of Envoy's reason. It tends to quote the whole resource before it says what is wrong.
func legible(reason string) string {
	reason = strings.Join(strings.Fields(strings.ToValidUTF8(reason, "?")), " ")
	reason = strings.ReplaceAll(reason, "goo.gle/debugonly ", "")
	const head, tail = 200, 500
	if len(reason) > head+tail+10 {
		reason = reason[:head] + " … " + reason[len(reason)-tail:]
	}
	return strings.ToValidUTF8(reason, "")
}
