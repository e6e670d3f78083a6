// Package sandbox starts processes the way a node does: in a pod's network namespace, with a mount, host name and
// process namespace of their own, name resolution files of their own, and a control group that finds all of them again.
//
// Programs come from the machine's file system; there are no images. The package does not know Kubernetes objects,
// restarts or probes. Each process is one Proc with one goroutine that reaps it, which Wait and Kill end. The binary
// that imports this package must call Main first thing, because it is also the first process inside. Start at Start.
package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
	"golang.org/x/sys/unix"
)

// initName is argv[0] of the first process in a sandbox.
const initName = "ambit-lab-init"

// Spec says what to run and where.
type Spec struct {
	Args []string
	Env  []string
	Dir  string
	// Netns is the path of the network namespace.
	Netns string
	// Hostname is the name inside; empty leaves the machine's.
	Hostname string
	// ResolvConf and Hosts are files shown as /etc/resolv.conf and /etc/hosts; empty leaves the machine's.
	ResolvConf, Hosts string
	// Isolated gives the process its own process tree with a small init above it. Daemons of a node do without: they
	// look at the node's processes.
	Isolated bool
	// User and Group are what the program runs as.
	User, Group uint32
	// Mounts are files and folders of the machine shown elsewhere; targets need not exist.
	Mounts []Mount
	// Log gets both outputs, appended.
	Log string
	// Cgroup is the folder of the control group the process starts in; empty means its parent's.
	Cgroup string
}

// Proc is a running process.
type Proc struct {
	cmd  *exec.Cmd
	done chan struct{}
	// ready is closed when the process can be told to end. The kernel keeps signals from the first process of a tree
	// until it asks for them, and such a signal is lost.
	ready chan struct{}
	// Started is when it was started.
	Started time.Time
	state   *os.ProcessState // written before done is closed
}

// inside is what the first process inside needs to know.
type inside struct {
	Args                        []string
	Hostname, ResolvConf, Hosts string
	Isolated                    bool
	User, Group                 uint32
	Dir                         string
	Mounts                      []Mount
}

// Start runs the spec. An error is about the sandbox or a program that is not there; what the program does later is its
// exit status.
func Start(s Spec) (*Proc, error) {
	if len(s.Args) == 0 {
		return nil, errors.New("nothing to run: the lab has no images, so every container needs a command")
	}
	path, err := lookPath(s.Args[0], s.Env)
	if err != nil {
		return nil, err
	}
	cfg, err := json.Marshal(inside{
		Args: append([]string{path}, s.Args[1:]...), Hostname: s.Hostname, ResolvConf: s.ResolvConf, Hosts: s.Hosts,
		Isolated: s.Isolated, User: s.User, Group: s.Group, Dir: s.Dir,
		Mounts: s.Mounts,
	})
	if err != nil {
		return nil, fmt.Errorf("encode sandbox: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe to sandbox: %w", err)
	}
	defer r.Close()
	defer w.Close()
	if err := unix.SetNonblock(int(w.Fd()), true); err != nil {
		return nil, fmt.Errorf("pipe to sandbox: %w", err)
	}
	// A pipe holds 64 KiB, more than any command line the lab has a use for; a longer one is refused here.
	if _, err := unix.Write(int(w.Fd()), cfg); err != nil {
		return nil, fmt.Errorf("command line of %d bytes is too long: %w", len(cfg), err)
	}
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	// Programs open /dev/stdout by its name, which is opening the file anew.
	if err := log.Chown(int(s.User), int(s.Group)); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	readyR, readyW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe from sandbox: %w", err)
	}
	defer readyW.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{initName}, Env: s.Env,
		Stdout: log, Stderr: log, ExtraFiles: []*os.File{r, readyW}, SysProcAttr: attributes(s),
	}
	if s.Cgroup != "" {
		dir, err := os.Open(s.Cgroup)
		if err != nil {
			_ = readyR.Close()
			return nil, fmt.Errorf("control group: %w", err)
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	if err := netspace.Do(s.Netns, cmd.Start); err != nil {
		_ = readyR.Close()
		return nil, fmt.Errorf("start %s: %w", filepath.Base(path), err)
	}
	p := &Proc{cmd: cmd, done: make(chan struct{}), ready: make(chan struct{}), Started: time.Now()}
	go p.reap(readyR)
	return p, nil
}

func attributes(s Spec) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS}
	if s.Hostname != "" {
		attr.Cloneflags |= unix.CLONE_NEWUTS
	}
	if s.Isolated {
		attr.Cloneflags |= unix.CLONE_NEWPID | unix.CLONE_NEWIPC
	}
	return attr
}

// lookPath finds the program in the PATH it will have itself, so that a typing error is an error of Start.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		if err := unix.Access(name, unix.X_OK); err != nil {
			return "", fmt.Errorf("command %q: %w", name, err)
		}
		return name, nil
	}
	for _, kv := range env {
		list, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			path := filepath.Join(dir, name)
			if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("command %q is not in PATH; the lab runs programs of this machine and of the lab's bin folder", name)
}

func (p *Proc) reap(ready *os.File) {
	defer close(p.done)
	// Nothing is ever written; the other end closes when the process is ready, or ends before it is.
	_, _ = ready.Read(make([]byte, 1))
	_ = ready.Close()
	close(p.ready)
	// The exit status is in the state; Wait's error would only repeat it.
	_ = p.cmd.Wait()
	p.state = p.cmd.ProcessState
}

// Pid is the process's id on the machine.
func (p *Proc) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended and, if it was isolated, all its children with it.
func (p *Proc) Done() <-chan struct{} { return p.done }

// ExitCode is valid after Done: the program's own, or 128 plus the signal that ended it.
func (p *Proc) ExitCode() int {
	if ws, ok := p.state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return p.state.ExitCode()
}

// Signal sends sig. A process that has ended already is no error.
func (p *Proc) Signal(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig)
}

// Stop asks the process to end, and after grace, or when hurry is closed, ends it. It returns when it has ended.
func (p *Proc) Stop(grace time.Duration, hurry <-chan struct{}) {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.ready:
		p.Signal(syscall.SIGTERM)
	case <-timer.C:
		timer.Reset(0)
	case <-hurry:
	}
	select {
	case <-p.done:
		return
	case <-timer.C:
	case <-hurry:
	}
	p.Signal(syscall.SIGKILL)
	<-p.done
}
