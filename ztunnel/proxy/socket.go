package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// soOriginalDst is SO_ORIGINAL_DST for IPv4 and IP6T_SO_ORIGINAL_DST for IPv6: the address a redirected connection was
// made to, as conntrack remembers it.
const soOriginalDst = 80

// originalDst returns where the application meant to go.
func originalDst(c *net.TCPConn) (netip.AddrPort, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	local := addrPort(c.LocalAddr())
	var dst netip.AddrPort
	ctlErr := raw.Control(func(fd uintptr) {
		if local.Addr().Is4() {
			dst, err = originalDst4(fd)
		} else {
			dst, err = originalDst6(fd)
		}
	})
	if err = errors.Join(ctlErr, err); err != nil {
		// Without a conntrack entry, or without conntrack, nothing was rewritten: the connection was made to the listener
		// itself, or given to it under the address that it was made to.
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOPROTOOPT) {
			return local, nil
		}
		return netip.AddrPort{}, fmt.Errorf("read original destination: %w", err)
	}
	return dst, nil
}

func originalDst4(fd uintptr) (netip.AddrPort, error) {
	var sa unix.RawSockaddrInet4
	size := uint32(unsafe.Sizeof(sa))
	if err := getsockopt(fd, unix.SOL_IP, unsafe.Pointer(&sa), &size); err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), port(&sa.Port)), nil
}

func originalDst6(fd uintptr) (netip.AddrPort, error) {
	var sa unix.RawSockaddrInet6
	size := uint32(unsafe.Sizeof(sa))
	if err := getsockopt(fd, unix.SOL_IPV6, unsafe.Pointer(&sa), &size); err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), port(&sa.Port)), nil
}

// port reads a port in network byte order.
func port(p *uint16) uint16 { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }

func getsockopt(fd uintptr, level int, to unsafe.Pointer, size *uint32) error {
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, uintptr(level), soOriginalDst, uintptr(to), uintptr(unsafe.Pointer(size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// addrPort is the unmapped form of a TCP address; a dual-stack listener reports IPv4 peers as ::ffff:a.b.c.d.
func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// control is a socket hook as net.ListenConfig and net.Dialer take it.
type control = func(network, address string, c syscall.RawConn) error

// sockopts builds a hook from options that are set one after the other.
func sockopts(opts ...func(fd int) error) control {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) {
			for _, o := range opts {
				if err = o(int(fd)); err != nil {
					return
				}
			}
		})
		return errors.Join(ctlErr, err)
	}
}

// marked exempts a socket's packets from redirection.
func marked(mark uint32) func(int) error {
	return func(fd int) error {
		return wrapOpt("SO_MARK", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)))
	}
}

// reusePort lets the next ztunnel bind the same ports before this one is gone.
func reusePort(fd int) error {
	return wrapOpt("SO_REUSEPORT", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
}

// transparent lets a socket carry an address that is not the host's: the real client's.
func transparent(fd int) error {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	if domain == unix.AF_INET6 {
		return wrapOpt("IPV6_TRANSPARENT", unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1))
	}
	return errors.Join(
		wrapOpt("IP_TRANSPARENT", unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)),
		wrapOpt("IP_FREEBIND", unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1)))
}

// answersAsOthers lets a listener answer from the address a connection was made to, where redirection does not rewrite it
// (BPF, TPROXY). A proxy that may not do so still serves where it is rewritten.
func answersAsOthers(fd int) error {
	_ = transparent(fd)
	return nil
}

// reuseAddr lets two connections from one spoofed address share a port as long as they go to different places.
func reuseAddr(fd int) error {
	return wrapOpt("SO_REUSEADDR", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
}

func wrapOpt(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("set %s: %w", name, err)
}
