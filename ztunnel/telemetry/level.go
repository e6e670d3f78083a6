package telemetry

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
)

// LevelTrace is below slog's Debug, and LevelOff above everything.
const (
	LevelTrace = slog.LevelDebug - 4
	LevelOff   = slog.LevelError + 100
)

// Levels is the log filter: a level for everything, and others for single targets. It is written the way RUST_LOG is,
// "info,access=debug,dns=off", and may change while the proxy runs.
type Levels struct {
	start   filter
	current atomic.Pointer[filter]
}

// filter is immutable.
type filter struct {
	general slog.Level
	targets map[string]slog.Level
}

// NewLevels parses a filter; the empty one means "info".
func NewLevels(text string) (*Levels, error) {
	f := filter{general: slog.LevelInfo}
	if err := f.apply(text); err != nil {
		return nil, err
	}
	l := &Levels{start: f}
	l.current.Store(&f)
	return l, nil
}

// Set changes the filter. A text without a general level keeps the one in force; targets not named keep theirs.
func (l *Levels) Set(text string) error {
	old := l.current.Load()
	next := filter{general: old.general, targets: map[string]slog.Level{}}
	for t, level := range old.targets {
		next.targets[t] = level
	}
	if err := next.apply(text); err != nil {
		return err
	}
	l.current.Store(&next)
	return nil
}

// Reset returns to the filter the proxy started with.
func (l *Levels) Reset() {
	start := l.start
	l.current.Store(&start)
}

// Enabled reports whether lines of a target and level are wanted. A nil Levels wants INFO and above.
func (l *Levels) Enabled(target string, level slog.Level) bool {
	if l == nil {
		return level >= slog.LevelInfo
	}
	return level >= l.current.Load().level(target)
}

func (f *filter) level(target string) slog.Level {
	if len(f.targets) == 0 {
		return f.general
	}
	// A filter for "ztunnel::proxy" covers "ztunnel::proxy::inbound" as well.
	for t := target; ; {
		if level, ok := f.targets[t]; ok {
			return level
		}
		i := strings.LastIndex(t, "::")
		if i < 0 {
			return f.general
		}
		t = t[:i]
	}
}

// String returns the filter in the form Set takes.
func (l *Levels) String() string {
	f := l.current.Load()
	parts := make([]string, 0, len(f.targets)+1)
	for t, level := range f.targets {
		parts = append(parts, t+"="+levelName(level))
	}
	slices.Sort(parts)
	return strings.Join(append(parts, levelName(f.general)), ",")
}

func (f *filter) apply(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		// istioctl writes target:level, RUST_LOG target=level; a target may contain "::".
		at := strings.LastIndexAny(part, "=:")
		level, err := parseLevel(part[at+1:])
		if err != nil {
			return err
		}
		target := strings.TrimSpace(part[:max(at, 0)])
		switch {
		case at < 0:
			f.general = level
		case target == "" || strings.HasSuffix(target, ":"):
			return fmt.Errorf("log filter %q: target is missing before %q", text, part[at:])
		default:
			if f.targets == nil {
				f.targets = map[string]slog.Level{}
			}
			f.targets[target] = level
		}
	}
	return nil
}

func parseLevel(s string) (slog.Level, error) {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "off", "none":
		return LevelOff, nil
	case "error":
		return slog.LevelError, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "info":
		return slog.LevelInfo, nil
	case "debug":
		return slog.LevelDebug, nil
	case "trace":
		return LevelTrace, nil
	}
	return 0, fmt.Errorf("log level %q is none of off, error, warn, info, debug, trace", s)
}

func levelName(l slog.Level) string {
	switch {
	case l >= LevelOff:
		return "off"
	case l >= slog.LevelError:
		return "error"
	case l >= slog.LevelWarn:
		return "warn"
	case l >= slog.LevelInfo:
		return "info"
	case l >= slog.LevelDebug:
		return "debug"
	}
	return "trace"
}
