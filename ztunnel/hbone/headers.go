package hbone

import (
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// Header is one HTTP field. Names are lower case on the wire, RFC 9113 §8.2.
type Header struct{ Name, Value string }

// fieldOverhead is what a field costs in a header list beyond its bytes, RFC 9113 §6.5.2.
const fieldOverhead = 32

// headerBlock is one decoded field section.
type headerBlock struct {
	method, scheme, path, authority, status string
	seen                                    pseudoSet
	fields                                  []Header
	size                                    int
	tooBig                                  bool
	malformed                               string // why, or empty
}

type pseudoSet uint8

const (
	sawMethod pseudoSet = 1 << iota
	sawScheme
	sawPath
	sawAuthority
	sawStatus
)

func (b *headerBlock) bad(why string) {
	if b.malformed == "" {
		b.malformed = why
	}
}

// add takes one field in wire order. It remembers the first fault instead of stopping: the decoder must see the whole
// section either way, because the compression state is shared by all streams.
func (b *headerBlock) add(f hpack.HeaderField, limit int) {
	b.size += len(f.Name) + len(f.Value) + fieldOverhead
	if b.size > limit {
		b.tooBig = true
		return
	}
	if strings.HasPrefix(f.Name, ":") {
		b.addPseudo(f)
		return
	}
	switch {
	case !validFieldName(f.Name):
		b.bad("field name " + strconv.Quote(f.Name))
	case !validFieldValue(f.Value):
		b.bad("value of field " + f.Name)
	case connectionSpecific(f.Name):
		// RFC 9113 §8.2.2.
		b.bad("connection-specific field " + f.Name)
	case f.Name == "te" && f.Value != "trailers":
		b.bad("te field other than trailers")
	}
	b.fields = append(b.fields, Header{f.Name, f.Value})
}

func (b *headerBlock) addPseudo(f hpack.HeaderField) {
	var dst *string
	var bit pseudoSet
	switch f.Name {
	case ":method":
		dst, bit = &b.method, sawMethod
	case ":scheme":
		dst, bit = &b.scheme, sawScheme
	case ":path":
		dst, bit = &b.path, sawPath
	case ":authority":
		dst, bit = &b.authority, sawAuthority
	case ":status":
		dst, bit = &b.status, sawStatus
	default:
		b.bad("unknown pseudo-header " + strconv.Quote(f.Name))
		return
	}
	switch {
	case len(b.fields) > 0:
		// RFC 9113 §8.3: all pseudo-headers precede regular fields.
		b.bad("pseudo-header after a regular field")
	case b.seen&bit != 0:
		b.bad("repeated pseudo-header " + f.Name)
	case !validFieldValue(f.Value):
		b.bad("value of pseudo-header " + f.Name)
	}
	b.seen |= bit
	*dst = f.Value
}

// checkRequest applies the rules for the first field section of a request, RFC 9113 §8.3.1 and §8.5.
func (b *headerBlock) checkRequest() {
	if b.seen&sawStatus != 0 {
		b.bad(":status in a request")
	}
	if b.seen&sawMethod == 0 || b.method == "" {
		b.bad("no :method")
	}
	if b.method == "CONNECT" {
		// CONNECT carries neither :scheme nor :path, and it must name its target. RFC 9113 §8.5.
		if b.seen&(sawScheme|sawPath) != 0 {
			b.bad("CONNECT with :scheme or :path")
		}
		if b.authority == "" {
			b.bad("CONNECT without :authority")
		}
		return
	}
	if b.scheme == "" || b.path == "" {
		b.bad("request without :scheme or :path")
	}
}

// checkTrailers applies RFC 9113 §8.1: trailers carry no pseudo-headers.
func (b *headerBlock) checkTrailers() {
	if b.seen != 0 {
		b.bad("pseudo-header in trailers")
	}
}

// statusCode returns the response status, or 0 and a remembered fault. RFC 9113 §8.3.2.
func (b *headerBlock) statusCode() int {
	if b.seen&^sawStatus != 0 {
		b.bad("request pseudo-header in a response")
	}
	n, err := strconv.Atoi(b.status)
	if err != nil || len(b.status) != 3 || n < 100 {
		b.bad("no valid :status")
		return 0
	}
	return n
}

func lookup(fields []Header, name string) string {
	for _, f := range fields {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

func connectionSpecific(name string) bool {
	switch name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return true
	}
	return false
}

// validFieldName accepts the lower-case half of an RFC 9110 token, RFC 9113 §8.2.1.
func validFieldName(s string) bool {
	if s == "" {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// validFieldValue refuses what RFC 9113 §8.2.1 refuses, control characters included: values reach logs.
func validFieldValue(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	if s == "" {
		return true
	}
	first, last := s[0], s[len(s)-1]
	return first != ' ' && first != '\t' && last != ' ' && last != '\t'
}
