package fabric

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
)

func TestPlanIsDeterministic(t *testing.T) {
	p := NewPlan("x", 3, true)
	n2, ok := p.Host("node2")
	if !ok {
		t.Fatal("no node2")
	}
	got := fmt.Sprint(p.Switch, " ", n2.Netns, " ", n2.Addrs, n2.PodCIDRs, n2.PodGateways, n2.PodAddrs(7))
	want := "ambit.x.fabric ambit.x.node2 [172.30.0.12 fd00:172:30::c] [10.244.2.0/24 fd00:10:244:2::/64] " +
		"[10.244.2.1 fd00:10:244:2::1] [10.244.2.7 fd00:10:244:2::7]"
	if got != want {
		t.Errorf("plan\n got %s\nwant %s", got, want)
	}
	long := PodNetns("x", "ns", string(make([]byte, 250)))
	if len(long) > 255 {
		t.Errorf("namespace name has %d bytes", len(long))
	}
}

// TestPodsReachEachOther builds two nodes and connects pods on one node, across nodes, and to the control host, with
// their own source addresses, on both families; a cut link stops it and a healed one brings it back.
func TestPodsReachEachOther(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs CAP_SYS_ADMIN and CAP_NET_ADMIN to make network namespaces")
	}
	lab := fmt.Sprintf("fab%d", os.Getpid())
	p := NewPlan(lab, 2, true)
	t.Cleanup(func() {
		if err := Destroy(lab); err != nil {
			t.Error(err)
		}
	})
	if err := Build(p); err != nil {
		t.Fatal(err)
	}
	type pod struct {
		netns string
		addrs []netip.Addr
	}
	add := func(node string, i int) pod {
		h, _ := p.Host(node)
		name := fmt.Sprintf("p%s%d", node, i)
		q := pod{netspace.Path(PodNetns(lab, "d", name)), h.PodAddrs(i)}
		if err := AddPod(h, PodNetns(lab, "d", name), PodLink("d", name), q.addrs); err != nil {
			t.Fatal(err)
		}
		return q
	}
	a, b, c := add("node1", 2), add("node1", 3), add("node2", 2)
	n1, _ := p.Host("node1")
	if err := netspace.Do(netspace.Path(n1.Netns), func() error {
		br, err := net.InterfaceByName(podBridge)
		if err == nil && br.HardwareAddr.String() != hardware(n1.PodGateways[0]).String() {
			err = fmt.Errorf("the gateway's address changed to %s as pods came", br.HardwareAddr)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	ctl, _ := p.Host(ControlHost)
	for _, dst := range []pod{b, c, {netspace.Path(ctl.Netns), ctl.Addrs}} {
		for i := range dst.addrs {
			if got, err := connect(t, a.netns, dst.netns, dst.addrs[i], 3*time.Second); err != nil || got != a.addrs[i] {
				t.Errorf("to %v: server saw %v, %v; want %v", dst.addrs[i], got, err, a.addrs[i])
			}
		}
	}
	n2, _ := p.Host("node2")
	if err := SetLink(p, n2, false); err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, a.netns, c.netns, c.addrs[0], 200*time.Millisecond); err == nil {
		t.Error("connected across a cut link")
	}
	if err := SetLink(p, n2, true); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		_, err := connect(t, a.netns, c.netns, c.addrs[0], time.Second)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after the link was healed: %v", err)
		}
	}
}

// connect dials from one namespace to a listener in another and returns the address the listener saw.
func connect(t *testing.T, from, to string, addr netip.Addr, timeout time.Duration) (netip.Addr, error) {
	t.Helper()
	var l net.Listener
	if err := netspace.Do(to, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var c net.Conn
	err := netspace.Do(from, func() (err error) {
		c, err = net.DialTimeout("tcp", l.Addr().String(), timeout)
		return err
	})
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return s.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(), nil
}
