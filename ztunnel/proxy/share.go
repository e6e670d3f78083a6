package proxy

import (
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Two proxies listen on the same ports of a pod while one replaces the other (SO_REUSEPORT). What waits in the queue of a socket
// that closes is lost: datagrams without a word, connections by a reset, unless net.ipv4.tcp_migrate_req is set, which no
// container without privileges can do. So the one that leaves first has the kernel choose the other for what is new, takes
// what it was given before, and only then closes.

// The sockets of a port are numbered in the order in which they joined; the last one moves up when one before it closes.
const (
	firstSocket  = 0
	secondSocket = 1
)

// giveTo has the kernel give what arrives at the port of c to one of its sockets. When there is no such socket the kernel
// chooses as ever.
func giveTo(c any, socket uint32) {
	choice := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: socket}
	withFD(c, func(fd int) {
		_ = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &unix.SockFprog{Len: 1, Filter: &choice})
	})
}

// takeShare undoes what giveTo of an earlier proxy has left at the port, which the last socket hands down.
func takeShare(c any) {
	withFD(c, func(fd int) { _ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_REUSEPORT_BPF, 0) })
}

func withFD(c any, do func(fd int)) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := sc.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { do(int(fd)) })
	}
}

// listener shares its port with those of other proxies.
type listener struct {
	net.Listener
	given atomic.Int64 // when the port was last given to another socket, in Unix nanoseconds; 0 before leave
	to    atomic.Uint32
}

func share(l net.Listener) *listener {
	takeShare(l)
	return &listener{Listener: l}
}

// leave gives the port to the other socket. Connections the kernel has chosen this one for still come; see lastCallers.
func (l *listener) leave() { l.give(secondSocket) }

// lastCallers is how long a connection may take from the kernel's choice of a socket, at its first packet, into that socket's
// queue: until the handshake is complete, with one of its packets lost on the way (RFC 6298 §2: 1 s).
const lastCallers = 1500 * time.Millisecond

func (l *listener) give(to uint32) {
	l.to.Store(to)
	giveTo(l.Listener, to)
	l.given.Store(time.Now().UnixNano())
}

// Accept notices when this socket is the one that the port was given to, as it is when the younger of two proxies leaves.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if at := l.given.Load(); err == nil && at != 0 && time.Since(time.Unix(0, at)) > settled {
		l.give(secondSocket - l.to.Load())
	}
	return c, err
}

// settled is when hardly any connection still comes for which this socket was chosen before. One that does costs as long again
// in which new ones come here.
const settled = 100 * time.Millisecond
