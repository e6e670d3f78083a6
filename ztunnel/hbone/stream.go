package hbone

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/ztunnel/hbone/buffer"
)

// Duplex is a byte stream whose two directions end separately, as TCP's do. *Stream and *net.TCPConn are Duplexes.
type Duplex interface {
	io.Reader
	io.Writer
	// CloseWrite ends our direction in good order: the peer reads EOF after what was written.
	CloseWrite() error
	// Close releases everything. On a Stream it is a reset unless both directions had ended.
	Close() error
}

// Stream is one tunnelled TCP connection.
//
//	         CloseWrite / END_STREAM sent
//	open ───────────────────────────────► half closed (local) ──┐ END_STREAM received
//	 │ └─ END_STREAM received ─► half closed (remote) ──────────┤ or sent
//	 └─ Reset, Close, RST_STREAM, end of the connection ────────┴─► closed
//
// Read may be called by one goroutine and Write by another; Close, CloseWrite and Reset by any.
type Stream struct {
	// immutable once opened
	c  *conn
	id uint32

	// guarded by c.mu
	canRead   sync.Cond
	canWrite  sync.Cond
	recvq     buffer.Queue
	recvWin   int64 // what the peer may still send
	credit    int64 // consumed, not announced
	sendWin   int64
	remoteEnd bool  // END_STREAM received
	localEnd  bool  // END_STREAM queued
	queued    bool  // waiting in c.blocked
	err       error // reset, or the connection's end
	closed    bool  // Close was called: nobody reads any more
	sink      Sink  // takes bytes directly, if set
	inSink    bool  // the reader is in sink.TryWrite
	behind    bool  // the sink was woken and empties recvq; until it has, bytes are queued

	// a request that is not a tunnel, guarded by c.mu
	plain bool
	body  int64 // content-length, or -1
	got   int64 // body bytes received

	// the response, guarded by c.mu until answered
	answered bool
	status   int
	fields   []Header
	ready    chan struct{} // client: closed with the final response or the end of the stream
	cancel   func(error)   // server: ends the handler's context
}

func (c *conn) newStreamLocked(id uint32) *Stream {
	s := &Stream{c: c, id: id, recvWin: int64(c.cfg.StreamWindow), sendWin: c.peerInitWin}
	s.canRead.L, s.canWrite.L = &c.mu, &c.mu
	c.streams[id] = s
	return s
}

// Read returns bytes of the peer, io.EOF after its orderly end, or a *ResetError.
func (s *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	for s.recvq.Empty() {
		if err := s.readErrLocked(); err != nil {
			return 0, err
		}
		s.canRead.Wait()
	}
	n := s.recvq.Read(p)
	s.c.consumedLocked(n)
	s.consumedLocked(n)
	return n, nil
}

// readErrLocked returns why no more bytes will come, or nil.
func (s *Stream) readErrLocked() error {
	switch {
	case s.err != nil && !s.heardOutLocked():
		return s.err
	case s.remoteEnd:
		return io.EOF
	}
	return nil
}

// heardOutLocked reports a reset by a peer that had ended its direction before: all it had to say is here, and it only
// does not want to hear more, whatever the code. RFC 9113 §8.1; Envoy sends CONNECT_ERROR when the server of a tunnel is
// done first. It is what a TCP connection is whose peer has closed: reads end, writes fail.
func (s *Stream) heardOutLocked() bool {
	var r *ResetError
	return s.remoteEnd && errors.As(s.err, &r) && r.Remote
}

// Write sends p, waiting for flow control as long as it takes.
func (s *Stream) Write(p []byte) (int, error) {
	total := 0
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(p) > 0 {
		room, err := s.waitSendLocked()
		if err != nil {
			return total, err
		}
		b := buffer.Get(min(len(p), room, buffer.Medium))
		n := b.Append(p[:min(len(p), room, buffer.Medium)])
		s.queueLocked(b)
		p = p[n:]
		total += n
		c.flushLocked(inlineRounds)
	}
	return total, nil
}

// WriteBuffer sends b's bytes and frees b, error or not. Payloads up to MaxWrite travel without being copied.
func (s *Stream) WriteBuffer(b *buffer.Buffer) error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for b.Len() > 0 {
		room, err := s.waitSendLocked()
		if err != nil {
			b.Free()
			return err
		}
		if b.Len() <= room {
			s.queueLocked(b)
			c.flushSoonLocked()
			return nil
		}
		// The window is smaller than what we hold: send the part that fits.
		part := buffer.Get(min(room, buffer.Medium))
		n := part.Append(b.Bytes()[:min(room, buffer.Medium)])
		b.Advance(n)
		s.queueLocked(part)
		c.flushLocked(inlineRounds)
	}
	b.Free()
	return nil
}

// Ready waits until the peer's windows and our queue admit bytes. A caller that asks before it reads from its source need
// not hold what it cannot send. A peer that has ended and reset the stream only fails the writes after it.
func (s *Stream) Ready() error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.heardOutLocked() {
		return nil // the source may end without having more to say
	}
	_, err := s.waitSendLocked()
	s.c.unblockLocked() // the turn is not used yet
	return err
}

// MaxWrite is the largest payload that fits one frame to this peer.
func (s *Stream) MaxWrite() int {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.c.peerMaxFrame
}

// waitSendLocked waits until bytes may be sent and returns how many.
func (s *Stream) waitSendLocked() (int, error) {
	c := s.c
	for {
		switch {
		case s.err != nil:
			c.unblockLocked()
			return 0, s.err
		case s.localEnd:
			c.unblockLocked()
			return 0, ErrClosed
		case s.sendWin <= 0:
			c.unblockLocked()
		case !c.canSendLocked():
			if !s.queued {
				s.queued = true
				c.blocked = append(c.blocked, s)
			}
		default:
			return int(min(s.sendWin, c.sendWin, int64(c.peerMaxFrame))), nil
		}
		s.canWrite.Wait()
	}
}

// queueLocked turns b into a DATA frame behind the others.
func (s *Stream) queueLocked(b *buffer.Buffer) {
	c, n := s.c, b.Len()
	s.sendWin -= int64(n)
	c.sendWin -= int64(n)
	putFrameHeader(b.Prepend(frameHeaderLen), frameHeader{length: n, typ: frameData, id: s.id})
	c.out.Push(b)
	if s.credit >= announceSmall {
		s.announceLocked()
	}
	// Pass the turn on when this one left room for the next.
	c.unblockLocked()
}

func (s *Stream) announceLocked() {
	if s.credit > 0 && !s.remoteEnd && s.err == nil {
		s.c.ctl = appendWords(s.c.ctl, frameWindowUpdate, 0, s.id, uint32(s.credit))
		s.recvWin += s.credit
		s.credit = 0
	}
}

// consumedLocked notes that n bytes of the peer have left our memory.
func (s *Stream) consumedLocked(n int) {
	s.credit += int64(n)
	if s.credit >= int64(s.c.cfg.StreamWindow)/4 {
		s.announceLocked()
		s.c.wakeWriter()
	}
}

// CloseWrite sends END_STREAM after everything written so far.
func (s *Stream) CloseWrite() error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.localEnd || s.heardOutLocked() {
		return nil
	}
	if s.err != nil {
		return s.err
	}
	s.localEnd = true
	var frame [frameHeaderLen]byte
	putFrameHeader(frame[:], frameHeader{typ: frameData, flags: flagEndStream, id: s.id})
	c.out.Write(frame[:])
	s.canWrite.Broadcast()
	s.leaveIfDoneLocked()
	c.flushLocked(inlineRounds)
	return nil
}

// Close releases the stream. If a direction is still open the peer sees a reset.
func (s *Stream) Close() error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.closed = true
	if s.err == nil && !(s.remoteEnd && s.localEnd) {
		code := Cancel
		if !c.client {
			// RFC 9113 §8.5: what ends a TCP connection abnormally is a stream error of this type.
			code = ConnectError
		}
		c.resetStreamLocked(s, code, "closed before both directions had ended")
	}
	s.dropLocked()
	return nil
}

// Reset ends both directions at once and discards what was received. The peer's side of the tunnel sees a TCP reset.
func (s *Stream) Reset(code ErrCode) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.closed = true
	if s.err == nil && !(s.remoteEnd && s.localEnd) {
		s.c.resetStreamLocked(s, code, "")
	}
	s.dropLocked()
}

// ResponseHeaders returns the fields of the peer's answer to CONNECT; nil on the serving side.
func (s *Stream) ResponseHeaders() []Header { return s.fields }

// NetConn returns the connection the stream travels on, for its addresses and TLS state.
func (s *Stream) NetConn() net.Conn { return s.c.nc }

// ID returns the HTTP/2 stream id, for logs.
func (s *Stream) ID() uint32 { return s.id }

// dropLocked forgets received bytes nobody will read, and gives their credit back to the connection.
func (s *Stream) dropLocked() {
	if n := s.recvq.Discard(); n > 0 {
		s.c.consumedLocked(n)
	}
}

// deliverEnd takes the peer's END_STREAM.
func (s *Stream) deliverEnd() {
	s.c.mu.Lock()
	s.endRemoteLocked()
	s.c.mu.Unlock()
}

func (s *Stream) endRemoteLocked() {
	if s.plain {
		s.skipBodyLocked(0, true)
	}
	s.remoteEnd = true
	s.canRead.Broadcast()
	s.wakeSinkLocked()
	s.leaveIfDoneLocked()
}

// leaveIfDoneLocked takes a stream that ended both ways off the connection. Received bytes stay readable.
func (s *Stream) leaveIfDoneLocked() {
	if s.localEnd && s.remoteEnd {
		s.removeLocked()
	}
}

func (s *Stream) removeLocked() {
	if s.c.streams[s.id] == s {
		delete(s.c.streams, s.id)
		if len(s.c.streams) == 0 {
			s.c.idleSince = time.Now()
		}
		s.c.finishIfIdleLocked()
	}
}

// failLocked ends both directions locally with err.
func (s *Stream) failLocked(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	s.canRead.Broadcast()
	s.canWrite.Broadcast()
	s.wakeSinkLocked()
	if s.ready != nil && !s.answered {
		s.answered = true
		close(s.ready)
	}
	if s.cancel != nil {
		s.cancel(err)
	}
}

func (s *Stream) peerResetLocked(code ErrCode) {
	s.failLocked(&ResetError{Code: code, Remote: true})
	s.removeLocked()
}

// resetStreamLocked is a stream error, RFC 9113 §5.4.2, or our own wish to end it.
func (c *conn) resetStreamLocked(s *Stream, code ErrCode, reason string) {
	c.resetLocked(s.id, code)
	s.failLocked(&ResetError{Code: code, Reason: reason})
	s.removeLocked()
}

// successful tells the answers to CONNECT that open a tunnel, RFC 9110 §9.3.6.
func successful(status int) bool {
	return status >= http.StatusOK && status < http.StatusMultipleChoices
}
