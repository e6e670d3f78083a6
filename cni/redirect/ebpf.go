package redirect

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/cni/redirect/bpf"
)

// EBPF redirects by programs in the kernel, without netfilter and conntrack: marks on connect lead an app's connections
// back into the pod, where a program gives them to the proxy's listeners under the address they were made to. Those
// listeners have to be transparent sockets, as the node proxy's are.
//
// What rules say in PodRules is said again in bpf/programs/redirect.c; the tests hold both to the same behaviour.
type EBPF struct {
	programs *bpf.Programs
}

// NewEBPF loads the programs, or takes over those of an earlier agent. Until a pod is captured they do nothing. If it
// fails it leaves nothing behind that was not there before.
func NewEBPF(at bpf.Place) (*EBPF, error) {
	p, err := bpf.Open(at)
	if err != nil {
		// Pods that an earlier agent captured keep what they have.
		_ = bpf.Clear(at)
		return nil, err
	}
	return &EBPF{programs: p}, nil
}

// Close lets go of the programs. Pods stay captured.
func (b *EBPF) Close() error { return b.programs.Close() }

// Name is "ebpf".
func (*EBPF) Name() string { return "ebpf" }

// steeringSysctls let the app's side of a connection that the proxy opens as the client answer by the way it came: the
// accepted socket, and the kernel itself where there is none, answer with the mark of the request.
var steeringSysctls = []struct {
	path string
	ipv6 bool
}{
	{"/proc/sys/net/ipv4/tcp_fwmark_accept", false},
	{"/proc/sys/net/ipv4/fwmark_reflect", false},
	{"/proc/sys/net/ipv6/fwmark_reflect", true},
}

func setSteering(ipv6 bool, value string) error {
	for _, s := range steeringSysctls {
		if s.ipv6 && !ipv6 {
			continue
		}
		if err := os.WriteFile(s.path, []byte(value), 0); err != nil {
			return fmt.Errorf("set %s to %s: %w", s.path, value, err)
		}
	}
	return nil
}

func verifySteering(ipv6 bool) error {
	for _, s := range steeringSysctls {
		if s.ipv6 && !ipv6 {
			continue
		}
		data, err := os.ReadFile(s.path)
		if err != nil {
			return fmt.Errorf("read %s: %w", s.path, err)
		}
		if len(data) == 0 || data[0] != '1' {
			return fmt.Errorf("%w: %s is not 1", ErrDrift, s.path)
		}
	}
	return nil
}

// Apply implements Backend.
func (b *EBPF) Apply(ns *netns.Netns, o Options) error {
	if len(o.VirtualInterfaces) > 0 {
		return fmt.Errorf("apply redirection by BPF: traffic of virtual interfaces %q is routed past the pod's sockets, where only packet filters reach it: use nftables on this node, or leave istio/reroute-virtual-interfaces out", o.VirtualInterfaces)
	}
	err := inPod(ns, o, func(o Options, lo int) error {
		pod, err := podOf(o)
		if err != nil {
			return err
		}
		if err := setSteering(o.IPv6, "1"); err != nil {
			return err
		}
		if err := applyRoutesFrom(o.IPv6, lo, sources(pod.Own)); err != nil {
			return err
		}
		return b.programs.Enter(ns, pod)
	})
	if err != nil {
		return fmt.Errorf("apply redirection by BPF: %w", err)
	}
	return nil
}

// podOf says what the programs have to know, in the calling thread's namespace.
func podOf(o Options) (bpf.Pod, error) {
	o = o.withDefaults()
	pod := bpf.Pod{IPv6: o.IPv6, DNS: o.DNS, BypassInbound: o.BypassInbound, Probe4: o.ProbeIPv4, Probe6: o.ProbeIPv6}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return pod, fmt.Errorf("list the pod's addresses: %w", err)
	}
	for _, a := range addrs {
		addr, ok := netip.AddrFromSlice(a.IP)
		if addr = addr.Unmap(); ok && !addr.IsLoopback() && (o.IPv6 || addr.Is4()) {
			pod.Own = append(pod.Own, addr)
		}
	}
	return pod, nil
}

// sources are the addresses that captured connections get, by family: the first of each that others can see.
func sources(own []netip.Addr) map[int]netip.Addr {
	out := map[int]netip.Addr{}
	for _, a := range own {
		family := unix.AF_INET6
		if a.Is4() {
			family = unix.AF_INET
		}
		if _, ok := out[family]; !ok && a.IsGlobalUnicast() {
			out[family] = a
		}
	}
	return out
}

// Verify implements Backend.
func (b *EBPF) Verify(ns *netns.Netns, o Options) error {
	err := inPod(ns, o, func(o Options, _ int) error {
		if err := verifyRoutes(o.IPv6); err != nil {
			return err
		}
		if err := verifySteering(o.IPv6); err != nil {
			return err
		}
		pod, err := podOf(o)
		if err != nil {
			return err
		}
		err = b.programs.Check(ns, pod)
		if errors.Is(err, bpf.ErrAway) {
			return fmt.Errorf("%w: %w", ErrDrift, err)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("verify redirection by BPF: %w", err)
	}
	return nil
}

// Remove implements Backend.
func (b *EBPF) Remove(ns *netns.Netns) error {
	// What another back end left for the connections it captured, see Release, is of no more use either.
	return errors.Join(b.drop(ns), removeRoutesIn(ns), dropFilters(ns))
}

// Release implements Backend. Sockets that are open need the programs no more, only the routes.
func (b *EBPF) Release(ns *netns.Netns, _ Options) error {
	if err := b.programs.Leave(ns); err != nil {
		return fmt.Errorf("retire redirection by BPF: %w", err)
	}
	return nil
}

// Forget implements Backend.
func (b *EBPF) Forget(ns *netns.Netns) error { return b.programs.Leave(ns) }

func (b *EBPF) drop(ns *netns.Netns) error { return dropSteering(b.programs, ns) }

func dropSteering(p *bpf.Programs, ns *netns.Netns) error {
	err := inPod(ns, Options{IPv6: true}, func(o Options, _ int) error {
		if err := p.Leave(ns); err != nil {
			return err
		}
		return setSteering(o.IPv6, "0")
	})
	if err != nil {
		return fmt.Errorf("remove redirection by BPF: %w", err)
	}
	return nil
}
