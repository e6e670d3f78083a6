package relay

import (
	"io"
	"net"
	"sync"
	"syscall"

	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/ambit-mesh/ambit/ztunnel/hbone/buffer"
	"golang.org/x/sys/unix"
)

func isTunnel(stream, socket hbone.Duplex) bool {
	_, s := stream.(*hbone.Stream)
	_, t := socket.(*net.TCPConn)
	return s && t
}

// tunnelled runs out (socket to stream) in the caller's goroutine. The way in needs none while the application keeps
// up: the tunnel's reader writes to the socket itself.
func tunnelled(out, in *direction) {
	stream, socket := out.dst.(*hbone.Stream), out.src.(*net.TCPConn)
	raw, err := socket.SyscallConn()
	if err != nil {
		out.job.fail(out.read(err))
		return
	}
	s := &socketSink{direction: in, stream: stream, raw: raw}
	s.try = s.attempt
	s.running.Add(1) // the direction itself; drain ends it
	stream.Divert(s)
	out.end(out.pump(raw, stream))
	s.running.Wait()
}

// pump carries a socket's bytes into the tunnel until the socket's end. It waits without holding a buffer.
func (d *direction) pump(raw syscall.RawConn, stream *hbone.Stream) error {
	limit := stream.MaxWrite()
	in := buffer.NewSource(raw)
	size := min(buffer.Medium, limit)
	for {
		if err := stream.Ready(); err != nil {
			return d.wrote(err)
		}
		b, err := in.Next(size)
		if err != nil {
			return d.read(err)
		}
		if b == nil {
			return nil
		}
		n := b.Len()
		if n == size {
			size = min(buffer.Large, limit)
		}
		if err := stream.WriteBuffer(b); err != nil {
			return d.wrote(err)
		}
		d.moved(n)
	}
}

// socketSink takes a stream's bytes from the tunnel's reader and writes them to a socket. What the socket refuses is
// carried by drain, in a goroutine that lives only as long as the application is behind.
type socketSink struct {
	*direction
	stream  *hbone.Stream
	raw     syscall.RawConn
	running sync.WaitGroup

	// owned by TryWrite, which the tunnel's reader alone calls
	try  func(fd uintptr) bool // s.attempt, bound once
	p    []byte
	done int
	err  error
}

// TryWrite implements hbone.Sink.
func (s *socketSink) TryWrite(p []byte) (int, error) {
	s.p, s.done, s.err = p, 0, nil
	err := s.raw.Write(s.try)
	s.p = nil
	if err == nil {
		err = s.err
	}
	if s.done > 0 {
		s.moved(s.done)
	}
	if err != nil {
		s.job.fail(s.wrote(err))
	}
	return s.done, err
}

// attempt writes what the socket takes and never waits.
func (s *socketSink) attempt(fd uintptr) bool {
	for s.done < len(s.p) {
		n, err := unix.Write(int(fd), s.p[s.done:])
		switch err {
		case nil:
			s.done += n
		case unix.EINTR:
		case unix.EAGAIN:
			return true
		default:
			s.err = err
			return true
		}
	}
	return true
}

// Wake implements hbone.Sink.
func (s *socketSink) Wake() { s.running.Go(s.drain) }

// drain carries what waits until nothing does, or the stream has ended.
func (s *socketSink) drain() {
	for {
		b, err := s.stream.Take()
		switch {
		case err == io.EOF:
			s.end(nil)
			s.running.Done()
			return
		case err != nil:
			s.end(s.read(err))
			s.running.Done()
			return
		case b == nil:
			return
		}
		n := b.Len()
		_, err = s.dst.Write(b.Bytes())
		b.Free()
		if err != nil {
			// The failure resets the stream; the next Take reports it and ends the direction.
			s.job.fail(s.wrote(err))
			continue
		}
		s.moved(n)
	}
}
