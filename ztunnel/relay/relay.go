// Package relay copies bytes between two duplex streams until both directions have ended, keeping TCP's half-close and
// reset semantics: an EOF on one side becomes a CloseWrite on the other, a failure of either becomes a reset of both.
//
// It does not know who talks to whom or why; it knows sockets, tunnel streams and buffers. A connection that carries
// nothing holds no buffer and no pipe. Copy uses the caller's goroutine, and a second one per direction as needed; all
// are gone when it returns. Start reading at Copy; tunnel.go is the fast path between a socket and a tunnel stream,
// splice_linux.go the one between two sockets.
package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/ambit-mesh/ambit/ztunnel/hbone/buffer"
)

// Options observe a copy; the zero value observes nothing.
type Options struct {
	// OnAtoB and OnBtoA are told the bytes of each direction as they are handed on. They must be quick and safe for
	// use from another goroutine.
	OnAtoB, OnBtoA func(n int)
}

// Result counts what was handed on in each direction.
type Result struct{ AtoB, BtoA int64 }

// Side names an end of a Copy.
type Side string

// The two ends.
const (
	A Side = "a"
	B Side = "b"
)

// Error names the side whose failure ended the copy.
type Error struct {
	Side Side
	// Op is "read", "write" or "close".
	Op  string
	Err error
}

func (e *Error) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Copy moves bytes both ways between a and b until both directions have ended, and closes both. It returns nil after
// two orderly ends, an *Error after the failure of a side, and the cause of ctx when ctx ended first; in both latter
// cases the peers see resets.
func Copy(ctx context.Context, a, b hbone.Duplex, opts Options) (Result, error) {
	j := &job{a: a, b: b}
	ab := &direction{job: j, src: a, dst: b, from: A, to: B, seen: opts.OnAtoB}
	ba := &direction{job: j, src: b, dst: a, from: B, to: A, seen: opts.OnBtoA}
	stop := context.AfterFunc(ctx, func() { j.fail(context.Cause(ctx)) })
	defer stop()
	switch {
	case isTunnel(b, a):
		// The tunnel's reader carries b to a by itself; we wait on the socket.
		tunnelled(ab, ba)
	case isTunnel(a, b):
		tunnelled(ba, ab)
	default:
		var other sync.WaitGroup
		other.Go(ba.run)
		ab.run()
		other.Wait()
	}
	return Result{AtoB: ab.n, BtoA: ba.n}, j.finish()
}

// job is what the two directions share.
type job struct {
	a, b hbone.Duplex
	once sync.Once
	err  error
}

// fail ends both sides abnormally; the first error counts.
func (j *job) fail(err error) {
	j.once.Do(func() {
		j.err = err
		abort(j.a)
		abort(j.b)
	})
}

// finish closes both sides in good order unless they have failed, and returns the failure.
func (j *job) finish() error {
	j.once.Do(func() {
		j.a.Close()
		j.b.Close()
	})
	return j.err
}

// abort closes d so that its peer notices that something went wrong: a TCP connection is reset.
func abort(d hbone.Duplex) {
	if t, ok := d.(interface{ SetLinger(int) error }); ok {
		t.SetLinger(0)
	}
	d.Close()
}

// direction is one way of a job.
type direction struct {
	job      *job
	src, dst hbone.Duplex
	from, to Side
	seen     func(int)
	n        int64
}

func (d *direction) run() {
	var err error
	if src, dst, ok := sockets(d.src, d.dst); ok {
		err = d.splice(src, dst)
	} else {
		err = d.copy()
	}
	d.end(err)
}

// end turns the end of the source into one of the destination.
func (d *direction) end(err error) {
	if err == nil {
		if cerr := d.dst.CloseWrite(); cerr != nil && !gone(cerr) {
			err = d.wrote(cerr)
		}
	}
	if err != nil {
		d.job.fail(err)
	}
}

// gone tells a CloseWrite that came too late from one that failed: a peer that has reset or closed its end already
// shows as an error of the other direction if it is one.
func gone(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ENOTCONN) || errors.Is(err, hbone.ErrClosed)
}

func (d *direction) read(err error) error  { return &Error{Side: d.from, Op: "read", Err: err} }
func (d *direction) wrote(err error) error { return &Error{Side: d.to, Op: "write", Err: err} }

// copy is the plain way, for any pair of streams. It returns nil at the end of the source.
func (d *direction) copy() error {
	b := buffer.Get(buffer.Medium)
	defer b.Free()
	for {
		b.Rewind()
		n, err := d.src.Read(b.Room())
		if n > 0 {
			if _, werr := d.dst.Write(b.Room()[:n]); werr != nil {
				return d.wrote(werr)
			}
			d.moved(n)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return d.read(err)
		}
	}
}

func (d *direction) moved(n int) {
	d.n += int64(n)
	if d.seen != nil {
		d.seen(n)
	}
}
