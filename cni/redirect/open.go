package redirect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/netns"
)

// Connection is one that the pod's application has with the node proxy, seen from the proxy's socket.
type Connection struct {
	Local, Remote netip.AddrPort
	// Quiet is how long no byte has moved.
	Quiet time.Duration
}

// Open lists the captured connections of a pod, whichever back end captured them.
//
// Each has one socket of the proxy's that faces the application; those that face peers do not count, because tunnels are
// kept for a while after the last connection in them has ended.
func Open(ns *netns.Netns) ([]Connection, error) {
	var out []Connection
	seen := map[Connection]bool{}
	err := ns.Do(func() error {
		own, err := ownAddrs()
		if err != nil {
			return err
		}
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			all, err := sockets(family)
			if err != nil {
				return err
			}
			for _, s := range all {
				// Of a connection from the pod's own address, both ends may look like the proxy's.
				if s.facesApp(own) && !seen[Connection{Local: s.Remote, Remote: s.Local}] {
					seen[Connection{Local: s.Local, Remote: s.Remote}] = true
					out = append(out, s.Connection)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the pod's open connections: %w", err)
	}
	return out, nil
}

// Remains reports whether a namespace is captured, or was and has kept the way back to the proxy since Release.
func Remains(ns *netns.Netns) (there bool, err error) {
	err = ns.Do(func() error {
		there, err = routesOf(false)[0].ruleThere()
		return err
	})
	return there, err
}

func ownAddrs() ([]netip.Addr, error) {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the pod's addresses: %w", err)
	}
	var own []netip.Addr
	for _, a := range addrs {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			own = append(own, addr.Unmap())
		}
	}
	return own, nil
}

// socket is a TCP socket as the kernel tells of it.
type socket struct {
	Connection
	mark uint32
}

// facesApp reports whether a socket is the proxy's and has the application at its other end, which then has an address of
// the pod. With packet filters, connections of machines inside the pod, which have addresses of their own, come in at the
// outbound port. BPF programs change the mark of the proxy's sockets to that of what stays in the pod.
func (s socket) facesApp(own []netip.Addr) bool {
	if s.Local.Port() == mesh.PortOutbound {
		return true
	}
	mark := s.mark & mesh.MarkMask
	if mark != mesh.MarkProxy && mark != mesh.MarkConn || s.Local.Port() == mesh.PortHBONE || s.Remote.Port() == mesh.PortHBONE {
		return false
	}
	return s.Remote.Addr().IsLoopback() || slices.Contains(own, s.Remote.Addr())
}

// openStates are those in which something may still be said.
const openStates = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_FIN_WAIT1 | 1<<unix.BPF_TCP_FIN_WAIT2 |
	1<<unix.BPF_TCP_CLOSE_WAIT | 1<<unix.BPF_TCP_LAST_ACK | 1<<unix.BPF_TCP_CLOSING

// Sizes and attributes of linux/inet_diag.h.
const (
	diagRequestSize = 56 // struct inet_diag_req_v2
	diagMessageSize = 72 // struct inet_diag_msg
	diagInfo        = 2  // INET_DIAG_INFO
	diagMark        = 15 // INET_DIAG_MARK
)

// diagRequest is a struct inet_diag_req_v2 that asks for all TCP sockets of a family.
type diagRequest struct{ family uint8 }

func (diagRequest) Len() int { return diagRequestSize }

func (r diagRequest) Serialize() []byte {
	b := make([]byte, diagRequestSize)
	b[0], b[1], b[2] = r.family, unix.IPPROTO_TCP, 1<<(diagInfo-1)
	binary.NativeEndian.PutUint32(b[4:], openStates)
	return b
}

// sockets lists open TCP sockets of the calling thread's namespace.
func sockets(family uint8) ([]socket, error) {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddData(diagRequest{family})
	messages, err := req.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	if err != nil {
		return nil, fmt.Errorf("list TCP sockets: %w", err)
	}
	var out []socket
	for _, m := range messages {
		s, err := parseSocket(m)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// parseSocket reads a struct inet_diag_msg and the attributes behind it.
func parseSocket(m []byte) (socket, error) {
	if len(m) < diagMessageSize {
		return socket{}, errors.New("the kernel's description of a TCP socket is cut short")
	}
	size := 16
	if m[0] == unix.AF_INET {
		size = 4
	}
	at := func(ip []byte, port []byte) netip.AddrPort {
		a, _ := netip.AddrFromSlice(ip[:size]) // the length is right
		return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(port))
	}
	s := socket{Connection: Connection{Local: at(m[8:], m[4:]), Remote: at(m[24:], m[6:])}}
	attrs, err := nl.ParseRouteAttr(m[diagMessageSize:])
	if err != nil {
		return socket{}, fmt.Errorf("the kernel's description of a TCP socket: %w", err)
	}
	for _, a := range attrs {
		switch {
		case a.Attr.Type == diagMark && len(a.Value) >= 4:
			s.mark = binary.NativeEndian.Uint32(a.Value)
		case a.Attr.Type == diagInfo:
			s.Quiet = quiet(a.Value)
		}
	}
	return s, nil
}

// quiet reads the two ages of a struct tcp_info.
func quiet(info []byte) time.Duration {
	sent, received := unsafe.Offsetof(unix.TCPInfo{}.Last_data_sent), unsafe.Offsetof(unix.TCPInfo{}.Last_data_recv)
	if uintptr(len(info)) < received+4 {
		return 0
	}
	ms := min(binary.NativeEndian.Uint32(info[sent:]), binary.NativeEndian.Uint32(info[received:]))
	return time.Duration(ms) * time.Millisecond
}
