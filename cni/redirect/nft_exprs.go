package redirect

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// program assembles one rule's expressions; all of them work on register 1.
type program []expr.Any

func (p *program) add(e ...expr.Any) { *p = append(*p, e...) }

func (p *program) compare(not bool, b []byte) {
	o := expr.CmpOpEq
	if not {
		o = expr.CmpOpNeq
	}
	p.add(&expr.Cmp{Op: o, Register: 1, Data: b})
}

func (p *program) meta(key expr.MetaKey, not bool, b []byte) {
	p.add(&expr.Meta{Key: key, Register: 1})
	p.compare(not, b)
}

func (p *program) payload(base expr.PayloadBase, offset, length uint32) {
	p.add(&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: length})
}

func (p *program) mask(mask, xor []byte) {
	p.add(&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(mask)), Mask: mask, Xor: xor})
}

func u32(v uint32) []byte  { return binaryutil.NativeEndian.PutUint32(v) }
func be16(v uint16) []byte { return binaryutil.BigEndian.PutUint16(v) }

// ifname is an interface name as the kernel compares it: all 16 bytes.
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// addrAt is where an address stands in its header: RFC 791 §3.1, RFC 8200 §3.
func addrAt(f Family, source bool) (offset, length uint32) {
	switch {
	case f == IPv6 && source:
		return 8, 16
	case f == IPv6:
		return 24, 16
	case source:
		return 12, 4
	default:
		return 16, 4
	}
}

// nftExprs is nftRule in the kernel's terms. set is the probe set of the rule's family, if the rule uses it.
func nftExprs(r Rule, set *nftables.Set) []expr.Any {
	var p program
	if r.In.Set {
		p.meta(expr.MetaKeyIIFNAME, r.In.Not, ifname(r.In.Value))
	}
	switch r.Family {
	case IPv4:
		p.meta(expr.MetaKeyNFPROTO, false, []byte{unix.NFPROTO_IPV4})
	case IPv6:
		p.meta(expr.MetaKeyNFPROTO, false, []byte{unix.NFPROTO_IPV6})
	}
	p.addr(r.Family, true, r.Src)
	p.addr(r.Family, false, r.Dst)
	if r.ProbedPod {
		offset, length := addrAt(r.Family, false)
		p.payload(expr.PayloadBaseNetworkHeader, offset, length)
		p.add(&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID})
	}
	if r.Out.Set {
		p.meta(expr.MetaKeyOIFNAME, r.Out.Not, ifname(r.Out.Value))
	}
	switch r.Proto {
	case TCP:
		p.meta(expr.MetaKeyL4PROTO, false, []byte{unix.IPPROTO_TCP})
	case UDP:
		p.meta(expr.MetaKeyL4PROTO, false, []byte{unix.IPPROTO_UDP})
	}
	// Ports are at the same place in TCP and UDP.
	if r.SrcPort.Set {
		p.payload(expr.PayloadBaseTransportHeader, 0, 2)
		p.compare(r.SrcPort.Not, be16(r.SrcPort.Value))
	}
	if r.DstPort.Set {
		p.payload(expr.PayloadBaseTransportHeader, 2, 2)
		p.compare(r.DstPort.Not, be16(r.DstPort.Value))
	}
	if r.SYN {
		// FIN 1, SYN 2, RST 4, ACK 16: RFC 9293 §3.1.
		p.payload(expr.PayloadBaseTransportHeader, 13, 1)
		p.mask([]byte{0x17}, []byte{0})
		p.compare(false, []byte{0x02})
	}
	if r.Mark.Set {
		p.add(&expr.Meta{Key: expr.MetaKeyMARK, Register: 1})
		p.mask(u32(mesh.MarkMask), u32(0))
		p.compare(r.Mark.Not, u32(r.Mark.Value))
	}
	if r.ConnMark.Set {
		p.add(&expr.Ct{Key: expr.CtKeyMARK, Register: 1})
		p.mask(u32(mesh.MarkMask), u32(0))
		p.compare(r.ConnMark.Not, u32(r.ConnMark.Value))
	}
	if r.SocketUser.Set {
		p.meta(expr.MetaKeySKUID, r.SocketUser.Not, u32(r.SocketUser.Value))
	}
	p.action(r)
	return p
}

func (p *program) addr(f Family, source bool, c Cond[netip.Addr]) {
	if !c.Set {
		return
	}
	offset, length := addrAt(f, source)
	p.payload(expr.PayloadBaseNetworkHeader, offset, length)
	p.compare(c.Not, c.Value.AsSlice())
}

func (p *program) action(r Rule) {
	switch r.Do.Verb {
	case Accept:
		p.add(&expr.Verdict{Kind: expr.VerdictAccept})
	case Return:
		p.add(&expr.Verdict{Kind: expr.VerdictReturn})
	case ToPort:
		p.add(&expr.Immediate{Register: 1, Data: be16(r.Do.Port)}, &expr.Redir{RegisterProtoMin: 1})
	case MarkConn:
		p.add(&expr.Ct{Key: expr.CtKeyMARK, Register: 1})
		p.mask(u32(^uint32(mesh.MarkMask)), u32(mesh.MarkConn))
		p.add(&expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true})
	case RestoreMark:
		p.add(&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1})
	case Zone1:
		p.add(&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint16(1)},
			&expr.Ct{Key: expr.CtKeyZONE, Register: 1, SourceRegister: true})
	case ProbeAddress:
		fam := uint32(unix.NFPROTO_IPV4)
		if r.Family == IPv6 {
			fam = unix.NFPROTO_IPV6
		}
		p.add(&expr.Immediate{Register: 1, Data: r.Do.Addr.AsSlice()},
			&expr.NAT{Type: expr.NATTypeSourceNAT, Family: fam, RegAddrMin: 1, RegAddrMax: 1})
	}
}
