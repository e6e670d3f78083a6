package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/e2e/bench/proc"
)

// process is a running ambitd.
type process struct {
	cmd   *exec.Cmd
	xds   string
	admin string
	ready time.Duration
	log   *proc.Log
	ended chan error
}

// build makes the binary to measure.
func build(ctx context.Context) (path string, cleanup func(), err error) {
	dir, err := os.MkdirTemp("", "ambit-bench-bin-")
	if err != nil {
		return "", nil, err
	}
	cleanup = func() { os.RemoveAll(dir) }
	path = filepath.Join(dir, "ambitd")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/ambit-mesh/ambit/control/cmd/ambitd").CombinedOutput()
	if err != nil {
		cleanup()
		return "", nil, fmt.Errorf("build ambitd: %w\n%s", err, out)
	}
	return path, cleanup, nil
}

// startProcess runs ambitd on the folder and waits until it is ready.
func startProcess(ctx context.Context, cfg config, dir string) (*process, error) {
	xdsAddr, err := freePort()
	if err != nil {
		return nil, err
	}
	adminAddr, err := freePort()
	if err != nil {
		return nil, err
	}
	p := &process{xds: xdsAddr, admin: adminAddr, log: &proc.Log{Echo: cfg.log.Enabled(ctx, -4)}, ended: make(chan error, 1)}
	p.cmd = exec.Command(cfg.ambitd, "--config-dir", dir, "--listen=", "--plaintext", p.xds, "--admin-address", p.admin)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	begin := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cfg.ambitd, err)
	}
	go func() { p.ended <- p.cmd.Wait() }() // ended by stop, which receives it
	for {
		if body, err := p.get("/readyz"); err == nil && strings.HasPrefix(body, "ready") {
			p.ready = time.Since(begin)
			return p, nil
		}
		select {
		case err := <-p.ended:
			p.ended <- err
			return nil, fmt.Errorf("ambitd ended: %v\n%s", err, p.log)
		case <-ctx.Done():
			p.stop()
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
		if time.Since(begin) > 3*time.Minute {
			p.stop()
			return nil, fmt.Errorf("ambitd is not ready after 3 minutes\n%s", p.log)
		}
	}
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(os.Interrupt) // may have ended already
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// obituary says how the process ended, if it did: usually that is why a measurement failed.
func (p *process) obituary() string {
	select {
	case err := <-p.ended:
		p.ended <- err
		return fmt.Sprintf("; ambitd ended: %v\n%s", err, p.log)
	case <-time.After(time.Second):
		return "; ambitd still runs, its log ends with\n" + p.log.String()
	}
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (p *process) get(path string) (string, error) {
	client := http.Client{Timeout: time.Minute}
	resp, err := client.Get("http://" + p.admin + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", path, resp.Status)
	}
	return string(body), err
}

// cpu is the processor time used so far.
func (p *process) cpu() time.Duration { return proc.CPU(p.cmd.Process.Pid) }

// rss is the resident memory in bytes.
func (p *process) rss() int64 {
	resident, _ := proc.Memory(p.cmd.Process.Pid)
	return resident
}

// heap is what is live after a garbage collection, in bytes.
func (p *process) heap() (int64, error) {
	if _, err := p.get("/debug/pprof/heap?gc=1"); err != nil {
		return 0, err
	}
	body, err := p.get("/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, "go_memstats_heap_alloc_bytes "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			return int64(v), err
		}
	}
	return 0, fmt.Errorf("no go_memstats_heap_alloc_bytes in /metrics")
}

// peak samples the resident memory until stopped.
func (p *process) peak() (stop func() int64) {
	done := make(chan struct{})
	var highest int64
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			highest = max(highest, p.rss())
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	return func() int64 {
		close(done)
		wg.Wait()
		return max(highest, p.rss())
	}
}
