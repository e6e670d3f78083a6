package ads

import (
	"bytes"
	"compress/flate"
	"io"
)

// packFrom is the size from which resources are kept compressed. Filter chains and routes are large and alike: a thousand
// of them shrink to a tenth, and are needed again only when Envoy starts anew.
const packFrom = 1 << 10

// packer compresses; it belongs to the Server and is used with its lock held, because its window is large.
type packer struct {
	w   *flate.Writer
	buf bytes.Buffer
}

func (p *packer) version(body []byte) *version {
	v := &version{id: digest(body), body: body}
	if len(body) < packFrom {
		return v
	}
	p.buf.Reset()
	if p.w == nil {
		p.w, _ = flate.NewWriter(&p.buf, flate.BestSpeed) // fails for unknown levels only
	} else {
		p.w.Reset(&p.buf)
	}
	if _, err := p.w.Write(body); err != nil || p.w.Close() != nil || p.buf.Len() > len(body)*3/4 {
		return v
	}
	v.body, v.size = bytes.Clone(p.buf.Bytes()), len(body)
	return v
}

// bytes is the content as it goes out.
func (v *version) bytes() []byte {
	if v.size == 0 {
		return v.body
	}
	out := bytes.NewBuffer(make([]byte, 0, v.size+bytes.MinRead))
	if _, err := io.Copy(out, flate.NewReader(bytes.NewReader(v.body))); err != nil {
		panic("ads: what was packed here cannot be unpacked: " + err.Error()) // memory is broken
	}
	return out.Bytes()
}
