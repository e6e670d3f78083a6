package process

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// buffer is a log that two goroutines share.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// program runs a shell script in Envoy's place.
func program(t *testing.T, script string, connected *atomic.Bool) (*Process, *buffer) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "envoy")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	log := &buffer{}
	return New(Config{
		Path: path, Bootstrap: "boot.json", Concurrency: 3, Drain: 4 * time.Second, LogLevel: slog.LevelWarn,
		Logger: slog.New(slog.NewTextHandler(log, nil)), Connected: connected.Load, StopTimeout: time.Second,
	}), log
}

func TestCannotStart(t *testing.T) {
	var no atomic.Bool
	p, _ := program(t, `echo 'ambit|critical|main|error initializing configuration '\''boot.json'\'': bad thing\n' >&2; exit 1`, &no)
	err := p.Run(t.Context())
	var start *StartError
	if !errors.As(err, &start) || !strings.Contains(err.Error(), "bad thing") || !strings.Contains(err.Error(), "boot.json") {
		t.Errorf("Run: %v", err)
	}
	missing := New(Config{Path: "/nowhere/envoy", Logger: slog.New(slog.DiscardHandler), Connected: no.Load})
	if err := missing.Run(t.Context()); !errors.As(err, &start) || !strings.Contains(err.Error(), "/nowhere/envoy") {
		t.Errorf("Run without a binary: %v", err)
	}
}

// An Envoy that ran and ends is started again, with the reason in the log; a stop ends it.
func TestRestart(t *testing.T) {
	var yes atomic.Bool
	yes.Store(true)
	p, log := program(t, `echo "$@" >&2; n=$(cat $0.n 2>/dev/null || echo 0); echo $((n+1)) > $0.n
if [ $n -lt 2 ]; then echo 'ambit|error|main|going down' >&2; kill -SEGV $$; fi
trap 'exit 0' TERM; while :; do sleep 0.02; done`, &yes)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	for end := time.Now().Add(20 * time.Second); p.Restarts() < 2 || p.PID() == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("restarts %d\n%s", p.Restarts(), log)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	for _, want := range []string{
		"killed by signal segmentation fault", "going down", "--concurrency 3", "--disable-hot-restart", "--drain-strategy immediate --drain-time-s 4",
		"--config-path boot.json",
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
}

// One that does not stop is killed.
func TestStubborn(t *testing.T) {
	var yes atomic.Bool
	p, _ := program(t, `trap '' TERM; echo x > $0.up; while :; do sleep 0.02; done`, &yes)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(p.cfg.Path + ".up"); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("not started")
		}
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("not killed")
	}
}

func TestLog(t *testing.T) {
	out := &buffer{}
	w := &logWriter{log: slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, part := range []string{"ambit|warning|config|it\\'s ", "late\\n\nambit|info|main|starting\n", "Assertion failed\n", "ambit|debug|x|", "tail"} {
		if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	w.flush()
	for _, want := range []string{`level=WARN msg="it's late" component=config`, "level=INFO msg=starting", `level=WARN msg="Assertion failed"`, "level=DEBUG msg=tail"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("lacks %s:\n%s", want, out)
		}
	}
	if got := w.complaints(); got != "it's late; Assertion failed" {
		t.Errorf("complaints %q", got)
	}
}
