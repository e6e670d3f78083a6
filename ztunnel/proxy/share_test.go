package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/ztunnel/inpod"
)

// sharing is one of several proxies at a port: it counts whom it serves.
type sharing struct {
	net.Listener
	served  atomic.Int64
	serving sync.WaitGroup
}

func startSharing(t *testing.T, at string) *sharing {
	t.Helper()
	lc := net.ListenConfig{Control: sockopts(reusePort)}
	lc.SetMultipathTCP(false) // as inside pods; the kernel cannot steer those
	l, err := lc.Listen(t.Context(), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	take(l)
	s := &sharing{Listener: l}
	s.serving.Go(func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			s.served.Add(1)
			_, _ = c.Write([]byte("k"))
			c.Close()
		}
	})
	t.Cleanup(s.end)
	return s
}

// waiting is how many are in its queue, which is where the kernel says it of a listening socket: net/ipv4/tcp.c tcp_get_info.
func (s *sharing) waiting(t *testing.T) (n uint32) {
	t.Helper()
	raw, err := s.Listener.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info *unix.TCPInfo
	if ctlErr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); ctlErr != nil || err != nil {
		t.Fatal(ctlErr, err)
	}
	return info.Unacked
}

// end closes it, and with it resets who is in its queue.
func (s *sharing) end() {
	s.Close()
	s.serving.Wait()
}

func visit(ctx context.Context, at string) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", at)
	if err != nil {
		return err
	}
	defer c.Close()
	n, err := c.Read(make([]byte, 1))
	if n == 0 {
		return errors.Join(errors.New("not served"), err)
	}
	return nil
}

// Who came first keeps the port until it leaves, the next upgrade too. One that comes and goes beside it is sent nobody.
func TestPortIsKeptUntilLeft(t *testing.T) {
	current := startSharing(t, "127.0.0.1:0")
	at := current.Addr().String()
	// serves has all of 50 callers served by one, and none by the other.
	serves := func(one, other *sharing) {
		t.Helper()
		before := other.served.Load()
		for range 50 {
			if err := visit(t.Context(), at); err != nil {
				t.Fatal(err)
			}
		}
		if n := other.served.Load() - before; n > 0 {
			t.Errorf("the wrong one was sent %d of 50 callers", n)
		}
	}
	for range 3 {
		broken := startSharing(t, at)
		serves(current, broken)
		broken.end()
		next := startSharing(t, at)
		serves(current, next)
		leave(current.Listener)
		serves(next, current)
		current.end()
		serves(next, current)
		current = next
	}
}

// A proxy that was started beside another, and is taken back before its turn, is sent nobody while it leaves either.
func TestDrainBeforeItsTurn(t *testing.T) {
	w := start(t, cartWorld(t), nil)
	// One that comes when there are too many is refused; what matters is by whom.
	call := func() {
		if c, err := w.ns.Dial(t.Context(), "tcp", netip.AddrPort{}, netip.MustParseAddrPort("10.0.0.1:15008"), nil); err == nil {
			c.Close()
		}
	}
	call()
	w.until("the first is served", w.pod.served.Load)
	own, err := w.ns.Dup()
	if err != nil {
		t.Fatal(err)
	}
	next := New(w.proxy.cfg, w.proxy.Deps)
	if err := next.Start(t.Context(), inpod.Pod{UID: "uid-1", Info: w.pod.info, Netns: own}); err != nil {
		t.Fatal(err)
	}
	pod := next.pods["uid-1"]
	ctx, cancel := context.WithCancel(t.Context())
	running := make(chan error, 1)
	go func() { running <- next.Run(ctx) }()
	drained := make(chan struct{})
	go func() { defer close(drained); next.Drain(ctx) }()
	for drains := true; drains; {
		call()
		select {
		case <-drained:
			drains = false
		default:
		}
	}
	cancel()
	if err := <-running; err != nil {
		t.Error(err)
	}
	if pod.served.Load() {
		t.Error("callers were sent to it")
	}
}

// While one proxy after the other leaves, nobody who calls is reset.
func TestNobodyIsResetBetweenProxies(t *testing.T) {
	current := startSharing(t, "127.0.0.1:0")
	at := current.Addr().String()
	var calling sync.WaitGroup
	var called, lost atomic.Int64
	done := make(chan struct{})
	for range 20 {
		calling.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := visit(t.Context(), at); err != nil {
					lost.Add(1)
				}
				called.Add(1)
			}
		})
	}
	for range 20 {
		next := startSharing(t, at)
		leave(current.Listener)
		// On loopback no packet is lost: those who call before others are served have arrived when those are.
		enough := called.Load() + 200
		until(t, "200 more callers", func() bool { return called.Load() >= enough })
		until(t, "nobody waits for it", func() bool { return current.waiting(t) == 0 })
		current.end()
		current = next
	}
	close(done)
	calling.Wait()
	if n := lost.Load(); n > 0 {
		t.Errorf("%d of %d callers were not served", n, called.Load())
	}
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("never: ", what)
		}
	}
}
