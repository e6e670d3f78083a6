package kube

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// LeaderConfig of a Leader. Cluster, Namespace and Identity are required.
type LeaderConfig struct {
	Cluster *Cluster
	// Namespace and Name are the Lease's; "ambitd" by default.
	Namespace, Name string
	// Identity tells this replica from others.
	Identity string
	Logger   *slog.Logger
	// Times of the election; 15 s, 10 s and 2 s by default.
	Duration, Renew, Retry time.Duration
}

// Leader lets one replica at a time write, by a Lease. A leader that cannot renew it ends before another may begin: not
// everything that leaders write says the same whoever says it.
//
// client-go has an elector of its own, which links every API of Kubernetes; this one needs only the Lease.
type Leader struct {
	cfg LeaderConfig
	log *slog.Logger

	// The Lease as last seen, and when by the clock here: clocks of replicas need not agree.
	seen   string
	seenAt time.Time
}

// NewLeader does nothing before Run.
func NewLeader(cfg LeaderConfig) *Leader {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&cfg.Duration, 15*time.Second)
	set(&cfg.Renew, 10*time.Second)
	set(&cfg.Retry, 2*time.Second)
	if cfg.Name == "" {
		cfg.Name = "ambitd"
	}
	l := &Leader{cfg: cfg, log: cfg.Logger}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	return l
}

// Run calls lead whenever this replica is the leader, with a context that ends when it no longer is, until ctx ends. lead
// must return soon after its context has ended.
func (l *Leader) Run(ctx context.Context, lead func(context.Context)) error {
	for ctx.Err() == nil {
		since := time.Now()
		turn, stop := context.WithTimeout(ctx, l.cfg.Renew/2)
		held, err := l.claim(turn)
		stop()
		if held {
			l.reign(ctx, since, lead)
			continue
		}
		if err != nil && ctx.Err() == nil {
			l.log.Debug("the lease cannot be had", "err", err)
		}
		sleep(ctx, l.cfg.Retry)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// reign leads until the lease is lost or ctx ends, and gives it up in that case. The lease was asked for at last.
func (l *Leader) reign(ctx context.Context, last time.Time, lead func(context.Context)) {
	l.log.Info("leading: this replica writes status and what runs for gateways", "identity", l.cfg.Identity)
	own, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		lead(own)
	}()
	defer func() {
		cancel()
		<-done
		if ctx.Err() != nil {
			l.release()
		}
	}()
	for {
		// Others count from when they see a renewal, which is after it was asked for.
		end := last.Add(l.cfg.Renew)
		sleep(ctx, min(l.cfg.Retry, time.Until(end)))
		if ctx.Err() != nil {
			return
		}
		asked := time.Now()
		turn, stop := context.WithTimeout(ctx, min(l.cfg.Renew/2, time.Until(end))) // a renewal must not outlast what it renews
		held, err := l.claim(turn)
		stop()
		switch {
		case err == nil && held:
			last = asked
		case err == nil || !time.Now().Before(end):
			l.log.Warn("no longer leading", "err", err)
			return
		}
	}
}

func (l *Leader) leases() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}
}

const leaseTime = "2006-01-02T15:04:05.000000Z07:00"

// claim takes or renews the lease, and reports whether this replica has it.
func (l *Leader) claim(ctx context.Context) (bool, error) {
	client := l.cfg.Cluster.dynamic.Resource(l.leases()).Namespace(l.cfg.Namespace)
	now := time.Now().UTC()
	lease, err := client.Get(ctx, l.cfg.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		lease = &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": map[string]any{"name": l.cfg.Name, "namespace": l.cfg.Namespace},
			"spec": l.spec(now, now, 0),
		}}
		if _, err := client.Create(ctx, lease, metav1.CreateOptions{FieldManager: manager}); err != nil {
			if apierrors.IsAlreadyExists(err) {
				return false, nil
			}
			return false, fmt.Errorf("create lease %s/%s: %w", l.cfg.Namespace, l.cfg.Name, err)
		}
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("read lease %s/%s: %w", l.cfg.Namespace, l.cfg.Name, err)
	}
	holder, _, _ := unstructured.NestedString(lease.Object, "spec", "holderIdentity")
	changes, _, _ := unstructured.NestedInt64(lease.Object, "spec", "leaseTransitions")
	acquired, _, _ := unstructured.NestedString(lease.Object, "spec", "acquireTime")
	since := now
	if holder == l.cfg.Identity {
		if t, err := time.Parse(leaseTime, acquired); err == nil {
			since = t
		}
	} else {
		if v := lease.GetResourceVersion(); v != l.seen {
			l.seen, l.seenAt = v, time.Now()
		}
		if holder != "" && time.Since(l.seenAt) < l.cfg.Duration {
			return false, nil
		}
		changes++
	}
	lease.Object["spec"] = l.spec(since, now, changes)
	if _, err := client.Update(ctx, lease, metav1.UpdateOptions{FieldManager: manager}); err != nil {
		if apierrors.IsConflict(err) {
			return false, nil // somebody was quicker
		}
		return false, fmt.Errorf("renew lease %s/%s: %w", l.cfg.Namespace, l.cfg.Name, err)
	}
	return true, nil
}

func (l *Leader) spec(acquired, renewed time.Time, changes int64) map[string]any {
	return map[string]any{
		"holderIdentity": l.cfg.Identity, "leaseDurationSeconds": max(1, int64(l.cfg.Duration/time.Second)), "leaseTransitions": changes,
		"acquireTime": acquired.Format(leaseTime), "renewTime": renewed.Format(leaseTime),
	}
}

// release gives the lease up, so that another replica need not wait for its end.
func (l *Leader) release() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	client := l.cfg.Cluster.dynamic.Resource(l.leases()).Namespace(l.cfg.Namespace)
	lease, err := client.Get(ctx, l.cfg.Name, metav1.GetOptions{})
	if err == nil {
		if holder, _, _ := unstructured.NestedString(lease.Object, "spec", "holderIdentity"); holder != l.cfg.Identity {
			return
		}
		if err = unstructured.SetNestedField(lease.Object, "", "spec", "holderIdentity"); err == nil {
			_, err = client.Update(ctx, lease, metav1.UpdateOptions{FieldManager: manager})
		}
	}
	if err != nil {
		l.log.Debug("the lease was not given up", "err", err)
	}
}
