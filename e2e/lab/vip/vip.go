// Package vip makes virtual service addresses work on a node, for its pods and its own processes, by rewriting
// destinations in the node's network namespace.
//
// It writes one table per address family over netlink. Rules are replaced in one transaction under hooks that stay, so that
// no packet meets half of them; established connections keep their endpoint. It knows nothing of pods or readiness. No goroutines. Start reading at Apply.
package vip

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/ambit-mesh/ambit/e2e/lab/services"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	tableName = "ambit-lab-services"
	// markHairpin is on packets of a pod that was chosen as its own endpoint: they need another source to come back.
	// It lies outside of the bits the mesh uses.
	markHairpin = 0x4000
)

// Apply makes the node at the namespace path serve exactly these services.
func Apply(netnsPath string, list []services.Service) error {
	ns, err := os.Open(netnsPath)
	if err != nil {
		return fmt.Errorf("service addresses: %w", err)
	}
	defer ns.Close()
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())), nftables.WithSockOptions(roomForAll))
	if err != nil {
		return fmt.Errorf("service addresses: netfilter in %s: %w", netnsPath, err)
	}
	for _, f := range []family{{nftables.TableFamilyIPv4, 16, 4, unix.NFPROTO_IPV4}, {nftables.TableFamilyIPv6, 24, 16, unix.NFPROTO_IPV6}} {
		if err := f.write(conn, list); err != nil {
			return fmt.Errorf("service addresses: read chains in %s: %w", netnsPath, err)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("service addresses: write rules in %s (needs nf_tables with nat): %w", netnsPath, err)
	}
	return nil
}

// roomForAll lets all rules go in one message, which is all of them or none: about 1 KB for a port of a service. The kernel
// refuses messages beyond what the socket's buffer takes, and drops what it has to say when nobody has read yet: it
// acknowledges each rule.
func roomForAll(c *netlink.Conn) error {
	const room = 64 << 20
	return errors.Join(c.SetWriteBuffer(room), c.SetReadBuffer(room))
}

// family is how rules look at one address family.
type family struct {
	table nftables.TableFamily
	// offset and size of the destination address in the network header; the source lies size bytes before it.
	offset, size uint32
	proto        uint32
}

func (f family) is(a netip.Addr) bool { return a.Is4() == (f.size == 4) }

func (f family) write(c *nftables.Conn, list []services.Service) error {
	t := &nftables.Table{Name: tableName, Family: f.table}
	before, err := c.ListChainsOfTableFamily(f.table)
	if err != nil {
		return err
	}
	// The base chains are added again and stay what they are. Were they replaced, a new connection could slip between the
	// hooks of the old and the new ones, and would be exempt from translation for good.
	c.AddTable(t)
	c.FlushTable(t)
	chain := func(name string) *nftables.Chain { return c.AddChain(&nftables.Chain{Name: name, Table: t}) }
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Name: name, Table: t, Type: kind, Hooknum: hook, Priority: prio})
	}
	pick, refuse := chain("services"), chain("without-endpoints")
	for _, b := range []*nftables.Chain{
		base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest),
		base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest),
	} {
		c.AddRule(&nftables.Rule{Table: t, Chain: b, Exprs: []expr.Any{jump(pick.Name)}})
	}
	for _, b := range []*nftables.Chain{
		base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter),
		base("output-filter", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter),
	} {
		c.AddRule(&nftables.Rule{Table: t, Chain: b, Exprs: []expr.Any{jump(refuse.Name)}})
	}
	post := base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	c.AddRule(&nftables.Rule{Table: t, Chain: post, Exprs: append(marked(), &expr.Masq{})})
	wanted := map[string]bool{pick.Name: true, refuse.Name: true}
	for i, s := range list {
		for j, p := range s.Ports {
			for k, vip := range slices.Concat(s.VIPs, s.External) {
				if !f.is(vip) {
					continue
				}
				b := &backend{c: c, t: t, f: f, name: fmt.Sprintf("svc-%d-%d-%d", i, j, k), label: s.Namespace + "/" + s.Name}
				b.write(pick, refuse, vip, p)
				for _, name := range b.chains {
					wanted[name] = true
				}
			}
		}
	}
	for _, old := range before {
		if old.Table.Name == tableName && old.Hooknum == nil && !wanted[old.Name] {
			c.DelChain(&nftables.Chain{Name: old.Name, Table: t})
		}
	}
	return nil
}

type backend struct {
	c           *nftables.Conn
	t           *nftables.Table
	f           family
	name, label string
	chains      []string // that were needed
}

func (b *backend) write(pick, refuse *nftables.Chain, vip netip.Addr, p services.Port) {
	var endpoints []netip.AddrPort
	for _, e := range p.Endpoints {
		if b.f.is(e.Addr()) {
			endpoints = append(endpoints, e)
		}
	}
	match, ok := b.match(vip, p)
	if !ok {
		return
	}
	if len(endpoints) == 0 {
		b.rule(refuse, append(match, rejection(b.f, p.Protocol)))
		return
	}
	svc := b.chain(b.name)
	b.rule(pick, append(match, jump(svc.Name)))
	for i, e := range endpoints {
		ep := b.chain(fmt.Sprintf("%s-%d", b.name, i))
		choose := []expr.Any{}
		// The i-th of n is taken with a chance of one in those left, which makes all equal; the last takes the rest.
		if left := len(endpoints) - i; left > 1 {
			choose = append(choose,
				&expr.Numgen{Register: 1, Type: unix.NFT_NG_RANDOM, Modulus: uint32(left)},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)})
		}
		b.rule(svc, append(choose, &expr.Verdict{Kind: expr.VerdictGoto, Chain: ep.Name}))
		b.rule(ep, append(b.address(b.f.offset-b.f.size, e.Addr()), setMark()...))
		b.rule(ep, []expr.Any{
			&expr.Immediate{Register: 1, Data: e.Addr().AsSlice()},
			&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(e.Port())},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: b.f.proto, RegAddrMin: 1, RegProtoMin: 2, Specified: true},
		})
	}
}

func (b *backend) chain(name string) *nftables.Chain {
	b.chains = append(b.chains, name)
	return b.c.AddChain(&nftables.Chain{Name: name, Table: b.t})
}

func (b *backend) rule(chain *nftables.Chain, exprs []expr.Any) {
	b.c.AddRule(&nftables.Rule{Table: b.t, Chain: chain, Exprs: exprs, UserData: []byte(b.label)})
}

func (b *backend) address(offset uint32, a netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: b.f.size},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: a.AsSlice()},
	}
}

func (b *backend) match(vip netip.Addr, p services.Port) ([]expr.Any, bool) {
	proto := map[string]byte{"TCP": unix.IPPROTO_TCP, "UDP": unix.IPPROTO_UDP, "SCTP": unix.IPPROTO_SCTP}[p.Protocol]
	if proto == 0 {
		return nil, false
	}
	return append(b.address(b.f.offset, vip),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(p.Number)},
	), true
}

func jump(chain string) expr.Any { return &expr.Verdict{Kind: expr.VerdictJump, Chain: chain} }

// rejection answers at once, as a cluster does for a service without endpoints: clients see "refused", not a timeout.
func rejection(f family, protocol string) expr.Any {
	if protocol == "TCP" {
		return &expr.Reject{Type: unix.NFT_REJECT_TCP_RST}
	}
	code := uint8(3) // ICMP port unreachable, RFC 792
	if f.size == 16 {
		code = 4 // ICMPv6 port unreachable, RFC 4443 §3.1
	}
	return &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code}
}

func setMark() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(^uint32(markHairpin)), Xor: binaryutil.NativeEndian.PutUint32(markHairpin)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
	}
}

func marked() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(markHairpin), Xor: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
	}
}
