package hbone

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// world is a set of servers a pool can dial, all in memory.
type world struct {
	t       *testing.T
	pool    *Pool
	cfg     Config // of the servers
	handler Handler
	ctx     context.Context
	running sync.WaitGroup

	mu      sync.Mutex
	dials   int
	servers []*ServerConn
	refuse  error
	delay   time.Duration
}

func newWorld(t *testing.T, cfg PoolConfig, h Handler) *world {
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{t: t, handler: h, ctx: ctx}
	cfg.Dial = w.dial
	w.pool = NewPool(cfg)
	w.running.Go(func() { w.pool.Run(ctx) })
	t.Cleanup(func() { cancel(); w.running.Wait() })
	return w
}

func (w *world) dial(ctx context.Context, key Key) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dials++
	if w.delay > 0 {
		time.Sleep(w.delay)
	}
	if w.refuse != nil {
		return nil, w.refuse
	}
	c, s := net.Pipe()
	server := NewServer(s, w.cfg)
	w.servers = append(w.servers, server)
	w.running.Go(func() { server.Run(w.ctx, w.handler) })
	return c, nil
}

func (w *world) open(k Key) *Stream {
	w.t.Helper()
	s, err := w.pool.Open(w.ctx, k, "10.0.0.1:80", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// expect checks the number of dials so far and of connections now.
func (w *world) expect(dials, conns int) {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if got, _ := w.pool.Conns(); w.dials != dials || got != conns {
		w.t.Errorf("%d dials, %d connections; want %d, %d", w.dials, got, dials, conns)
	}
}

func key(dest string) Key {
	return Key{Addr: netip.MustParseAddrPort("10.0.0.1:15008"), Dest: dest}
}

func TestPoolSharesPerKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, PoolConfig{}, hold)
		w.delay = time.Second
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { w.open(key("a")) })
		}
		all.Wait()
		w.expect(1, 1)
		w.open(key("b"))
		w.expect(2, 2)
	})
}

func TestPoolGrowsWhenFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, PoolConfig{MaxConnsPerKey: 2}, hold)
		var last *Stream
		for range 150 {
			last = w.open(key("a"))
		}
		w.expect(2, 2)
		for range 50 {
			w.open(key("a"))
		}
		if _, err := w.pool.Open(w.ctx, key("a"), "10.0.0.1:80", nil); !errors.Is(err, ErrFull) {
			t.Errorf("got %v", err)
		}
		last.Close()
		w.open(key("a"))
		w.expect(2, 2)
	})
}

// TestPoolTakesABurst opens more streams at once than eight connections carry.
func TestPoolTakesABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, PoolConfig{}, hold)
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() { w.open(key("a")) })
		}
		all.Wait()
		w.expect(10, 10)
	})
}

func TestPoolHeedsPeersLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, PoolConfig{}, hold)
		w.cfg.MaxStreams = 10
		for range 25 {
			w.open(key("a"))
			synctest.Wait() // or the first connection would learn of the limit by REFUSED_STREAM, which is retried once
		}
		w.expect(3, 3)
	})
}

func TestPoolReplacesDrainingConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, PoolConfig{}, echo)
		old := w.open(key("a"))
		w.servers[0].Drain()
		synctest.Wait()
		w.open(key("a")).Close()
		w.expect(2, 2)
		// The old stream is unharmed and its connection goes with it.
		io.WriteString(old, "x")
		old.CloseWrite()
		if b, err := io.ReadAll(old); string(b) != "x" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
		w.expect(2, 1)
	})
}

// TestPoolSpreadsResets: a peer that counts resets against a flood must not end a connection that others use.
func TestPoolSpreadsResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, PoolConfig{}, echo)
		held := w.open(key("a"))
		for range maxResets + 10 {
			w.open(key("a")).Reset(Cancel)
		}
		w.expect(2, 2)
		io.WriteString(held, "x")
		held.CloseWrite()
		if b, err := io.ReadAll(held); string(b) != "x" || err != nil {
			t.Errorf("a stream of the connection before: %q, %v", b, err)
		}
		w.expect(2, 1)
	})
}

// TestPoolRetriesOnLostConnection loses the connection between CONNECT and its answer.
func TestPoolRetriesOnLostConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w *world
		first := true
		w = newWorld(t, PoolConfig{}, func(ctx context.Context, in *Incoming) {
			w.mu.Lock()
			lose := first
			first = false
			w.mu.Unlock()
			if lose {
				w.servers[0].c.nc.Close()
				return
			}
			hold(ctx, in)
		})
		w.open(key("a"))
		w.expect(2, 1)
	})
}

func TestPoolReleasesIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, PoolConfig{}, hold)
		busy, idle := w.open(key("busy")), w.open(key("idle"))
		idle.Close()
		time.Sleep(4 * time.Minute)
		w.expect(2, 2)
		time.Sleep(2 * time.Minute)
		w.expect(2, 1)
		busy.Close()
		time.Sleep(4 * time.Minute)
		w.expect(2, 1)
		time.Sleep(2 * time.Minute)
		w.expect(2, 0)
		if len(w.pool.peers) != 0 {
			t.Error("keys are kept")
		}
	})
}

func TestPoolEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, PoolConfig{}, echo)
		old, other := w.open(key("a")), w.open(key("b"))
		w.pool.Evict(func(k Key) bool { return k.Dest == "a" })
		w.open(key("a"))
		w.expect(3, 2) // and the evicted one, no longer counted
		for _, s := range []*Stream{old, other} {
			io.WriteString(s, "x")
			if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
				t.Error(err)
			}
		}
		old.Close()
	})
}

func TestPoolReportsDialErrorToAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, PoolConfig{}, hold)
		w.delay, w.refuse = time.Second, errors.New("no route")
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if _, err := w.pool.Open(w.ctx, key("a"), "10.0.0.1:80", nil); !errors.Is(err, w.refuse) {
					t.Errorf("got %v", err)
				}
			})
		}
		all.Wait()
		w.expect(1, 0)
	})
}

// TestPoolDialOutlivesItsCaller gives up the Open that began a dial others wait for.
func TestPoolDialOutlivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, PoolConfig{}, hold)
		w.delay = time.Second
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := w.pool.Open(ctx, key("a"), "10.0.0.1:80", nil); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
		time.Sleep(time.Millisecond)
		all.Go(func() { w.open(key("a")) })
		time.Sleep(time.Millisecond)
		cancel()
		all.Wait()
		w.expect(1, 1)
	})
}

func TestPoolDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, PoolConfig{}, echo)
		s := w.open(key("a"))
		w.pool.Drain()
		if _, err := w.pool.Open(w.ctx, key("a"), "10.0.0.1:80", nil); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v", err)
		}
		w.expect(1, 1)
		s.CloseWrite()
		if _, err := io.ReadAll(s); err != nil {
			t.Error(err)
		}
		w.expect(1, 0)
	})
}
