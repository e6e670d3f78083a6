package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/cni/enroll"
	"github.com/ambit-mesh/ambit/cni/sandbox"
)

// find looks for the namespace of a pod that nobody told us of: one that runs since before this agent, or that the
// runtime made without our plugin. Nil if the pod has none yet.
func (a *Agent) find(pod enroll.Pod) (*netns.Netns, error) {
	if a.parts.Sandboxes == nil {
		return nil, nil
	}
	ns, err := a.parts.Sandboxes.Open(cmp.Or(pod.RuntimeUID, pod.UID))
	switch {
	case errors.Is(err, sandbox.ErrNotFound) && pod.Phase != "Running":
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("pod %s cannot be captured yet: %w", pod.Key(), err)
	case ns.ID() == a.host.ID():
		ns.Close()
		return nil, fmt.Errorf("pod %s: its processes are in the node's own network namespace", pod.Key())
	}
	return ns, nil
}

// announcedTime is how long what the plugin told is better than what is found: when a sandbox is made anew, processes of
// the old one may run a while longer than the new one has none.
const announcedTime = 30 * time.Second

func (r *record) fresh() bool {
	return !r.announced.IsZero() && time.Since(r.announced) < announcedTime
}

// follow captures a pod anew whose sandbox was made again without our being told. The caller holds the pod's lock.
func (a *Agent) follow(ctx context.Context, k enroll.Key) error {
	pod, labels, ok := a.lookup(k)
	rec := a.record(k)
	if !ok || rec.fresh() || pod.UID != rec.pod.UID || pod.Netns != "" || pod.Terminal() || !a.cfg.Policy.Decide(pod, labels).Enrolled {
		return nil
	}
	ns, err := a.find(pod)
	if ns == nil || errors.Is(err, sandbox.ErrNotFound) {
		return nil
	}
	if ns.ID() == rec.ns.ID() {
		return ns.Close()
	}
	a.log.Warn("a pod runs in another sandbox than the one that was captured", "pod", k, "netns", ns.ID())
	return a.enrol(ctx, pod, request{ns: ns, wait: a.proxies.Proxies() > 0, live: true})
}

// openPod opens the namespace of a pod that runs.
func (a *Agent) openPod(p enroll.Pod) (*netns.Netns, error) {
	if p.Netns != "" || a.parts.Sandboxes == nil {
		return a.open(p.Netns)
	}
	ns, err := a.find(p)
	if ns == nil && err == nil {
		err = sandbox.ErrNotFound
	}
	return ns, err
}

// openPath opens a namespace by the path that the runtime knows. What the agent does not see there it looks for where the
// node's first process does: which folders runtimes use for that differs.
func (a *Agent) openPath(path string) (*netns.Netns, error) {
	if rest, ok := strings.CutPrefix(path, "/proc/"); ok && a.cfg.OnCluster() {
		return netns.Open(filepath.Join(a.cfg.ProcDir, rest)) // the agent's processes have other numbers
	}
	ns, err := netns.Open(path)
	if !errors.Is(err, fs.ErrNotExist) || !a.cfg.OnCluster() || path == "" {
		return ns, err
	}
	root, rootErr := os.Open(filepath.Join(a.cfg.ProcDir, "1/root"))
	if rootErr != nil {
		return nil, errors.Join(err, rootErr)
	}
	defer root.Close()
	// Symbolic links (/var/run) mean what they mean on the node.
	fd, openErr := unix.Openat2(int(root.Fd()), path, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if openErr != nil {
		return nil, errors.Join(err, fmt.Errorf("on the node: %w", openErr))
	}
	return netns.New(os.NewFile(uintptr(fd), path))
}
