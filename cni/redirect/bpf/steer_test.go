package bpf

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// lookup is struct bpf_sk_lookup of linux/bpf.h.
type lookup struct {
	Cookie           uint64
	Family, Protocol uint32
	RemoteIP4        [4]byte
	RemoteIP6        [16]byte
	RemotePort       [2]byte // network order
	_                [2]byte
	LocalIP4         [4]byte
	LocalIP6         [16]byte
	LocalPort        uint32
	_, _             uint32 // the interface, which a test run cannot set
}

const (
	skDrop = 0
	skPass = 1
)

// Requests that seem to come in from elsewhere; those that come back over lo are tested with traffic, in package redirect.
// What is given to the proxy is dropped here, because no proxy listens; what is passed goes to whom it was sent.
func TestSteer(t *testing.T) {
	if err := Supported(); err != nil {
		t.Skip(err)
	}
	all, err := loadRedirect()
	if err != nil {
		t.Fatal(err)
	}
	spec := only(all, redirectProgSteer)
	const self = 7
	if err := spec.Variables[redirectVarSelf].Set(uint64(self)); err != nil {
		t.Fatal(err)
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := &Programs{maps: c.Maps}
	own4, own6 := netip.MustParseAddr("10.1.1.2"), netip.MustParseAddr("fd00::2")
	if _, err := p.setOwn(self, []netip.Addr{own4, own6}); err != nil {
		t.Fatal(err)
	}
	pod := Pod{IPv6: true, DNS: true, Probe4: netip.MustParseAddr("169.254.7.127"), Probe6: netip.MustParseAddr("fd16::1")}
	for _, tc := range []struct {
		name          string
		change        func(*Pod)
		remote, local string
		port          uint32
		protocol      uint32
		want          uint32
	}{
		{"from outside to the app", nil, "10.9.9.9", "10.1.1.2", 8080, unix.IPPROTO_TCP, skDrop},
		{"from outside to the app v6", nil, "fd00::9", "fd00::2", 8080, unix.IPPROTO_TCP, skDrop},
		{"from outside to an address not known yet", nil, "10.9.9.9", "10.1.1.77", 8080, unix.IPPROTO_TCP, skDrop},
		{"HBONE", nil, "10.9.9.9", "10.1.1.2", 15008, unix.IPPROTO_TCP, skPass},
		{"a probe", nil, "169.254.7.127", "10.1.1.2", 8080, unix.IPPROTO_TCP, skPass},
		{"a probe v6", nil, "fd16::1", "fd00::2", 8080, unix.IPPROTO_TCP, skPass},
		{"the pod to itself", nil, "10.1.1.2", "10.1.1.2", 8080, unix.IPPROTO_TCP, skPass},
		{"datagrams", nil, "10.9.9.9", "10.1.1.2", 8080, unix.IPPROTO_UDP, skPass},
		{"inbound bypassed", func(p *Pod) { p.BypassInbound = true }, "10.9.9.9", "10.1.1.2", 8080, unix.IPPROTO_TCP, skPass},
		{"IPv6 not wanted", func(p *Pod) { p.IPv6 = false }, "fd00::9", "fd00::2", 8080, unix.IPPROTO_TCP, skPass},
	} {
		pod := pod
		if tc.change != nil {
			tc.change(&pod)
		}
		if err := p.maps[redirectMapPods].Put(uint64(self), pod.value()); err != nil {
			t.Fatal(err)
		}
		remote, local := netip.MustParseAddr(tc.remote), netip.MustParseAddr(tc.local)
		in := lookup{Protocol: tc.protocol, LocalPort: tc.port, RemotePort: [2]byte{0x9c, 0x40}}
		if local.Is4() {
			in.Family, in.RemoteIP4, in.LocalIP4 = unix.AF_INET, remote.As4(), local.As4()
		} else {
			in.Family, in.RemoteIP6, in.LocalIP6 = unix.AF_INET6, remote.As16(), local.As16()
		}
		got, err := c.Programs[redirectProgSteer].Run(&ebpf.RunOptions{Context: &in})
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
	if err := p.maps[redirectMapPods].Delete(uint64(self)); err != nil {
		t.Fatal(err)
	}
	in := lookup{Protocol: unix.IPPROTO_TCP, LocalPort: 8080, Family: unix.AF_INET}
	if got, err := c.Programs[redirectProgSteer].Run(&ebpf.RunOptions{Context: &in}); err != nil || got != skPass {
		t.Errorf("a pod that has left: %d %v", got, err)
	}
}
