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
	left, idle, err := a.awaitConnections(ctx)
	switch {
	case err != nil:
		a.log.Warn("draining was cut short", "err", err, "dur", time.Since(start))
	case left > idle:
		a.log.Warn("draining took too long, ending connections that are in use", "connections", left, "dur", time.Since(start))
	default:
		a.log.Info("drained", "idle", idle, "dur", time.Since(start))
	}
}

// awaitConnections waits until nothing is left to wait for, for DrainDuration at most. Connections that clients only keep
// for later requests are closed after a while: a client expects that of a kept connection, and would otherwise keep us
// until the last moment for nothing.
func (a *agent) awaitConnections(ctx context.Context) (left, idle int, err error) {
	deadline := time.Now().Add(a.cfg.DrainDuration)
	quiet := min(3*time.Second, a.cfg.DrainDuration/3)
	busy := time.Now()
	for {
		left, idle, err = a.admin.connections(ctx)
		switch now := time.Now(); {
		case err != nil, left == 0:
			return left, idle, err
		case left > idle:
			busy = now
		case now.Sub(busy) >= quiet:
			return left, idle, nil
		}
		if time.Now().After(deadline) || !sleep(ctx, 100*time.Millisecond) {
			return left, idle, ctx.Err()
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
