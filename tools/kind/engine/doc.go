// Package engine runs a Docker daemon that belongs to the clusters built here: in a network namespace of its own, so that its
// bridges, rules and sysctls are not the machine's, with its socket, state and images in folders of its own.
//
// On machines that lack capabilities a wrapper around runc asks for less (Arguments). The daemon is a process of its own that
// outlives this one, found again by its pid file; Stop ends it and takes away the namespace. So are the forwarders, one for
// each cluster, that make an API server on the daemon's loopback reachable at the same port of the machine's loopback.
//
// It knows nothing of kind. Start reading at Engine.Start.
package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/tools/kind/spec"
	"github.com/ambit-mesh/ambit/tools/kind/steps"
)

// Engine is the daemon and where it lives.
type Engine struct {
	// Run is the folder of sockets and pids, Data that of images and containers.
	Run, Data string
	// Namespace is the name of the network namespace.
	Namespace string
	// IPv6: the kernel has it.
	IPv6 bool
	// Wrapper is the program cmd/ambit-runc.
	Wrapper string
	Steps   *steps.Printer
}

// Host is what DOCKER_HOST has to be.
func (e *Engine) Host() string { return "unix://" + e.socket() }

func (e *Engine) socket() string    { return filepath.Join(e.Run, "docker.sock") }
func (e *Engine) pidFile() string   { return filepath.Join(e.Run, "docker.pid") }
func (e *Engine) namespace() string { return filepath.Join("/run/netns", e.Namespace) }

// Inside is a command that runs in the daemon's network namespace.
func (e *Engine) Inside(args ...string) []string {
	return append([]string{"nsenter", "--net=" + e.namespace(), "--"}, args...)
}

// Arguments of dockerd. lacked are the capabilities this machine cannot give.
func (e *Engine) Arguments(lacked []string) []string {
	args := []string{"dockerd", "--host", e.Host(), "--data-root", e.Data, "--exec-root", filepath.Join(e.Run, "exec"), "--pidfile", e.pidFile()}
	if e.IPv6 {
		// Dual-stack clusters need rules for it, which older daemons still call an experiment.
		args = append(args, "--experimental", "--ip6tables")
	}
	if len(lacked) > 0 {
		args = append(args, "--add-runtime", "ambit-runc="+e.Wrapper, "--default-runtime", "ambit-runc")
	}
	return args
}

// Lacked are the capabilities that a privileged container would ask for in vain.
func Lacked() ([]string, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	bits, err := spec.ParseStatus(string(status))
	if err != nil {
		return nil, err
	}
	last, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(last)))
	return spec.Own{Capabilities: bits}.Lacks(n), err
}

// Start starts the daemon unless it answers already.
func (e *Engine) Start(ctx context.Context) error {
	if err := os.MkdirAll(e.Run, 0o700); err != nil {
		return err
	}
	unlock, err := lock(filepath.Join(e.Run, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if e.ping(ctx) == nil {
		return nil
	}
	lacked, err := Lacked()
	if err != nil {
		return fmt.Errorf("read our capabilities: %w", err)
	}
	if len(lacked) > 0 {
		e.Steps.Say("this machine lacks %s: containers are started without", strings.Join(lacked, ", "))
	}
	return e.Steps.Do("starting a Docker daemon in a network namespace of its own", func() error {
		if err := e.makeNamespace(ctx); err != nil {
			return err
		}
		return e.launch(ctx, lacked)
	})
}

func (e *Engine) makeNamespace(ctx context.Context) error {
	if _, err := os.Stat(e.namespace()); err == nil {
		return nil
	}
	for _, args := range [][]string{{"ip", "netns", "add", e.Namespace}, {"ip", "-n", e.Namespace, "link", "set", "lo", "up"}} {
		if _, err := e.Steps.Run(ctx, steps.Command{Args: args}); err != nil {
			return err
		}
	}
	return nil
}

// launch starts dockerd and waits until it answers.
func (e *Engine) launch(ctx context.Context, lacked []string) error {
	logPath := filepath.Join(e.Run, "dockerd.log")
	log, err := os.Create(logPath)
	if err != nil {
		return err
	}
	defer log.Close()
	args := e.Inside(e.Arguments(lacked)...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start dockerd: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	deadline := time.After(time.Minute)
	for {
		err := e.ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case end := <-ended:
			return fmt.Errorf("dockerd ended at once (%v); the end of %s:\n%s", end, logPath, tail(logPath))
		case <-deadline:
			return fmt.Errorf("dockerd does not answer: %w; the end of %s:\n%s", err, logPath, tail(logPath))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Running says whether the daemon answers.
func (e *Engine) Running(ctx context.Context) bool { return e.ping(ctx) == nil }

// ping asks the daemon whether it is there.
func (e *Engine) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", e.socket())
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/_ping", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// Stop ends the daemon with all its containers and removes the namespace. It is no error when there is none.
func (e *Engine) Stop(ctx context.Context) error {
	unlock, err := lock(filepath.Join(e.Run, "lock"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer unlock()
	return e.Steps.Do("stopping the Docker daemon", func() error {
		if err := end(ctx, e.pidFile(), "dockerd"); err != nil {
			return err
		}
		if _, err := os.Stat(e.namespace()); err != nil {
			return nil
		}
		_, err := e.Steps.Run(ctx, steps.Command{Args: []string{"ip", "netns", "delete", e.Namespace}})
		return err
	})
}

// end stops the process of a pid file, if it is the program we think it is, and waits for its end.
func end(ctx context.Context, pidFile, program string) error {
	raw, err := os.ReadFile(pidFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || pid <= 1 {
		return fmt.Errorf("%s holds no process id: %q", pidFile, raw)
	}
	deadline := time.Now().Add(time.Minute)
	for signal := syscall.SIGTERM; runs(pid, program); {
		if signal != 0 {
			if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("stop %s (%d): %w", program, pid, err)
			}
			signal = 0
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s (%d) does not end within a minute of SIGTERM", program, pid)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err := os.Remove(pidFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// runs says whether a process lives and is the program.
func runs(pid int, program string) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	words := strings.Split(string(raw), "\x00")
	return slices.ContainsFunc(words, func(w string) bool { return filepath.Base(w) == program })
}

// lock holds a file against other runs of this program.
func lock(path string) (unlock func(), err error) { return Flock(path, syscall.LOCK_EX) }

// Flock locks a file as flock(2) does.
func Flock(path string, how int) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

func tail(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
