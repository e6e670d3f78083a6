// Package supervisor is the process behind one lab. It plays API server, scheduler, controllers, kubelets, kube-proxy and
// cluster DNS over a folder of YAML: what users apply is kept in applied/, what becomes of it in pods/.
//
// One goroutine, Run's, owns all objects; everything else (pods, daemons, the API, the folder watch) sends it work with
// do. Pods and daemons have a goroutine each, and Run waits for all of them. The package does not know the mesh: its
// daemons are processes like others. Start reading at Run, then reconcile.go.
package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/api/labfile"
	"github.com/ambit-mesh/ambit/e2e/lab/fabric"
	"github.com/ambit-mesh/ambit/e2e/lab/names"
	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
	"github.com/ambit-mesh/ambit/e2e/lab/resource"
	"github.com/ambit-mesh/ambit/e2e/lab/sandbox"
	"github.com/ambit-mesh/ambit/e2e/lab/services"
	"github.com/ambit-mesh/ambit/e2e/lab/wire"
)

// Files and folders of a lab, below its own.
const (
	StartFile  = "start.json"
	PidFile    = "supervisor.pid"
	SocketFile = "supervisor.sock"
	LogFile    = "supervisor.log"
	ConfigDir  = "config"
	AppliedDir = "applied"
	PodsDir    = "pods"
)

// Supervisor runs one lab.
type Supervisor struct {
	// immutable after New
	start   wire.Start
	dir     string
	log     *slog.Logger
	plan    fabric.Plan
	cgroups sandbox.Cgroups // none after begin if they cannot be used
	lab     *labfile.Lab
	began   time.Time
	dns     names.Server
	wg      sync.WaitGroup
	queue   chan func()
	quit    chan struct{} // closed when Run stops taking work

	// owned by Run's goroutine
	objects  map[resource.Key]*stored
	last     map[resource.Key]resource.Object // as last applied, before the lab added to it
	pods     map[resource.Key]*pod
	nodes    []*node
	daemons  map[string]*daemon
	problems map[string]string
	faults   []wire.Fault
	made     map[resource.Key]int // pods ever made, by owner
	order    int
	served   []services.Service
	dirty    bool
}

// stored is an applied object and the file it is in.
type stored struct {
	object resource.Object
	file   string
}

// node is what the scheduler and the kubelet of one node know. Owned by Run's goroutine, host is immutable.
type node struct {
	host   fabric.Host
	labels map[string]string
	failed bool
	// next is where the search for a free address starts; addresses come back late, as on real nodes.
	next int
	used map[int]bool
}

// New reads what Up left in the lab's folder.
func New(dir string, log *slog.Logger) (*Supervisor, error) {
	data, err := os.ReadFile(filepath.Join(dir, StartFile))
	if err != nil {
		return nil, fmt.Errorf("read what lab to start: %w", err)
	}
	s := &Supervisor{
		dir: dir, log: log, began: time.Now(), queue: make(chan func()), quit: make(chan struct{}),
		objects: map[resource.Key]*stored{}, last: map[resource.Key]resource.Object{}, pods: map[resource.Key]*pod{},
		daemons: map[string]*daemon{}, problems: map[string]string{}, made: map[resource.Key]int{},
	}
	if err := json.Unmarshal(data, &s.start); err != nil {
		return nil, fmt.Errorf("read what lab to start: %w", err)
	}
	s.plan = fabric.NewPlan(s.start.ID, s.start.Nodes, s.start.DualStack)
	s.cgroups = sandbox.FindCgroups(s.start.ID)
	s.lab = s.describe()
	for _, h := range s.plan.Hosts {
		if h.Name != fabric.ControlHost {
			s.nodes = append(s.nodes, &node{host: h, next: 2, used: map[int]bool{}})
		}
	}
	return s, nil
}

// Run builds the lab, serves it until ctx ends, and ends everything it started. The namespaces and files stay for
// whoever asked for the end to remove.
func (s *Supervisor) Run(ctx context.Context) error {
	if err := s.begin(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 4)
	background := func(what string, run func(context.Context) error) {
		s.wg.Go(func() {
			if err := run(ctx); err != nil {
				failed <- fmt.Errorf("%s: %w", what, err)
			}
		})
	}
	background("rotate logs", s.rotateLogs)
	err := s.serve(ctx, background)
	if err == nil {
		err = s.bootstrap()
	}
	if err == nil {
		err = labfile.Write(s.lab)
	}
	if err == nil {
		background("watch applied objects", s.watch)
		s.log.Info("lab is up", "name", s.start.Name, "nodes", s.start.Nodes)
		err = s.loop(ctx, failed)
	}
	cancel()
	close(s.quit)
	s.endAll()
	s.wg.Wait()
	return err
}

func (s *Supervisor) loop(ctx context.Context, failed <-chan error) error {
	for {
		if s.dirty {
			s.dirty = false
			s.reconcile()
		}
		select {
		case fn := <-s.queue:
			fn()
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// do runs fn on the goroutine that owns the objects and waits for it. It says false, without having run fn, when the
// supervisor is ending.
func (s *Supervisor) do(fn func()) bool {
	done := make(chan struct{})
	select {
	case s.queue <- func() { fn(); close(done) }:
		<-done
		return true
	case <-s.quit:
		return false
	}
}

// begin makes the lab's folders and wiring.
func (s *Supervisor) begin() error {
	if err := WritePid(s.dir); err != nil {
		return err
	}
	if err := s.cgroups.Join("supervisor", os.Getpid()); err != nil {
		// They are the surest way to find every process again, not the only one.
		s.log.Warn("going on without control groups", "error", err)
		s.cgroups = sandbox.Cgroups{}
	}
	dirs := []string{filepath.Join(s.lab.ConfigDir, AppliedDir), filepath.Join(s.lab.ConfigDir, PodsDir), s.path("logs"), s.path("pods"), s.lab.Control.RunDir}
	for _, n := range s.lab.Nodes {
		dirs = append(dirs, n.RunDir)
	}
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("make lab folders: %w", err)
		}
	}
	if err := fabric.Build(s.plan); err != nil {
		return fmt.Errorf("wire the lab: %w", err)
	}
	for _, h := range s.plan.Hosts {
		if err := s.writeHostFiles(h); err != nil {
			return err
		}
	}
	return nil
}

// WritePid signs the lab's folder with this process, by number and start time, since numbers are used again.
func WritePid(dir string) error {
	t, err := sandbox.StartTime(os.Getpid())
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, PidFile), fmt.Appendf(nil, "%d %d\n", os.Getpid(), t), 0o644); err != nil {
		return fmt.Errorf("write pid file: %w", err)
	}
	return nil
}

func (s *Supervisor) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func (s *Supervisor) describe() *labfile.Lab {
	l := &labfile.Lab{
		Name: s.start.Name, Dir: s.dir, ConfigDir: s.path(ConfigDir), Supervisor: s.path(SocketFile), DualStack: s.start.DualStack,
	}
	for _, h := range s.plan.Hosts {
		run := s.runDir(h.Name)
		if h.Name == fabric.ControlHost {
			l.Control = labfile.Control{
				Netns: netspace.Path(h.Netns), RunDir: run, Addresses: texts(h.Addrs),
				AdminSocket: filepath.Join(run, "ambitd-admin.sock"), CAAdminSocket: filepath.Join(run, "ca-admin.sock"),
			}
			continue
		}
		l.Nodes = append(l.Nodes, labfile.Node{
			Name: h.Name, Netns: netspace.Path(h.Netns), RunDir: run, Addresses: texts(h.Addrs), PodCIDRs: texts(h.PodCIDRs),
			ZtunnelAdmin:  filepath.Join(run, "ztunnel-admin.sock"),
			ZtunnelSocket: filepath.Join(run, "ztunnel.sock"),
			PluginSocket:  filepath.Join(run, "pluginevent.sock"),
			CNIAdmin:      filepath.Join(run, "cni-admin.sock"),
		})
	}
	return l
}

func (s *Supervisor) runDir(host string) string { return s.path("hosts", host) }

func texts[T fmt.Stringer](list []T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = v.String()
	}
	return out
}

func (s *Supervisor) node(name string) *node {
	for _, n := range s.nodes {
		if n.host.Name == name {
			return n
		}
	}
	return nil
}

// address takes a free place in the node's pod range, the wanted one if it can be had; 0 means that there is none.
func (n *node) address(wanted string) int {
	if i, err := strconv.Atoi(wanted); err == nil && i >= 2 && i <= 254 && !n.used[i] {
		n.used[i] = true
		return i
	}
	for range 253 {
		i := n.next
		n.next++
		if n.next > 254 {
			n.next = 2
		}
		if !n.used[i] {
			n.used[i] = true
			return i
		}
	}
	return 0
}

// problem records what is wrong with an object, or that nothing is.
func (s *Supervisor) problem(k resource.Key, err error) {
	if err == nil {
		delete(s.problems, k.String())
		return
	}
	if s.problems[k.String()] != err.Error() {
		s.log.Warn("cannot do as asked", "object", k.String(), "problem", err.Error())
	}
	s.problems[k.String()] = err.Error()
}

// extraNames are the outside world's.
func (s *Supervisor) extraNames() map[string][]netip.Addr {
	extra := map[string][]netip.Addr{}
	for name, list := range s.start.Names {
		for _, text := range list {
			if a, err := netip.ParseAddr(text); err == nil {
				extra[name] = append(extra[name], a)
			}
		}
	}
	return extra
}
