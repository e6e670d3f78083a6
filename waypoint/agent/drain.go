package agent

import (
	"context"
	"time"
)

// drain ends service without ending requests: first nobody is sent here any more, then nothing new is accepted, then what
// is open may finish.
//
//	readiness fails ─► DrainWait: others learn of it ─► listeners drain, GOAWAY ─► connections end, at most DrainDuration ─► stop
//
// The other way round, clients that still know only this instance would find it closed.
func (a *agent) drain(ctx context.Context) {
	start := time.Now()
	a.draining.Store(true)
	a.log.Info("draining", "wait", a.cfg.DrainWait, "deadline", a.cfg.DrainDuration)
	if err := a.admin.post(ctx, "/healthcheck/fail"); err != nil {
		a.log.Warn("readiness could not be withdrawn", "err", err)
	}
	if !sleep(ctx, a.cfg.DrainWait) {
		return
	}
	if err := a.admin.post(ctx, "/drain_listeners?graceful&skip_exit"); err != nil {
		a.log.Warn("listeners could not be drained", "err", err)
	}
	ctx, cancel := context.WithTimeout(ctx, a.cfg.DrainDuration)
	defer cancel()
	left := -1
	for {
		n, err := a.admin.connections(ctx)
		switch {
		case ctx.Err() != nil:
			a.log.Warn("draining took too long, ending connections", "connections", left, "dur", time.Since(start))
			return
		case err != nil:
			a.log.Warn("Envoy does not say how many connections are left", "err", err)
			return
		case n == 0:
			a.log.Info("drained", "dur", time.Since(start))
			return
		}
		left = n
		if !sleep(ctx, 100*time.Millisecond) && left > 0 {
			continue // the next look says that the time is over
		}
	}
}

// sleep waits unless ctx ends; it reports whether the time went by.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
