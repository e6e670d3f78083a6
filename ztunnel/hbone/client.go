package hbone

import (
	"context"
	"fmt"
	"net"
	"time"
)

// ClientConn opens tunnels over one connection to a peer. Start it with Run.
type ClientConn struct{ c *conn }

// Client makes the client end of a tunnel connection on nc, which it owns from then on. It starts nothing.
func Client(nc net.Conn, cfg Config) *ClientConn { return &ClientConn{newConn(nc, cfg, true)} }

// Run serves the connection until it ends, and returns why. It returns nil after Close, after a drain, and when ctx
// ends, which resets all streams.
func (cc *ClientConn) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { cc.c.end(ErrClosed) })
	defer stop()
	return cc.c.run()
}

// Open sends CONNECT for authority and waits for the answer. A 2xx answer gives a Stream, any other a *StatusError.
// ErrDraining and ErrFull say that nothing was opened and another connection may do; ctx bounds the wait only.
func (cc *ClientConn) Open(ctx context.Context, authority string, fields []Header) (*Stream, error) {
	s, err := cc.c.request(authority, fields)
	if err != nil {
		return nil, err
	}
	select {
	case <-s.ready:
	case <-ctx.Done():
		s.Reset(Cancel)
		return nil, context.Cause(ctx)
	}
	cc.c.mu.Lock()
	status, err, lost := s.status, s.err, cc.c.dead != nil && s.err == cc.c.dead
	cc.c.mu.Unlock()
	switch {
	case status == 0 && lost:
		// No byte of the application was on its way: to try elsewhere is what TCP does with a lost SYN.
		return nil, fmt.Errorf("open tunnel to %s: %w: %w", authority, ErrDraining, err)
	case status == 0:
		return nil, fmt.Errorf("open tunnel to %s: %w", authority, err)
	case !successful(status):
		s.Reset(Cancel)
		return nil, &StatusError{Code: status, Headers: s.fields}
	}
	return s, nil
}

func (c *conn) request(authority string, fields []Header) (*Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.dead != nil:
		return nil, fmt.Errorf("%w: %w", ErrDraining, c.dead)
	case c.draining || c.nextID > maxStreamID:
		return nil, ErrDraining
	case c.roomLocked() <= 0:
		return nil, ErrFull
	}
	s := c.newStreamLocked(c.nextID)
	c.nextID += 2
	s.ready = make(chan struct{})
	c.headersLocked(s.id, false, append([]Header{
		{":method", "CONNECT"}, {":authority", authority},
	}, fields...))
	c.flushLocked(inlineRounds)
	return s, nil
}

func (c *conn) roomLocked() int { return min(c.cfg.MaxStreams, c.peerMaxStreams) - len(c.streams) }

// onResponse takes a complete field section from the server.
func (c *conn) onResponse(id uint32, hb *headerBlock, end bool) error {
	s := c.streams[id]
	if s == nil {
		if c.idleLocked(id) {
			return violation(ProtocolError, "HEADERS on idle stream %d", id)
		}
		if !c.forgotten.has(id) {
			c.resetLocked(id, StreamClosed)
		}
		return nil
	}
	if s.remoteEnd {
		c.resetStreamLocked(s, StreamClosed, "HEADERS after END_STREAM")
		return nil
	}
	if s.answered {
		// Trailers of a tunnel mean nothing to us, but they do end it.
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
	status := hb.statusCode()
	switch {
	case hb.malformed != "":
		c.resetStreamLocked(s, ProtocolError, hb.malformed)
		return nil
	case hb.tooBig:
		c.resetStreamLocked(s, EnhanceYourCalm, "response header list too large")
		return nil
	case status < 200:
		if end {
			c.resetStreamLocked(s, ProtocolError, "interim response ends the stream")
		}
		return nil
	}
	s.status, s.fields, s.answered = status, hb.fields, true
	if end {
		s.endRemoteLocked()
	}
	close(s.ready)
	return nil
}

// Available returns how many more streams may be opened now; 0 once the connection drains or has ended.
func (cc *ClientConn) Available() int {
	cc.c.mu.Lock()
	defer cc.c.mu.Unlock()
	if cc.c.draining || cc.c.dead != nil {
		return 0
	}
	return max(0, cc.c.roomLocked())
}

// InUse returns the number of open streams.
func (cc *ClientConn) InUse() int {
	cc.c.mu.Lock()
	defer cc.c.mu.Unlock()
	return len(cc.c.streams)
}

// Drain opens no more streams and ends the connection after the last one.
func (cc *ClientConn) Drain() {
	cc.c.mu.Lock()
	defer cc.c.mu.Unlock()
	cc.c.draining = true
	cc.c.finishIfIdleLocked()
}

// Close ends the connection and all its streams at once.
func (cc *ClientConn) Close() { cc.c.end(ErrClosed) }

// Done is closed when Run has returned.
func (cc *ClientConn) Done() <-chan struct{} { return cc.c.done }

// NetConn returns the connection underneath, for its addresses and TLS state. Its bytes belong to the tunnel.
func (cc *ClientConn) NetConn() net.Conn { return cc.c.nc }

// load returns the free and used streams and whether writers wait for the connection.
func (cc *ClientConn) load() (free, used int, busy bool) {
	c := cc.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining || c.dead != nil {
		return 0, len(c.streams), false
	}
	return max(0, c.roomLocked()), len(c.streams), len(c.blocked) > 0
}

// idleFor returns how long no stream has been open; 0 while one is.
func (cc *ClientConn) idleFor() time.Duration {
	c := cc.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.streams) > 0 {
		return 0
	}
	return time.Since(c.idleSince)
}
