package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/ca/catest"
	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/ambit-mesh/ambit/ztunnel/inpod"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// world is one pod, shop/cart at 10.0.0.1, served by a real Proxy in a network namespace of its own, in which all of
// 10.0.0.0/8 is on loopback: peers and applications of any address live there too. Nothing is redirected, so port 15001
// is entered by calling reach.
type world struct {
	t     *testing.T
	ns    *netns.Netns
	ca    *catest.CA
	state *state.State
	proxy *Proxy
	pod   *pod

	mu  sync.Mutex
	log bytes.Buffer // guarded by mu
}

func (w *world) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(b)
}

// catestManager gives out one certificate per identity.
type catestManager struct {
	ca *catest.CA
	mu sync.Mutex
	m  map[identity.ID]*certs.SVID
}

func (c *catestManager) Get(ctx context.Context, id identity.ID) (*certs.SVID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.m[id]; s != nil {
		return s, nil
	}
	s, err := c.ca.Sign(ctx, id)
	c.m[id] = s
	return s, err
}

func (c *catestManager) Hold(identity.ID) func() { return func() {} }

func start(t *testing.T, st *state.State, change func(*Config)) *world {
	t.Helper()
	synced := make(chan struct{})
	close(synced)
	return startSynced(t, st, change, synced)
}

// startSynced starts a world whose control plane has answered once synced is closed.
func startSynced(t *testing.T, st *state.State, change func(*Config), synced <-chan struct{}) *world {
	t.Helper()
	ns, err := netns.Make()
	if errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EPERM) {
		t.Skip("needs CAP_SYS_ADMIN to make a network namespace")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(loopbackAll); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ns: ns, ca: catest.New(), state: st}
	levels, err := telemetry.NewLevels("info")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		ClusterID: "Kubernetes", ClusterDomain: "cluster.local", TrustDomain: "cluster.local", Mark: 0x539, OriginalSource: true,
		PortReuse: true, ResponseBaggage: true, MaxConnections: 100, MaxTunnels: 100, MaxStreams: 100, PoolIdle: time.Minute,
	}
	if change != nil {
		change(&cfg)
	}
	w.proxy = New(cfg, Deps{
		State: st, Certificates: &catestManager{ca: w.ca, m: map[identity.ID]*certs.SVID{}}, Synced: synced,
		Recorder: telemetry.New(telemetry.Options{Logs: telemetry.NewLogs(w, false, levels)}), Logger: slog.New(slog.DiscardHandler),
		Resolver: noNames{},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.proxy.Run(ctx) }()
	own, err := ns.Dup()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.proxy.Start(ctx, inpod.Pod{UID: "uid-1", Info: inpod.Info{Namespace: "shop", Name: "cart", ServiceAccount: "cart-sa"}, Netns: own}); err != nil {
		t.Fatal(err)
	}
	w.pod = w.proxy.pods["uid-1"]
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		ns.Close()
	})
	return w
}

type noNames struct{}

func (noNames) Resolve(context.Context, string) ([]netip.Addr, error) {
	return nil, errors.New("no names here")
}

// loopbackAll brings lo up and puts 10.0.0.1/8 on it, which makes every address of the range local.
func loopbackAll() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	up, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	up.SetUint16(unix.IFF_UP)
	alias, err := unix.NewIfreq("lo:1")
	if err != nil {
		return err
	}
	mask, err := unix.NewIfreq("lo:1")
	if err != nil {
		return err
	}
	return errors.Join(
		unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, up),
		alias.SetInet4Addr([]byte{10, 0, 0, 1}), unix.IoctlIfreq(fd, unix.SIOCSIFADDR, alias),
		mask.SetInet4Addr([]byte{255, 0, 0, 0}), unix.IoctlIfreq(fd, unix.SIOCSIFNETMASK, mask))
}

// app is an application that answers every byte it is sent, and remembers who called.
type app struct {
	l     net.Listener
	calls chan call
}

type call struct {
	from netip.AddrPort
	conn net.Conn
}

// listen runs an application; the test takes its connections from calls and must answer itself.
func (w *world) listen(addr string) *app {
	w.t.Helper()
	l, err := w.ns.Listen(w.t.Context(), "tcp", netip.MustParseAddrPort(addr), sockopts(reusePort))
	if err != nil {
		w.t.Fatal(err)
	}
	a := &app{l: l, calls: make(chan call, 16)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			a.calls <- call{addrPort(c.RemoteAddr()), c}
		}
	})
	w.t.Cleanup(func() { l.Close(); wg.Wait() })
	return a
}

func (a *app) next(t *testing.T) call {
	t.Helper()
	select {
	case c := <-a.calls:
		t.Cleanup(func() { c.conn.Close() })
		_ = c.conn.SetDeadline(time.Now().Add(testLimit))
		return c
	case <-time.After(testLimit):
		t.Fatal("nobody called")
		return call{}
	}
}

// testLimit is how long anything may take that takes no time.
const testLimit = 10 * time.Second

// dial makes a TCP connection inside the namespace.
func (w *world) dial(from, to string) net.Conn {
	w.t.Helper()
	c, err := w.tryDial(from, to)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// tryDial is for connections that may be refused: a reset can arrive before the dial has even returned.
func (w *world) tryDial(from, to string) (net.Conn, error) {
	w.t.Helper()
	c, err := w.ns.Dial(w.t.Context(), "tcp", netip.AddrPortFrom(netip.MustParseAddr(from), 0), netip.MustParseAddrPort(to), nil)
	if err != nil {
		return nil, err
	}
	w.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(testLimit))
	return c, nil
}

// tunnel connects to port 15008 of the pod as a service account, from an address.
func (w *world) tunnel(from, namespace, account string) *hbone.ClientConn {
	w.t.Helper()
	id := identity.ID{TrustDomain: "cluster.local", Namespace: namespace, ServiceAccount: account}
	conn := tls.Client(w.dial(from, "10.0.0.1:15008"), certs.Policy{}.ClientConfig(w.ca.MustSVID(id.String()), []identity.ID{w.pod.id}))
	if err := conn.HandshakeContext(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return w.client(conn)
}

// client speaks HBONE on a connection that has shaken hands.
func (w *world) client(conn *tls.Conn) *hbone.ClientConn {
	_ = conn.SetDeadline(time.Time{})
	client := hbone.Client(conn, hbone.Config{})
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = client.Run(ctx) }()
	w.t.Cleanup(func() { cancel(); <-done })
	return client
}

// open asks for a connection through a tunnel.
func (w *world) open(c *hbone.ClientConn, authority string, fields ...hbone.Header) (*hbone.Stream, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), testLimit)
	defer cancel()
	return c.Open(ctx, authority, fields)
}

// logged waits for an access-log line that contains all of the texts.
func (w *world) logged(want ...string) string {
	w.t.Helper()
	deadline := time.Now().Add(testLimit)
	for {
		w.mu.Lock()
		text := w.log.String()
		w.mu.Unlock()
		for line := range strings.Lines(text) {
			found := true
			for _, s := range want {
				found = found && strings.Contains(line, s)
			}
			if found {
				return line
			}
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("no line with %q in:\n%s", want, text)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// until polls a condition.
func (w *world) until(what string, cond func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(testLimit)
	for !cond() {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
