package redirect

import (
	"net/netip"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// Table is where in the packet's way a rule stands.
type Table string

// The tables the mesh uses, by their iptables names.
const (
	Mangle Table = "mangle"
	NAT    Table = "nat"
	Raw    Table = "raw"
)

// Chain is the hook a rule belongs to.
type Chain string

// The hooks the mesh uses.
const (
	Prerouting  Chain = "prerouting"
	Output      Chain = "output"
	Postrouting Chain = "postrouting"
)

// Family restricts a rule to one IP version.
type Family uint8

// Families. Both means that the rule mentions no address.
const (
	Both Family = 0
	IPv4 Family = 4
	IPv6 Family = 6
)

// Proto is a transport protocol, or none.
type Proto string

// Protocols rules mention.
const (
	TCP Proto = "tcp"
	UDP Proto = "udp"
)

// Cond is a comparison that may be inverted; the zero Cond compares nothing.
type Cond[T comparable] struct {
	Set   bool
	Not   bool
	Value T
}

func is[T comparable](v T) Cond[T]    { return Cond[T]{Set: true, Value: v} }
func isNot[T comparable](v T) Cond[T] { return Cond[T]{Set: true, Not: true, Value: v} }

// Action is what happens to a packet that matches.
type Action struct {
	Verb Verb
	Port uint16     // of ToPort
	Addr netip.Addr // of ProbeAddress
}

// Verb is the kind of an action.
type Verb string

// Verbs.
const (
	Accept       Verb = "accept"
	Return       Verb = "return"
	ToPort       Verb = "redirect"      // to Port on this host
	MarkConn     Verb = "mark-conn"     // set the connection's mark to mesh.MarkConn
	RestoreMark  Verb = "restore-mark"  // copy the connection's mark to the packet
	Zone1        Verb = "zone-1"        // track in conntrack zone 1
	ProbeAddress Verb = "probe-address" // SNAT to the probe address
)

// Rule is one line of a chain. All conditions have to hold.
type Rule struct {
	Table  Table
	Chain  Chain
	Family Family

	In, Out    Cond[string] // interface name
	Src, Dst   Cond[netip.Addr]
	Proto      Proto
	SYN        bool // a connection request: SYN without ACK, RST, FIN
	SrcPort    Cond[uint16]
	DstPort    Cond[uint16]
	Mark       Cond[uint32] // under mesh.MarkMask
	ConnMark   Cond[uint32] // under mesh.MarkMask
	ProbedPod  bool         // the destination is in the set of enrolled pods
	SocketUser Cond[uint32] // the user that owns the local socket

	Do Action
}

// Options are what differs between pods.
type Options struct {
	// IPv6 says that the pod has IPv6. Without it no rule, route or system call of that family is made.
	IPv6 bool
	// DNS captures queries to port 53.
	DNS bool
	// BypassInbound leaves connections towards the pod alone.
	BypassInbound bool
	// VirtualInterfaces carry traffic of machines inside the pod, which is outbound although it comes in.
	VirtualInterfaces []string
	// ProbeIPv4 and ProbeIPv6 are the addresses node probes come from; zero means Istio's.
	ProbeIPv4, ProbeIPv6 netip.Addr
}

func (o Options) withDefaults() Options {
	if !o.ProbeIPv4.IsValid() {
		o.ProbeIPv4 = netip.MustParseAddr(mesh.ProbeSourceIPv4)
	}
	if !o.ProbeIPv6.IsValid() {
		o.ProbeIPv6 = netip.MustParseAddr(mesh.ProbeSourceIPv6)
	}
	return o
}

type family struct {
	version         Family
	loopback, probe netip.Addr
}

func (o Options) families() []family {
	out := []family{{IPv4, netip.AddrFrom4([4]byte{127, 0, 0, 1}), o.ProbeIPv4}}
	if o.IPv6 {
		out = append(out, family{IPv6, netip.IPv6Loopback(), o.ProbeIPv6})
	}
	return out
}

// PodRules is what a pod's network namespace gets. The order within a chain matters and is Istio's
// (istio/istio cni/pkg/iptables/iptables.go appendInpodRules).
//
//	            app ──► OUTPUT ──► 15001, DNS to 15053
//	proxy (mark 0x539) ─► OUTPUT untouched; looping back to the app it marks the connection 0x111,
//	                      the app's replies carry that mark and are routed back to the proxy by RoutesFor
//	from outside ──► PREROUTING ──► 15006, except HBONE (15008) and probes
func PodRules(o Options) []Rule {
	o = o.withDefaults()
	notProxy := isNot[uint32](mesh.MarkProxy)
	rules := []Rule{
		{Table: Mangle, Chain: Prerouting, Mark: is[uint32](mesh.MarkProxy), Do: Action{Verb: MarkConn}},
		{Table: Mangle, Chain: Output, ConnMark: is[uint32](mesh.MarkConn), Do: Action{Verb: RestoreMark}},
	}
	for _, name := range o.VirtualInterfaces {
		rules = append(rules,
			Rule{Table: NAT, Chain: Prerouting, In: is(name), Proto: TCP, SYN: true, Do: redirect(mesh.PortOutbound)},
			// What is not redirected is of connections older than the enrolment; it must not become inbound traffic.
			Rule{Table: NAT, Chain: Prerouting, In: is(name), Proto: TCP, Do: Action{Verb: Return}},
		)
	}
	for _, f := range o.families() {
		if !o.BypassInbound {
			rules = append(rules,
				Rule{Table: NAT, Chain: Prerouting, Family: f.version, Src: is(f.probe), Proto: TCP, Do: Action{Verb: Accept}},
				Rule{Table: NAT, Chain: Prerouting, Family: f.version, Dst: isNot(f.loopback), Proto: TCP, SYN: true,
					DstPort: isNot[uint16](mesh.PortHBONE), Mark: notProxy, Do: redirect(mesh.PortInboundPlaintext)},
			)
		}
		rules = append(rules, Rule{Table: NAT, Chain: Output, Family: f.version, Dst: is(f.probe), Proto: TCP, Do: Action{Verb: Accept}})
		if o.DNS {
			rules = append(rules,
				Rule{Table: NAT, Chain: Output, Family: f.version, Out: isNot("lo"), Proto: UDP, DstPort: is[uint16](53), Mark: notProxy, Do: redirect(mesh.PortDNS)},
				Rule{Table: NAT, Chain: Output, Family: f.version, Dst: isNot(f.loopback), Proto: TCP, SYN: true, DstPort: is[uint16](53), Mark: notProxy, Do: redirect(mesh.PortDNS)},
			)
		}
		rules = append(rules,
			Rule{Table: NAT, Chain: Output, Family: f.version, Proto: TCP, Mark: is[uint32](mesh.MarkConn), Do: Action{Verb: Accept}},
			// A pod that calls its own address is not crossing the mesh.
			Rule{Table: NAT, Chain: Output, Family: f.version, Dst: isNot(f.loopback), Out: is("lo"), Do: Action{Verb: Accept}},
			Rule{Table: NAT, Chain: Output, Family: f.version, Dst: isNot(f.loopback), Proto: TCP, SYN: true, Mark: notProxy, Do: redirect(mesh.PortOutbound)},
		)
	}
	if o.DNS {
		rules = append(rules,
			// The proxy asks upstream from the pod's address, maybe from a port the app uses as well; its queries are
			// tracked apart so that answers find their asker.
			Rule{Table: Raw, Chain: Prerouting, Proto: UDP, SrcPort: is[uint16](53), Mark: notProxy, Do: Action{Verb: Zone1}},
			Rule{Table: Raw, Chain: Output, Proto: UDP, DstPort: is[uint16](53), Mark: is[uint32](mesh.MarkProxy), Do: Action{Verb: Zone1}},
		)
	}
	return rules
}

func redirect(port uint16) Action { return Action{Verb: ToPort, Port: port} }

// NodeOptions are what differs between nodes.
type NodeOptions struct {
	// ProbeIPv4 and ProbeIPv6 are as in Options.
	ProbeIPv4, ProbeIPv6 netip.Addr
	// ProbeUser is the user that probes: the kubelet's, root.
	ProbeUser uint32
	// IPv6 says that the node has IPv6.
	IPv6 bool
}

// NodeRules is what the node's network namespace gets: connections the node itself opens to enrolled pods leave with the
// probe address, which PodRules lets through, so that probes work under a policy that demands mutual TLS.
// istio/istio cni/pkg/nftables, the host's rules.
func NodeRules(o NodeOptions) []Rule {
	pod := Options{IPv6: o.IPv6, ProbeIPv4: o.ProbeIPv4, ProbeIPv6: o.ProbeIPv6}.withDefaults()
	var rules []Rule
	for _, f := range pod.families() {
		rules = append(rules, Rule{
			Table: NAT, Chain: Postrouting, Family: f.version, Proto: TCP, SocketUser: is(o.ProbeUser), ProbedPod: true,
			Do: Action{Verb: ProbeAddress, Addr: f.probe},
		})
	}
	return rules
}
