package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// path leads from a dialling application to a listening one.
type path struct {
	dial func() *net.TCPConn
	app  *net.TCPListener // the listening application's side
	errs chan error       // how each copy ended
}

func listen(t testing.TB) *net.TCPListener {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func dial(t testing.TB, to net.Addr) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, to.(*net.TCPAddr))
	if err != nil {
		t.Error(err)
		return nil
	}
	return c
}

// proxied accepts on a listener of its own and hands each connection to carry.
func proxied(t testing.TB, errs chan error, carry func(context.Context, *net.TCPConn) error) *net.TCPListener {
	ln := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			running.Go(func() {
				err := carry(ctx, c)
				select {
				case errs <- err:
				default:
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); cancel(); running.Wait() })
	return ln
}

// direct is one proxy between two sockets.
func direct(t testing.TB) path {
	p := path{app: listen(t), errs: make(chan error, 16)}
	ln := proxied(t, p.errs, func(ctx context.Context, c *net.TCPConn) error {
		up := dial(t, p.app.Addr())
		_, err := Copy(ctx, c, up, Options{})
		return err
	})
	p.dial = func() *net.TCPConn { return dial(t, ln.Addr()) }
	return p
}

// tunnelPath is two proxies with a pooled tunnel between them.
func tunnelPath(t testing.TB, cfg hbone.Config) path {
	plain := func(c net.Conn) net.Conn { return c }
	return tunnelOver(t, cfg, plain, plain)
}

func tunnelOver(t testing.TB, cfg hbone.Config, client, server func(net.Conn) net.Conn) path {
	p := path{app: listen(t), errs: make(chan error, 16)}
	inbound := proxied(t, make(chan error), func(ctx context.Context, c *net.TCPConn) error {
		return hbone.Serve(ctx, server(c), cfg, func(ctx context.Context, in *hbone.Incoming) {
			up := dial(t, p.app.Addr())
			s, err := in.Accept(200)
			if err != nil {
				up.Close()
				return
			}
			_, err = Copy(ctx, s, up, Options{})
			select {
			case p.errs <- err:
			default:
			}
		})
	})
	pool := hbone.NewPool(hbone.PoolConfig{Config: cfg, Dial: func(ctx context.Context, key hbone.Key) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", key.Addr.String())
		if err != nil {
			return nil, err
		}
		return client(c), nil
	}})
	key := hbone.Key{Addr: netip.MustParseAddrPort(inbound.Addr().String())}
	outbound := proxied(t, p.errs, func(ctx context.Context, c *net.TCPConn) error {
		s, err := pool.Open(ctx, key, p.app.Addr().String(), nil)
		if err != nil {
			c.Close()
			return err
		}
		_, err = Copy(ctx, c, s, Options{})
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { pool.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	p.dial = func() *net.TCPConn { return dial(t, outbound.Addr()) }
	return p
}

func eachPath(t *testing.T, f func(t *testing.T, p path)) {
	t.Run("sockets", func(t *testing.T) { f(t, direct(t)) })
	t.Run("tunnel", func(t *testing.T) { f(t, tunnelPath(t, hbone.Config{})) })
	t.Run("narrow tunnel", func(t *testing.T) {
		// Windows below one buffer exercise splitting and every kind of waiting.
		f(t, tunnelPath(t, hbone.Config{StreamWindow: 20_000, ConnWindow: 70_000, MaxFrame: 16 << 10}))
	})
}

// payload makes n bytes that no other seed makes.
func payload(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	rand.NewChaCha8(key).Read(b)
	return b
}

// TestHalfClosedTransfers sends random amounts both ways, each side ending its direction on its own.
func TestHalfClosedTransfers(t *testing.T) {
	eachPath(t, func(t *testing.T, p path) {
		total := 1000
		if testing.Short() {
			total = 100
		}
		var server sync.WaitGroup
		server.Go(func() {
			for range total {
				c, err := p.app.AcceptTCP()
				if err != nil {
					t.Error(err)
					return
				}
				server.Go(func() { exchange(t, c, true) })
			}
		})
		var clients sync.WaitGroup
		jobs := make(chan struct{})
		for range 16 {
			clients.Go(func() {
				for range jobs {
					exchange(t, p.dial(), false)
				}
			})
		}
		for range total {
			jobs <- struct{}{}
		}
		close(jobs)
		clients.Wait()
		server.Wait()
	})
}

// exchange sends a length and that many bytes, in pieces, and expects the same of the other side.
func exchange(t *testing.T, c *net.TCPConn, server bool) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	size := rand.IntN(1 << rand.IntN(20))
	seed := rand.Uint64() & 0xffffff
	var both sync.WaitGroup
	both.Go(func() {
		data := append([]byte(fmt.Sprintf("%08d%08d", size, seed)), payload(seed, size)...)
		for len(data) > 0 {
			n := min(len(data), 1+rand.IntN(100_000))
			if _, err := c.Write(data[:n]); err != nil {
				t.Errorf("write: %v", err)
				return
			}
			data = data[n:]
		}
		if err := c.CloseWrite(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if server && rand.IntN(4) == 0 {
		both.Wait() // answer before listening at all
	}
	got, err := io.ReadAll(c)
	both.Wait()
	if err != nil || len(got) < 16 {
		t.Errorf("server %v: read %d bytes: %v", server, len(got), err)
		return
	}
	var wantSize int
	var wantSeed uint64
	fmt.Sscanf(string(got[:16]), "%08d%08d", &wantSize, &wantSeed)
	if !bytes.Equal(got[16:], payload(wantSeed, wantSize)) {
		t.Errorf("server %v: got %d bytes, want %d, or other ones", server, len(got)-16, wantSize)
	}
}

// TestEOFStaysHalf checks that one end's EOF leaves the other direction usable for as long as it likes.
func TestEOFStaysHalf(t *testing.T) {
	eachPath(t, func(t *testing.T, p path) {
		c := p.dial()
		defer c.Close()
		up, err := p.app.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		defer up.Close()
		c.CloseWrite()
		if b, err := io.ReadAll(up); len(b) != 0 || err != nil {
			t.Fatalf("got %q, %v", b, err)
		}
		for i := range 10 {
			msg := fmt.Sprintf("late %d", i)
			io.WriteString(up, msg)
			b := make([]byte, len(msg))
			if _, err := io.ReadFull(c, b); err != nil || string(b) != msg {
				t.Fatalf("got %q, %v", b, err)
			}
		}
		up.Close()
		if b, err := io.ReadAll(c); len(b) != 0 || err != nil {
			t.Fatalf("got %q, %v", b, err)
		}
		for range cap(p.errs) / 8 {
			if err := <-p.errs; err != nil {
				t.Errorf("copy ended with %v", err)
			}
			if len(p.errs) == 0 {
				break
			}
		}
	})
}

func TestResetPropagates(t *testing.T) {
	eachPath(t, func(t *testing.T, p path) {
		for _, who := range []string{"dialler", "listener"} {
			t.Run(who, func(t *testing.T) {
				c := p.dial()
				defer c.Close()
				up, err := p.app.AcceptTCP()
				if err != nil {
					t.Fatal(err)
				}
				defer up.Close()
				io.WriteString(c, "x")
				io.ReadFull(up, make([]byte, 1))
				from, to := c, up
				if who == "listener" {
					from, to = up, c
				}
				from.SetLinger(0)
				from.Close()
				to.SetDeadline(time.Now().Add(10 * time.Second))
				if _, err := io.ReadAll(to); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("other side saw %v, want a reset", err)
				}
				if err := <-p.errs; err == nil {
					t.Error("the copy reports an orderly end")
				}
			})
		}
	})
}

// TestStalledReaderHoldsOnlyItself fills one connection whose application does not read, and uses another.
func TestStalledReaderHoldsOnlyItself(t *testing.T) {
	eachPath(t, func(t *testing.T, p path) {
		if _, ok := t.Deadline(); !ok {
			t.Log("no deadline: a deadlock would hang")
		}
		stalled := p.dial()
		defer stalled.Close()
		up, err := p.app.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		defer up.Close()
		sent := make(chan int)
		go func() {
			n, _ := stalled.Write(make([]byte, 64<<20))
			sent <- n
		}()
		// The narrow tunnel's connection window is small enough for one stream to eat half of it, no more.
		for range 20 {
			c := p.dial()
			peer, err := p.app.AcceptTCP()
			if err != nil {
				t.Fatal(err)
			}
			c.SetDeadline(time.Now().Add(10 * time.Second))
			io.WriteString(c, "ping")
			if _, err := io.ReadFull(peer, make([]byte, 4)); err != nil {
				t.Fatal(err)
			}
			peer.Close()
			if _, err := io.ReadAll(c); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		select {
		case n := <-sent:
			t.Errorf("a peer that reads nothing took %d bytes", n)
		default:
		}
		stalled.Close()
		<-sent
	})
}

func TestContextCutsCopy(t *testing.T) {
	a1, a2 := socketPair(t)
	b1, b2 := socketPair(t)
	cut := errors.New("policy changed")
	ctx, cancel := context.WithCancelCause(t.Context())
	io.WriteString(a2, "hello")
	time.AfterFunc(0, func() {
		io.ReadFull(b2, make([]byte, 5))
		cancel(cut)
	})
	var seen int
	res, err := Copy(ctx, a1, b1, Options{OnAtoB: func(n int) { seen += n }})
	if !errors.Is(err, cut) || res.AtoB != 5 || seen != 5 {
		t.Errorf("got %+v, %v, saw %d", res, err, seen)
	}
	if _, err := io.ReadAll(a2); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("application saw %v, want a reset", err)
	}
}

func socketPair(t *testing.T) (x, y *net.TCPConn) {
	ln := listen(t)
	x = dial(t, ln.Addr())
	y, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close(); y.Close() })
	return x, y
}

// TestResetsLeaveNothing opens and resets connections in quick succession; every one must end at the other side.
func TestResetsLeaveNothing(t *testing.T) {
	eachPath(t, func(t *testing.T, p path) {
		const workers, each = 16, 100
		var apps, clients sync.WaitGroup
		apps.Go(func() {
			for range workers * each {
				c, err := p.app.AcceptTCP()
				if err != nil {
					t.Error(err)
					return
				}
				apps.Go(func() {
					defer c.Close()
					c.SetDeadline(time.Now().Add(20 * time.Second))
					if _, err := io.Copy(c, c); errors.Is(err, os.ErrDeadlineExceeded) {
						t.Error("a connection did not end")
					}
				})
			}
		})
		for range workers {
			clients.Go(func() {
				for i := range each {
					c := p.dial()
					c.Write(make([]byte, 1+i*1000))
					io.ReadFull(c, make([]byte, 1))
					c.SetLinger(0)
					c.Close()
				}
			})
		}
		clients.Wait()
		apps.Wait()
	})
}

// TestBulkResetsLeaveNothing resets connections in the middle of a lot of data.
func TestBulkResetsLeaveNothing(t *testing.T) {
	eachPath(t, func(t *testing.T, p path) {
		const conns = 64
		var apps, clients sync.WaitGroup
		apps.Go(func() {
			for range conns {
				c, err := p.app.AcceptTCP()
				if err != nil {
					t.Error(err)
					return
				}
				apps.Go(func() {
					defer c.Close()
					c.SetDeadline(time.Now().Add(30 * time.Second))
					if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
						t.Error("a connection did not end")
					}
				})
			}
		})
		stop := time.Now().Add(300 * time.Millisecond)
		for range conns {
			c := p.dial()
			clients.Go(func() {
				c.SetDeadline(stop)
				for data := make([]byte, 256<<10); ; {
					if _, err := c.Write(data); err != nil {
						break
					}
				}
				c.SetLinger(0)
				c.Close()
			})
		}
		clients.Wait()
		apps.Wait()
	})
}
