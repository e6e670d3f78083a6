package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// exitSandbox is the exit status when the sandbox itself could not be set up, as container runtimes have it.
const exitSandbox = 128

// readyFd is closed when the process can be told to end.
const readyFd = 4

// Main turns this process into the first one of a sandbox if that is what it was started as, and then does not return.
// Every binary that starts sandboxes calls it before anything else.
func Main() {
	if len(os.Args) == 0 || os.Args[0] != initName {
		// Other goroutines enter namespaces on threads that end with them. The first thread cannot end, and the whole
		// process looks as if it were where that thread is, so it is kept out of this.
		runtime.LockOSThread()
		return
	}
	code, err := first()
	if err != nil {
		fmt.Fprintf(os.Stderr, "sandbox: %v\n", err)
	}
	os.Exit(code)
}

func first() (int, error) {
	pipe := os.NewFile(3, "spec")
	var in inside
	if err := json.NewDecoder(pipe).Decode(&in); err != nil {
		return exitSandbox, fmt.Errorf("read spec: %w", err)
	}
	_ = pipe.Close()
	// Only this process says that it is ready, and exec in its place counts as that.
	unix.CloseOnExec(readyFd)
	if err := furnish(in); err != nil {
		return exitSandbox, err
	}
	if in.Dir != "" {
		if err := os.Chdir(in.Dir); err != nil {
			return exitSandbox, fmt.Errorf("working directory: %w", err)
		}
	}
	if !in.Isolated {
		return exitSandbox, fmt.Errorf("run %s: %w", in.Args[0], unix.Exec(in.Args[0], in.Args, os.Environ()))
	}
	return runChild(in)
}

func furnish(in inside) error {
	// Slave: namespaces named later on the machine appear here too, and nothing mounted here leaks out.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("detach mounts: %w", err)
	}
	if in.Hostname != "" {
		if err := unix.Sethostname([]byte(in.Hostname)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
	}
	if in.Isolated {
		if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf("mount /proc: %w", err)
		}
	}
	for _, m := range in.Mounts {
		if err := m.place(); err != nil {
			return err
		}
	}
	for _, file := range [][2]string{{in.ResolvConf, "/etc/resolv.conf"}, {in.Hosts, "/etc/hosts"}} {
		if file[0] == "" {
			continue
		}
		if err := cover(file[0], file[1]); err != nil {
			return err
		}
	}
	return nil
}

// cover shows src in the place of dst. Where dst is a link, as systemd makes of resolv.conf, its target is covered.
func cover(src, dst string) error {
	target, err := filepath.EvalSymlinks(dst)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is missing on this machine, and a sandbox cannot cover a file that is not there: create an empty one", dst)
	}
	if err != nil {
		return fmt.Errorf("cover %s: %w", dst, err)
	}
	if err := unix.Mount(src, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cover %s: %w", dst, err)
	}
	return nil
}

// runChild is the life of a pod's init: it passes signals on, reaps orphans, and ends with the program. Without it the
// program would be process 1, which the kernel shields from the signals it does not handle.
func runChild(in inside) (int, error) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGCHLD)
	cmd := &exec.Cmd{Path: in.Args[0], Args: in.Args, Env: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true}}
	if in.User != 0 || in.Group != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: in.User, Gid: in.Group}
		// The program may lie in a folder that only root may enter, as under /root. It is part of the container's image, so
		// to speak, and images are everybody's: it is opened here and started by its descriptor.
		program, err := os.Open(in.Args[0])
		if err != nil {
			return exitSandbox, fmt.Errorf("run %s: %w", in.Args[0], err)
		}
		defer program.Close()
		cmd.ExtraFiles = []*os.File{program}
		cmd.Path = "/proc/self/fd/3"
	}
	if err := cmd.Start(); err != nil {
		return exitSandbox, fmt.Errorf("run %s: %w", in.Args[0], err)
	}
	_ = unix.Close(readyFd)
	main := cmd.Process.Pid
	for sig := range signals {
		if sig != unix.SIGCHLD {
			if s, ok := sig.(syscall.Signal); ok {
				_ = unix.Kill(main, s)
			}
			continue
		}
		for {
			var status unix.WaitStatus
			pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
			if pid <= 0 || err != nil {
				break
			}
			if pid != main {
				continue
			}
			if status.Signaled() {
				return 128 + int(status.Signal()), nil
			}
			return status.ExitStatus(), nil
		}
	}
	return exitSandbox, nil
}
