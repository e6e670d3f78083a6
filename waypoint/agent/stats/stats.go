// Package stats makes Envoy's metrics readable to whoever expects Istio's: it rewrites the text that Envoy's
// /stats/prometheus gives, so that the mesh's own metrics have Istio's names and labels, and leaves the rest as it is.
//
// It knows the Prometheus text format, version 0.0.4. It starts no goroutine. Start reading at Rewrite.
package stats

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"
)

// maxLine bounds one line of input. Lines have at most a few dozen labels.
const maxLine = 1 << 20

// family is all samples of one name. The format wants them together, after one TYPE.
type family struct {
	name    string
	help    string
	kind    string
	samples [][]byte
}

// Rewrite copies metrics in text format. Names that start with envoy_istio_ lose the first part, and an empty label of such
// a metric becomes "unknown", as Istio's dashboards expect. Families that come in several pieces are put together: each
// pod's share of a metric has its own scope in Envoy, and one name may appear under several.
func Rewrite(w io.Writer, r io.Reader) error {
	families := map[string]*family{}
	var order []*family
	get := func(name string) *family {
		f := families[name]
		if f == nil {
			f = &family{name: name}
			families[name] = f
			order = append(order, f)
		}
		return f
	}
	var current *family
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 0, 64<<10), maxLine)
	for in.Scan() {
		line := in.Bytes()
		if len(line) == 0 {
			continue
		}
		if line[0] == '#' {
			word, name, rest := comment(line)
			switch word {
			case "TYPE":
				current = get(rename(name))
				current.kind = rest
			case "HELP":
				current = get(rename(name))
				current.help = rest
			}
			continue
		}
		name := sampleName(line)
		short := rename(name)
		sample := line
		if short != name {
			sample = fillLabels(append([]byte(short), line[len(name):]...))
		} else {
			sample = bytes.Clone(sample)
		}
		f := current
		if f == nil || !f.covers(short) {
			f = get(short)
		}
		f.samples = append(f.samples, sample)
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("read Envoy's metrics: %w", err)
	}
	out := bufio.NewWriter(w)
	for _, f := range order {
		if len(f.samples) == 0 {
			continue
		}
		if f.help != "" {
			fmt.Fprintf(out, "# HELP %s %s\n", f.name, f.help)
		}
		if f.kind != "" {
			fmt.Fprintf(out, "# TYPE %s %s\n", f.name, f.kind)
		}
		for _, s := range f.samples {
			out.Write(s)
			out.WriteByte('\n')
		}
	}
	return out.Flush()
}

// covers reports whether a sample's name belongs to the family: histograms and summaries have suffixes.
func (f *family) covers(sample string) bool {
	rest, ok := strings.CutPrefix(sample, f.name)
	if !ok {
		return false
	}
	switch rest {
	case "":
		return true
	case "_bucket", "_sum", "_count":
		return f.kind == "histogram" || f.kind == "summary"
	}
	return false
}

// rename takes Envoy's prefix off the mesh's own metrics.
func rename(name string) string {
	if rest, ok := strings.CutPrefix(name, "envoy_"); ok && strings.HasPrefix(rest, "istio_") {
		return rest
	}
	return name
}

// comment splits "# TYPE name rest".
func comment(line []byte) (word, name, rest string) {
	parts := strings.SplitN(string(line), " ", 4)
	for len(parts) < 4 {
		parts = append(parts, "")
	}
	return parts[1], parts[2], parts[3]
}

func sampleName(line []byte) string {
	if i := bytes.IndexAny(line, "{ "); i >= 0 {
		return string(line[:i])
	}
	return string(line)
}

// fillLabels writes "unknown" into empty label values. A quote inside a value is escaped with a backslash, so that the two
// characters ="" followed by a comma or the closing brace only ever are an empty value when they are not inside one.
func fillLabels(line []byte) []byte {
	open := bytes.IndexByte(line, '{')
	if open < 0 || !bytes.Contains(line, []byte(`=""`)) {
		return line
	}
	out := make([]byte, 0, len(line)+64)
	out = append(out, line[:open+1]...)
	inside := false
	for i := open + 1; i < len(line); i++ {
		c := line[i]
		out = append(out, c)
		switch {
		case inside && c == '\\' && i+1 < len(line):
			i++
			out = append(out, line[i])
		case c == '"':
			if !inside && i+1 < len(line) && line[i+1] == '"' {
				out = append(out, "unknown"...)
			}
			inside = !inside
		case !inside && c == '}':
			return append(out, line[i+1:]...)
		}
	}
	return out
}
