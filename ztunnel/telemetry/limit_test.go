package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) lines(want ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		found := true
		for _, w := range want {
			found = found && strings.Contains(line, w)
		}
		if found {
			n++
		}
	}
	return n
}

// The first of a kind are written, the rest counted and told of: by the next one, or when there is none.
func TestWarningsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		r := New(Options{Logs: NewLogs(&out, false, nil)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		refuse := func(dst string, reason Reason, times int) {
			for range times {
				r.Refused(ConnInfo{Direction: Outbound, Dst: netip.MustParseAddrPort(dst)}, Fail(reason, "", nil))
			}
		}
		time.Sleep(time.Second) // out of step with the summaries
		refuse("10.0.0.1:80", SelfCall, 100)
		refuse("10.0.0.2:80", SelfCall, 3)
		refuse("10.0.0.1:80", UnknownWaypoint, 1)
		if n := out.lines("dst.addr=10.0.0.1:80", `reason="self-call"`); n != limitBurst {
			t.Errorf("%d lines of 100", n)
		}
		if out.lines("dst.addr=10.0.0.2:80") != 3 || out.lines(`reason="unknown-waypoint"`) != 1 || out.lines("suppressed") != 0 {
			t.Error("another kind was limited as well")
		}
		// The next one after the window tells.
		time.Sleep(limitWindow)
		refuse("10.0.0.1:80", SelfCall, 1)
		if out.lines("connection failed", "suppressed=90", `reason="self-call"`) != 1 {
			t.Errorf("90 are not told of")
		}
		// Nobody comes any more.
		refuse("10.0.0.1:80", SelfCall, 29)
		time.Sleep(3 * limitWindow)
		synctest.Wait()
		if out.lines("connection failed", `dst.addr="10.0.0.1"`, `direction="outbound" suppressed=20 reason="self-call"`) != 1 {
			t.Errorf("20 are not told of")
		}
		refuse("10.0.0.3:80", SelfCall, 11)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if out.lines(`dst.addr="10.0.0.3"`, "suppressed=1 ") != 1 {
			t.Error("the last one is not told of at the end")
		}
	})
}

func TestLimiterIsBounded(t *testing.T) {
	l := newLimiter()
	now := time.Now()
	for i := range 2 * limitKinds {
		l.admit(kind{"m", SelfCall, Inbound, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}, now)
	}
	if n := len(l.kinds); n > limitKinds+1 {
		t.Errorf("%d kinds are kept", n)
	}
	if missed := l.expire(now.Add(limitWindow)); len(l.kinds) != 0 || fmt.Sprint(missed[kind{message: "m", reason: SelfCall, direction: Inbound}]) != fmt.Sprint(limitKinds-limitBurst) {
		t.Errorf("missed %v, kept %d", missed, len(l.kinds))
	}
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		if missed, ok := g.Pass(); !ok || missed != 0 {
			t.Error("the first is held back")
		}
		for range 5 {
			if _, ok := g.Pass(); ok {
				t.Error("too many pass")
			}
		}
		time.Sleep(limitWindow)
		if missed, ok := g.Pass(); !ok || missed != 5 {
			t.Errorf("%d missed, %v", missed, ok)
		}
	})
}
