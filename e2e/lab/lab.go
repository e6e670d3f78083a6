// Package lab is a small cluster on one machine: nodes and pods are network namespaces, and ordinary Kubernetes YAML runs
// on them without images, from the machine's own programs.
//
// Up starts a lab, whose supervisor is a process of its own and outlives the caller; Open finds one again; Down removes
// it, also after a crash. A Lab is a handle: it holds nothing open and starts no goroutines. The package knows how to
// keep daemons running on nodes, but not the mesh they are. Programs that import it must call Main first thing.
// Start reading at Up, then supervisor.
package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/api/labfile"
	"github.com/ambit-mesh/ambit/e2e/lab/fabric"
	"github.com/ambit-mesh/ambit/e2e/lab/sandbox"
	"github.com/ambit-mesh/ambit/e2e/lab/supervisor"
	"github.com/ambit-mesh/ambit/e2e/lab/wire"
)

// Daemon is a process the lab keeps running on a host.
type Daemon = wire.Daemon

// Fault is something broken on purpose.
type Fault = wire.Fault

// ControlHost is the name of the host that has no pods and serves the whole lab.
const ControlHost = fabric.ControlHost

// ErrExists is returned by Up for a name that is taken by a living lab.
var ErrExists = errors.New("lab exists already")

// Spec is the lab to make.
type Spec struct {
	// Name tells labs apart: lower case letters, digits and dashes, at most 20.
	Name string
	// Nodes is how many there are; 0 means 3.
	Nodes int
	// DualStack adds IPv6.
	DualStack bool
	// Path is put before the machine's own PATH for programs in pods and daemons.
	Path []string
	// NodeLabels are added to the nodes' own labels, by node name.
	NodeLabels map[string]map[string]string
	// Names are names of the outside world that the lab's name server knows.
	Names map[string][]string
}

// Lab is a handle on a running lab.
type Lab struct {
	*labfile.Lab
	client *wire.Client
}

const supervisorName = "ambit-lab-supervisor"

// Main turns this process into a lab's supervisor or the first process of a pod if that is what it was started as. Every
// program that uses this package calls it before anything else, tests from TestMain.
func Main() {
	sandbox.Main()
	if len(os.Args) != 2 || os.Args[0] != supervisorName {
		return
	}
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s, err := supervisor.New(os.Args[1], log)
	if err == nil {
		err = s.Run(ctx)
	}
	if err != nil {
		log.Error("lab ended", "error", err)
		os.Exit(1) //nolint:gocritic // the process ends here, and stop with it
	}
	os.Exit(0)
}

// id is the name that a lab's namespaces and control groups go by, which are the machine's: labs of one name in different
// folders must not meet there.
func id(name string) string {
	root := labfile.Root()
	if root == labfile.DefaultRoot {
		return name
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(root))
	return fmt.Sprintf("%s~%08x", name, h.Sum32())
}

var nameRule = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?$`)

func (s *Spec) check() error {
	if s.Nodes == 0 {
		s.Nodes = 3
	}
	if !nameRule.MatchString(s.Name) {
		return fmt.Errorf("lab name %q: up to 20 lower case letters, digits and dashes", s.Name)
	}
	if s.Nodes < 1 || s.Nodes > fabric.MaxNodes {
		return fmt.Errorf("%d nodes: 1 to %d", s.Nodes, fabric.MaxNodes)
	}
	// A socket's path holds 107 bytes, and the longest lies two folders down.
	if longest := filepath.Join(labfile.Dir(s.Name), "hosts", fmt.Sprintf("node%d", s.Nodes), "ztunnel-admin.sock"); len(longest) > 107 {
		return fmt.Errorf("socket %s has a path of %d bytes, the limit is 107: set %s to a shorter folder", longest, len(longest), labfile.EnvRoot)
	}
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return errors.New("a lab needs Linux and root, for network namespaces")
	}
	return nil
}

// Up makes a lab and waits until its supervisor serves. The remains of a lab of that name that has crashed are removed
// first.
func Up(ctx context.Context, spec Spec) (*Lab, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	dir := labfile.Dir(spec.Name)
	if alive(dir) {
		return nil, fmt.Errorf("%w: %q; \"ambit-lab down %s\" removes it", ErrExists, spec.Name, spec.Name)
	}
	if err := Clean(spec.Name); err != nil {
		return nil, fmt.Errorf("remove what is left of an earlier lab: %w", err)
	}
	if err := claim(dir); err != nil {
		return nil, fmt.Errorf("lab %q: %w", spec.Name, err)
	}
	l, err := launch(ctx, dir, spec)
	if err != nil {
		return nil, errors.Join(err, Clean(spec.Name))
	}
	return l, nil
}

// claim makes the lab's folder, which only one of several callers can, and signs it, so that the others see who has it.
func claim(dir string) error {
	err := os.MkdirAll(filepath.Dir(dir), 0o755)
	if err == nil {
		err = os.Mkdir(dir, 0o755)
	}
	if errors.Is(err, fs.ErrNotExist) {
		// The last of the other labs went in between and took the folder of all labs with it.
		if err = os.MkdirAll(filepath.Dir(dir), 0o755); err == nil {
			err = os.Mkdir(dir, 0o755)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: it is just being started", ErrExists)
	}
	if err == nil {
		err = supervisor.WritePid(dir)
	}
	if err != nil {
		return fmt.Errorf("lab folder: %w", err)
	}
	return nil
}

func launch(ctx context.Context, dir string, spec Spec) (*Lab, error) {
	data, err := json.Marshal(wire.Start{
		Name: spec.Name, ID: id(spec.Name), Nodes: spec.Nodes, DualStack: spec.DualStack, Path: spec.Path, NodeLabels: spec.NodeLabels, Names: spec.Names,
	})
	if err != nil {
		return nil, fmt.Errorf("encode lab: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, supervisor.StartFile), data, 0o644); err != nil {
		return nil, fmt.Errorf("lab folder: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(dir, supervisor.LogFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lab folder: %w", err)
	}
	defer log.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{supervisorName, dir}, Dir: "/", Env: os.Environ(), Stdout: log, Stderr: log,
		// A session of its own: it outlives its caller and hears nothing of Ctrl-C.
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start supervisor: %w", err)
	}
	ended := make(chan struct{})
	// Ends with the supervisor, which is to outlive this call; the goroutine holds nothing but the process's status.
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		l, err := Open(spec.Name)
		if err == nil {
			if _, err := l.Status(ctx); err == nil {
				return l, nil
			}
		}
		select {
		case <-tick.C:
		case <-ended:
			return nil, fmt.Errorf("the lab did not come up: %s", lastLine(filepath.Join(dir, supervisor.LogFile)))
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			return nil, fmt.Errorf("waiting for the lab to come up: %w", ctx.Err())
		}
	}
}

func lastLine(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return lines[len(lines)-1]
}

// Open returns a handle on a running lab; an empty name means the only one.
func Open(name string) (*Lab, error) {
	d, err := labfile.Load(name)
	if err != nil {
		return nil, err
	}
	return &Lab{Lab: d, client: wire.NewClient(d.Supervisor)}, nil
}
