package proxy

import (
	"encoding/binary"
	"net/netip"

	"github.com/ambit-mesh/ambit/ca/identity"
)

// PROXY protocol version 2, sections 2.2 and 2.2.7, as an application tunnel receives it.
const (
	proxySignature   = "\r\n\r\n\x00\r\nQUIT\n"
	proxyVersionCmd  = 0x21 // version 2, PROXY
	proxyTCP4        = 0x11
	proxyTCP6        = 0x21
	tlvSourceID      = 0xD0 // the client's SPIFFE URI; Istio ambient wire contract, app tunnel
	proxyHeaderFixed = 16
)

// proxyHeader tells an application that ends the tunnel itself who is calling and what was asked for.
func proxyHeader(src, dst netip.AddrPort, source identity.ID) []byte {
	b := make([]byte, 0, 128)
	b = append(b, proxySignature...)
	b = append(b, proxyVersionCmd)
	if src.Addr().Is4() && dst.Addr().Is4() {
		b = append(b, proxyTCP4, 0, 0)
		b = append(b, src.Addr().AsSlice()...)
		b = append(b, dst.Addr().AsSlice()...)
	} else {
		s, d := src.Addr().As16(), dst.Addr().As16()
		b = append(b, proxyTCP6, 0, 0)
		b = append(b, s[:]...)
		b = append(b, d[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	if !source.IsZero() {
		uri := source.String()
		b = append(b, tlvSourceID)
		b = binary.BigEndian.AppendUint16(b, uint16(len(uri)))
		b = append(b, uri...)
	}
	binary.BigEndian.PutUint16(b[proxyHeaderFixed-2:], uint16(len(b)-proxyHeaderFixed))
	return b
}
