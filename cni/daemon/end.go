package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

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
	}
	return err
}

func (a *Agent) settle(ctx context.Context) (left bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	if a.parts.Successor != nil {
		stays, why := a.parts.Successor(ctx)
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
	var wg sync.WaitGroup
	var mu sync.Mutex
	free := make(chan struct{}, workers)
	for _, k := range a.enrolled() {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			rec := a.record(k)
			err := a.backend.Remove(rec.ns)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("pod %s stays captured: restart it: %w", k, err))
				return
			}
			a.log.Info("pod left the mesh", "pod", k, "reason", "the mesh leaves the node")
		})
	}
	wg.Wait()
	return errors.Join(append(errs, a.node.Remove())...)
}
