package telemetry

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// Warnings about connections are written for the first few of a kind, then counted: who is refused often comes again at once,
// and a flood of lines hides what is wrong elsewhere. Metrics count every one.
const (
	limitBurst  = 10               // lines of a kind written in full within a window
	limitWindow = 10 * time.Second // after which the next are
	limitKinds  = 4096             // beyond, destinations are no longer told apart
)

// kind is what warnings have in common.
type kind struct {
	message   string
	reason    Reason
	direction Direction
	dst       netip.Addr
}

type limiter struct {
	mu    sync.Mutex
	kinds map[kind]*window // guarded by mu
}

type window struct {
	began      time.Time
	written    int
	suppressed int64
}

func newLimiter() *limiter { return &limiter{kinds: make(map[kind]*window)} }

// admit reports whether to write a warning, and how many of its kind were not written before it.
func (l *limiter) admit(k kind, now time.Time) (missed int64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.kinds[k]
	if w == nil && len(l.kinds) >= limitKinds {
		k.dst = netip.Addr{}
		w = l.kinds[k]
	}
	if w == nil {
		w = &window{began: now}
		l.kinds[k] = w
	}
	if now.Sub(w.began) >= limitWindow {
		missed = w.suppressed
		*w = window{began: now}
	}
	if w.written == limitBurst {
		w.suppressed++
		return 0, false
	}
	w.written++
	return missed, true
}

// expire forgets kinds whose window is over and returns those that had more than was written.
func (l *limiter) expire(now time.Time) map[kind]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[kind]int64)
	for k, w := range l.kinds {
		if now.Sub(w.began) < limitWindow {
			continue
		}
		if w.suppressed > 0 {
			out[k] = w.suppressed
		}
		delete(l.kinds, k)
	}
	return out
}

// warning begins a line about a connection, or returns nil when there were enough of its kind.
func (a accessLog) warning(message string, info *ConnInfo, reason Reason) *line {
	if !a.wants(slog.LevelWarn) {
		return nil
	}
	missed, ok := a.limits.admit(kind{message, reason, info.Direction, info.Dst.Addr()}, time.Now())
	if !ok {
		return nil
	}
	n := a.logs.begin(slog.LevelWarn, accessTarget, message)
	n.ends(info)
	if missed > 0 {
		n.number("suppressed", missed)
	}
	return n
}

// summarize tells of warnings that were not written and that no later one has told of.
func (a accessLog) summarize(now time.Time) {
	for k, missed := range a.limits.expire(now) {
		if !a.wants(slog.LevelWarn) {
			continue
		}
		n := a.logs.begin(slog.LevelWarn, accessTarget, k.message)
		if k.dst.IsValid() {
			n.quoted("dst.addr", k.dst.String())
		}
		n.quoted("direction", k.direction.String())
		n.number("suppressed", missed)
		n.quoted("reason", k.reason.String())
		a.logs.end(n)
	}
}

// Gate lets one line in a while through and counts the others. The zero Gate is ready.
type Gate struct {
	mu     sync.Mutex
	last   time.Time // guarded by mu
	missed int64     // guarded by mu
}

// Pass reports whether to write the line, and how many were not since the last.
func (g *Gate) Pass() (missed int64, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if !g.last.IsZero() && now.Sub(g.last) < limitWindow {
		g.missed++
		return 0, false
	}
	missed, g.missed, g.last = g.missed, 0, now
	return missed, true
}
