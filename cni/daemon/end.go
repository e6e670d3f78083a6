package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/cni/plugin"
	"github.com/ambit-mesh/ambit/cni/redirect"
)

// leaveTime bounds how long an agent without a successor works after it was told to end; Kubernetes kills it after 30 s.
const leaveTime = 20 * time.Second

// end leaves everything to the successor, or nothing to anybody.
//
// What stays keeps pods captured, and makes new ones wait for the next agent instead of starting without the mesh. That is
// right for an upgrade and for a machine that goes down, and wrong when the mesh is taken off the cluster.
func (a *Agent) end(ctx context.Context) error {
	left, err := a.settle(ctx)
	b, ok := a.backend.(*redirect.EBPF)
	if ok {
		err = errors.Join(err, b.Close())
	}
	if ok && left {
		err = errors.Join(err, redirect.Clear(a.cfg.BPF))
		_ = os.Remove(a.cfg.BPF.Dir) // unless somebody has put something there
	}
	return err
}

func (a *Agent) settle(ctx context.Context) (left bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	if a.parts.Successor != nil {
		stays, sure, why := a.parts.Successor(ctx)
		if !stays && a.replaced(ctx, sure) {
			stays, why = true, "another agent is there already"
		}
		a.log.Info("ending", "successor", stays, "why", why)
		if !stays {
			return true, a.leave(ctx)
		}
	}
	if !a.cfg.RemoveOnShutdown {
		return false, nil
	}
	return false, errors.Join(a.uninstall(), a.node.Remove())
}

// successorTime is how long an agent that cannot know looks out for another.
const successorTime = 8 * time.Second

// replaced reports whether another agent has put its socket in the place of this one's. What was taken away from under it
// would be missing until it looks: a node without sockets starts no pod of the mesh.
func (a *Agent) replaced(ctx context.Context, sure bool) bool {
	for until := time.Now().Add(successorTime); ; {
		now, err := os.Stat(a.cfg.PluginSocket())
		if a.socket != nil && err == nil && !os.SameFile(a.socket, now) {
			return true
		}
		if sure || time.Now().After(until) || !waitFor(ctx, nil, 100*time.Millisecond) {
			return false
		}
	}
}

func (a *Agent) uninstall() error {
	if a.parts.Installer == nil {
		return nil
	}
	return a.parts.Installer.Remove()
}

// leave takes the mesh off the node: first the plugin, so that no more pods are held back, then the pods.
func (a *Agent) leave(ctx context.Context) error {
	errs := []error{a.uninstall()}
	for _, k := range a.enrolled() {
		// The API server may know us no more; the pod's traffic matters, what is written about it does not.
		rec := a.record(k)
		if err := a.source.Annotate(ctx, rec.pod, ""); err != nil {
			a.log.Debug("annotation stays", "pod", k, "err", err)
		}
	}
	// Peers that still come by HBONE are answered until they know, as with a pod that leaves alone.
	waitFor(ctx, nil, a.cfg.LeaveGrace)
	errs = append(errs, a.eachEnrolled("pod %s stays captured: restart it: %w", func(rec *record) error {
		return a.backend.Release(rec.ns, rec.options)
	})...)
	// What is asked already is answered through the proxy.
	waitFor(ctx, nil, a.cfg.LeaveGrace)
	a.awaitAnswers(ctx)
	if a.replaced(ctx, true) {
		a.log.Warn("another agent has come meanwhile: pods and node are its own")
		return errors.Join(errs...)
	}
	errs = append(errs, a.eachEnrolled("rules stay in pod %s: restart it: %w", func(rec *record) error {
		open, _ := redirect.Open(rec.ns) // for the log alone
		if err := a.backend.Remove(rec.ns); err != nil {
			return err
		}
		a.log.Info("pod left the mesh", "pod", rec.pod.Key(), "reason", "the mesh leaves the node", "connections_cut", len(open))
		return nil
	})...)
	errs = append(errs, a.sweep())
	return errors.Join(append(errs, a.node.Remove())...)
}

// removeTime is how much of leaveTime is kept for taking rules away, and quietTime how long nothing was said on a connection
// that nobody waits on any more, most likely: one that is kept for a next request.
const (
	removeTime = 5 * time.Second
	quietTime  = 3 * time.Second
)

// awaitAnswers waits while there is talk on captured connections, for as long as an agent that ends can.
func (a *Agent) awaitAnswers(ctx context.Context) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-removeTime))
		defer cancel()
	}
	for since := time.Now(); a.talking() > 0; {
		if !waitFor(ctx, nil, pauseAfter(time.Since(since))) {
			return
		}
	}
}

// talking counts captured connections on which something was said just now.
func (a *Agent) talking() int {
	n := 0
	for _, k := range a.enrolled() {
		// What cannot be counted is not waited for.
		open, _ := redirect.Open(a.record(k).ns)
		n += underWay(open)
	}
	return n
}

func underWay(open []redirect.Connection) int {
	n := 0
	for _, c := range open {
		if c.Quiet < quietTime {
			n++
		}
	}
	return n
}

// eachEnrolled does something to all pods in the mesh, some at a time. format is for the pod and what went wrong.
func (a *Agent) eachEnrolled(format string, do func(*record) error) []error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error // guarded by mu
	free := make(chan struct{}, workers)
	for _, k := range a.enrolled() {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			if err := do(a.record(k)); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf(format, k, err))
			}
		})
	}
	wg.Wait()
	return errs
}

// sweep removes what the agent and the plugin have put into the run folder, and the folder if it is empty then.
func (a *Agent) sweep() error {
	logs, _ := filepath.Glob(filepath.Join(a.cfg.RunDir, plugin.LogFile+"*")) // the pattern is good
	var errs []error
	for _, path := range append(logs, a.cfg.PluginSocket(), a.cfg.LogSocket(), a.cfg.ProxySocket) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	// A mounted folder cannot be removed from inside, and may hold what others put there.
	_ = os.Remove(a.cfg.RunDir)
	return errors.Join(errs...)
}
