// Package fabric is the lab's wiring: one network namespace per node with a bridge for its pods, one for whatever serves
// the whole lab, and a switch between them that is a namespace too. Nothing is connected to the machine's own network.
//
//	pod eth0 ── vXXXXXXXX │ cbr0 (10.244.n.1) ─ node n ─ eth0 (172.30.0.10+n) │ br0 (172.30.0.1) │ eth0 (172.30.0.2) control
//
// Pods have host addresses and reach even their neighbours by way of the node, so that the node's address translation
// sees both directions. The package does not know pods' processes, services, or names. It starts no goroutines that
// outlive a call. Start reading at Plan, which is pure, then build.go.
package fabric

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"strings"
)

// MaxNodes is what the addressing plan has room for.
const MaxNodes = 100

const prefix = "ambit."

// Plan is every name and address of a lab, decided before anything is made. Equal input gives equal plans.
type Plan struct {
	Lab       string
	DualStack bool
	// Switch is the namespace between the hosts.
	Switch  string
	Gateway []netip.Addr
	Hosts   []Host
}

// Host is one namespace on the switch: a node, or the control host, which has no pods.
type Host struct {
	Name string
	// Netns is the namespace's name, Port the switch's end of its link.
	Netns, Port string
	Addrs       []netip.Addr
	PodCIDRs    []netip.Prefix
	// PodGateways are the bridge's own addresses.
	PodGateways []netip.Addr
}

// ControlHost is the name of the host without pods.
const ControlHost = "control"

// Prefix is what the names of all namespaces of a lab start with. Lab names have no dots, so no lab's is another's.
func Prefix(lab string) string { return prefix + lab + "." }

// NewPlan lays out a lab of n nodes called node1 … node<n>.
func NewPlan(lab string, n int, dualStack bool) Plan {
	p := Plan{Lab: lab, DualStack: dualStack, Switch: Prefix(lab) + "fabric"}
	p.Gateway = p.fabricAddrs(1)
	p.Hosts = append(p.Hosts, Host{
		Name: ControlHost, Netns: Prefix(lab) + ControlHost, Port: ControlHost, Addrs: p.fabricAddrs(2),
	})
	for i := 1; i <= n; i++ {
		h := Host{Name: fmt.Sprintf("node%d", i), Addrs: p.fabricAddrs(10 + i)}
		h.Netns, h.Port = Prefix(lab)+h.Name, h.Name
		h.PodCIDRs = append(h.PodCIDRs, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24))
		if dualStack {
			h.PodCIDRs = append(h.PodCIDRs, netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%x::/64", i)))
		}
		h.PodGateways = h.PodAddrs(1)
		p.Hosts = append(p.Hosts, h)
	}
	return p
}

func (p Plan) fabricAddrs(i int) []netip.Addr {
	addrs := []netip.Addr{netip.AddrFrom4([4]byte{172, 30, 0, byte(i)})}
	if p.DualStack {
		addrs = append(addrs, netip.MustParseAddr(fmt.Sprintf("fd00:172:30::%x", i)))
	}
	return addrs
}

// PodAddrs are the addresses of the i-th pod of the host, IPv4 first; 1 is the bridge itself, 254 the last.
func (h Host) PodAddrs(i int) []netip.Addr {
	addrs := make([]netip.Addr, 0, len(h.PodCIDRs))
	for _, cidr := range h.PodCIDRs {
		b := cidr.Addr().AsSlice()
		b[len(b)-1] = byte(i)
		a, _ := netip.AddrFromSlice(b)
		addrs = append(addrs, a)
	}
	return addrs
}

// Host returns the host called name.
func (p Plan) Host(name string) (Host, bool) {
	for _, h := range p.Hosts {
		if h.Name == name {
			return h, true
		}
	}
	return Host{}, false
}

// PodNetns is the name of a pod's namespace.
func PodNetns(lab, namespace, pod string) string {
	name := Prefix(lab) + "pod." + namespace + "." + pod
	// A file name holds 255 bytes, and a pod's name alone may have 253.
	if len(name) > 200 {
		name = fmt.Sprintf("%s-%08x", strings.TrimRight(name[:190], "-."), sum(name))
	}
	return name
}

// PodLink is the name of the node's end of a pod's link. Interface names hold 15 bytes.
func PodLink(namespace, pod string) string { return fmt.Sprintf("v%08x", sum(namespace+"/"+pod)) }

func sum(s string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(s))
	return h.Sum32()
}
