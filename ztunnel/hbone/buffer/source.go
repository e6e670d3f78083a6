package buffer

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Source reads a socket into buffers it takes only once there is something to read. One goroutine uses it.
type Source struct {
	raw  syscall.RawConn
	try  func(fd uintptr) bool // s.attempt, bound once instead of at every read
	size int
	b    *Buffer
	n    int
	err  error
}

// NewSource returns a Source of a non-blocking socket.
func NewSource(raw syscall.RawConn) *Source {
	s := &Source{raw: raw}
	s.try = s.attempt
	return s
}

// Next waits until the socket has something and returns up to size bytes of it; nil at the end of the stream.
func (s *Source) Next(size int) (*Buffer, error) {
	s.size, s.n, s.err = size, 0, nil
	err := s.raw.Read(s.try)
	b := s.b
	s.b = nil
	if err == nil {
		err = s.err
	}
	if err != nil || s.n == 0 {
		b.Free()
		return nil, err
	}
	b.Fill(s.n)
	return b, nil
}

// attempt reports whether the wait is over.
func (s *Source) attempt(fd uintptr) bool {
	s.b = Get(s.size)
	for {
		s.n, s.err = unix.Read(int(fd), s.b.Room()[:s.size])
		if s.err != unix.EINTR {
			break
		}
	}
	if s.err == unix.EAGAIN {
		s.b.Free()
		s.b = nil
		return false
	}
	return true
}
