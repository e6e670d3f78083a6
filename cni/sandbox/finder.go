package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/api/netns"
)

// ErrNotFound says that no process of the pod runs in a network namespace of the pod's own.
var ErrNotFound = errors.New("no process of the pod was found on the node")

// fresh is how long a look through all processes answers further questions that it can answer.
const fresh = 200 * time.Millisecond

// Finder looks through a /proc that shows all processes of the node. Its methods may be called from any goroutine.
type Finder struct {
	proc string

	mu sync.Mutex
	// Guarded by mu: when all processes were last looked at, and the pods found then.
	at   time.Time
	pods map[string][]process
}

// process is one that belongs to a pod.
type process struct {
	pid   int
	start string
}

// NewFinder looks in the given mount of /proc.
func NewFinder(proc string) *Finder { return &Finder{proc: proc} }

// Open opens the network namespace that the pod with this UID runs in, which its oldest process is in: a container may have
// made another for itself. ErrNotFound if no process of it runs.
func (f *Finder) Open(uid string) (*netns.Netns, error) {
	if uid = normalUID(uid); uid == "" {
		return nil, ErrNotFound
	}
	node, err := netns.Open(filepath.Join(f.proc, "1/ns/net"))
	if err != nil {
		return nil, fmt.Errorf("the node's network namespace (does %s show the node's processes, and is CAP_SYS_PTRACE there?): %w", f.proc, err)
	}
	defer node.Close()
	for _, again := range []bool{false, true} {
		found, err := f.look(uid, again)
		if err != nil {
			return nil, err
		}
		for _, p := range found {
			ns, err := f.open(uid, p)
			if err != nil {
				continue // it ended meanwhile
			}
			if ns.ID() == node.ID() {
				ns.Close()
				continue
			}
			return ns, nil
		}
	}
	return nil, ErrNotFound
}

// open makes sure that the process number still means the process it meant: the namespace is opened first and the process
// asked who it is afterwards.
func (f *Finder) open(uid string, p process) (*netns.Netns, error) {
	dir := filepath.Join(f.proc, strconv.Itoa(p.pid))
	ns, err := netns.Open(filepath.Join(dir, "ns/net"))
	if err != nil {
		return nil, err
	}
	if now, ok := f.read(p.pid); !ok || now.start != p.start {
		ns.Close()
		return nil, fmt.Errorf("process %d of pod %s has ended", p.pid, uid)
	}
	return ns, nil
}

// look returns the pod's processes, the oldest first.
func (f *Finder) look(uid string, again bool) ([]process, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if age := time.Since(f.at); age > fresh || again && len(f.pods[uid]) > 0 {
		if err := f.scan(); err != nil {
			return nil, err
		}
	}
	return f.pods[uid], nil
}

// scan looks at all processes. The caller holds mu.
func (f *Finder) scan() error {
	at := time.Now()
	entries, err := os.ReadDir(f.proc)
	if err != nil {
		return fmt.Errorf("look for processes of pods: %w", err)
	}
	pods := map[string][]process{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cgroups, err := os.ReadFile(filepath.Join(f.proc, e.Name(), "cgroup"))
		if err != nil {
			continue // it ended meanwhile
		}
		uid := PodUID(string(cgroups))
		if uid == "" {
			continue
		}
		if p, ok := f.read(pid); ok {
			pods[uid] = append(pods[uid], p)
		}
	}
	for _, list := range pods {
		// Numbers without leading zeros: the shorter is the smaller.
		slices.SortFunc(list, func(a, b process) int {
			return cmp.Or(cmp.Compare(len(a.start), len(b.start)), cmp.Compare(a.start, b.start), cmp.Compare(a.pid, b.pid))
		})
	}
	f.at, f.pods = at, pods
	return nil
}

func (f *Finder) read(pid int) (process, bool) {
	stat, err := os.ReadFile(filepath.Join(f.proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return process{}, false
	}
	start, ok := startTime(string(stat))
	return process{pid: pid, start: start}, ok
}
