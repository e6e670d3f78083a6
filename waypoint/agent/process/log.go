package process

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
)

// logFormat makes every line "ambit|level|component|text", so that lines of something else stand out.
const logFormat = logMark + "%l|%n|%v"

const logMark = "ambit|"

// levelName is Envoy's word for a level.
func levelName(l slog.Level) string {
	switch {
	case l < slog.LevelDebug:
		return "trace"
	case l < slog.LevelInfo:
		return "debug"
	case l < slog.LevelWarn:
		return "info"
	case l < slog.LevelError:
		return "warning"
	}
	return "error"
}

// components silences what warns about matchers that Envoy calls unfinished, at every change: they are what Istio relies
// on, and nobody who reads the log can do anything about it.
func components(l slog.Level) string {
	if l < slog.LevelInfo {
		return "misc:" + levelName(l)
	}
	return "misc:error"
}

func level(name string) slog.Level {
	switch name {
	case "trace", "debug":
		return slog.LevelDebug
	case "warning":
		return slog.LevelWarn
	case "error", "critical":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// unescaped takes back what --log-format-escaped does to quotes. Line ends stay escaped: a record is one line.
var unescaped = strings.NewReplacer(`\'`, `'`, `\"`, `"`, `\\`, `\`)

// Bounds of what is kept: one line, and complaints to give a reason with.
const (
	maxLine  = 16 << 10
	keptTail = 6
)

// logWriter turns Envoy's standard error into log records. os/exec writes to it from one goroutine.
type logWriter struct {
	log  *slog.Logger
	rest []byte
	tail []string
}

// Write implements io.Writer.
func (w *logWriter) Write(b []byte) (int, error) {
	n := len(b)
	for {
		line, after, found := bytes.Cut(b, []byte("\n"))
		if !found {
			break
		}
		w.line(append(w.rest, line...))
		w.rest = w.rest[:0]
		b = after
	}
	if w.rest = append(w.rest, b...); len(w.rest) > maxLine {
		w.flush()
	}
	return n, nil
}

func (w *logWriter) flush() {
	if len(w.rest) > 0 {
		w.line(w.rest)
		w.rest = w.rest[:0]
	}
}

func (w *logWriter) line(raw []byte) {
	text := strings.TrimSpace(strings.ToValidUTF8(string(raw[:min(len(raw), maxLine)]), "?"))
	if text == "" {
		return
	}
	lvl, component := slog.LevelWarn, ""
	if rest, ours := strings.CutPrefix(text, logMark); ours {
		if parts := strings.SplitN(rest, "|", 3); len(parts) == 3 {
			lvl, component, text = level(parts[0]), parts[1], parts[2]
		}
	}
	text = strings.TrimSuffix(strings.TrimRight(unescaped.Replace(text), " "), `\n`)
	if lvl >= slog.LevelWarn {
		if w.tail = append(w.tail, text); len(w.tail) > keptTail {
			w.tail = w.tail[1:]
		}
	}
	w.log.Log(context.Background(), lvl, text, "component", component)
}

// complaints are the last lines of warnings and errors. Errors alone, if there is one about the start.
func (w *logWriter) complaints() string {
	for _, line := range w.tail {
		if strings.HasPrefix(line, "error initializing configuration") {
			return line
		}
	}
	return strings.Join(w.tail, "; ")
}
