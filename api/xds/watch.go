package xds

import (
	"slices"
	"strconv"
	"time"
)

// watch is one stream's subscription to one resource type. Owned by the stream's goroutine, status fields apart.
type watch struct {
	typeURL    string
	collection *Collection // nil when the server does not have the type: such requests get empty answers
	reader     reader
	demand     *demand // nil: subscribed to everything
	responses  uint64  // answers so far, each with a nonce of its own
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
	everything := len(req.subscribe) == 0 || slices.Contains(req.subscribe, wildcard)
	// Subscribing to and unsubscribing from everything in one request is how a client says "on demand".
	if slices.Contains(req.unsubscribe, wildcard) {
		everything = false
	}
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
	w.demand = newDemand(node)
	w.reader.cursor.Store(w.collection.now()) // before resolving, so that what happens meanwhile is pushed
	return w.demand.resume(w.collection, subscribed(req), req.known), nil
}

// update handles a later request and says whether it is owed an answer.
func (w *watch) update(req *request, node string) (b *batch, owed bool) {
	if w.collection == nil {
		return &batch{removed: namesOnly(req.subscribe)}, len(req.subscribe) > 0
	}
	if slices.Contains(req.unsubscribe, wildcard) && w.demand == nil {
		w.demand = newDemand(node)
	} else if slices.Contains(req.subscribe, wildcard) && w.demand != nil {
		w.demand = nil
		return w.everything(), true
	}
	if gone := namesOnly(req.unsubscribe); len(gone) > 0 && w.demand != nil {
		w.demand.forget(w.collection, gone)
	}
	names := subscribed(req)
	if len(names) == 0 {
		return nil, false
	}
	if w.demand == nil {
		// A subscriber to everything asks for a name again: it is owed that one, and nothing is to be remembered.
		return newDemand("").answer(w.collection, names), true
	}
	return w.demand.answer(w.collection, names), true
}

// pending reports whether the collection moved on since the watch last looked.
func (w *watch) pending() bool {
	return w.collection != nil && w.collection.pending(w.reader.cursor.Load())
}

// changes collects the next push.
func (w *watch) changes() (b *batch, err error) {
	cursor := w.reader.cursor.Load()
	if w.demand != nil {
		b, cursor, err = w.demand.changes(w.collection, cursor)
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
	w.status.Wildcard = w.demand == nil
	w.status.Subscribed = 0
	if w.demand != nil {
		w.status.Subscribed = len(w.demand.asked)
	}
}
