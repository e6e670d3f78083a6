package daemon

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/cni/enroll"
	"github.com/ambit-mesh/ambit/cni/redirect"
)

// recoverPods rebuilds what an earlier agent knew, from the pods' annotations and namespaces. It runs before any socket
// is open, so that a proxy's first snapshot lacks no pod. What should not be in the mesh any more is entered as well: it
// leaves by the ordinary way afterwards.
func (a *Agent) recoverPods(ctx context.Context) {
	a.mu.Lock()
	pods := maps.Clone(a.pods)
	a.mu.Unlock()
	known := map[string]bool{}
	complete := true
	for _, k := range slices.SortedFunc(maps.Keys(pods), compareKeys) {
		p := pods[k]
		if ctx.Err() != nil {
			return
		}
		if p.Terminal() || p.HostNetwork {
			continue
		}
		if p.Annotations[mesh.AnnotationRedirection] == "" {
			a.recoverLeft(p)
			continue
		}
		known[p.UID] = true
		if len(p.IPs) == 0 {
			complete = false
		}
		a.recoverPod(p)
	}
	if !complete {
		// istio/istio cni/pkg/nodeagent/net.go: an enrolled pod without an address yet may be one of those in the set.
		return
	}
	if err := a.node.Prune(known); err != nil {
		a.log.Warn("addresses of pods that are gone stay in the probe set", "err", err)
	}
}

func compareKeys(a, b enroll.Key) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

func (a *Agent) recoverPod(p enroll.Pod) {
	log := a.log.With("pod", p.Key(), "uid", p.UID)
	ns, err := a.openPod(p)
	if err != nil {
		log.Warn("namespace of an enrolled pod cannot be opened; a running proxy is told to keep it", "err", err)
		a.proxies.Enter(handed(p, nil))
		return
	}
	rec := &record{pod: p, ns: ns, options: a.options(p)}
	if a.cfg.ReconcileOnStartup {
		err := a.backend.Verify(ns, rec.options)
		if errors.Is(err, redirect.ErrDrift) {
			log.Info("refreshing rules", "why", err)
			err = redirect.Supersede(a.backend, ns, rec.options, a.cfg.BPF)
		}
		if err != nil {
			log.Error("rules cannot be refreshed", "err", err)
		}
	}
	second, err := ns.Dup()
	if err != nil {
		log.Error("pod cannot be handed over", "err", err)
	}
	a.proxies.Enter(handed(p, second))
	if err := a.node.Set(p.UID, p.IPs); err != nil {
		log.Warn("probes of the pod may be refused", "err", err)
	}
	a.setRecord(p.Key(), rec)
}

// recoverLeft looks after a pod that is not annotated. It may have left the mesh and still have connections through the
// proxy, which must not notice that the agent is another one. Or it should not be in the mesh and has rules all the same: an
// agent that ended between rules and annotation leaves such.
func (a *Agent) recoverLeft(p enroll.Pod) {
	if p.Annotations[mesh.AnnotationSidecarStatus] != "" {
		return
	}
	ns, err := a.openPod(p)
	if err != nil {
		return
	}
	if a.lingers(ns) {
		a.resume(p, ns)
		return
	}
	defer ns.Close()
	if _, labels, _ := a.lookup(p.Key()); a.cfg.Policy.Decide(p, labels).Enrolled {
		return
	}
	if err := a.backend.Remove(ns); err != nil {
		a.log.Warn("rules may be left in a pod outside of the mesh", "pod", p.Key(), "err", err)
	}
}

// lingers reports whether applications in a namespace that was captured still talk through the proxy.
func (a *Agent) lingers(ns *netns.Netns) bool {
	if there, err := redirect.Remains(ns); err != nil || !there {
		return false
	}
	open, err := redirect.Open(ns)
	return err == nil && len(open) > 0
}

// resume enters a pod whose departure an earlier agent began. It counts from now: when that was is written nowhere.
func (a *Agent) resume(p enroll.Pod, ns *netns.Netns) {
	log := a.log.With("pod", p.Key(), "uid", p.UID)
	now := time.Now()
	rec := &record{pod: p, ns: ns, options: a.options(p), leaving: now, released: now}
	if err := redirect.Retire(a.backend, ns, rec.options, a.cfg.BPF); err != nil {
		log.Error("a pod that leaves the mesh may still be captured", "err", err)
	}
	if second, err := ns.Dup(); err != nil {
		log.Error("pod cannot be handed over", "err", err)
	} else {
		a.proxies.Enter(handed(p, second))
	}
	a.setRecord(p.Key(), rec)
	log.Info("pod has left the mesh, but not all of its connections", "open", a.count(rec).open)
}
