package dns

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/netns/netnstest"
)

// TestAnswersFromBoundAddress: answers come from the address that was asked, also on a socket that was bound before the
// namespace had any address. A connected client takes no others, and the redirection knows no others.
func TestAnswersFromBoundAddress(t *testing.T) {
	ns := netnstest.Make(t)
	pc, err := ns.ListenPacket(t.Context(), "udp", netip.MustParseAddrPort("127.0.0.1:0"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	if err := ns.Do(loopbackUp); err != nil {
		t.Fatal(err)
	}
	// A client with another address than the server's, as a pod's is.
	client := netip.MustParseAddrPort("10.1.2.3:5353")
	c, err := ns.Dial(t.Context(), "udp", client, pc.LocalAddr().(*net.UDPAddr).AddrPort(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sender(pc)([]byte("answer"), net.UDPAddrFromAddrPort(client))
	b := make([]byte, 16)
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := c.Read(b); err != nil || string(b[:n]) != "answer" {
		t.Errorf("%q, %v", b[:n], err)
	}
}

// loopbackUp gives the namespace 127.0.0.1 and a pod's address.
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
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return err
	}
	if req, err = unix.NewIfreq("lo:pod"); err != nil {
		return err
	}
	if err := req.SetInet4Addr([]byte{10, 1, 2, 3}); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, unix.SIOCSIFADDR, req)
}
