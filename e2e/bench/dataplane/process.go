package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// clockTick is the unit of CPU times in /proc, USER_HZ, which is 100 on every Linux that Go runs on.
const clockTick = 0.01

// pids finds the processes of a path's proxies.
func (w *world) pids(ctx context.Context, p *path) ([]int, error) {
	if len(p.Proxies) == 0 {
		return nil, nil
	}
	status, err := w.lab.Status(ctx)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, name := range p.Proxies {
		for _, d := range status.Daemons {
			if d.Name == name && d.Pid > 0 {
				pids = append(pids, d.Pid)
			}
		}
	}
	if len(pids) != len(p.Proxies) {
		return nil, fmt.Errorf("%d of %v are running", len(pids), p.Proxies)
	}
	return pids, nil
}

// cpu returns the CPU seconds a path's proxies have used since they started.
func (w *world) cpu(ctx context.Context, p *path) (float64, error) {
	pids, err := w.pids(ctx, p)
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		// The command's name, in parentheses, may hold anything; what follows is utime and stime at 12 and 13.
		f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		for _, v := range f[11:13] {
			n, err := strconv.ParseFloat(v, 64)
			if err != nil {
				return 0, err
			}
			sum += n * clockTick
		}
	}
	return sum, nil
}

// memory returns the anonymous memory of each of a path's proxies, in bytes.
func (w *world) memory(ctx context.Context, p *path) ([]float64, error) {
	pids, err := w.pids(ctx, p)
	if err != nil {
		return nil, err
	}
	var out []float64
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			if v, ok := strings.CutPrefix(line, "RssAnon:"); ok {
				n, err := strconv.ParseFloat(strings.Fields(v)[0], 64)
				if err != nil {
					return nil, err
				}
				out = append(out, n*1024)
			}
		}
	}
	return out, nil
}

// profile takes CPU profiles of a path's proxies over the coming sample, if they are ours and profiles are wanted. The
// returned function waits for them. Being watched costs a little: do not quote figures of such a run.
func (w *world) profile(ctx context.Context, p *path, cell string) (wait func()) {
	return w.fetch(ctx, p, cell, fmt.Sprintf("profile?seconds=%d", max(1, int(w.cfg.sample.Seconds()))))
}

// fetch begins to take a profile of each of a path's proxies.
func (w *world) fetch(ctx context.Context, p *path, name, profile string) (wait func()) {
	if w.cfg.dir == "" || !strings.HasPrefix(p.Name, "ours") {
		return func() {}
	}
	var taking sync.WaitGroup
	for _, proxy := range p.Proxies {
		_, node, _ := strings.Cut(proxy, "@")
		taking.Go(func() {
			data, err := w.admin(ctx, node, "http://127.0.0.1:15000/debug/pprof/"+profile)
			if err == nil {
				file := fmt.Sprintf("%s-%s-%s.pprof", name, strings.NewReplacer(" ", "-", ",", "").Replace(p.Name), node)
				err = os.WriteFile(filepath.Join(w.cfg.dir, file), data, 0o644)
			}
			if err != nil {
				step("profile of %s: %v", proxy, err)
			}
		})
	}
	return taking.Wait
}
