package telemetry

import (
	"context"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Logs writes the log lines of the proxy: text in tab-separated columns or JSON objects, one line a write.
type Logs struct {
	levels *Levels
	json   bool
	now    func() time.Time // a test's clock

	mu  sync.Mutex
	out io.Writer // guarded by mu
}

// NewLogs writes to out. Nil levels log INFO and above.
func NewLogs(out io.Writer, json bool, levels *Levels) *Logs {
	return &Logs{levels: levels, json: json, now: time.Now, out: out}
}

// Levels returns the filter in force.
func (l *Logs) Levels() *Levels { return l.levels }

// Logger returns a logger whose lines carry a target, also called scope.
func (l *Logs) Logger(target string) *slog.Logger {
	return slog.New(&handler{logs: l, target: target})
}

// line is one log line under construction.
type line struct {
	buf  []byte
	json bool
}

var lines = sync.Pool{New: func() any { return &line{buf: make([]byte, 0, 1024)} }}

const timeLayout = "2006-01-02T15:04:05.000000Z07:00"

func (l *Logs) begin(level slog.Level, target, message string) *line {
	n := lines.Get().(*line)
	n.json = l.json
	now := l.now().UTC()
	if l.json {
		n.buf = append(n.buf[:0], `{"level":"`...)
		n.buf = append(n.buf, levelName(level)...)
		n.buf = append(n.buf, `","time":"`...)
		n.buf = now.AppendFormat(n.buf, timeLayout)
		n.buf = append(n.buf, '"')
		n.quoted("scope", target)
		n.quoted("message", message)
		return n
	}
	n.buf = now.AppendFormat(n.buf[:0], timeLayout)
	n.buf = append(n.buf, '\t')
	n.buf = append(n.buf, levelName(level)...)
	n.buf = append(n.buf, '\t')
	n.buf = append(n.buf, target...)
	n.buf = append(n.buf, '\t')
	n.buf = appendSafe(n.buf, message)
	n.buf = append(n.buf, '\t')
	return n
}

func (l *Logs) end(n *line) {
	if n.json {
		n.buf = append(n.buf, '}')
	} else if n.buf[len(n.buf)-1] == '\t' || n.buf[len(n.buf)-1] == ' ' {
		n.buf = n.buf[:len(n.buf)-1]
	}
	n.buf = append(n.buf, '\n')
	l.mu.Lock()
	_, _ = l.out.Write(n.buf) // nobody is left to tell
	l.mu.Unlock()
	if cap(n.buf) < 16<<10 {
		lines.Put(n)
	}
}

func (n *line) key(k string) {
	if n.json {
		n.buf = append(n.buf, ',', '"')
		n.buf = appendEscaped(n.buf, k)
		n.buf = append(n.buf, '"', ':')
		return
	}
	if last := n.buf[len(n.buf)-1]; last != '\t' {
		n.buf = append(n.buf, ' ')
	}
	n.buf = append(n.buf, k...)
	n.buf = append(n.buf, '=')
}

// bare writes a value without quotes in text if it looks like an address. What a peer asked for may look like anything,
// and could go on with fields of its own.
func (n *line) bare(k, v string) {
	if n.json || !addressLike(v) {
		n.quoted(k, v)
		return
	}
	n.key(k)
	n.buf = append(n.buf, v...)
}

// addressLike admits what addresses and hostnames are made of.
func addressLike(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == ':', c == '-', c == '_', c == '[', c == ']', c == '*':
		default:
			return false
		}
	}
	return s != ""
}

func (n *line) quoted(k, v string) {
	n.key(k)
	n.buf = append(n.buf, '"')
	n.buf = appendEscaped(n.buf, v)
	n.buf = append(n.buf, '"')
}

func (n *line) number(k string, v int64) {
	n.key(k)
	n.buf = strconv.AppendInt(n.buf, v, 10)
}

// appendSafe keeps foreign text from starting a line of its own.
func appendSafe(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' {
			return appendEscaped(b, s)
		}
	}
	return append(b, s...)
}

const hexDigits = "0123456789abcdef"

// appendEscaped writes the inside of a JSON string, which serves the text form too. Whatever does not print is escaped:
// names come from peers, lines end up in terminals, and to those U+009B begins a command and U+202E turns the text around.
func appendEscaped(b []byte, s string) []byte {
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c == '\t':
			b = append(b, '\\', 't')
		case c < ' ' || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		case c < utf8.RuneSelf:
			b = append(b, c)
		default:
			r, size := utf8.DecodeRuneInString(s[i:])
			i += size
			if unicode.IsPrint(r) {
				b = utf8.AppendRune(b, r) // an invalid byte becomes U+FFFD
				continue
			}
			for _, u := range utf16.AppendRune(nil, r) {
				b = append(b, '\\', 'u', hexDigits[u>>12], hexDigits[u>>8&15], hexDigits[u>>4&15], hexDigits[u&15])
			}
			continue
		}
		i++
	}
	return b
}

// handler lets slog write the same lines.
type handler struct {
	logs   *Logs
	target string
	prefix string // of open groups
	attrs  []slog.Attr
}

func (h *handler) Enabled(_ context.Context, level slog.Level) bool {
	return h.logs.levels.Enabled(h.target, level)
}

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	n := h.logs.begin(r.Level, h.target, r.Message)
	for _, a := range h.attrs {
		n.attr("", a)
	}
	r.Attrs(func(a slog.Attr) bool {
		n.attr(h.prefix, a)
		return true
	})
	h.logs.end(n)
	return nil
}

func (n *line) attr(prefix string, a slog.Attr) {
	v := a.Value.Resolve()
	switch {
	case a.Equal(slog.Attr{}):
	case v.Kind() == slog.KindGroup:
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, member := range v.Group() {
			n.attr(prefix, member)
		}
	case v.Kind() == slog.KindInt64:
		n.number(prefix+a.Key, v.Int64())
	case v.Kind() == slog.KindBool:
		n.key(prefix + a.Key)
		n.buf = strconv.AppendBool(n.buf, v.Bool())
	default:
		n.quoted(prefix+a.Key, v.String())
	}
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.attrs = append([]slog.Attr(nil), h.attrs...)
	for _, a := range attrs {
		a.Key = h.prefix + a.Key
		next.attrs = append(next.attrs, a)
	}
	return &next
}

func (h *handler) WithGroup(name string) slog.Handler {
	next := *h
	if name != "" {
		next.prefix += name + "."
	}
	return &next
}
