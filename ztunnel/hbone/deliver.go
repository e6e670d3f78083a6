package hbone

import "github.com/ambit-mesh/ambit/ztunnel/hbone/buffer"

// Sink takes a stream's bytes straight from the goroutine that reads the connection, which saves a wake-up and two
// copies per message. All streams of the connection wait meanwhile, so a Sink never blocks.
type Sink interface {
	// TryWrite takes what it can at once. Taking less than all, or none, is no error; an error makes the stream
	// discard what follows.
	TryWrite(p []byte) (int, error)
	// Wake says that there is something to fetch with Stream.Take: bytes that TryWrite left, the peer's end, or an
	// error. Until Take has returned nil or an error there will be no TryWrite and no further Wake. It is called
	// under a lock and must only start or signal the goroutine that does the work.
	Wake()
}

// Divert sends everything that arrives from now on to sink instead of Read.
func (s *Stream) Divert(sink Sink) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.sink = sink
	if !s.recvq.Empty() || s.readErrLocked() != nil {
		s.wakeSinkLocked()
	}
}

// Take returns the oldest waiting bytes in a buffer the caller must free, or an error as Read does. With neither,
// nothing waits any more and the sink is served directly again.
func (s *Stream) Take() (*buffer.Buffer, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if b := s.recvq.Pop(); b != nil {
		s.c.consumedLocked(b.Len())
		s.consumedLocked(b.Len())
		return b, nil
	}
	if err := s.readErrLocked(); err != nil {
		return nil, err
	}
	s.behind = false
	return nil, nil
}

func (s *Stream) wakeSinkLocked() {
	// While the reader is in TryWrite it does this itself afterwards: whoever learns of the end by Take may rely on
	// TryWrite never being called again.
	if s.sink != nil && !s.behind && !s.inSink {
		s.behind = true
		s.sink.Wake()
	}
}

// deliver takes bytes of the peer. Only the reader calls it.
func (s *Stream) deliver(p []byte) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.plain {
		s.skipBodyLocked(len(p), false)
	}
	if s.err != nil || s.closed || s.plain {
		c.consumedLocked(len(p))
		return
	}
	if s.sink != nil && !s.behind {
		sink := s.sink
		s.inSink = true
		c.mu.Unlock()
		n, err := sink.TryWrite(p)
		c.mu.Lock()
		s.inSink = false
		if err != nil {
			n = len(p)
		}
		c.consumedLocked(n)
		s.consumedLocked(n)
		p = p[n:]
		if s.err != nil {
			c.consumedLocked(len(p))
			s.wakeSinkLocked()
			return
		}
		if len(p) == 0 {
			return
		}
	}
	s.recvq.Write(p)
	s.canRead.Signal()
	s.wakeSinkLocked()
}
