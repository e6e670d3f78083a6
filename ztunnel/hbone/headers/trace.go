package headers

// Trace is a W3C trace context: which trace a connection belongs to and which span opened it. The zero value is
// invalid, as an all-zero id is on the wire.
type Trace struct {
	ID      [16]byte
	Span    [8]byte
	Sampled bool
}

// NewTrace starts a trace with ids drawn from random, for example rand.Uint64 of math/rand/v2.
func NewTrace(random func() uint64) Trace {
	var t Trace
	for t.ID == ([16]byte{}) {
		put(t.ID[:8], random())
		put(t.ID[8:], random())
	}
	return t.Child(random)
}

// Child is the same trace with a fresh span.
func (t Trace) Child(random func() uint64) Trace {
	t.Span = [8]byte{}
	for t.Span == ([8]byte{}) {
		put(t.Span[:], random())
	}
	return t
}

func put(b []byte, v uint64) {
	for i := range b {
		b[i] = byte(v >> (8 * (7 - i)))
	}
}

// Valid reports whether both ids are set.
func (t Trace) Valid() bool { return t.ID != [16]byte{} && t.Span != [8]byte{} }

const lowerHex = "0123456789abcdef"

// String returns the traceparent field: version 00, trace id, span id, flags. W3C Trace Context §3.2.
func (t Trace) String() string {
	b := make([]byte, 0, 55)
	b = append(b, "00-"...)
	for _, c := range t.ID {
		b = append(b, lowerHex[c>>4], lowerHex[c&15])
	}
	b = append(b, '-')
	for _, c := range t.Span {
		b = append(b, lowerHex[c>>4], lowerHex[c&15])
	}
	if t.Sampled {
		return string(append(b, "-01"...))
	}
	return string(append(b, "-00"...))
}

// ParseTrace reads a traceparent field of any version; ok is false if it is not valid, and the trace must be dropped.
func ParseTrace(field string) (t Trace, ok bool) {
	// A later version may append to the fields of version 00, behind another dash.
	if len(field) < 55 || len(field) > maxField || field[:2] == "ff" {
		return Trace{}, false
	}
	if field[:2] == "00" && len(field) != 55 || len(field) > 55 && field[55] != '-' {
		return Trace{}, false
	}
	if field[2] != '-' || field[35] != '-' || field[52] != '-' {
		return Trace{}, false
	}
	var version, flags [1]byte
	if !unhex(version[:], field[:2]) || !unhex(t.ID[:], field[3:35]) || !unhex(t.Span[:], field[36:52]) ||
		!unhex(flags[:], field[53:55]) {
		return Trace{}, false
	}
	t.Sampled = flags[0]&1 != 0
	return t, t.Valid()
}

// unhex reads lower-case digits only, as the grammar has it.
func unhex(dst []byte, s string) bool {
	for i := range dst {
		hi, lo := nibble(s[2*i]), nibble(s[2*i+1])
		if hi < 0 || lo < 0 || 'A' <= s[2*i] && s[2*i] <= 'F' || 'A' <= s[2*i+1] && s[2*i+1] <= 'F' {
			return false
		}
		dst[i] = byte(hi<<4 | lo)
	}
	return true
}
