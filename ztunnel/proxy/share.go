package proxy

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Two proxies listen on the same ports of a pod while one replaces the other (SO_REUSEPORT). What waits in the queue of a socket
// that closes is lost: datagrams without a word, connections by a reset, unless net.ipv4.tcp_migrate_req is set, which no
// container without privileges can do. So the kernel is told whose turn it is. The proxy that came first keeps everything until
// it leaves: whoever is started beside it, and may turn out not to work, is sent nothing. When it leaves, what is new goes to the
// other, and it closes once everything has arrived that was on its way to it.

// The sockets of a port are numbered in the order in which they joined; the last one moves up when one before it closes.
const (
	firstSocket  = 0
	secondSocket = 1
)

// take has the kernel give what arrives at the port of c, which has just been opened, to the one who was there first.
func take(c any) { giveTo(c, firstSocket) }

// leave has the kernel give what arrives from now on at the port of c to another socket, if there is one.
func leave(c any) { giveTo(c, secondSocket) }

// lastCallers is how long a connection may take from the kernel's choice of a socket, at its first packet, into that socket's
// queue: until the handshake is complete, with one of its packets lost on the way (RFC 6298 §2: 1 s).
const lastCallers = 1500 * time.Millisecond

// giveTo sets the choice among the sockets of a port, for all of them. When there is no such socket, or the port is not shared,
// the kernel chooses as ever.
func giveTo(c any, socket uint32) {
	choice := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: socket}
	sc, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := sc.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &unix.SockFprog{Len: 1, Filter: &choice})
		})
	}
}
