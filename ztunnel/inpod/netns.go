package inpod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// NetnsID tells namespaces apart: two descriptors with the same ID are of the same namespace.
type NetnsID struct{ Dev, Ino uint64 }

func (id NetnsID) String() string { return fmt.Sprintf("%d:%d", id.Dev, id.Ino) }

// Netns is the network namespace of a pod. It stays usable, and the namespace alive, until Close. Its methods may be
// called from any goroutine.
type Netns struct {
	id   NetnsID
	file *os.File
	home *os.File // where threads return to
	same bool     // the namespace is home already
}

// NewNetns takes over f, which must be a network namespace.
func NewNetns(f *os.File) (*Netns, error) {
	id, err := check(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open own network namespace: %w", err)
	}
	homeID, err := identify(home)
	if err != nil {
		f.Close()
		home.Close()
		return nil, err
	}
	return &Netns{id: id, file: f, home: home, same: id == homeID}, nil
}

// OpenNetns opens a namespace by path, such as /proc/<pid>/ns/net or a file below /var/run/netns.
func OpenNetns(path string) (*Netns, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return NewNetns(f)
}

// ID identifies the namespace.
func (n *Netns) ID() NetnsID { return n.id }

// Close lets go of the namespace. Sockets opened in it live on.
func (n *Netns) Close() error { return errors.Join(n.file.Close(), n.home.Close()) }

func identify(f *os.File) (NetnsID, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return NetnsID{}, fmt.Errorf("network namespace: %w", err)
	}
	var st unix.Stat_t
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.Fstat(int(fd), &st) }); err != nil {
		return NetnsID{}, fmt.Errorf("network namespace: %w", err)
	}
	if serr != nil {
		return NetnsID{}, fmt.Errorf("network namespace: fstat: %w", serr)
	}
	return NetnsID{Dev: uint64(st.Dev), Ino: st.Ino}, nil
}

// check refuses descriptors that are no network namespace before any thread follows them.
// istio/ztunnel src/inpod/netns.rs and packet.rs: NS_GET_NSTYPE, else the file system's magic number.
func check(f *os.File) (NetnsID, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return NetnsID{}, fmt.Errorf("network namespace: %w", err)
	}
	var nserr error
	if err := raw.Control(func(fd uintptr) { nserr = checkType(int(fd)) }); err != nil {
		return NetnsID{}, fmt.Errorf("network namespace: %w", err)
	}
	if nserr != nil {
		return NetnsID{}, nserr
	}
	return identify(f)
}

func checkType(fd int) error {
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err == nil {
		if kind != unix.CLONE_NEWNET {
			return fmt.Errorf("descriptor is a namespace of kind %#x, not a network namespace", kind)
		}
		return nil
	}
	// Kernels before 4.11 do not know the ioctl; there the file system has to do.
	var fs unix.Statfs_t
	if ferr := unix.Fstatfs(fd, &fs); ferr != nil {
		return fmt.Errorf("descriptor is no network namespace: ioctl: %w, fstatfs: %w", err, ferr)
	}
	if fs.Type != unix.NSFS_MAGIC && fs.Type != unix.PROC_SUPER_MAGIC {
		return fmt.Errorf("descriptor is no network namespace: %w, and its file system is %#x", err, fs.Type)
	}
	return nil
}

// Do runs fn with the calling thread inside the namespace and waits for it. Sockets fn creates belong to the namespace
// for good; fn should do no more than that, and must not start goroutines that expect to be inside.
func (n *Netns) Do(fn func() error) error {
	return n.inside(func(leave func() error) error {
		err := fn()
		return errors.Join(err, leave())
	})
}

// inside runs fn on a thread of its own that has entered the namespace. fn calls leave when it needs the namespace no
// more. A thread that cannot return home is never unlocked, so that it dies with its goroutine instead of opening
// other people's sockets in the pod.
func (n *Netns) inside(fn func(leave func() error) error) error {
	if n.same {
		return fn(func() error { return nil })
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := setns(n.file); err != nil {
			// The thread never left.
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter network namespace %s: %w", n.id, err)
			return
		}
		left := false
		done <- fn(func() error {
			if left {
				return nil
			}
			if err := setns(n.home); err != nil {
				return fmt.Errorf("leave network namespace %s: %w", n.id, err)
			}
			left = true
			runtime.UnlockOSThread()
			return nil
		})
	}()
	return <-done
}

func setns(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.Setns(int(fd), unix.CLONE_NEWNET) }); err != nil {
		return err
	}
	return serr
}

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
