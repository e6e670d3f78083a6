package hbone

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"

	"github.com/ambit-mesh/ambit/ztunnel/hbone/buffer"
)

// Wire goes between a TCP socket and crypto/tls, which by itself makes a system call for every 16 KiB record in both
// directions. Wire fetches as much as the socket has, and lets the engine send the records of one flush together. Use it
// as tls.Client(hbone.NewWire(tcp), cfg); everything still works without it, at a higher price.
//
// It holds a buffer only while bytes are in it.
type Wire struct {
	*net.TCPConn

	// owned by the reader; tls.Conn admits one at a time
	src  *buffer.Source
	in   *buffer.Buffer
	left int  // bytes of the current record not handed out yet
	hold bool // do not wait for the socket

	mu sync.Mutex
	// guarded by mu
	corked bool
	out    *buffer.Buffer
}

// recordHeaderLen is the length of a TLS record header, RFC 8446 §5.1.
const recordHeaderLen = 5

// maxRecord is the longest protected record with its header, RFC 8446 §5.2.
const maxRecord = recordHeaderLen + 1<<14 + 256

// NewWire wraps c, which belongs to the Wire from then on.
func NewWire(c *net.TCPConn) *Wire { return &Wire{TCPConn: c} }

// ReadFrom hides the one of the socket, which would bypass the cork.
func (w *Wire) ReadFrom(r io.Reader) (int64, error) { return io.Copy(writerOnly{w}, r) }

type writerOnly struct{ io.Writer }

// Read hands out at most the rest of the current record, so that crypto/tls never holds the beginning of the next one
// and ready can tell whether a further Read of the TLS connection would wait.
func (w *Wire) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if w.in == nil {
		if w.hold {
			return 0, errNothingHere{}
		}
		if err := w.fetch(); err != nil {
			return 0, err
		}
	}
	for w.left == 0 {
		if w.hold && w.in.Len() < recordHeaderLen {
			return 0, errNothingHere{}
		}
		if w.in.Len() >= recordHeaderLen {
			w.left = recordHeaderLen + int(binary.BigEndian.Uint16(w.in.Bytes()[3:]))
			break
		}
		if err := w.more(); err != nil {
			return 0, err
		}
	}
	n := copy(p[:min(len(p), w.left)], w.in.Bytes())
	w.in.Advance(n)
	w.left -= n
	if w.in.Len() == 0 {
		w.in.Free()
		w.in = nil
	}
	return n, nil
}

// fetch waits for the socket and takes what it has.
func (w *Wire) fetch() error {
	if w.src == nil {
		raw, err := w.SyscallConn()
		if err != nil {
			return err
		}
		w.src = buffer.NewSource(raw)
	}
	b, err := w.src.Next(buffer.Large)
	if err != nil {
		return &net.OpError{Op: "read", Net: "tcp", Source: w.LocalAddr(), Addr: w.RemoteAddr(), Err: err}
	}
	if b == nil {
		return io.EOF
	}
	w.in = b
	return nil
}

// more adds to a buffer that holds less than a record header.
func (w *Wire) more() error {
	rest := w.in
	w.in = nil
	err := w.fetch()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		rest.Free()
		return err
	}
	// The few bytes go in front of the new ones; Headroom has room for them.
	copy(w.in.Prepend(rest.Len()), rest.Bytes())
	rest.Free()
	return nil
}

// ready reports whether a whole record is here already.
func (w *Wire) ready() bool {
	if w.in == nil || w.left > 0 || w.in.Len() < recordHeaderLen {
		return false
	}
	return w.in.Len() >= recordHeaderLen+int(binary.BigEndian.Uint16(w.in.Bytes()[3:]))
}

// Write sends p, or keeps it for uncork.
func (w *Wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.corked {
		return w.TCPConn.Write(p)
	}
	if w.out == nil {
		w.out = buffer.Get(buffer.Large)
	}
	if len(p) > len(w.out.Room()) {
		if err := w.sendLocked(); err != nil {
			return 0, err
		}
		w.out = buffer.Get(buffer.Large)
	}
	if len(p) > len(w.out.Room()) {
		return w.TCPConn.Write(p)
	}
	return w.out.Append(p), nil
}

// readMore is c.Read for a TLS connection whose next record is here already. The record may carry nothing for us (a ticket,
// a key update), and what was read before must not wait for what comes after it.
func (w *Wire) readMore(c net.Conn, p []byte) (int, error) {
	w.hold = true
	n, err := c.Read(p)
	w.hold = false
	if errors.As(err, new(errNothingHere)) {
		err = nil
	}
	return n, err
}

// errNothingHere is a temporary error to crypto/tls, which goes on where it was at the next Read.
type errNothingHere struct{}

func (errNothingHere) Error() string   { return "nothing here without waiting" }
func (errNothingHere) Timeout() bool   { return true }
func (errNothingHere) Temporary() bool { return true }

func (w *Wire) cork() {
	w.mu.Lock()
	w.corked = true
	w.mu.Unlock()
}

func (w *Wire) uncork() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.corked = false
	return w.sendLocked()
}

func (w *Wire) sendLocked() error {
	if w.out == nil {
		return nil
	}
	_, err := w.TCPConn.Write(w.out.Bytes())
	w.out.Free()
	w.out = nil
	return err
}

// wireOf finds the Wire below a TLS connection that has shaken hands. A handshake under the cork would wait for itself.
func wireOf(nc net.Conn) *Wire {
	t, ok := nc.(*tls.Conn)
	if !ok || !t.ConnectionState().HandshakeComplete {
		return nil
	}
	w, _ := t.NetConn().(*Wire)
	return w
}
