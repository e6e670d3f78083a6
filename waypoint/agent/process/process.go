// Package process keeps one Envoy running: it starts it, turns its log into ours, restarts it when it crashes and says why.
//
// Envoy lives and dies with this process: the kernel kills it should we die first (PR_SET_PDEATHSIG). In a container we are
// process 1, so both end together anyway, and outside one an orphan would hold the ports a successor needs. A restarted
// Envoy gets everything from the state the agent still has.
//
// It knows Envoy's command line, exit and log. It does not know configuration. Everything runs on the caller's goroutine
// and those of os/exec, which Run waits for. Start reading at Process.Run.
package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// Config says what to run and how.
type Config struct {
	// Path is Envoy's binary, Bootstrap the file it starts from.
	Path      string
	Bootstrap string
	// Concurrency is the number of worker threads.
	Concurrency int
	// Drain is how long connections of a replaced filter chain may go on.
	Drain time.Duration
	// LogLevel is Envoy's own.
	LogLevel slog.Level
	// Stdout receives what Envoy writes there, its access log for one. Nil: ours.
	Stdout *os.File
	// Logger receives Envoy's log.
	Logger *slog.Logger
	// Connected reports whether Envoy has asked for configuration since it was started last. One that ends without ever
	// doing so is not restarted: it cannot start.
	Connected func() bool
	// Started is called after each start.
	Started func(pid int)
	// StopTimeout is how long Envoy has to end when asked to. Zero: 5 s.
	StopTimeout time.Duration
}

// Process is one Envoy and its successors.
type Process struct {
	cfg      Config
	restarts atomic.Int64
	pid      atomic.Int64
}

// New prepares a process. Nothing happens before Run.
func New(cfg Config) *Process {
	if cfg.StopTimeout <= 0 {
		cfg.StopTimeout = 5 * time.Second
	}
	if cfg.Stdout == nil {
		cfg.Stdout = os.Stdout
	}
	return &Process{cfg: cfg}
}

// Restarts counts the times Envoy had to be started again.
func (p *Process) Restarts() int64 { return p.restarts.Load() }

// PID is that of the running Envoy; 0 while there is none.
func (p *Process) PID() int { return int(p.pid.Load()) }

// StartError is returned by Run when Envoy cannot start at all: restarting would not help.
type StartError struct {
	Path, Bootstrap string
	// Reason is what Envoy said.
	Reason string
	Err    error
}

// Error says what to look at.
func (e *StartError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("Envoy (%s) cannot start: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("Envoy (%s) refuses to start with %s: %v; it says: %s", e.Path, e.Bootstrap, e.Err, e.Reason)
}

// Unwrap returns the cause.
func (e *StartError) Unwrap() error { return e.Err }

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 10 * time.Second
	// steady is how long an Envoy must have run for its crash to be restarted at once.
	steady = 30 * time.Second
)

// Run keeps Envoy running until ctx ends, then stops it and returns nil. It returns a *StartError when Envoy cannot start.
func (p *Process) Run(ctx context.Context) error {
	// The parent-death signal is sent when the thread that started Envoy ends, so this one must stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	backoff := time.Duration(0)
	ever := false
	for {
		start := time.Now()
		said, err := p.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) && err != nil {
			return &StartError{p.cfg.Path, p.cfg.Bootstrap, "", err}
		}
		ever = ever || p.cfg.Connected()
		if !ever && exit != nil && exit.ExitCode() > 0 {
			return &StartError{p.cfg.Path, p.cfg.Bootstrap, said, err}
		}
		// The first crash after a steady time costs nothing; a loop of them must not take the machine.
		if time.Since(start) >= steady {
			backoff = 0
		}
		wait := backoff/2 + rand.N(backoff/2+1)
		p.restarts.Add(1)
		p.cfg.Logger.Error("Envoy ended unasked, starting it again", "reason", reason(err), "said", said, "ran", time.Since(start).Round(time.Millisecond), "dur", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		backoff = min(max(2*backoff, minBackoff), maxBackoff)
	}
}

// reason puts an exit into words.
func reason(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			text := "killed by signal " + ws.Signal().String()
			if ws.Signal() == syscall.SIGKILL {
				text += " (by the kernel if the memory limit was reached)"
			}
			return text
		}
	}
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// once runs one Envoy to its end and returns what it complained about last.
func (p *Process) once(ctx context.Context) (said string, err error) {
	cmd := exec.CommandContext(ctx, p.cfg.Path, p.args()...)
	cmd.Stdout = p.cfg.Stdout
	log := &logWriter{log: p.cfg.Logger}
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = p.cfg.StopTimeout
	if err := cmd.Start(); err != nil {
		return "", err
	}
	p.pid.Store(int64(cmd.Process.Pid))
	if p.cfg.Started != nil {
		p.cfg.Started(cmd.Process.Pid)
	}
	err = cmd.Wait()
	p.pid.Store(0)
	log.flush()
	return log.complaints(), err
}

func (p *Process) args() []string {
	seconds := max(1, int(p.cfg.Drain/time.Second))
	return []string{
		"--config-path", p.cfg.Bootstrap,
		"--concurrency", strconv.Itoa(max(1, p.cfg.Concurrency)),
		// Two Envoys at a time are never needed: configuration changes in place.
		"--disable-hot-restart",
		// A changed policy shall hold for open connections soon, not after ten minutes of growing likelihood.
		"--drain-strategy", "immediate", "--drain-time-s", strconv.Itoa(seconds),
		"--log-level", levelName(p.cfg.LogLevel), "--component-log-level", components(p.cfg.LogLevel),
		"--log-format", logFormat, "--log-format-escaped",
		"--file-flush-interval-msec", "500",
	}
}
