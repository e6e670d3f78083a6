package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/e2e/bench/proc"
)

// one is a single change.
type one struct {
	resource string // that carries it to the waypoint
	write    func() error
	// prepare opens what ask needs, before the change; ask reports whether a request sees it.
	prepare func(ctx context.Context) (io.Closer, error)
	ask     func(ctx context.Context) (bool, error)
	// every is how long to wait between asking.
	every time.Duration
	// status and value are the last answer.
	status int
	value  string
}

// kind is one kind of change. The number makes each differ from the last.
type kind struct {
	name string
	make func(b *bench, n int) *one
}

var kinds = []kind{
	{"route", changeRoute}, {"policy", changePolicy}, {"endpoint", changeEndpoint}, {"new service", addService},
	{"service gone", removeService},
}

// kept is a change seen on a connection that was open before.
func (b *bench) kept(o *one, s int, field string, sees func(status int, value string) bool) *one {
	var v *visitor
	o.every = 200 * time.Microsecond
	o.prepare = func(ctx context.Context) (c io.Closer, err error) {
		if v, err = b.visit(ctx, s, field); err != nil {
			return nil, err
		}
		if _, _, err := v.ask(host(s)); err != nil {
			return v.c, err
		}
		return v.c, nil
	}
	o.ask = func(context.Context) (bool, error) {
		var err error
		o.status, o.value, err = v.ask(host(s))
		return err == nil && sees(o.status, o.value), err
	}
	return o
}

func changeRoute(b *bench, n int) *one {
	s, revision := 1+n*37%(b.cfg.services-1), fmt.Sprint(n+1)
	o := &one{resource: fact(s), write: func() error { return b.town.route(s, n+1) }}
	return b.kept(o, s, "x-revision", func(status int, value string) bool { return status == 200 && value == revision })
}

// changePolicy denies the client what it may, and allows it again with the next change.
func changePolicy(b *bench, n int) *one {
	s := (1+n/2*38)%b.cfg.services | 1
	account, want := "client", 403
	if n%2 == 1 {
		account, want = "intruder", 200
	}
	o := &one{resource: fact(s), write: func() error { return b.town.policy(s, account) }}
	return b.kept(o, s, "", func(status int, _ string) bool { return status == want })
}

// changeEndpoint moves the pod of the moving service.
func changeEndpoint(b *bench, n int) *one {
	moved := 1 + n%50
	want := podIP(mover, moved) + ":8080"
	o := &one{resource: podUID(mover, 0), write: func() error { return b.town.service(mover, 1, moved) }}
	return b.kept(o, mover, "x-pod", func(status int, value string) bool { return status == 200 && value == want })
}

// connecting is how long to wait where asking opens a tunnel: that costs the waypoint too much to do it all the time.
const connecting = 2 * time.Millisecond

// addService adds a service, which a new connection must reach.
func addService(b *bench, _ int) *one {
	s, write := b.town.add()
	return &one{
		resource: fact(s), write: write, every: connecting,
		ask: func(ctx context.Context) (bool, error) {
			v, err := b.visit(ctx, s, "x-revision")
			if err != nil {
				return false, nil // not there yet
			}
			defer v.c.Close()
			status, _, err := v.ask(host(s))
			return err == nil && status == 200, nil
		},
	}
}

// removeService takes away again what was added, the last first.
func removeService(b *bench, _ int) *one {
	b.town.next--
	s := b.town.next
	return &one{
		write: func() error { return b.town.remove(s) }, every: connecting,
		ask: func(ctx context.Context) (bool, error) {
			v, err := b.visit(ctx, s, "")
			if err == nil {
				v.c.Close()
			}
			return err != nil, nil
		},
	}
}

// kind makes all changes of a kind twice: watched by requests, one by one, for the time; and unwatched for the CPU.
func (b *bench) kind(ctx context.Context, k kind) (changeFigures, error) {
	f := changeFigures{Kind: k.name}
	before, err := b.received()
	if err != nil {
		return f, err
	}
	for n := range b.cfg.tries {
		if err := b.try(ctx, k.make(b, n), &f); err != nil {
			return f, err
		}
	}
	after, err := b.received()
	f.Bytes = (after - before) / float64(b.cfg.tries)
	if err != nil || k.name == "service gone" {
		return f, err
	}
	if err := b.unwatched(ctx, k, &f); err != nil {
		return f, err
	}
	return f, nil
}

// try makes one change and asks until it is seen.
func (b *bench) try(ctx context.Context, o *one, f *changeFigures) error {
	if err := pause(ctx, quiet); err != nil {
		return err
	}
	if o.prepare != nil {
		c, err := o.prepare(ctx)
		if c != nil {
			defer c.Close()
		}
		if err != nil {
			return err
		}
	}
	b.watch.expect(o.resource)
	wrote := time.Now() // before, for the control plane may see the file before the call that puts it there returns
	if err := o.write(); err != nil {
		return err
	}
	for {
		seen, err := o.ask(ctx)
		now := time.Now()
		if err != nil {
			return err
		}
		if seen {
			f.File = append(f.File, ms(now.Sub(wrote)))
			if at := b.watch.pushed(); !at.IsZero() {
				f.Push = append(f.Push, ms(now.Sub(at)))
			}
			return nil
		}
		if now.Sub(wrote) > 10*time.Second {
			problems, _ := get(toolsURL + "/problems")
			return fmt.Errorf("%s has not come into force after 10 s (pushed %v, last answer %d %q); the agent's problems: %s", o.resource, !b.watch.pushed().IsZero(), o.status, o.value, problems)
		}
		if err := pause(ctx, o.every); err != nil {
			return err
		}
	}
}

// unwatched makes changes at a steady pace and sees what they cost, less what the same time costs without changes.
func (b *bench) unwatched(ctx context.Context, k kind, f *changeFigures) error {
	wait := func() error { return pause(ctx, quiet/2) }
	pids := map[string]int{"ambitd": b.ambitd.pid(), "agent": b.agent.pid(), "Envoy": b.envoy}
	spent := func(do func(n int) error) (map[string]float64, error) {
		before, out := map[string]time.Duration{}, map[string]float64{}
		for name, pid := range pids {
			before[name] = proc.CPU(pid)
		}
		for n := range b.cfg.tries {
			if err := errors.Join(do(n), wait()); err != nil {
				return nil, err
			}
		}
		for name, pid := range pids {
			out[name] = ms(proc.CPU(pid)-before[name]) / float64(b.cfg.tries)
		}
		return out, nil
	}
	if err := wait(); err != nil {
		return err
	}
	idle, err := spent(func(int) error { return nil })
	if err != nil {
		return err
	}
	profiled := b.profile(k)
	f.CPU, err = spent(func(n int) error { return k.make(b, b.cfg.tries+n).write() })
	profiled()
	for name := range f.CPU {
		f.CPU[name] -= idle[name]
	}
	return err
}

// profile takes CPU profiles of control plane and agent while changes are made. Being watched costs: do not quote such a run.
func (b *bench) profile(k kind) (wait func()) {
	if b.cfg.profile == "" {
		return func() {}
	}
	seconds := int(time.Duration(b.cfg.tries)*quiet/2/time.Second) + 1
	var taking sync.WaitGroup
	for name, url := range map[string]string{"ambitd": "http://" + adminAddr, "agent": toolsURL} {
		taking.Go(func() {
			body, err := get(fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", url, seconds))
			if err == nil {
				file := strings.ReplaceAll(k.name, " ", "-") + "-" + name + ".pprof"
				err = os.WriteFile(filepath.Join(b.cfg.profile, file), []byte(body), 0o644)
			}
			if err != nil {
				step("profile of %s: %v", name, err)
			}
		})
	}
	return taking.Wait
}
