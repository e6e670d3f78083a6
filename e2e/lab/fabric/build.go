package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	uplink    = "eth0"
	podBridge = "cbr0"
	swBridge  = "br0"
)

// serviceCIDRs are routed from every host towards the switch, so that a process on a host has a source address for a
// virtual address before the node translates it.
func serviceCIDRs() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")}
}

// space is a namespace with a netlink socket in it.
type space struct {
	*netlink.Handle
	ns   netns.NsHandle
	name string
}

func enter(name string) (*space, error) {
	ns, err := netns.GetFromPath(netspace.Path(name))
	if err != nil {
		return nil, fmt.Errorf("open namespace %s: %w", name, err)
	}
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		_ = ns.Close()
		return nil, fmt.Errorf("netlink in %s: %w", name, err)
	}
	return &space{Handle: h, ns: ns, name: name}, nil
}

func (s *space) close() {
	s.Close()
	_ = s.ns.Close()
}

// Build makes all namespaces and links of the plan. What it made before an error stays, for Destroy.
func Build(p Plan) error {
	if err := netspace.Prepare(); err != nil {
		return err
	}
	sw, err := create(p.Switch)
	if err != nil {
		return err
	}
	defer sw.close()
	if err := sw.bridge(swBridge, p.Gateway, []int{24, 64}); err != nil {
		return err
	}
	for _, h := range p.Hosts {
		if err := buildHost(p, sw, h); err != nil {
			return fmt.Errorf("host %s: %w", h.Name, err)
		}
	}
	// Everything has a default route to the switch, which knows the way to every pod and says "unreachable" for the rest.
	for _, h := range p.Hosts {
		for i, cidr := range h.PodCIDRs {
			if err := sw.route(swBridge, cidr, h.Addrs[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func create(name string) (*space, error) {
	if err := netspace.Create(name); err != nil {
		return nil, err
	}
	if err := netspace.Do(netspace.Path(name), sysctls); err != nil {
		return nil, err
	}
	s, err := enter(name)
	if err != nil {
		return nil, err
	}
	if err := s.up("lo"); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// sysctls runs inside the new namespace: /proc/sys/net shows the reader's.
func sysctls() error {
	for _, kv := range [][2]string{
		{"ipv4/ip_forward", "1"},
		{"ipv4/conf/all/rp_filter", "0"}, {"ipv4/conf/default/rp_filter", "0"},
		// Neighbouring pods talk by way of the node on purpose; a redirect would undo it.
		{"ipv4/conf/all/send_redirects", "0"}, {"ipv4/conf/default/send_redirects", "0"},
		{"ipv6/conf/all/disable_ipv6", "0"}, {"ipv6/conf/default/disable_ipv6", "0"},
		{"ipv6/conf/all/forwarding", "1"}, {"ipv6/conf/default/forwarding", "1"},
		{"ipv6/conf/all/accept_dad", "0"}, {"ipv6/conf/default/accept_dad", "0"},
		{"ipv6/conf/default/accept_ra", "0"},
		// Else the bridge translates addresses before the node does, and takes short cuts that skip half of its rules.
		{"bridge/bridge-nf-call-iptables", "0"}, {"bridge/bridge-nf-call-ip6tables", "0"},
	} {
		err := os.WriteFile(filepath.Join("/proc/sys/net", kv[0]), []byte(kv[1]), 0o644)
		// A kernel without IPv6 or bridge filters has no such files; the former is only an error for a
		// lab that wants it, and that shows soon.
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("set net/%s: %w", kv[0], err)
		}
	}
	return nil
}

func buildHost(p Plan, sw *space, h Host) error {
	host, err := create(h.Netns)
	if err != nil {
		return err
	}
	defer host.close()
	if err := sw.cable(h.Port, host, uplink); err != nil {
		return err
	}
	if err := sw.enslave(h.Port, swBridge); err != nil {
		return err
	}
	for i, a := range h.Addrs {
		if err := host.addr(uplink, netip.PrefixFrom(a, []int{24, 64}[i])); err != nil {
			return err
		}
	}
	if err := host.up(uplink); err != nil {
		return err
	}
	for i := range h.Addrs {
		if err := host.route(uplink, defaultOf(p.Gateway[i]), p.Gateway[i]); err != nil {
			return err
		}
		if err := host.linkRoute(uplink, serviceCIDRs()[i]); err != nil {
			return err
		}
	}
	if len(h.PodCIDRs) == 0 {
		return nil
	}
	return host.bridge(podBridge, h.PodGateways, []int{24, 64})
}

func defaultOf(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// AddPod makes the pod's namespace and plugs it into the host's bridge.
func AddPod(h Host, netnsName, link string, addrs []netip.Addr) error {
	pod, err := create(netnsName)
	if err != nil {
		return err
	}
	defer pod.close()
	host, err := enter(h.Netns)
	if err != nil {
		return err
	}
	defer host.close()
	if err := host.cable(link, pod, uplink); err != nil {
		return err
	}
	if err := host.enslave(link, podBridge); err != nil {
		return err
	}
	for _, a := range addrs {
		if err := pod.addr(uplink, netip.PrefixFrom(a, a.BitLen())); err != nil {
			return err
		}
	}
	if err := pod.up(uplink); err != nil {
		return err
	}
	for i := range addrs {
		gw := h.PodGateways[i]
		if err := pod.linkRoute(uplink, netip.PrefixFrom(gw, gw.BitLen())); err != nil {
			return err
		}
		if err := pod.route(uplink, defaultOf(gw), gw); err != nil {
			return err
		}
	}
	return nil
}

// DeletePod undoes AddPod. The link goes at once, though sockets may keep the namespace alive for a while.
func DeletePod(h Host, netnsName, link string) error {
	if host, err := enter(h.Netns); err == nil {
		defer host.close()
		if l, err := host.LinkByName(link); err == nil {
			if err := host.LinkDel(l); err != nil {
				return fmt.Errorf("unplug %s: %w", netnsName, err)
			}
		}
	}
	return netspace.Remove(netnsName)
}

// SetLink connects or cuts the host's link at the switch. The host sees its carrier go, and keeps its addresses.
func SetLink(p Plan, h Host, up bool) error {
	sw, err := enter(p.Switch)
	if err != nil {
		return err
	}
	defer sw.close()
	l, err := sw.LinkByName(h.Port)
	if err != nil {
		return fmt.Errorf("port %s of the switch: %w", h.Port, err)
	}
	if up {
		err = sw.LinkSetUp(l)
	} else {
		err = sw.LinkSetDown(l)
	}
	if err != nil {
		return fmt.Errorf("set port %s of the switch: %w", h.Port, err)
	}
	return nil
}

// Destroy removes every namespace of the lab, found by name, so that it also works after a crash.
func Destroy(lab string) error {
	names, err := netspace.List(Prefix(lab))
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, netspace.Remove(name))
	}
	return errors.Join(errs...)
}

// cable makes a veth pair between two namespaces; neither end is ever in the machine's own.
func (s *space) cable(name string, peer *space, peerName string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: peerName, PeerNamespace: netlink.NsFd(int(peer.ns))}
	if err := s.LinkAdd(veth); err != nil {
		return fmt.Errorf("cable %s to %s: %w", s.name, peer.name, err)
	}
	return nil
}

func (s *space) enslave(name, bridge string) error {
	l, err := s.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s in %s: %w", name, s.name, err)
	}
	br, err := s.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("%s in %s: %w", bridge, s.name, err)
	}
	if err := s.LinkSetMaster(l, br); err != nil {
		return fmt.Errorf("plug %s into %s: %w", name, bridge, err)
	}
	return s.up(name)
}

func (s *space) bridge(name string, addrs []netip.Addr, bits []int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	// Left to itself a bridge takes the lowest address among its ports, and changes it with them: everyone's neighbour
	// entry for the gateway would go stale whenever a pod comes or goes.
	attrs.HardwareAddr = hardware(addrs[0])
	snooping := false
	if err := s.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return fmt.Errorf("bridge %s in %s: %w", name, s.name, err)
	}
	for i, a := range addrs {
		if err := s.addr(name, netip.PrefixFrom(a, bits[i])); err != nil {
			return err
		}
	}
	return s.up(name)
}

// hardware makes an Ethernet address out of an IPv4 address, as CNI bridges do: locally administered, and known in advance.
func hardware(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
}

func (s *space) up(name string) error {
	l, err := s.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s in %s: %w", name, s.name, err)
	}
	if err := s.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up in %s: %w", name, s.name, err)
	}
	return nil
}

func (s *space) addr(name string, p netip.Prefix) error {
	l, err := s.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s in %s: %w", name, s.name, err)
	}
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := s.AddrAdd(l, a); err != nil {
		return fmt.Errorf("address %s on %s in %s: %w", p, name, s.name, err)
	}
	return nil
}

func (s *space) route(dev string, dst netip.Prefix, via netip.Addr) error {
	return s.addRoute(dev, &netlink.Route{Dst: ipNet(dst), Gw: net.IP(via.AsSlice())})
}

func (s *space) linkRoute(dev string, dst netip.Prefix) error {
	return s.addRoute(dev, &netlink.Route{Dst: ipNet(dst), Scope: netlink.SCOPE_LINK})
}

func (s *space) addRoute(dev string, r *netlink.Route) error {
	l, err := s.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("%s in %s: %w", dev, s.name, err)
	}
	r.LinkIndex = l.Attrs().Index
	if err := s.RouteAdd(r); err != nil {
		return fmt.Errorf("route %s in %s: %w", r.Dst, s.name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: net.IP(p.Addr().AsSlice()), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
