package dns

import (
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// sender returns how to answer on a socket: from the address it is bound to, said with every datagram. Linux keeps a bound
// address and the source it sends from apart, and the latter is left empty by a bind in a namespace that has no address
// yet (__inet_bind, net/ipv4/af_inet.c): a pod's listeners may come that early. Answers then leave from the pod's own
// address, miss the redirection on their way back, and never reach who asked.
func sender(pc net.PacketConn) func(answer []byte, to net.Addr) {
	write := pc.WriteTo
	if uc, ok := pc.(*net.UDPConn); ok {
		if local, ok := uc.LocalAddr().(*net.UDPAddr); ok {
			if from := local.AddrPort().Addr().Unmap(); from.Is4() && !from.IsUnspecified() {
				oob := unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: from.As4()})
				write = func(b []byte, to net.Addr) (int, error) {
					ua, ok := to.(*net.UDPAddr)
					if !ok {
						return uc.WriteTo(b, to)
					}
					at := ua.AddrPort()
					n, _, err := uc.WriteMsgUDPAddrPort(b, oob, netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
					return n, err
				}
			}
		}
	}
	return func(answer []byte, to net.Addr) {
		if answer != nil {
			_, _ = write(answer, to) // a client that is gone will not miss it
		}
	}
}
