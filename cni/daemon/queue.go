package daemon

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Retry delays of a pod that could not be brought where it should be. istio/istio cni/pkg/nodeagent/informers.go.
const (
	firstRetry = 5 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// queue holds the keys that need work, each at most once. A key that is added while it is worked on comes again
// afterwards. Keys whose work fails come again later and later.
type queue[K comparable] struct {
	mu sync.Mutex
	// Guarded by mu:
	due     map[K]time.Time // zero: now
	delay   map[K]time.Duration
	running map[K]bool
	wake    chan struct{} // closed and replaced when due or running changes
}

func newQueue[K comparable]() *queue[K] {
	return &queue[K]{due: map[K]time.Time{}, delay: map[K]time.Duration{}, running: map[K]bool{}, wake: make(chan struct{})}
}

// Add asks for work on k now.
func (q *queue[K]) Add(k K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.due[k] = time.Time{}
	q.stir()
}

// AddAfter asks for work on k later, unless somebody has asked already.
func (q *queue[K]) AddAfter(k K, d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, asked := q.due[k]; asked {
		return
	}
	q.due[k] = time.Now().Add(d)
	q.stir()
}

// stir wakes the workers. The caller holds mu.
func (q *queue[K]) stir() {
	close(q.wake)
	q.wake = make(chan struct{})
}

// Work runs fn on keys as they come due, until ctx ends. Several goroutines may call it.
func (q *queue[K]) Work(ctx context.Context, fn func(context.Context, K) error) {
	for {
		k, ok := q.next(ctx)
		if !ok {
			return
		}
		err := fn(ctx, k)
		q.done(k, err)
	}
}

func (q *queue[K]) next(ctx context.Context) (k K, ok bool) {
	for {
		q.mu.Lock()
		now := time.Now()
		wait, found := time.Duration(-1), false
		for candidate, at := range q.due {
			if q.running[candidate] {
				continue
			}
			if d := at.Sub(now); at.IsZero() || d <= 0 {
				k, found = candidate, true
				break
			} else if wait < 0 || d < wait {
				wait = d
			}
		}
		if found {
			delete(q.due, k)
			q.running[k] = true
			q.mu.Unlock()
			return k, ctx.Err() == nil
		}
		wake := q.wake
		q.mu.Unlock()
		if !waitFor(ctx, wake, wait) {
			return k, false
		}
	}
}

// waitFor returns true when woken or when d is over; a negative d is never over.
func waitFor(ctx context.Context, wake <-chan struct{}, d time.Duration) bool {
	var timer <-chan time.Time
	if d >= 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-timer:
	}
	return true
}

func (q *queue[K]) done(k K, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.running, k)
	if err == nil {
		delete(q.delay, k)
	} else {
		d := q.delay[k]
		if d == 0 {
			d = firstRetry
		}
		q.delay[k] = min(2*d, lastRetry)
		// Somebody who asked meanwhile is served at once.
		if _, asked := q.due[k]; !asked {
			q.due[k] = time.Now().Add(d/2 + rand.N(d/2+1))
		}
	}
	q.stir()
}

// locks gives each key a lock that can be waited for with a deadline.
type locks[K comparable] struct {
	mu   sync.Mutex
	held map[K]*lock // guarded by mu
}

type lock struct {
	token chan struct{}
	users int // guarded by locks.mu
}

func newLocks[K comparable]() *locks[K] { return &locks[K]{held: map[K]*lock{}} }

// Lock waits for k's lock and returns how to release it, or ctx's error.
func (l *locks[K]) Lock(ctx context.Context, k K) (unlock func(), err error) {
	l.mu.Lock()
	e := l.held[k]
	if e == nil {
		e = &lock{token: make(chan struct{}, 1)}
		l.held[k] = e
	}
	e.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if e.users--; e.users == 0 {
			delete(l.held, k)
		}
	}
	select {
	case e.token <- struct{}{}:
		return func() { <-e.token; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
