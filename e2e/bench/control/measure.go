package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// What passes between two changes that are measured one at a time: more than a batching window, so that each is a first one.
const quiet = 120 * time.Millisecond

// measureEmpty looks at a control plane without a mesh.
func measureEmpty(ctx context.Context, cfg config, res *results) error {
	dir, err := os.MkdirTemp("", "ambit-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p, err := startProcess(ctx, cfg, dir)
	if err != nil {
		return err
	}
	defer p.stop()
	m, err := measureMemory(p)
	if err != nil {
		return err
	}
	res.add(row{Measure: "empty", Values: m})
	return nil
}

// measureSize takes one number of pods through all numbers of proxies.
func measureSize(ctx context.Context, cfg config, res *results, pods int) error {
	dir, err := os.MkdirTemp("", "ambit-bench-")
	if err != nil {
		return err
	}
	if !cfg.keep {
		defer os.RemoveAll(dir)
	} else {
		fmt.Fprintln(os.Stderr, "the mesh is in", dir)
	}
	w := newWorld(dir, pods)
	begin := time.Now()
	if err := w.write(); err != nil {
		return err
	}
	cfg.log.Info("mesh written", "pods", pods, "dur", time.Since(begin))
	p, err := startProcess(ctx, cfg, dir)
	if err != nil {
		return err
	}
	defer p.stop()
	m, err := measureMemory(p)
	if err != nil {
		return err
	}
	res.add(row{Measure: "memory", Pods: pods, Values: m})
	for _, n := range cfg.clients {
		if err := measureCell(ctx, cfg, res, w, p, n); err != nil {
			return fmt.Errorf("%d proxies: %w%s", n, err, p.obituary())
		}
		if err := w.tidy(); err != nil {
			return err
		}
	}
	return nil
}

// measureMemory gives the runtime a moment to return what starting took, then looks.
func measureMemory(p *process) (map[string]stat, error) {
	start := p.rss()
	settled := start
	heap, err := p.heap()
	if err != nil {
		return nil, err
	}
	for range 10 {
		time.Sleep(300 * time.Millisecond)
		if heap, err = p.heap(); err != nil {
			return nil, err
		}
		now := p.rss()
		if now > settled-settled/100 { // it shrinks no more
			break
		}
		settled = now
	}
	return map[string]stat{
		"ready ms":        single(float64(p.ready.Milliseconds())),
		"RSS MiB":         single(mib(start)),
		"RSS settled MiB": single(mib(settled)),
		"live heap MiB":   single(mib(heap)),
	}, nil
}

func mib(b int64) float64 { return float64(b) / (1 << 20) }

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// measureCell measures one number of pods with one number of proxies.
func measureCell(ctx context.Context, cfg config, res *results, w *world, p *process, n int) error {
	at := row{Pods: w.pods, Clients: n}
	f := &fleet{addr: p.xds}
	defer f.stop()
	at.Measure = "full sync"
	if err := measureSync(ctx, cfg, res, at, p, f, func() { f.start(ctx, n) }); err != nil {
		return err
	}
	known, err := versions(ctx, p.xds)
	if err != nil {
		return err
	}
	at.Measure = "resume"
	if err := measureSync(ctx, cfg, res, at, p, f, func() { f.resume(ctx, known) }); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	for _, c := range changes() {
		if err := measureChange(ctx, cfg, res, at, w, p, f, c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	if err := measureChurn(ctx, cfg, res, at, w, p, f); err != nil {
		return fmt.Errorf("churn: %w", err)
	}
	return verify(ctx, f)
}

// measureSync connects the whole fleet at once, several times, and leaves it connected. The proxies come either with nothing, or
// with everything and its versions, as after a restart of the control plane.
func measureSync(ctx context.Context, cfg config, res *results, at row, p *process, f *fleet, connect func()) error {
	var took, cpu, growth, size []float64
	for range cfg.repeats {
		f.stop()
		time.Sleep(quiet)
		if _, err := p.heap(); err != nil { // collect what the last round left
			return err
		}
		rss, used := p.rss(), p.cpu()
		peak := p.peak()
		begin := time.Now()
		connect()
		err := f.awaitSync(ctx)
		took = append(took, ms(time.Since(begin)))
		growth = append(growth, mib(peak()-rss))
		if err != nil {
			return err
		}
		time.Sleep(quiet) // what is left to do after the last answer belongs to the sync as well
		cpu = append(cpu, ms(p.cpu()-used)/float64(at.Clients))
		size = append(size, mib(f.received()))
	}
	at.Values = map[string]stat{
		"ms": spread(took), "CPU ms/proxy": spread(cpu), "RSS growth MiB": spread(growth), "MiB/proxy": spread(size),
	}
	res.add(at)
	return nil
}

// measureChange makes one change after the other and waits for each to reach the last proxy.
func measureChange(ctx context.Context, cfg config, res *results, at row, w *world, p *process, f *fleet, c change) error {
	var lag []float64
	time.Sleep(quiet)
	used := p.cpu()
	begin := time.Now()
	for range cfg.changes {
		resource, write := c.make(w)
		probe := f.expect(resource)
		if err := write(); err != nil {
			return err
		}
		d, err := probe.await(ctx, f)
		f.forget(resource, probe)
		if err != nil {
			return fmt.Errorf("%s: %w", resource, err)
		}
		lag = append(lag, ms(d))
		time.Sleep(max(0, quiet-time.Since(probe.start)))
	}
	at.Measure = c.name
	at.Values = map[string]stat{
		"lag ms":        quantiles(lag),
		"CPU ms/change": single(ms(p.cpu()-used) / float64(cfg.changes)),
		"changes":       single(float64(cfg.changes)),
	}
	cfg.log.Debug("changed", "kind", c.name, "dur", time.Since(begin))
	res.add(at)
	return nil
}

// measureChurn relabels pods at an even rate, never the same one twice within reach, and follows every single change.
func measureChurn(ctx context.Context, cfg config, res *results, at row, w *world, p *process, f *fleet) error {
	type pending struct {
		resource string
		probe    *probe
	}
	total := int(cfg.churn.Seconds() * float64(cfg.rate))
	interval := time.Second / time.Duration(cfg.rate)
	all := make([]pending, 0, total)
	relabel := changes()[0]
	used, begin := p.cpu(), time.Now()
	for i := range total {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * interval)))
		if i >= w.pods { // this pod was changed before: its two changes must not become one
			if _, err := all[i-w.pods].probe.await(ctx, f); err != nil {
				return err
			}
		}
		resource, write := relabel.make(w)
		all = append(all, pending{resource, f.expect(resource)})
		if err := write(); err != nil {
			return err
		}
	}
	elapsed := time.Since(begin)
	var lag []float64
	for _, one := range all {
		d, err := one.probe.await(ctx, f)
		f.forget(one.resource, one.probe)
		if err != nil {
			return fmt.Errorf("%s: %w", one.resource, err)
		}
		lag = append(lag, ms(d))
	}
	at.Measure = fmt.Sprintf("churn %d/s", cfg.rate)
	at.Values = map[string]stat{
		"lag ms":     quantiles(lag),
		"core %":     single(100 * float64(p.cpu()-used) / float64(elapsed)),
		"changes":    single(float64(total)),
		"achieved/s": single(float64(total) / elapsed.Seconds()),
	}
	res.add(at)
	return nil
}

// verify lets the mesh come to rest, compares all proxies, and compares them with one that starts afresh.
func verify(ctx context.Context, f *fleet) error {
	time.Sleep(4 * quiet)
	n, err := f.agree()
	if err != nil {
		return err
	}
	fresh := &fleet{addr: f.addr}
	fresh.start(ctx, 1)
	defer fresh.stop()
	if err := fresh.awaitSync(ctx); err != nil {
		return err
	}
	if m, err := fresh.agree(); err != nil || m != n {
		return fmt.Errorf("proxies hold %d resources, one that starts afresh %d (%v)", n, m, err)
	}
	return nil
}
