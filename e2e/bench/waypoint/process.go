package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/e2e/bench/proc"
)

// process is one that was started here.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   *proc.Log
	ended chan error
}

func start(cfg config, name string, env []string, args ...string) (*process, error) {
	p := &process{name: name, log: &proc.Log{Echo: cfg.verbose}, ended: make(chan error, 1)}
	p.cmd = exec.Command(program(name), args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	// Envoy's output goes through its agent, so nothing else holds the pipe for long.
	p.cmd.WaitDelay = 5 * time.Second
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { p.ended <- p.cmd.Wait() }() // stop receives it
	return p, nil
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // may have ended already
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// await asks every few milliseconds until the answer is nil, the process ends, or a minute is over.
func (p *process) await(ctx context.Context, every time.Duration, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case end := <-p.ended:
			p.ended <- end
			return fmt.Errorf("%s ended: %v\n%s", p.name, end, p.log)
		case <-ctx.Done():
			return fmt.Errorf("%s: %w\n%s", p.name, err, p.log)
		case <-time.After(every):
		}
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// envoyBelow finds the Envoy among a process and its descendants.
func envoyBelow(pid int) (int, error) {
	for todo, seen := []int{pid}, 0; len(todo) > 0 && seen < 100; seen++ {
		next := todo[0]
		todo = todo[1:]
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", next))
		if err == nil && strings.TrimSpace(string(name)) == "envoy" {
			return next, nil
		}
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", next))
		if err != nil {
			return 0, err
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				continue // the thread ended
			}
			for field := range strings.FieldsSeq(string(data)) {
				if n, err := strconv.Atoi(field); err == nil {
					todo = append(todo, n)
				}
			}
		}
	}
	return 0, fmt.Errorf("no Envoy below process %d", pid)
}

// memory is the resident memory of a process in MiB, and that part of it that is its own and not its binary's.
func memory(pid int) (rss, anonymous float64) {
	r, a := proc.Memory(pid)
	return float64(r) / (1 << 20), float64(a) / (1 << 20)
}

var client = http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}

func get(url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, bytes.TrimSpace(body))
	}
	return string(body), err
}

// counter sums the samples of a metric.
func counter(url, name string) (float64, error) {
	body, err := get(url)
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for line := range strings.Lines(body) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(strings.TrimSpace(rest), ' ')+1:]), 64)
		if err != nil {
			return 0, err
		}
		sum += v
	}
	return sum, nil
}
