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
	s.running.Add(1) // the direction itself; drain ends it
	stream.Divert(s)
	out.end(out.pump(raw, stream))
	s.running.Wait()
}

// pump carries a socket's bytes into the tunnel until the socket's end. It waits without holding a buffer.
func (d *direction) pump(raw syscall.RawConn, stream *hbone.Stream) error {
	limit := stream.MaxWrite()
	size := min(buffer.Medium, limit)
	for {
		b, err := readReady(raw, size)
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

// readReady waits until the socket has something and returns it; nil at the end of the stream.
func readReady(raw syscall.RawConn, size int) (*buffer.Buffer, error) {
	var b *buffer.Buffer
	var n int
	var failed error
	err := raw.Read(func(fd uintptr) bool {
		b = buffer.Get(size)
		n, failed = ignoringEINTR(func() (int, error) { return unix.Read(int(fd), b.Room()[:size]) })
		if failed == unix.EAGAIN {
			b.Free()
			b = nil
			return false
		}
		return true
	})
	if err == nil {
		err = failed
	}
	if err != nil || n == 0 {
		b.Free()
		return nil, err
	}
	b.Fill(n)
	return b, nil
}

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// socketSink takes a stream's bytes from the tunnel's reader and writes them to a socket. What the socket refuses is
// carried by drain, in a goroutine that lives only as long as the application is behind.
type socketSink struct {
	*direction
	stream  *hbone.Stream
	raw     syscall.RawConn
	running sync.WaitGroup
}

// TryWrite implements hbone.Sink.
func (s *socketSink) TryWrite(p []byte) (int, error) {
	total := 0
	var failed error
	err := s.raw.Write(func(fd uintptr) bool {
		for total < len(p) {
			n, err := ignoringEINTR(func() (int, error) { return unix.Write(int(fd), p[total:]) })
			if err != nil {
				if err != unix.EAGAIN {
					failed = err
				}
				break
			}
			total += n
		}
		return true // never wait here
	})
	if err == nil {
		err = failed
	}
	if total > 0 {
		s.moved(total)
	}
	if err != nil {
		s.job.fail(s.wrote(err))
	}
	return total, err
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
