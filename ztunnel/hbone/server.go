package hbone

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

// Handler answers one request. It runs in its own goroutine, and the stream it accepted is closed when it returns.
// ctx ends when the peer resets the stream or the connection ends.
type Handler func(ctx context.Context, in *Incoming)

// ServerConn is the accepting end of a tunnel connection.
type ServerConn struct {
	c *conn
	// handlers counts running handlers, guarded by c.mu. A reset stream frees its place only when its handler is
	// gone, or opening and resetting would start goroutines without end (CVE-2023-39325).
	handlers int
}

// NewServer makes the accepting end on nc, which it owns from then on. It starts nothing.
func NewServer(nc net.Conn, cfg Config) *ServerConn { return &ServerConn{c: newConn(nc, cfg, false)} }

// Serve answers the requests arriving on nc with h until the connection ends. See ServerConn.Run.
func Serve(ctx context.Context, nc net.Conn, cfg Config, h Handler) error {
	return NewServer(nc, cfg).Run(ctx, h)
}

// Run serves the connection until it ends, waits for the handlers, and returns why it ended; nil after a drain, after
// the peer left in good order, and when ctx ends, which resets all streams.
func (sc *ServerConn) Run(ctx context.Context, h Handler) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { sc.c.end(ErrClosed) })
	defer stop()
	var handlers sync.WaitGroup
	defer handlers.Wait()
	if drain := sc.c.cfg.Drain; drain != nil {
		handlers.Go(func() {
			select {
			case <-drain:
				sc.Drain()
			case <-ctx.Done():
			}
		})
	}
	sc.c.onRequest = func(s *Stream, hb *headerBlock) {
		sc.handlers++
		sctx, cancel := context.WithCancelCause(ctx)
		s.cancel = func(err error) { cancel(err) }
		in := &Incoming{s: s, hb: hb}
		handlers.Go(func() {
			defer cancel(nil)
			defer sc.left()
			defer in.finish()
			h(sctx, in)
		})
	}
	sc.c.tooManyRequests = func() bool { return sc.handlers >= 2*sc.c.cfg.MaxStreams }
	defer cancel()
	return sc.c.run()
}

func (sc *ServerConn) left() {
	sc.c.mu.Lock()
	sc.handlers--
	sc.c.mu.Unlock()
}

// Drain asks the peer to open no more streams, refuses those it still opens, and lets the open ones finish. It returns
// at once; Run returns when the last stream is gone.
//
// It goes in two steps, RFC 9113 §6.8: a GOAWAY that names no stream, and once the peer has certainly seen it (it
// answers a PING, or DrainGrace has passed) one that names the last stream we serve.
func (sc *ServerConn) Drain() {
	c := sc.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drainPing || c.refuseFrom != maxStreamID || c.dead != nil {
		return
	}
	c.draining, c.drainPing = true, true
	c.ctl = appendWords(c.ctl, frameGoAway, 0, 0, maxStreamID, uint32(NoError))
	c.ctl = appendPing(c.ctl, 0, drainPing)
	c.armDrainTimerLocked()
	c.wakeWriter()
}

// armDrainTimerLocked sends the second GOAWAY even to a peer that ignores our PING.
func (c *conn) armDrainTimerLocked() {
	c.drainTimer = time.AfterFunc(c.cfg.DrainGrace, func() {
		c.mu.Lock()
		c.secondGoAwayLocked()
		c.mu.Unlock()
	})
}

func (c *conn) secondGoAwayLocked() {
	if c.dead != nil || !c.drainPing {
		return
	}
	c.drainPing = false
	c.refuseFrom = c.lastPeer
	c.goAwayLocked(NoError, "")
	c.wakeWriter()
	c.finishIfIdleLocked()
}

// InUse returns the number of open streams.
func (sc *ServerConn) InUse() int {
	sc.c.mu.Lock()
	defer sc.c.mu.Unlock()
	return len(sc.c.streams)
}

// onRequestHeaders takes a complete field section from the client.
func (c *conn) onRequestHeaders(id uint32, hb *headerBlock, end bool) error {
	if id%2 == 0 {
		return violation(ProtocolError, "client opened stream %d", id)
	}
	if s := c.streams[id]; s != nil {
		return c.onRequestTrailers(s, hb, end)
	}
	if id <= c.lastPeer {
		if c.forgotten.has(id) {
			return nil
		}
		return violation(StreamClosed, "HEADERS on closed stream %d", id)
	}
	if id > c.refuseFrom {
		return nil // the peer knows from our GOAWAY that we ignore these
	}
	c.lastPeer = id
	hb.checkRequest()
	switch {
	case len(c.streams) >= c.cfg.MaxStreams || c.tooManyRequests():
		if !c.floods.spend(1) {
			return violation(EnhanceYourCalm, "streams beyond the announced limit")
		}
		c.resetLocked(id, RefusedStream)
		return nil
	case hb.malformed != "":
		c.resetLocked(id, ProtocolError)
		return nil
	case hb.tooBig:
		c.headersLocked(id, true, []Header{{":status", "431"}})
		c.resetLocked(id, NoError)
		return nil
	}
	s := c.newStreamLocked(id)
	s.remoteEnd = end
	s.expectBody(hb)
	if s.err == nil {
		c.onRequest(s, hb)
	}
	return nil
}

func (c *conn) onRequestTrailers(s *Stream, hb *headerBlock, end bool) error {
	if s.remoteEnd {
		c.resetStreamLocked(s, StreamClosed, "HEADERS after END_STREAM")
		return nil
	}
	hb.checkTrailers()
	if !end {
		hb.bad("second HEADERS without END_STREAM")
	}
	if hb.malformed != "" {
		c.resetStreamLocked(s, ProtocolError, hb.malformed)
		return nil
	}
	s.endRemoteLocked()
	return nil
}

// Incoming is a request waiting for its answer: exactly one of Accept and Reject.
type Incoming struct {
	s        *Stream
	hb       *headerBlock
	answered bool
}

// Method returns the request method. Only CONNECT opens a tunnel; answer others with 400.
func (in *Incoming) Method() string { return in.hb.method }

// Authority returns the target the peer asked for.
func (in *Incoming) Authority() string { return in.hb.authority }

// Header returns the first field of that (lower-case) name, or "".
func (in *Incoming) Header(name string) string { return lookup(in.hb.fields, name) }

// Headers returns all fields in wire order.
func (in *Incoming) Headers() []Header { return in.hb.fields }

// Accept answers with a 2xx status and turns the request into a stream.
func (in *Incoming) Accept(status int, fields ...Header) (*Stream, error) {
	if !successful(status) {
		return nil, fmt.Errorf("accept tunnel to %s with status %d: only 2xx opens one", in.hb.authority, status)
	}
	if err := in.answer(status, false, fields); err != nil {
		return nil, err
	}
	return in.s, nil
}

// Reject answers without a tunnel. Whoever did not ask for one, by mistake of port or out of curiosity, gets a line
// of text beside the status.
func (in *Incoming) Reject(status int, fields ...Header) error {
	tunnel := in.hb.method == "CONNECT"
	if !tunnel {
		fields = append(fields, Header{"content-type", "text/plain"})
	}
	if err := in.answer(status, tunnel, fields); err != nil {
		return err
	}
	s := in.s
	if !tunnel {
		if in.hb.method != "HEAD" {
			io.WriteString(s, notATunnel)
		}
		s.CloseWrite()
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.closed = true
	if tunnel && !s.remoteEnd && s.err == nil {
		// The answer is complete without the rest of the request. RFC 9113 §8.1.
		s.c.resetStreamLocked(s, NoError, "request refused")
	}
	s.dropLocked()
	return nil
}

const notATunnel = "This port takes HTTP/2 CONNECT requests of mesh peers only.\n"

func (in *Incoming) answer(status int, end bool, fields []Header) error {
	s, c := in.s, in.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case in.answered:
		return fmt.Errorf("request for %s was answered before", in.hb.authority)
	case s.err != nil:
		return s.err
	}
	in.answered, s.answered = true, true
	c.headersLocked(s.id, end, append([]Header{{":status", strconv.Itoa(status)}}, fields...))
	if end {
		s.localEnd = true
		s.leaveIfDoneLocked()
	}
	if err := c.controlLocked(); err != nil {
		c.endLocked(err)
		return err
	}
	c.flushLocked(inlineRounds)
	return nil
}

// finish cleans up behind a handler.
func (in *Incoming) finish() {
	if !in.answered {
		in.s.Reset(InternalError)
		return
	}
	if in.hb.method == "CONNECT" {
		in.s.Close()
	}
}

// expectBody watches over the length of a request that is not a tunnel. We read none of it, but a request is only as
// long as it says, RFC 9113 §8.1.1.
func (s *Stream) expectBody(hb *headerBlock) {
	s.body = -1
	if hb.method == "CONNECT" {
		return
	}
	s.plain = true
	if v := lookup(hb.fields, "content-length"); v != "" {
		n, err := strconv.ParseInt(v, 10, 63)
		if err != nil || s.remoteEnd && n != 0 {
			s.c.resetStreamLocked(s, ProtocolError, "content-length "+strconv.Quote(v))
			return
		}
		s.body = n
	}
}

// skipBodyLocked accounts for n discarded bytes of such a request, and for its end. The stream's window is not given
// back, which bounds the body.
func (s *Stream) skipBodyLocked(n int, end bool) {
	c := s.c
	s.got += int64(n)
	switch {
	case s.err != nil:
	case s.body >= 0 && (s.got > s.body || end && s.got < s.body):
		c.resetStreamLocked(s, ProtocolError, "body does not match content-length")
	}
}
