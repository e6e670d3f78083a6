package xds

import (
	"slices"
	"strconv"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// watch is one stream's subscription to one resource type. Owned by the stream's goroutine, status fields apart.
type watch struct {
	typeURL    string
	collection *Collection // nil when the server does not have the type: such requests get empty answers
	reader     reader
	interest   interest // nil: subscribed to everything
	responses  uint64   // answers so far, each with a nonce of its own
	metrics    typeMetrics

	// What people see of it; guarded by stream.mu.
	status TypeStatus
	sent   sentResponse // the last one
}

// sentResponse remembers what an acknowledgement will refer to.
type sentResponse struct {
	nonce, version string
}

// open handles the first request of a type. The caller sends the answer even when it is empty: clients wait for it.
func (w *watch) open(req *request, node string) (*batch, error) {
	star, unstar := slices.Contains(req.subscribe, wildcard), slices.Contains(req.unsubscribe, wildcard)
	exact := mesh.IsWaypointType(req.typeURL) // nobody is meant to see the facts of every gateway
	everything := !exact && !unstar && (star || len(req.subscribe) == 0)
	if w.collection == nil {
		return &batch{removed: namesOnly(req.subscribe)}, nil
	}
	if everything {
		if req.known.n == 0 {
			return w.everything(), nil
		}
		b, cursor, err := w.collection.resume(req.known)
		w.reader.cursor.Store(cursor)
		return b, err
	}
	// Subscribing to and unsubscribing from everything in one request is how Istio's node proxy says "on demand".
	if star && !exact {
		w.interest = newDemand(node)
	} else {
		w.interest = newSelection()
	}
	w.reader.cursor.Store(w.collection.now()) // before resolving, so that what happens meanwhile is pushed
	return w.interest.resume(w.collection, subscribed(req), req.known), nil
}

// update handles a later request and says whether it is owed an answer.
func (w *watch) update(req *request, node string) (b *batch, owed bool) {
	if w.collection == nil {
		return &batch{removed: namesOnly(req.subscribe)}, len(req.subscribe) > 0
	}
	if slices.Contains(req.unsubscribe, wildcard) && w.interest == nil {
		w.interest = newDemand(node)
	} else if slices.Contains(req.subscribe, wildcard) && w.interest != nil && !mesh.IsWaypointType(w.typeURL) {
		w.interest = nil
		return w.everything(), true
	}
	names, gone := subscribed(req), namesOnly(req.unsubscribe)
	if w.interest == nil {
		// A subscriber to everything asks for a name again: it is owed that one, and nothing is to be remembered.
		return newDemand("").answer(w.collection, names), len(names) > 0
	}
	if len(names) == 0 && len(gone) == 0 {
		return nil, false
	}
	b = w.interest.update(w.collection, names, gone)
	return b, len(names) > 0 || !b.empty()
}

// pending reports whether the collection moved on since the watch last looked.
func (w *watch) pending() bool {
	return w.collection != nil && w.collection.pending(w.reader.cursor.Load())
}

// changes collects the next push.
func (w *watch) changes() (b *batch, err error) {
	cursor := w.reader.cursor.Load()
	if w.interest != nil {
		b, cursor, err = w.interest.changes(w.collection, cursor)
	} else {
		b, cursor, err = w.collection.changes(cursor)
	}
	w.reader.cursor.Store(cursor)
	return b, err
}

func (w *watch) everything() *batch {
	img := w.collection.everything()
	w.reader.cursor.Store(img.cursor)
	return &batch{resources: img.slabs, bytes: img.slabs.Len(), version: img.version}
}

// subscribed are the names a request adds, without the ones it takes back in the same breath.
func subscribed(req *request) []string {
	names := namesOnly(req.subscribe)
	return slices.DeleteFunc(names, func(n string) bool { return slices.Contains(req.unsubscribe, n) })
}

func namesOnly(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == wildcard })
}

// next numbers a response. Caller holds stream.mu.
func (w *watch) next(b *batch) sentResponse {
	if b.push != nil {
		w.sent = b.push.sent
	} else {
		w.responses++
		w.sent = sentResponse{nonce: strconv.FormatUint(w.responses, 36), version: versionText(b.version)}
	}
	w.status.SentVersion = w.sent.version
	return w.sent
}

// acknowledge records an ACK or NACK of the last response; others are too old to say anything about the client's state.
// Caller holds stream.mu.
func (w *watch) acknowledge(req *request) (current bool) {
	if req.nonce != w.sent.nonce {
		return false
	}
	if req.refused {
		w.status.NACK, w.status.NACKTime = req.refusal, time.Now()
		return true
	}
	w.status.AckedVersion = w.sent.version
	w.status.NACK, w.status.NACKTime = "", time.Time{}
	return true
}

// describe brings the status up to date. Caller holds stream.mu and is the stream's goroutine.
func (w *watch) describe() {
	w.status.TypeURL = w.typeURL
	w.status.Wildcard = w.interest == nil
	w.status.Subscribed = 0
	if w.interest != nil {
		w.status.Subscribed = w.interest.size()
	}
}
