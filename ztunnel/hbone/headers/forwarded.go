package headers

import (
	"net/netip"
	"strings"
)

// Origin is what the forwarded field tells: where the connection came from and what it asked for. RFC 7239.
type Origin struct {
	// For is the client's address; the port is 0 where the field has none.
	For netip.AddrPort
	// Host is the service the client asked for, without a port.
	Host string
}

// String returns the forwarded field of o: for="ip:port";host=name. An empty Host is left out.
// istio/ztunnel src/proxy/outbound.rs build_forwarded.
func (o Origin) String() string {
	var b strings.Builder
	if o.For.Addr().IsValid() {
		b.WriteString(`for="`)
		switch {
		case o.For.Port() != 0:
			b.WriteString(netip.AddrPortFrom(o.For.Addr().Unmap(), o.For.Port()).String())
		case o.For.Addr().Unmap().Is6():
			b.WriteString("[" + o.For.Addr().String() + "]")
		default:
			b.WriteString(o.For.Addr().Unmap().String())
		}
		b.WriteByte('"')
	}
	if o.Host != "" {
		if b.Len() > 0 {
			b.WriteByte(';')
		}
		b.WriteString("host=")
		if token(o.Host) {
			b.WriteString(o.Host)
		} else {
			quote(&b, o.Host)
		}
	}
	return b.String()
}

// ParseForwarded reads the first element of a forwarded field. What it cannot read stays empty.
func ParseForwarded(field string) Origin {
	var o Origin
	if len(field) > maxField {
		return o
	}
	for field != "" {
		name, value, rest, ok := pair(field)
		if !ok {
			return o
		}
		switch strings.ToLower(name) {
		case "for":
			o.For = parseNode(value)
		case "host":
			o.Host = hostname(value)
		}
		if !strings.HasPrefix(rest, ";") {
			return o // the end, or a comma: the next hop's element
		}
		field = rest[1:]
	}
	return o
}

// pair reads name=value or name="value" off the front of s.
func pair(s string) (name, value, rest string, ok bool) {
	name, s, ok = strings.Cut(strings.TrimLeft(s, " \t"), "=")
	if !ok || !token(name) {
		return "", "", "", false
	}
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, ";,")
		if end < 0 {
			end = len(s)
		}
		return name, strings.TrimRight(s[:end], " \t"), s[end:], true
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return name, b.String(), strings.TrimLeft(s[i+1:], " \t"), true
		case '\\':
			if i++; i == len(s) {
				return "", "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", "", false
}

func parseNode(s string) netip.AddrPort {
	if strings.IndexByte(s, '%') >= 0 {
		return netip.AddrPort{} // a zone means nothing on another machine
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	if bare, ok := strings.CutPrefix(s, "["); ok {
		s = strings.TrimSuffix(bare, "]")
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a.Unmap(), 0)
	}
	return netip.AddrPort{}
}

// hostname returns s without a port, or "" if it is no host name or address.
func hostname(s string) string {
	if i := strings.LastIndexByte(s, ':'); i >= 0 && strings.IndexByte(s, ':') == i {
		s = s[:i]
	}
	if len(s) > 253 {
		return ""
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-', c == '.', c == '_', c == ':', c == '[', c == ']', c == '*':
		default:
			return ""
		}
	}
	return s
}

// token tells an RFC 9110 token, which needs no quotes.
func token(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

func quote(b *strings.Builder, s string) {
	b.WriteByte('"')
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c < ' ' || c >= 0x7f {
			continue
		}
		if c == '"' || c == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	b.WriteByte('"')
}
