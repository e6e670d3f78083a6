package netns

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// podNetns is a fresh namespace with its loopback interface up.
func podNetns(t *testing.T) *Netns {
	t.Helper()
	n, err := Make()
	if errors.Is(err, unix.EPERM) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	if err := n.Do(loopbackUp); err != nil {
		t.Fatal(err)
	}
	return n
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

func here(t *testing.T) ID {
	t.Helper()
	n, err := Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	return n.ID()
}

func TestSocketsInside(t *testing.T) {
	n := podNetns(t)
	home := here(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	marked := 0
	control := func(_, _ string, c syscall.RawConn) error {
		marked++
		return c.Control(func(uintptr) {})
	}
	for _, c := range []struct{ listen, dial string }{
		{"127.0.0.1:15001", "127.0.0.1:15001"},
		{"[::]:15006", "127.0.0.1:15006"},
		{"[::]:15008", "[::1]:15008"},
	} {
		ln, err := n.Listen(ctx, "tcp", netip.MustParseAddrPort(c.listen), control)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		remote := netip.MustParseAddrPort(c.dial)
		if out, err := net.DialTimeout("tcp", c.dial, time.Second); err == nil {
			out.Close()
			t.Errorf("%s is reachable outside the namespace", c.dial)
		}
		conn, err := n.Dial(ctx, "tcp", netip.AddrPort{}, remote, control)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(peer, make([]byte, 1)); err != nil {
			t.Error(err)
		}
		conn.Close()
		peer.Close()
	}
	if marked != 6 {
		t.Errorf("control ran %d times, want 6", marked)
	}

	pc, err := n.ListenPacket(ctx, "udp", netip.MustParseAddrPort("127.0.0.1:15053"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	local := netip.MustParseAddrPort("127.0.0.1:4053")
	uc, err := n.Dial(ctx, "udp", local, netip.MustParseAddrPort("127.0.0.1:15053"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer uc.Close()
	if _, err := uc.Write([]byte("q")); err != nil {
		t.Fatal(err)
	}
	pc.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, from, err := pc.ReadFromUDPAddrPort(make([]byte, 8)); err != nil || from != local {
		t.Errorf("datagram from %v: %v", from, err)
	}

	if _, err := n.Dial(ctx, "tcp", netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.1:1"), nil); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("closed port: %v", err)
	}
	if got := here(t); got != home {
		t.Errorf("thread stayed in %v", got)
	}
}

// A dial whose control function refuses must not leave anything behind, nor must a dial that the context ends.
func TestDialFails(t *testing.T) {
	n := podNetns(t)
	ctx := context.Background()
	no := errors.New("no")
	addr := netip.MustParseAddrPort("127.0.0.1:9")
	if _, err := n.Dial(ctx, "tcp", netip.AddrPort{}, addr, func(string, string, syscall.RawConn) error { return no }); !errors.Is(err, no) {
		t.Errorf("got %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := n.Dial(ended, "tcp", netip.AddrPort{}, addr, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := n.Listen(ctx, "tcp", netip.MustParseAddrPort("192.0.2.1:80"), nil); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("got %v", err)
	}
}

// A connection to itself must not be tried again with a socket of the wrong namespace.
func TestSelfConnect(t *testing.T) {
	n := podNetns(t)
	self := netip.MustParseAddrPort("127.0.0.1:40001")
	control := func(_, _ string, c syscall.RawConn) error {
		var serr error
		err := c.Control(func(fd uintptr) {
			serr = unix.Bind(int(fd), &unix.SockaddrInet4{Port: int(self.Port()), Addr: self.Addr().As4()})
		})
		return errors.Join(err, serr)
	}
	conn, err := n.Dial(context.Background(), "tcp", netip.AddrPort{}, self, control)
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v", err)
	}
}

func TestHasIPv6(t *testing.T) {
	n := podNetns(t)
	if !n.HasIPv6() {
		t.Skip("this kernel has no IPv6")
	}
	if err := n.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0)
	}); err != nil {
		t.Skip("cannot switch IPv6 off:", err)
	}
	if n.HasIPv6() {
		t.Error("IPv6 is off, HasIPv6 says it is there")
	}
}
