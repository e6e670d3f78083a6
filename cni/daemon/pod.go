package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/cni/enroll"
	"github.com/ambit-mesh/ambit/cni/handoff"
	"github.com/ambit-mesh/ambit/cni/redirect"
)

// reconcile brings one pod where it should be.
//
//	nothing ──rules──► captured ──proxy took it──► enabled
//	   ▲                  │ no proxy: annotated "pending"; what runs already waits outside
//	   └──────────────────┴── label gone: annotation, and a moment later what captures; the way back to the proxy, and the
//	                                      proxy, when the last captured connection has ended (leave.go)
//	                          pod gone:   addresses, proxy
func (a *Agent) reconcile(ctx context.Context, k enroll.Key) error {
	unlock, err := a.locks.Lock(ctx, k)
	if err != nil {
		return nil // shutting down
	}
	defer unlock()
	err = a.reconcileLocked(ctx, k)
	if ctx.Err() == nil {
		a.complain(ctx, k, err)
	}
	return err
}

// tellTime is how long a pod that was asked for may be missing from what the source tells, before the source is asked whether
// it is gone, and askPause when that is done again if there is no answer.
const (
	tellTime = 30 * time.Second
	askPause = 5 * time.Second
)

// missed decides about a pod that the source has not told of since the plugin announced it. A source that is away tells of
// nobody, and a pod that started just before would be cut off as one that has ended.
func (a *Agent) missed(ctx context.Context, k enroll.Key, rec *record) (gone bool, again time.Duration) {
	if rest := tellTime - time.Since(rec.untold); rest > 0 {
		return false, rest
	}
	asker, ok := a.source.(Asker)
	if !ok {
		return true, 0
	}
	pod, _, err := asker.Get(ctx, k)
	switch {
	case errors.Is(err, enroll.ErrNoPod):
		return true, 0
	case err != nil:
		return false, askPause
	}
	return pod.UID != rec.pod.UID, tellTime
}

// complain logs what stands in a pod's way once, not at every try.
func (a *Agent) complain(ctx context.Context, k enroll.Key, err error) {
	a.mu.Lock()
	before := a.complaints[k]
	if err == nil {
		delete(a.complaints, k)
	} else {
		a.complaints[k] = err.Error()
	}
	a.mu.Unlock()
	if err == nil || err.Error() == before {
		return
	}
	a.log.Warn("pod is not yet where it should be; trying again", "pod", k, "err", err)
	// A mesh that is being installed is nothing to tell each of its pods.
	if pod, _, ok := a.lookup(k); ok && !errors.Is(err, errNotYet) {
		a.tell(ctx, pod, true, ReasonNotCaptured, err.Error())
	}
}

// ReasonNotCaptured is the reason of an Event: the pod belongs to the mesh, or left it, and something stands in the way.
const ReasonNotCaptured = "MeshCaptureFailed"

// tell shows something beside the pod. That it cannot be shown is no reason to do anything else differently.
func (a *Agent) tell(ctx context.Context, pod enroll.Pod, warning bool, reason, text string) {
	t, ok := a.source.(Teller)
	if !ok {
		return
	}
	if err := t.Tell(ctx, pod, warning, reason, text); err != nil {
		a.log.Debug("an event was not made", "pod", pod.Key(), "err", err)
	}
}

func (a *Agent) reconcileLocked(ctx context.Context, k enroll.Key) error {
	pod, labels, ok := a.lookup(k)
	rec := a.record(k)
	if rec != nil && (!ok || pod.UID != rec.pod.UID) && !rec.untold.IsZero() {
		if gone, again := a.missed(ctx, k, rec); !gone {
			a.queue.AddAfter(k, again)
			return nil
		}
	}
	if rec != nil && (!ok || pod.UID != rec.pod.UID || pod.Terminal()) {
		a.forget(ctx, k, rec)
		rec = nil
	}
	if !ok || pod.Terminal() {
		return nil
	}
	decision := a.cfg.Policy.Decide(pod, labels)
	switch {
	case decision.Enrolled:
	case rec == nil && pod.Annotations[mesh.AnnotationRedirection] == "":
		return nil
	case rec == nil:
		return a.disown(ctx, pod)
	case rec.leaving.IsZero() && a.orphaned(pod):
		return nil
	default:
		return a.unenrol(ctx, pod, rec, decision.Reason)
	}
	r := request{path: pod.Netns, wait: a.proxies.Proxies() > 0, live: true}
	wait := r.wait
	if pod.Netns == "" && (rec == nil || !slices.Equal(pod.IPs, rec.addrs()) && !rec.fresh()) {
		ns, err := a.find(pod)
		if rec == nil && (ns == nil || err != nil) {
			// Without an error: the plugin will announce the pod, or its namespace becomes known later.
			return err
		}
		r.ns = ns
	}
	if rec == nil && !wait && pod.Annotations[mesh.AnnotationRedirection] == "" {
		// It runs, and never was in the mesh. Rules without a proxy behind them would cut it off.
		if r.ns != nil {
			r.ns.Close()
		}
		return errNotYet
	}
	err := a.enrol(ctx, pod, r)
	if !wait && errors.Is(err, handoff.ErrNoProxy) {
		// The pod is in the next snapshot, whose answer brings us back here.
		return nil
	}
	return err
}

// errNotYet is why a pod that runs is left as it is.
var errNotYet = errors.New("no node proxy is connected on this node: the pod joins when there is one")

// orphaned reports whether a pod lost its namespace's say rather than being told to leave. A namespace that is deleted
// goes before its pods have ended, and until then they serve: letting them out of the mesh would open them to plaintext,
// and to everyone their policies keep out, for as long as they take to stop.
func (a *Agent) orphaned(p enroll.Pod) bool {
	a.mu.Lock()
	_, known := a.namespaces[p.Namespace]
	a.mu.Unlock()
	return !known && a.cfg.Policy.Decide(p, map[string]string{mesh.LabelDataplaneMode: mesh.DataplaneModeAmbient}).Enrolled
}

// request is how a pod came to be enrolled.
type request struct {
	ns    *netns.Netns // the pod's namespace, which becomes enrol's
	path  string       // where the namespace is; empty for the one already known
	addrs []netip.Addr // what the plugin told
	wait  bool         // for a proxy to answer
	live  bool         // the pod's programs run already
}

// enrol captures the pod's traffic. The caller holds the pod's lock and comes back until all of it has worked once.
//
// A pod that is being made gets its rules first: nothing may leave it past the proxy. In a pod that runs, the proxy's
// listeners come first, because connections made between rules and listeners would be refused.
func (a *Agent) enrol(ctx context.Context, pod enroll.Pod, r request) error {
	old := a.record(pod.Key())
	next, err := a.plan(pod, r, old)
	if err != nil {
		return err
	}
	fresh := old == nil || old.ns != next.ns
	var handed error
	if fresh && r.live && r.wait {
		handed = a.handOver(ctx, next, true)
	}
	if err := a.capture(next, old, fresh, r.addrs != nil || addressesChanged(old, next)); err != nil {
		return err
	}
	if !a.proxies.Acked(pod.UID, next.ns.ID()) {
		if handed == nil {
			handed = a.handOver(ctx, next, r.wait)
		}
		if handed != nil {
			return errors.Join(handed, a.annotate(ctx, pod, mesh.RedirectionPending))
		}
	}
	if err := a.node.Set(pod.UID, next.addrs()); err != nil {
		return err
	}
	return a.annotate(ctx, pod, mesh.RedirectionEnabled)
}

// plan opens the pod's namespace and says what should be, next to what was done before.
func (a *Agent) plan(pod enroll.Pod, r request, old *record) (*record, error) {
	next := &record{pod: pod, options: a.options(pod)}
	if now, _, told := a.lookup(pod.Key()); !told || now.UID != pod.UID {
		next.untold = time.Now()
	}
	if old != nil {
		next.ns, next.cni, next.announced = old.ns, old.cni, old.announced
	}
	if r.addrs != nil {
		next.cni = r.addrs
	}
	if !r.live {
		next.announced = time.Now()
	}
	ns, err := r.ns, error(nil)
	if ns == nil {
		if r.path == "" {
			return next, nil
		}
		ns, err = a.open(r.path)
	}
	switch {
	case err != nil && (old == nil || !r.live):
		return nil, fmt.Errorf("pod %s: %w", pod.Key(), err)
	case err != nil:
		// The path is gone, the namespace we hold is not.
	case old != nil && old.ns.ID() == ns.ID():
		ns.Close()
	default:
		// A pod we did not know, or a restarted sandbox: the old namespace ends with its last process.
		next.ns = ns
	}
	return next, nil
}

// addressesChanged is whether the pod was captured when it had other addresses, or none yet.
func addressesChanged(old, next *record) bool {
	return old != nil && !slices.Equal(old.addrs(), next.addrs())
}

// capture puts the rules in place and records it. If it fails, a fresh namespace is closed and nothing recorded. Not all
// back ends see by themselves that the namespace was readdressed since.
func (a *Agent) capture(next, old *record, fresh, readdressed bool) error {
	k := next.pod.Key()
	if fresh || readdressed || !old.released.IsZero() || !sameOptions(old.options, next.options) {
		if err := a.backend.Apply(next.ns, next.options); err != nil {
			if fresh {
				next.ns.Close()
			}
			return fmt.Errorf("pod %s: %w", k, err)
		}
	}
	a.setRecord(k, next)
	if !fresh {
		return nil
	}
	if old != nil {
		old.ns.Close()
	}
	a.log.Info("pod's traffic is captured", "pod", k, "uid", next.pod.UID, "netns", next.ns.ID())
	a.metrics.events.WithLabelValues("enrol").Inc()
	return nil
}

// open opens a pod's namespace, and refuses the node's: rules there would capture the whole node.
func (a *Agent) open(path string) (*netns.Netns, error) {
	ns, err := a.openPath(path)
	if err != nil {
		return nil, err
	}
	if ns.ID() == a.host.ID() {
		ns.Close()
		return nil, fmt.Errorf("%s is the node's own network namespace", path)
	}
	return ns, nil
}

func (a *Agent) handOver(ctx context.Context, rec *record, wait bool) error {
	ns, err := rec.ns.Dup()
	if err != nil {
		return err
	}
	if !wait {
		a.proxies.Enter(handed(rec.pod, ns))
		return handoff.ErrNoProxy
	}
	ctx, cancel := context.WithTimeout(ctx, a.cfg.AddTimeout)
	defer cancel()
	return a.proxies.Add(ctx, handed(rec.pod, ns))
}

func handed(p enroll.Pod, ns *netns.Netns) handoff.Pod {
	return handoff.Pod{UID: p.UID, Name: p.Name, Namespace: p.Namespace, ServiceAccount: p.ServiceAccount, Netns: ns}
}

// disown cleans a pod that says it is captured although we know nothing of it.
func (a *Agent) disown(ctx context.Context, pod enroll.Pod) error {
	if !pod.HostNetwork {
		if ns, err := a.openPod(pod); err == nil {
			err = a.backend.Remove(ns)
			ns.Close()
			if err != nil {
				return fmt.Errorf("pod %s: %w", pod.Key(), err)
			}
		}
	}
	if err := a.node.Set(pod.UID, nil); err != nil {
		return err
	}
	a.tellGone(ctx, pod.UID)
	return a.annotate(ctx, pod, "")
}

// forget is for a pod that is gone, and its namespace with it.
func (a *Agent) forget(ctx context.Context, k enroll.Key, rec *record) {
	if err := a.node.Set(rec.pod.UID, nil); err != nil {
		a.log.Warn("address of a pod that is gone stays in the probe set until the next start", "pod", k, "err", err)
	}
	if err := a.backend.Forget(rec.ns); err != nil {
		a.log.Warn("something of a pod that is gone stays until the next start", "pod", k, "err", err)
	}
	a.drop(ctx, k, rec)
	a.log.Info("pod is gone", "pod", k, "uid", rec.pod.UID)
}

// drop tells the proxies and lets go of the namespace.
func (a *Agent) drop(ctx context.Context, k enroll.Key, rec *record) {
	a.tellGone(ctx, rec.pod.UID)
	a.setRecord(k, nil)
	rec.ns.Close()
}

// tellGone waits a little for the proxies; they are told in any case.
func (a *Agent) tellGone(ctx context.Context, uid string) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.AddTimeout)
	defer cancel()
	a.proxies.Del(ctx, uid)
}

// annotate writes unless the source already says so.
func (a *Agent) annotate(ctx context.Context, pod enroll.Pod, value string) error {
	if now, _, ok := a.lookup(pod.Key()); ok && now.UID == pod.UID && now.Annotations[mesh.AnnotationRedirection] == value {
		return nil
	}
	return a.source.Annotate(ctx, pod, value)
}

func (a *Agent) options(p enroll.Pod) redirect.Options {
	r := enroll.RedirectionOf(p, a.cfg.DNS)
	return redirect.Options{
		IPv6: a.cfg.IPv6, DNS: r.DNS, BypassInbound: r.BypassInbound, VirtualInterfaces: r.VirtualInterfaces,
		ProbeIPv4: a.cfg.ProbeIPv4, ProbeIPv6: a.cfg.ProbeIPv6,
	}
}

func sameOptions(a, b redirect.Options) bool {
	interfaces := slices.Equal(a.VirtualInterfaces, b.VirtualInterfaces)
	a.VirtualInterfaces, b.VirtualInterfaces = nil, nil
	return interfaces && a.IPv6 == b.IPv6 && a.DNS == b.DNS && a.BypassInbound == b.BypassInbound && a.ProbeIPv4 == b.ProbeIPv4 && a.ProbeIPv6 == b.ProbeIPv6
}

// addrs are the pod's addresses as best known.
func (r *record) addrs() []netip.Addr {
	if len(r.pod.IPs) > 0 {
		return r.pod.IPs
	}
	return r.cni
}
