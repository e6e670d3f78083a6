// Package relay copies bytes between two duplex streams until both directions have ended, keeping TCP's half-close and
// reset semantics: an EOF on one side becomes a CloseWrite on the other, a failure on either becomes a reset of both.
//
// It does not know who talks to whom or why; it knows sockets, tunnel streams and buffers. A connection that carries
// nothing holds no buffer. Copy uses the caller's goroutine and one more, and returns when both are done.
package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

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

// Error names the side whose failure ended the copy.
type Error struct {
	// Side is "a" or "b".
	Side string
	// Op is "read" or "write".
	Op  string
	Err error
}

func (e *Error) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Copy moves bytes both ways between a and b until both directions have ended, and closes both. It returns nil after
// two orderly ends, an *Error after the failure of a side, and the cause of ctx when ctx ended first.
func Copy(ctx context.Context, a, b hbone.Duplex, opts Options) (Result, error) {
	j := &job{a: a, b: b}
	stop := context.AfterFunc(ctx, func() { j.fail(context.Cause(ctx)) })
	defer stop()
	ab := direction{job: j, src: a, dst: b, from: "a", to: "b", seen: opts.OnAtoB}
	ba := direction{job: j, src: b, dst: a, from: "b", to: "a", seen: opts.OnBtoA}
	var other sync.WaitGroup
	other.Go(ba.run)
	ab.run()
	other.Wait()
	j.finish()
	return Result{AtoB: ab.n, BtoA: ba.n}, j.err
}

// job is what the two directions share.
type job struct {
	a, b hbone.Duplex
	once sync.Once
	err  error
}

// fail ends both sides abnormally with the first error.
func (j *job) fail(err error) {
	j.once.Do(func() {
		j.err = err
		abort(j.a)
		abort(j.b)
	})
}

// finish closes both sides in good order unless they have failed.
func (j *job) finish() {
	j.once.Do(func() {
		j.a.Close()
		j.b.Close()
	})
}

// abort closes d so that its peer notices that something went wrong: a TCP connection is reset.
func abort(d hbone.Duplex) {
	if t, ok := d.(interface{ SetLinger(int) error }); ok {
		t.SetLinger(0)
	}
	d.Close()
}

type direction struct {
	job      *job
	src, dst hbone.Duplex
	from, to string
	seen     func(int)
	n        int64
}

func (d *direction) run() {
	if err := d.copy(); err != nil {
		d.job.fail(err)
		return
	}
	if err := d.dst.CloseWrite(); err != nil && !errors.Is(err, net.ErrClosed) {
		d.job.fail(&Error{Side: d.to, Op: "close", Err: err})
	}
}

func (d *direction) copy() error {
	for {
		b := buffer.Get(buffer.Medium)
		n, err := d.src.Read(b.Room())
		if n > 0 {
			b.Fill(n)
			if _, werr := d.dst.Write(b.Bytes()); werr != nil {
				b.Free()
				return &Error{Side: d.to, Op: "write", Err: werr}
			}
			d.moved(n)
		}
		b.Free()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return &Error{Side: d.from, Op: "read", Err: err}
		}
	}
}

func (d *direction) moved(n int) {
	d.n += int64(n)
	if d.seen != nil {
		d.seen(n)
	}
}
