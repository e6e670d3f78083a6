package daemon

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestQueueRetriesLaterAndLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		q := newQueue[string]()
		var at []time.Duration
		begin := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			q.Work(ctx, func(context.Context, string) error {
				at = append(at, time.Since(begin))
				if len(at) < 14 {
					return errors.New("no")
				}
				return nil
			})
		})
		q.Add("a")
		time.Sleep(time.Hour)
		cancel()
		wg.Wait()
		if len(at) != 14 {
			t.Fatalf("worked %d times", len(at))
		}
		for i := 1; i < len(at); i++ {
			full := min(firstRetry<<(i-1), lastRetry)
			if d := at[i] - at[i-1]; d < full/2 || d > full+time.Millisecond {
				t.Errorf("try %d after %v, want %v to %v", i, d, full/2, full)
			}
		}
	})
}

func TestQueueWorksOncePerKeyAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		q := newQueue[int]()
		var mu sync.Mutex
		running, done := map[int]bool{}, map[int]int{}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				q.Work(ctx, func(_ context.Context, k int) error {
					mu.Lock()
					if running[k] {
						t.Errorf("%d is worked on twice", k)
					}
					running[k] = true
					mu.Unlock()
					time.Sleep(time.Second)
					mu.Lock()
					running[k] = false
					done[k]++
					mu.Unlock()
					return nil
				})
			})
		}
		for range 3 {
			for k := range 6 {
				q.Add(k)
				q.Add(k)
			}
			time.Sleep(500 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		cancel()
		wg.Wait()
		for k := range 6 {
			// Added again while worked on: once more, not once for each Add.
			if done[k] < 1 || done[k] > 3 {
				t.Errorf("%d was worked on %d times", k, done[k])
			}
		}
	})
}

func TestLocksEndWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLocks[string]()
		unlock, err := l.Lock(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.Lock(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if other, err := l.Lock(ctx, "b"); err == nil {
			other()
		}
		unlock()
		again, err := l.Lock(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		again()
		if len(l.held) != 0 {
			t.Errorf("%d locks are kept", len(l.held))
		}
	})
}
