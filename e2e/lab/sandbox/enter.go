package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Stdio is what a process entered into a sandbox reads and writes. Nil means nothing.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// Enter runs a command in the namespaces of the process pid and returns its exit code. An error says that it could not
// be run at all or that ctx ended first.
func Enter(ctx context.Context, pid int, args, env []string, dir string, stdio Stdio) (int, error) {
	return within(ctx, args, env, dir, stdio, func() error { return join(pid) })
}

// Visit runs a command of the caller's in a host's network namespace, with the host's name resolution files.
func Visit(ctx context.Context, netns, resolvConf, hosts string, args []string, stdio Stdio) (int, error) {
	return within(ctx, args, os.Environ(), "", stdio, func() error {
		ns, err := os.Open(netns)
		if err != nil {
			return fmt.Errorf("open namespace: %w", err)
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("join network namespace: %w", err)
		}
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("new mount namespace: %w", err)
		}
		return furnish(inside{ResolvConf: resolvConf, Hosts: hosts})
	})
}

// within runs a command from a thread that move has put where the command belongs.
func within(ctx context.Context, args, env []string, dir string, stdio Stdio, move func() error) (int, error) {
	path, err := lookPath(args[0], env)
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, path, args[1:]...)
	cmd.Args[0] = args[0]
	cmd.Env, cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, dir, stdio.In, stdio.Out, stdio.Err
	started := make(chan error, 1)
	go func() {
		// Never unlocked: this thread has left the process's own namespaces and must end with the goroutine.
		runtime.LockOSThread()
		if err := move(); err != nil {
			started <- err
			return
		}
		started <- cmd.Start()
	}()
	if err := <-started; err != nil {
		return 0, fmt.Errorf("enter sandbox: %w", err)
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		return 0, fmt.Errorf("run %s: %w", args[0], ctx.Err())
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 0, fmt.Errorf("run %s: %w", args[0], err)
	}
	return 0, nil
}

// join moves the calling thread into the namespaces of pid.
func join(pid int) error {
	// A thread that shares its root and working directory with others may not change its mounts.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare file system context: %w", err)
	}
	// All are opened before the first is entered: a new mount namespace has another /proc.
	names := []string{"uts", "ipc", "net", "pid", "mnt"}
	fds := make([]*os.File, 0, len(names))
	defer func() {
		for _, f := range fds {
			_ = f.Close()
		}
	}()
	for _, name := range names {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
		if err != nil {
			return fmt.Errorf("the container is not running: %w", err)
		}
		fds = append(fds, f)
	}
	for i, f := range fds {
		if err := unix.Setns(int(f.Fd()), 0); err != nil {
			return fmt.Errorf("join %s namespace: %w", names[i], err)
		}
	}
	return nil
}

// StartTime is the kernel's start time of a process in clock ticks since boot; together with the id it names a process
// for good, since ids are used again.
func StartTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("process %d: %w", pid, err)
	}
	// The second field is the command in brackets and may hold anything, brackets too.
	rest := string(data[strings.LastIndexByte(string(data), ')')+1:])
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return 0, fmt.Errorf("process %d: short stat", pid)
	}
	t, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("process %d: %w", pid, err)
	}
	return t, nil
}
