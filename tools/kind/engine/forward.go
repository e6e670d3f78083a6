package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

func (e *Engine) forwardPid(name string) string { return filepath.Join(e.Run, name+".forward.pid") }

// Listen takes a free port of the machine's loopback for a cluster. The cluster's API server gets the same port inside.
func Listen(port int) (*net.TCPListener, int, error) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return nil, 0, fmt.Errorf("take a port of the loopback: %w", err)
	}
	return l, l.Addr().(*net.TCPAddr).Port, nil
}

// Forward starts a process that hands connections of the listener to the same port of the namespace's loopback. It gets the
// open listener, so that it needs no namespace but the inner one.
func (e *Engine) Forward(name string, l *net.TCPListener, self string) error {
	file, err := l.File()
	if err != nil {
		return err
	}
	defer file.Close()
	args := e.Inside(self, "forward", l.Addr().String())
	cmd := exec.Command(args[0], args[1:]...)
	cmd.ExtraFiles = []*os.File{file}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the forwarder: %w", err)
	}
	// nsenter becomes the program, so that the pid is its own.
	pid := strconv.Itoa(cmd.Process.Pid)
	if err := cmd.Process.Release(); err != nil {
		return err
	}
	return os.WriteFile(e.forwardPid(name), []byte(pid), 0o600)
}

// Forwards says whether a cluster's forwarder runs.
func (e *Engine) Forwards(name, self string) bool {
	raw, err := os.ReadFile(e.forwardPid(name))
	if err != nil {
		return false
	}
	pid, err := strconv.Atoi(string(raw))
	return err == nil && runs(pid, filepath.Base(self))
}

// EndForward ends a cluster's forwarder.
func (e *Engine) EndForward(ctx context.Context, name, self string) error {
	return end(ctx, e.forwardPid(name), filepath.Base(self))
}

// Relay is the forwarder's work: it hands each connection of l to a dialled one until l is closed, and waits for all of them.
func Relay(l net.Listener, dial func() (net.Conn, error)) error {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		in, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		} else if err != nil {
			return err
		}
		all.Go(func() {
			defer in.Close()
			out, err := dial()
			if err != nil {
				return // the caller sees its connection end, as with a server that is away
			}
			defer out.Close()
			var back sync.WaitGroup
			back.Go(func() { pass(in, out) })
			pass(out, in)
			back.Wait()
		})
	}
}

// pass copies one direction and hands on its end.
func pass(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		_ = half.CloseWrite()
		return
	}
	to.Close()
	from.Close()
}
