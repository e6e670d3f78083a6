package stories

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// load is what a steady stream of short connections met.
type load struct {
	Calls  int
	Errors []failure
}

type failure struct {
	At   time.Time
	Took time.Duration
	Err  error
}

// String sums a load up for a failed story.
func (l load) String() string {
	s := fmt.Sprintf("%d calls, %d errors", l.Calls, len(l.Errors))
	for i, f := range l.Errors {
		if i == 5 {
			return s + " …"
		}
		s += fmt.Sprintf("; %s after %s: %v", f.At.Format("15:04:05.000"), f.Took.Round(time.Millisecond), f.Err)
	}
	return s
}

// after returns the errors later than a moment.
func (l load) after(t time.Time) []failure {
	for i, f := range l.Errors {
		if f.At.After(t) {
			return l.Errors[i:]
		}
	}
	return nil
}

// errNotYet keeps an eventually going.
var errNotYet = errors.New("not yet")

const loadPause = 5 * time.Millisecond

// load calls an address from a pod, a new connection each time, until the returned function is called.
func (w *world) load(ns, pod, addr string) func() load {
	ctx, cancel := context.WithCancel(w.ctx)
	var out load
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(loadPause)
		defer tick.Stop()
		for ctx.Err() == nil {
			began := time.Now()
			out.Calls++
			if _, err := w.call(ns, pod, addr, "hi"); err != nil {
				out.Errors = append(out.Errors, failure{began, time.Since(began), err})
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	return sync.OnceValue(func() load {
		cancel()
		wg.Wait()
		return out
	})
}

// held is a connection that says something all the time until the returned function is called, which tells how it went.
func (w *world) held(ns, pod, addr string) func() error {
	w.Helper()
	c, err := w.dial(ns, pod, addr)
	w.must(err)
	if _, err := say(c, "first"); err != nil {
		w.Fatalf("held connection: %v", err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() {
		defer c.Close()
		done <- chat(ctx, c)
	}()
	return sync.OnceValue(func() error {
		cancel()
		return <-done
	})
}

func chat(ctx context.Context, c net.Conn) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := say(c, "still here"); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
