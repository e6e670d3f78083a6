package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab/fabric"
	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
	"github.com/ambit-mesh/ambit/e2e/lab/resource"
	"github.com/ambit-mesh/ambit/e2e/lab/wire"
)

// kubelet is the life of one pod on its node: a namespace, the CNI's blessing, containers, and the end of it all. It has
// one goroutine plus one per container.
//
//	sandbox ──► init containers ──► containers ──► done, or asked to end ──► gone
//	   ▲             node failed: everything is torn down │
//	   └──────────────────── node healed ◄────────────────┘
type kubelet struct {
	// immutable
	s           *Supervisor
	key         resource.Key
	uid         string
	spec        *resource.PodSpec
	doc         resource.Object
	host        fabric.Host
	addrs       []netip.Addr
	netns, link string // names; empty for a pod on the host's network
	eligible    func() (bool, error)
	volumes     *volumes // of this life; written before containers start

	ending chan struct{} // closed when the pod is to end
	hurry  chan struct{} // closed when it is to end at once
	grace  time.Duration // written before ending is closed

	mu         sync.Mutex
	status     podStatus
	containers map[string]*container
	crash      context.CancelFunc // ends everything on the node, as a power cut does
	healed     chan struct{}
	isEnding   bool
	isHurried  bool
}

const lingerTime = 50 * time.Millisecond

func (s *Supervisor) newKubelet(p *pod) *kubelet {
	k := &kubelet{
		s: s, key: p.key, uid: p.doc.UID(), spec: p.spec, doc: p.doc.Clone(), host: p.node.host, addrs: p.addrs,
		ending: make(chan struct{}), hurry: make(chan struct{}), containers: map[string]*container{},
	}
	if !p.spec.HostNetwork {
		k.netns = fabric.PodNetns(s.start.ID, p.key.Namespace, p.key.Name)
		k.link = fabric.PodLink(p.key.Namespace, p.key.Name)
	}
	k.status.phase = "Pending"
	for _, c := range p.spec.Containers {
		k.status.containers = append(k.status.containers, containerStatus{name: c.Name, reason: "ContainerCreating"})
	}
	k.eligible = func() (yes bool, err error) {
		if !s.do(func() { yes = s.ambient(p) }) {
			return false, errors.New("the lab is ending")
		}
		return yes, nil
	}
	return k
}

// end asks the pod to end within grace seconds.
func (k *kubelet) end(grace int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.isEnding {
		k.isEnding = true
		k.grace = time.Duration(grace) * time.Second
		close(k.ending)
	}
}

// hurryUp ends what is left of the grace period.
func (k *kubelet) hurryUp() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.isHurried {
		k.isHurried = true
		close(k.hurry)
	}
}

// fail is the power cut; heal is when power is back.
func (k *kubelet) fail() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.healed == nil {
		k.healed = make(chan struct{})
	}
	if k.crash != nil {
		k.crash()
	}
}

func (k *kubelet) heal() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.healed != nil {
		close(k.healed)
		k.healed = nil
	}
}

// run is the pod's goroutine.
func (k *kubelet) run() {
	defer func() {
		k.linger()
		k.cleanup()
		_ = os.RemoveAll(k.s.path("pods", k.uid))
		_ = os.RemoveAll(k.logDir())
		k.s.do(func() {
			if p := k.s.pods[k.key]; p != nil && p.kubelet == k {
				k.s.forgetPod(p)
			}
		})
	}()
	for {
		ctx, cancel := context.WithCancel(context.Background())
		k.mu.Lock()
		k.crash = cancel
		healed := k.healed
		k.mu.Unlock()
		if healed == nil {
			k.live(ctx)
		}
		cancel()
		k.mu.Lock()
		healed, k.crash = k.healed, nil
		k.mu.Unlock()
		if healed == nil {
			// It ended by itself or was asked to; it leaves when someone deletes it.
			<-k.ending
			return
		}
		k.cleanup()
		k.report(func(st *podStatus) {
			st.phase, st.reason, st.message = "Pending", "NodeLost", "node "+k.host.Name+" has failed"
			st.ready, st.hasAddress = false, false
		})
		select {
		case <-healed:
		case <-k.ending:
			return
		}
	}
}

// linger lets the last packets of a pod's processes leave before its link goes. A peer that never hears of the end waits
// for its own timeout.
func (k *kubelet) linger() {
	timer := time.NewTimer(lingerTime)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-k.hurry:
	}
}

// live is one life of the pod between power cuts. It returns when all containers have ended for good.
func (k *kubelet) live(ctx context.Context) {
	if !k.retry(ctx, "CreatePodSandbox", k.sandbox) || !k.retry(ctx, "SetUpNetwork", k.plugin) || !k.retry(ctx, "MountVolumes", k.makeVolumes) {
		return
	}
	k.report(func(st *podStatus) { st.hasAddress, st.reason, st.message = true, "", "" })
	for _, c := range k.spec.InitContainers {
		if !k.initContainer(ctx, c) {
			return
		}
	}
	var wg sync.WaitGroup
	for _, spec := range k.spec.Containers {
		c := k.newContainer(spec)
		wg.Go(func() { c.run(ctx) })
	}
	k.report(func(st *podStatus) { st.phase = "Running" })
	refreshing, stop := context.WithCancel(ctx)
	defer stop()
	var volumes sync.WaitGroup
	if len(k.spec.Volumes) > 0 {
		volumes.Go(func() { k.volumes.refresh(refreshing) })
	}
	wg.Wait()
	stop()
	volumes.Wait()
	if ctx.Err() != nil {
		// The node failed; the pod has another life ahead.
		return
	}
	k.report(func(st *podStatus) {
		st.ready, st.phase = false, "Succeeded"
		for _, c := range st.containers {
			if c.exitCode != 0 {
				st.phase = "Failed"
			}
		}
	})
}

// retry runs a step of the set-up until it succeeds, the pod is to end, or the node fails.
func (k *kubelet) retry(ctx context.Context, reason string, step func(context.Context) error) bool {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := step(ctx)
		if err == nil {
			return true
		}
		k.report(func(st *podStatus) { st.reason, st.message = reason, err.Error() })
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
		case <-k.ending:
		}
		timer.Stop()
		if ctx.Err() != nil || k.told() {
			return false
		}
	}
}

func (k *kubelet) told() bool {
	select {
	case <-k.ending:
		return true
	default:
		return false
	}
}

// sandbox makes the pod's namespace and the files that belong to it.
func (k *kubelet) sandbox(context.Context) error {
	dir := k.s.path("pods", k.uid)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("pod folder: %w", err)
	}
	if err := os.MkdirAll(k.logDir(), 0o755); err != nil {
		return fmt.Errorf("pod folder: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), k.s.resolvConf(k.key.Namespace), 0o644); err != nil {
		return fmt.Errorf("pod folder: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts"), k.hosts(), 0o644); err != nil {
		return fmt.Errorf("pod folder: %w", err)
	}
	if k.netns == "" {
		return nil
	}
	if err := fabric.AddPod(k.host, k.netns, k.link, k.addrs); err != nil {
		// Half a sandbox is in the way of the next attempt.
		return errors.Join(err, fabric.DeletePod(k.host, k.netns, k.link))
	}
	return nil
}

func (k *kubelet) hosts() []byte {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
	for _, a := range k.addrs {
		b.WriteString(a.String())
		if k.spec.Subdomain != "" {
			fmt.Fprintf(&b, " %s.%s.%s.svc.cluster.local", k.hostname(), k.spec.Subdomain, k.key.Namespace)
		}
		fmt.Fprintf(&b, " %s\n", k.hostname())
	}
	for _, alias := range k.spec.HostAliases {
		fmt.Fprintf(&b, "%s %s\n", alias.IP, strings.Join(alias.Hostnames, " "))
	}
	return []byte(b.String())
}

func (k *kubelet) hostname() string {
	name := k.spec.Hostname
	if name == "" {
		name = k.key.Name
	}
	return name[:min(len(name), 63)]
}

func (k *kubelet) netnsPath() string {
	if k.netns == "" {
		return netspace.Path(k.host.Netns)
	}
	return netspace.Path(k.netns)
}

func (k *kubelet) logDir() string {
	return k.s.path("logs", "pods", k.key.Namespace+"_"+k.key.Name)
}

// cleanup ends whatever is left of the pod on its node.
func (k *kubelet) cleanup() {
	if err := k.s.cgroups.Kill("pods/pod" + k.uid); err != nil {
		k.s.log.Warn("processes of a pod stay", "pod", k.key.String(), "error", err)
	}
	if k.netns == "" {
		return
	}
	if err := fabric.DeletePod(k.host, k.netns, k.link); err != nil {
		k.s.log.Warn("network of a pod stays", "pod", k.key.String(), "error", err)
	}
}

// report changes the pod's status and tells the API server.
func (k *kubelet) report(change func(*podStatus)) {
	k.mu.Lock()
	before := k.status
	before.containers = slices.Clone(k.status.containers)
	change(&k.status)
	if k.status.phase == "Running" {
		k.status.ready = true
		for _, c := range k.status.containers {
			k.status.ready = k.status.ready && c.ready
		}
	}
	now := k.status
	now.containers = slices.Clone(k.status.containers)
	k.mu.Unlock()
	if equalStatus(before, now) {
		return
	}
	k.s.do(func() {
		p := k.s.pods[k.key]
		if p == nil || p.kubelet != k {
			return
		}
		// Reports of two containers may overtake each other on the way here; the newest counts.
		k.mu.Lock()
		p.status = k.status
		p.status.containers = slices.Clone(k.status.containers)
		k.mu.Unlock()
		k.s.dirty = true
		if err := k.s.writePod(p); err != nil {
			k.s.problem(p.key, err)
		}
	})
}

func equalStatus(a, b podStatus) bool {
	return a.phase == b.phase && a.reason == b.reason && a.message == b.message && a.ready == b.ready &&
		a.hasAddress == b.hasAddress && slices.Equal(a.containers, b.containers)
}

// processes tells how to enter the pod.
func (k *kubelet) processes() wire.PodProcess {
	k.mu.Lock()
	defer k.mu.Unlock()
	info := wire.PodProcess{Node: k.host.Name, Netns: k.netnsPath()}
	for _, spec := range k.spec.Containers {
		ci := wire.ContainerInfo{Name: spec.Name, Env: k.env(spec), Dir: spec.WorkingDir, Log: k.logFile(spec.Name)}
		if c := k.containers[spec.Name]; c != nil && c.proc != nil {
			ci.Pid = c.proc.Pid()
		}
		info.Containers = append(info.Containers, ci)
	}
	return info
}

func (k *kubelet) logFile(container string) string {
	return filepath.Join(k.logDir(), container+".log")
}
