package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

var errSelfConnect = fmt.Errorf("the socket connected to itself: %w", syscall.ECONNREFUSED)

// Control adjusts a socket before it is bound or connected, as in net.ListenConfig and net.Dialer.
type Control func(network, address string, c syscall.RawConn) error

// Listen opens a TCP listener inside the namespace. The network is "tcp", "tcp4" or "tcp6"; a "tcp" listener on an
// unspecified address accepts both families.
func (n *Netns) Listen(ctx context.Context, network string, addr netip.AddrPort, control Control) (net.Listener, error) {
	lc := net.ListenConfig{Control: control}
	if network == "tcp" && addr.Addr() == netip.IPv6Unspecified() {
		lc.Control = bothFamilies(control)
	}
	// An MPTCP listener cannot enter a sockmap, and a pod's app never asked for MPTCP.
	lc.SetMultipathTCP(false)
	var ln net.Listener
	err := n.Do(func() (err error) {
		ln, err = lc.Listen(ctx, network, addr.String())
		return err
	})
	if err != nil {
		if ln != nil {
			ln.Close()
		}
		return nil, fmt.Errorf("listen on %s inside the pod: %w", addr, err)
	}
	return ln, nil
}

// bothFamilies makes a wildcard socket accept IPv4 too. Package net decides that by what the proxy's own namespace can
// do, which says nothing about the pod's.
func bothFamilies(control Control) Control {
	return func(network, address string, c syscall.RawConn) error {
		var serr error
		if err := c.Control(func(fd uintptr) {
			serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
		}); err != nil {
			return err
		}
		if serr != nil {
			return fmt.Errorf("accept both address families: %w", serr)
		}
		if control == nil {
			return nil
		}
		return control(network, address, c)
	}
}

// ListenPacket opens a UDP socket inside the namespace.
func (n *Netns) ListenPacket(ctx context.Context, network string, addr netip.AddrPort, control Control) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: control}
	var pc net.PacketConn
	err := n.Do(func() (err error) {
		pc, err = lc.ListenPacket(ctx, network, addr.String())
		return err
	})
	if err != nil {
		if pc != nil {
			pc.Close()
		}
		return nil, fmt.Errorf("listen on %s inside the pod: %w", addr, err)
	}
	return pc.(*net.UDPConn), nil
}

// Dial connects from inside the namespace: the socket is made there, the waiting happens outside. local is the source
// address, or the zero AddrPort. The network is "tcp" or "udp".
func (n *Netns) Dial(ctx context.Context, network string, local, remote netip.AddrPort, control Control) (net.Conn, error) {
	var conn net.Conn
	err := n.inside(func(leave func() error) (err error) {
		made := false
		d := net.Dialer{Control: func(network, address string, c syscall.RawConn) error {
			// Package net makes a second socket when the first one connected to itself; that one would be outside.
			if made {
				return errSelfConnect
			}
			made = true
			// The socket exists now and keeps its namespace; holding the thread there while the peer thinks would
			// cost a thread per connection.
			if err := leave(); err != nil {
				return err
			}
			if control == nil {
				return nil
			}
			return control(network, address, c)
		}}
		d.SetMultipathTCP(false)
		if local.IsValid() {
			d.LocalAddr = localAddr(network, local)
		}
		conn, err = d.DialContext(ctx, network, remote.String())
		return errors.Join(err, leave())
	})
	if err != nil {
		if conn != nil {
			conn.Close()
		}
		return nil, err
	}
	return conn, nil
}

func localAddr(network string, local netip.AddrPort) net.Addr {
	if network == "udp" || network == "udp4" || network == "udp6" {
		return net.UDPAddrFromAddrPort(local)
	}
	return net.TCPAddrFromAddrPort(local)
}

// HasIPv6 reports whether the namespace has IPv6: a socket can be made and the loopback address is there.
func (n *Netns) HasIPv6() bool {
	err := n.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		sa := &unix.SockaddrInet6{}
		sa.Addr[15] = 1
		return unix.Bind(fd, sa)
	})
	return err == nil
}
