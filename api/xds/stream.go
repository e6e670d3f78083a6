package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// stream serves one client. The goroutine gRPC gave it decides and sends; a second one only receives:
//
//	receive ──requests──► serve ──answers and pushes──► client
//	   └─acknowledgements─► status      ▲
//	            Collection.Apply ──wake──┘
//
// A client that does not read blocks its own serve in send, by gRPC's write quota. Meanwhile wake stays set and the log keeps the changes.
type stream struct {
	srv      *Server
	rpc      grpc.ServerStream
	requests chan *request
	wake     chan struct{}
	node     string // the client's node, from its metadata; owned by serve
	ended    atomic.Bool
	steps    bool // it wants to know what belongs together; owned by serve
	// permitted are the scopes this client was found to be allowed to read; owned by serve.
	permitted map[string]bool

	mu        sync.Mutex   // also guards the status fields of the watches
	watches   []*watch     // in the order of pushes; written by serve under mu
	nodeID    string       // guarded by mu
	about     ClientStatus // what the client says of itself; guarded by mu
	peer      string
	connected time.Time
}

// maxTypes bounds the subscriptions of a stream.
const maxTypes = 16

func (st *stream) serve(ctx context.Context) error {
	failed := make(chan error, 1)
	st.srv.receivers.Go(func() { failed <- st.receive(ctx) })
	defer st.leave()
	// Ending in order makes the client come back at once, through a new connection and a new check of its token.
	old := time.AfterFunc(st.srv.lifetime(), st.end)
	defer old.Stop()
	for { // three cases, not more: with many clients this select is what a push costs
		select {
		case err := <-failed:
			return err
		case req := <-st.requests:
			err := st.handle(ctx, req)
			req.release()
			if err != nil {
				return err
			}
		case <-st.wake:
			if st.ended.Load() {
				return nil
			}
			if err := st.pushAll(); err != nil {
				return err
			}
		}
	}
}

// end makes serve return in order.
func (st *stream) end() {
	st.ended.Store(true)
	st.poke()
}

func (st *stream) poke() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// receive passes requests on one at a time, which makes gRPC's flow control hold back a client that asks faster than
// it can be answered. Mere acknowledgements it files itself: they are half of all traffic and owed nothing. It returns when the
// client hangs up and when the stream ends, whatever the reason.
func (st *stream) receive(ctx context.Context) error {
	done := st.srv.admit(ctx)
	defer func() { done() }()
	for {
		req := new(request)
		if err := st.rpc.RecvMsg(req); err != nil {
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil // the client hung up
			}
			return err
		}
		if req.known.n == 0 { // the large requests are over
			done()
			done = func() {}
		}
		if req.acknowledgement() && st.file(req) {
			continue
		}
		select {
		case st.requests <- req:
		case <-ctx.Done():
			return nil
		}
	}
}

func (st *stream) handle(ctx context.Context, req *request) error {
	if st.watches == nil {
		if err := st.introduce(ctx, req); err != nil {
			return err
		}
	}
	if req.typeURL == "" {
		return status.Error(codes.InvalidArgument, "a request names no type_url")
	}
	if err := st.permit(ctx, req); err != nil {
		return err
	}
	w := st.watch(req.typeURL)
	if w == nil {
		return st.open(req)
	}
	if req.nonce != "" {
		st.file(req)
	}
	b, owed := w.update(req, st.node)
	if err := st.bounded(w); err != nil {
		return err
	}
	if !owed {
		return nil
	}
	return st.send(w, b)
}

func (st *stream) bounded(w *watch) error {
	if w.interest != nil && w.interest.size() > maxAsked {
		return status.Errorf(codes.ResourceExhausted, "more than %d names of %s subscribed on one stream", maxAsked, w.typeURL)
	}
	return nil
}

// introduce checks who is calling, on the stream's first request.
func (st *stream) introduce(ctx context.Context, req *request) error {
	node, err := req.decodeNode()
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if authorize := st.srv.cfg.Authorize; authorize != nil {
		if err := authorize(ctx, node); err != nil {
			return refusal(err, codes.PermissionDenied)
		}
	}
	st.steps = wantsSteps(node)
	st.node = node.GetMetadata().GetFields()[metadataNode].GetStringValue()
	st.mu.Lock()
	st.nodeID = node.GetId()
	st.about = introduction(node)
	st.mu.Unlock()
	st.srv.log.Info("xds client connected", "peer", st.peer, "node", node.GetId(), "agent", st.about.Agent, "version", st.about.Version)
	return nil
}

// permit checks that the client may read what it subscribes to. A permission given holds for the stream, which ends at some time.
func (st *stream) permit(ctx context.Context, req *request) error {
	authorize := st.srv.cfg.AuthorizeScope
	if authorize == nil {
		return nil
	}
	for _, name := range req.subscribe {
		scope := permission(req.typeURL, name)
		if scope == "" || name == wildcard || st.permitted[scope] {
			continue
		}
		if err := authorize(ctx, scope); err != nil {
			st.srv.log.Warn("xds client may not read what it asks for", "peer", st.peer, "node", st.nodeID, "type", req.typeURL, "name", name, "err", err)
			return refusal(fmt.Errorf("subscribe to %s of %s: %w", name, req.typeURL, err), codes.PermissionDenied)
		}
		if st.permitted == nil {
			st.permitted = make(map[string]bool)
		}
		st.permitted[scope] = true
	}
	return nil
}

// refusal is the error as a status; a code of its own wins.
func refusal(err error, code codes.Code) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(code, err.Error())
}

func (st *stream) watch(typeURL string) *watch {
	for _, w := range st.watches {
		if w.typeURL == typeURL {
			return w
		}
	}
	return nil
}

func (st *stream) open(req *request) error {
	if len(st.watches) == maxTypes {
		return status.Errorf(codes.ResourceExhausted, "more than %d resource types on one stream", maxTypes)
	}
	w := &watch{typeURL: req.typeURL, collection: st.srv.collections[req.typeURL]}
	w.metrics = st.srv.metrics.of(w.collection)
	w.reader.wake = st.wake
	if w.collection != nil {
		w.collection.join(&w.reader)
	}
	st.mu.Lock()
	if w.typeURL == mesh.TypeAuthorization {
		// Whatever the client asked for first: a workload must not arrive before a policy that it names.
		st.watches = slices.Insert(st.watches, 0, w)
	} else {
		st.watches = append(st.watches, w)
	}
	st.mu.Unlock()
	b, err := w.open(req, st.node)
	if err != nil {
		return status.Error(codes.Aborted, err.Error())
	}
	if err := st.bounded(w); err != nil {
		return err
	}
	if err := st.send(w, b); err != nil {
		return err
	}
	return st.push(w) // what happened while the answer was put together
}

// file records an acknowledgement or refusal. It reports false when the type is not subscribed yet.
func (st *stream) file(req *request) bool {
	st.mu.Lock()
	w := st.watch(req.typeURL)
	if w == nil {
		st.mu.Unlock()
		return false
	}
	current := w.acknowledge(req)
	id := st.nodeID
	st.mu.Unlock()
	if req.refused {
		w.metrics.rejects.Inc()
		st.srv.log.Warn("xds client refuses resources", "peer", st.peer, "node", id, "type", w.typeURL, "current", current, "err", req.refusal)
		if st.srv.cfg.OnNACK != nil {
			st.srv.cfg.OnNACK(NACK{NodeID: id, TypeURL: w.typeURL, Message: req.refusal})
		}
	}
	return true
}

func (st *stream) pushAll() error {
	if st.steps {
		if err := st.pushStep(); err != nil {
			return status.Error(codes.Aborted, err.Error())
		}
		return nil
	}
	for _, w := range st.watches {
		if err := st.push(w); err != nil {
			return err
		}
	}
	return nil
}

// push sends the next of what changed: at most one chunk, so that a client far behind is still heard between two of them, and
// nothing at all when nothing concerns the client.
func (st *stream) push(w *watch) error {
	if !w.pending() {
		return nil
	}
	b, err := w.changes()
	if err != nil {
		return status.Error(codes.Aborted, err.Error())
	}
	if !b.empty() {
		if err := st.send(w, b); err != nil {
			return err
		}
	}
	if w.pending() {
		st.poke()
	}
	return nil
}

// send writes the batch as one response, or as several when it would exceed what clients accept. It blocks while the client does not read.
func (st *stream) send(w *watch, b *batch) error {
	for b != nil {
		part, rest := b.split(maxResponse)
		if err := st.deliver(w, part); err != nil {
			return fmt.Errorf("send %s: %w", w.typeURL, err)
		}
		b = rest
	}
	return nil
}

func (st *stream) deliver(w *watch, b *batch) error {
	st.mu.Lock()
	sent := w.next(b)
	w.describe()
	st.mu.Unlock()
	var r *response
	if b.push != nil {
		r = b.push.response
	} else {
		r = b.response(w.typeURL, sent.nonce, sent.version)
	}
	w.metrics.pushes.Inc()
	w.metrics.bytes.Add(float64(b.bytes))
	return st.rpc.SendMsg(r)
}

func (st *stream) leave() {
	for _, w := range st.watches {
		if w.collection != nil {
			w.collection.leave(&w.reader)
		}
	}
}

func (st *stream) describe() ClientStatus {
	st.mu.Lock()
	defer st.mu.Unlock()
	cs := st.about
	cs.Peer, cs.Connected = st.peer, st.connected
	for _, w := range st.watches {
		cs.Types = append(cs.Types, w.status)
	}
	return cs
}

func peerAddress(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return "unknown"
}
