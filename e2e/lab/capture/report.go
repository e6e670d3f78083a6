package capture

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Kinds of what a flow carries.
const (
	Empty     = "no data"
	TLS       = "TLS"
	HTTP      = "HTTP, readable"
	DNS       = "DNS, readable"
	HTTP2     = "HTTP/2, readable"
	Plaintext = "text, readable"
	Binary    = "bytes, no TLS seen"
)

// Flow is one conversation, from the side that opened it as far as that was seen.
type Flow struct {
	Protocol       string
	Client, Server netip.AddrPort
	Packets        int
	// Bytes counts payload in both directions.
	Bytes int
	Kind  string
	// Snippets are the first readable lines.
	Snippets []string
}

// Report sums up packets.
type Report struct {
	// Packets counts all there were, Other those that are neither TCP nor UDP.
	Packets, Other int
	flows          map[flowKey]*Flow
	payload        []byte
}

type flowKey struct {
	proto string
	a, b  netip.AddrPort
}

const maxSnippets = 6

// Add takes one Ethernet frame into account. It has the form of a sink of Record.
func (r *Report) Add(_ time.Time, frame []byte) {
	r.Packets++
	p, ok := parse(frame)
	if !ok {
		r.Other++
		return
	}
	if r.flows == nil {
		r.flows = map[flowKey]*Flow{}
	}
	key := flowKey{p.proto, p.src, p.dst}
	if p.dst.Compare(p.src) < 0 {
		key.a, key.b = p.dst, p.src
	}
	f := r.flows[key]
	if f == nil {
		f = &Flow{Protocol: p.proto, Client: p.src, Server: p.dst, Kind: Empty}
		// A capture may start in the middle; then the lower port is the server's more often than not.
		if p.synAck || !p.syn && p.src.Port() < p.dst.Port() {
			f.Client, f.Server = p.dst, p.src
		}
		r.flows[key] = f
	}
	f.Packets++
	f.Bytes += len(p.payload)
	f.look(p.payload)
	// Kept for Contains, up to a limit that any demonstration stays below.
	if len(r.payload) < 64<<20 {
		r.payload = append(r.payload, p.payload...)
		r.payload = append(r.payload, 0)
	}
}

// look judges a payload. What has been readable once stays called so; TLS is only what never was.
func (f *Flow) look(payload []byte) {
	if len(payload) == 0 {
		return
	}
	kind := classify(f, payload)
	switch kind {
	case HTTP, Plaintext:
		for line := range bytes.Lines(payload) {
			text := strings.TrimSpace(string(line))
			if text == "" || !printable([]byte(text)) || len(f.Snippets) >= maxSnippets {
				break
			}
			f.Snippets = append(f.Snippets, text[:min(len(text), 100)])
		}
	case Binary:
		// The middle of a TLS record or of a long body says nothing.
		if f.Kind != Empty {
			return
		}
	}
	if rank(kind) > rank(f.Kind) {
		f.Kind = kind
	}
}

func rank(kind string) int {
	return slices.Index([]string{Empty, Binary, TLS, DNS, HTTP2, Plaintext, HTTP}, kind)
}

func classify(f *Flow, b []byte) string {
	switch {
	case f.Protocol == "udp" && f.Server.Port() == 53:
		return DNS
	// A record header: content type, version 3.x, length. RFC 8446 §5.1.
	case len(b) >= 5 && b[0] >= 20 && b[0] <= 23 && b[1] == 3 && b[2] <= 4:
		return TLS
	case f.Kind == TLS:
		// Records need not start where packets do, and ciphertext is printable for a few bytes now and then.
		return Binary
	case bytes.HasPrefix(b, []byte("PRI * HTTP/2.0")):
		return HTTP2
	case bytes.HasPrefix(b, []byte("HTTP/1.")):
		return HTTP
	}
	for _, method := range []string{"GET ", "POST ", "PUT ", "HEAD ", "DELETE ", "PATCH ", "OPTIONS ", "CONNECT "} {
		if bytes.HasPrefix(b, []byte(method)) {
			return HTTP
		}
	}
	if len(b) >= 4 && printable(b[:min(len(b), 64)]) {
		return Plaintext
	}
	return Binary
}

func printable(b []byte) bool {
	for _, c := range b {
		if c != '\t' && c != '\r' && c != '\n' && (c < 32 || c > 126) {
			return false
		}
	}
	return true
}

// Flows lists the flows, those with most data first.
func (r *Report) Flows() []Flow {
	list := make([]Flow, 0, len(r.flows))
	for _, f := range r.flows {
		list = append(list, *f)
	}
	slices.SortFunc(list, func(a, b Flow) int {
		return cmp.Or(b.Bytes-a.Bytes, a.Server.Compare(b.Server), a.Client.Compare(b.Client))
	})
	return list
}

// Contains says whether the text was on the wire in the clear, within one packet.
func (r *Report) Contains(text string) bool { return bytes.Contains(r.payload, []byte(text)) }

// String is a table of conversations by server and kind, with what could be read of each.
func (r *Report) String() string {
	type group struct {
		proto, kind, clients string
		server               netip.AddrPort
		flows, packets, size int
		snippets             []string
	}
	groups := map[string]*group{}
	for _, f := range r.Flows() {
		key := fmt.Sprint(f.Protocol, f.Server, f.Client.Addr(), f.Kind)
		g := groups[key]
		if g == nil {
			g = &group{proto: f.Protocol, kind: f.Kind, clients: f.Client.Addr().String(), server: f.Server}
			groups[key] = g
		}
		g.flows, g.packets, g.size = g.flows+1, g.packets+f.Packets, g.size+f.Bytes
		for _, s := range f.Snippets {
			if len(g.snippets) < maxSnippets && !slices.Contains(g.snippets, s) {
				g.snippets = append(g.snippets, s)
			}
		}
	}
	list := make([]*group, 0, len(groups))
	for _, g := range groups {
		list = append(list, g)
	}
	slices.SortFunc(list, func(a, b *group) int {
		return cmp.Or(b.size-a.size, a.server.Compare(b.server), cmp.Compare(a.clients, b.clients))
	})
	var out strings.Builder
	fmt.Fprintf(&out, "%-4s %-24s %-30s %6s %9s  %s\n", "", "FROM", "TO", "CONNS", "BYTES", "CARRIES")
	for _, g := range list {
		fmt.Fprintf(&out, "%-4s %-24s %-30s %6d %9d  %s\n", g.proto, g.clients, g.server, g.flows, g.size, g.kind)
		for _, s := range g.snippets {
			fmt.Fprintf(&out, "     | %s\n", s)
		}
	}
	fmt.Fprintf(&out, "%d packets, %d of them neither TCP nor UDP\n", r.Packets, r.Other)
	return out.String()
}

type packet struct {
	proto       string
	src, dst    netip.AddrPort
	syn, synAck bool
	payload     []byte
}

// parse reads Ethernet, IPv4 or IPv6, and TCP or UDP. Fragments and IPv6 extension headers count as other packets.
func parse(b []byte) (packet, bool) {
	if len(b) < 14 {
		return packet{}, false
	}
	kind := binary.BigEndian.Uint16(b[12:])
	b = b[14:]
	var src, dst netip.Addr
	var proto byte
	switch {
	case kind == 0x0800 && len(b) >= 20 && b[0]>>4 == 4: // RFC 791 §3.1
		head, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
		if head < 20 || head > len(b) || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return packet{}, false
		}
		src, dst, proto = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[9]
		// Short frames are padded; a length of 0 is a packet too long for the field, cut by the network card.
		if total >= head && total <= len(b) {
			b = b[:total]
		}
		b = b[head:]
	case kind == 0x86dd && len(b) >= 40 && b[0]>>4 == 6: // RFC 8200 §3
		src, dst, proto = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[6]
		if n := 40 + int(binary.BigEndian.Uint16(b[4:])); n > 40 && n <= len(b) {
			b = b[:n]
		}
		b = b[40:]
	default:
		return packet{}, false
	}
	return transport(proto, src, dst, b)
}

func transport(proto byte, src, dst netip.Addr, b []byte) (packet, bool) {
	if len(b) < 8 {
		return packet{}, false
	}
	p := packet{
		src: netip.AddrPortFrom(src, binary.BigEndian.Uint16(b)),
		dst: netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:])),
	}
	switch proto {
	case 6: // RFC 9293 §3.1
		head := 0
		if len(b) >= 20 {
			head = int(b[12]>>4) * 4
		}
		if head < 20 || head > len(b) {
			return packet{}, false
		}
		p.proto, p.payload = "tcp", b[head:]
		p.syn, p.synAck = b[13]&0x12 == 0x02, b[13]&0x12 == 0x12
	case 17: // RFC 768
		p.proto, p.payload = "udp", b[8:]
	default:
		return packet{}, false
	}
	return p, true
}
