package inpod

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/api/zds"
)

// Status is what is known of one pod.
type Status struct {
	UID   string
	Info  Info
	Netns string
	// Problem is why the pod's listeners are not open; empty for a pod that runs.
	Problem string
}

// view is what readers outside the loop see.
type view struct {
	connected bool
	snapshot  bool // a snapshot was completed on any connection so far
	pods      []Status
	next      chan struct{}
}

func (v *view) blockers() []string {
	var out []string
	if !v.connected {
		out = append(out, "CNI agent not connected")
	}
	if !v.snapshot {
		out = append(out, "snapshot of the node's pods not received")
	}
	for _, p := range v.pods {
		if p.Problem != "" {
			out = append(out, pendingText(p))
		}
	}
	return out
}

// state is which pods run, which are pending, and what the current connection has named so far.
//
//	           Start ok                 Del, or not named in the snapshot
//	 (new) ───────────────► running ─────────────────────────────────────► (gone)
//	   │ Start failed          ▲
//	   ▼                       │ Start ok, every 5 s
//	pending ───────────────────┘     cleared when a connection begins
//
// All fields but view are owned by the client's loop.
type state struct {
	pods Pods
	log  *slog.Logger

	running map[string]entry
	pending map[string]pending
	// named holds the pods of the snapshot under way; nil once it is complete.
	named map[string]struct{}

	isConnected bool
	sawSnapshot bool
	view        atomic.Pointer[view]
}

type entry struct {
	info  Info
	netns NetnsID
}

type pending struct {
	pod Pod
	err error
}

func newState(pods Pods, log *slog.Logger) *state {
	s := &state{pods: pods, log: log, running: map[string]entry{}, pending: map[string]pending{}}
	s.view.Store(&view{next: make(chan struct{})})
	return s
}

// publish makes the state visible. It is called by the loop after each change.
func (s *state) publish() {
	v := &view{connected: s.isConnected, snapshot: s.sawSnapshot, next: make(chan struct{})}
	for uid, e := range s.running {
		if _, ok := s.pending[uid]; !ok {
			v.pods = append(v.pods, Status{UID: uid, Info: e.info, Netns: e.netns.String()})
		}
	}
	for uid, p := range s.pending {
		v.pods = append(v.pods, Status{UID: uid, Info: p.pod.Info, Netns: p.pod.Netns.ID().String(), Problem: p.err.Error()})
	}
	slices.SortFunc(v.pods, func(a, b Status) int {
		return strings.Compare(a.UID, b.UID)
	})
	old := s.view.Swap(v)
	close(old.next)
}

func (s *state) pendingCount() int { return len(s.pending) }

// connected begins a connection: what was pending will be named again, or is gone.
func (s *state) connected() {
	for uid := range s.pending {
		s.forget(uid)
	}
	s.named = map[string]struct{}{}
	s.setConnected(true)
}

func (s *state) setConnected(yes bool) {
	s.isConnected = yes
	s.publish()
}

// close lets go of descriptors nobody has taken.
func (s *state) close() {
	for uid := range s.pending {
		s.forget(uid)
	}
	s.setConnected(false)
}

func (s *state) forget(uid string) {
	if p, ok := s.pending[uid]; ok {
		p.pod.Netns.Close()
		delete(s.pending, uid)
	}
}

// handle carries out one request. The error is for the ack.
func (s *state) handle(ctx context.Context, req *zds.Request) error {
	defer s.publish()
	switch {
	case req.GetAdd() != nil:
		return s.add(ctx, req)
	case req.GetKeep() != nil:
		uid := req.GetKeep().GetUid()
		if s.named == nil {
			return fmt.Errorf("%w: keep of pod %s after the snapshot", ErrProtocol, uid)
		}
		s.named[uid] = struct{}{}
		return nil
	case req.GetDel() != nil:
		s.del(req.GetDel().GetUid())
		return nil
	case req.GetSnapshotSent() != nil:
		if s.named == nil {
			return fmt.Errorf("%w: a second snapshot on one connection", ErrProtocol)
		}
		s.reconcile()
		return nil
	default:
		return zds.ErrMessage
	}
}

// add starts a pod unless it runs already in this very namespace.
func (s *state) add(ctx context.Context, req *zds.Request) error {
	uid, info := req.GetAdd().GetUid(), req.GetAdd().GetWorkloadInfo()
	if info == nil {
		return fmt.Errorf("%w: pod %s came without its name", ErrProtocol, uid)
	}
	ns, err := netns.New(req.TakeNetns())
	if err != nil {
		return fmt.Errorf("pod %s/%s: %w", info.GetNamespace(), info.GetName(), err)
	}
	if s.named != nil {
		s.named[uid] = struct{}{}
	}
	// Whatever was pending is superseded by what the agent says now.
	s.forget(uid)
	pod := Pod{UID: uid, Netns: ns, Info: Info{
		Name: info.GetName(), Namespace: info.GetNamespace(), ServiceAccount: info.GetServiceAccount(),
	}}
	if old, ok := s.running[uid]; ok {
		if old.netns == ns.ID() {
			ns.Close()
			return nil
		}
		s.log.Info("pod has a new network namespace", "pod", pod.Info, "uid", uid, "old", old.netns, "new", ns.ID())
		s.stop(uid)
	}
	return s.start(ctx, pod)
}

// start hands the pod to its proxy, or keeps it pending.
func (s *state) start(ctx context.Context, pod Pod) error {
	sctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	// Read before Start: afterwards the namespace is somebody else's.
	id := pod.Netns.ID()
	if err := s.pods.Start(sctx, pod); err != nil {
		_, again := s.pending[pod.UID]
		s.pending[pod.UID] = pending{pod: pod, err: err}
		if !again {
			s.log.Warn("pod is not captured yet", "pod", pod.Info, "uid", pod.UID, "err", err)
		}
		return fmt.Errorf("pod %s: %w", pod.Info, err)
	}
	delete(s.pending, pod.UID)
	s.running[pod.UID] = entry{info: pod.Info, netns: id}
	s.log.Debug("pod was handed over", "pod", pod.Info, "uid", pod.UID, "netns", id)
	return nil
}

// retry tries the pending pods again.
func (s *state) retry(ctx context.Context) {
	if len(s.pending) == 0 {
		return
	}
	for _, uid := range slices.Sorted(maps.Keys(s.pending)) {
		if ctx.Err() != nil {
			return
		}
		// The error stays visible in the pod's status.
		_ = s.start(ctx, s.pending[uid].pod)
	}
	s.publish()
}

// del ends a pod. Before the snapshot is complete it only unnames it: reconcile stops what stays unnamed.
// istio/ztunnel src/inpod/statemanager.rs.
func (s *state) del(uid string) {
	s.forget(uid)
	if s.named != nil {
		delete(s.named, uid)
		return
	}
	s.stop(uid)
}

func (s *state) stop(uid string) {
	e, ok := s.running[uid]
	if !ok {
		return
	}
	delete(s.running, uid)
	s.pods.Stop(uid)
	s.log.Info("pod left the mesh", "pod", e.info, "uid", uid)
}

// reconcile ends what the complete snapshot did not name.
func (s *state) reconcile() {
	for _, uid := range slices.Sorted(maps.Keys(s.running)) {
		if _, ok := s.named[uid]; !ok {
			s.stop(uid)
		}
	}
	s.named = nil
	s.sawSnapshot = true
}
