package supervisor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab/fabric"
	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
	"github.com/ambit-mesh/ambit/e2e/lab/sandbox"
	"github.com/ambit-mesh/ambit/e2e/lab/wire"
)

// daemon keeps one process of a host running. It has one goroutine.
type daemon struct {
	s    *Supervisor
	spec wire.Daemon
	host fabric.Host
	stop chan struct{} // closed when it is to end for good
	gone chan struct{} // closed when it has

	mu     sync.Mutex
	status wire.DaemonStatus
	proc   *sandbox.Proc
	held   chan struct{} // while held down by a fault; closed when healed
}

// hasDaemon says whether a daemon of the kind belongs on the host. Owned by Run's goroutine.
func (s *Supervisor) hasDaemon(kind, host string) bool {
	for _, d := range s.daemons {
		if d.spec.Kind == kind && d.spec.Host == host {
			return true
		}
	}
	return false
}

// startDaemons adds daemons; one of a name there is already takes its place when the old process has ended.
func (s *Supervisor) startDaemons(list []wire.Daemon) ([]*daemon, error) {
	var started []*daemon
	for _, spec := range list {
		host, ok := s.plan.Host(spec.Host)
		if !ok {
			return started, fmt.Errorf("daemon %q: there is no host %q", spec.Name, spec.Host)
		}
		if spec.Name == "" || strings.ContainsAny(spec.Name, "/ ") || len(spec.Args) == 0 {
			return started, fmt.Errorf("daemon %q: needs a name without spaces and slashes, and a command", spec.Name)
		}
		d := &daemon{s: s, spec: spec, host: host, stop: make(chan struct{}), gone: make(chan struct{})}
		d.status = wire.DaemonStatus{Daemon: spec, State: "waiting", Log: s.path("logs", "daemon_"+spec.Name+".log")}
		old := s.daemons[spec.Name]
		s.daemons[spec.Name] = d
		if old != nil {
			close(old.stop)
		}
		s.wg.Go(func() {
			if old != nil {
				<-old.gone
			}
			d.run()
		})
		started = append(started, d)
	}
	return started, nil
}

// stopDaemon ends a daemon for good and returns what to wait for.
func (s *Supervisor) stopDaemon(name string) (<-chan struct{}, error) {
	d, ok := s.daemons[name]
	if !ok {
		return nil, fmt.Errorf("there is no daemon %q", name)
	}
	delete(s.daemons, name)
	close(d.stop)
	return d.gone, nil
}

func (d *daemon) run() {
	defer close(d.gone)
	for wait := 50 * time.Millisecond; ; {
		if !d.whileHeld() {
			return
		}
		began := time.Now()
		code, err := d.once()
		if d.told() {
			d.set(func(st *wire.DaemonStatus) { st.State = "stopped" })
			return
		}
		exit := fmt.Sprintf("status %d after %v", code, time.Since(began).Round(time.Millisecond))
		if err != nil {
			exit = err.Error()
		}
		d.s.log.Warn("daemon ended", "daemon", d.spec.Name, "exit", exit)
		d.set(func(st *wire.DaemonStatus) { st.State, st.Pid, st.Ready, st.LastExit = "waiting", 0, false, exit })
		if d.spec.Once {
			d.set(func(st *wire.DaemonStatus) { st.State = "done" })
			<-d.stop
			return
		}
		if time.Since(began) > 5*time.Second {
			wait = 50 * time.Millisecond
		}
		timer := time.NewTimer(wait + rand.N(wait/4))
		select {
		case <-timer.C:
		case <-d.stop:
		}
		timer.Stop()
		if d.told() {
			return
		}
		wait = min(2*wait, 5*time.Second)
		d.set(func(st *wire.DaemonStatus) { st.Restarts++ })
	}
}

func (d *daemon) told() bool {
	select {
	case <-d.stop:
		return true
	default:
		return false
	}
}

// whileHeld waits out a fault; it says false when the daemon is to end instead.
func (d *daemon) whileHeld() bool {
	for {
		d.mu.Lock()
		held := d.held
		if held != nil {
			d.status.State, d.status.Pid, d.status.Ready = "failed", 0, false
		}
		d.mu.Unlock()
		if held == nil {
			return !d.told()
		}
		select {
		case <-held:
		case <-d.stop:
			return false
		}
	}
}

// once runs the process to its end.
func (d *daemon) once() (int, error) {
	cgroup, err := d.s.cgroups.Make("daemons/" + d.spec.Name)
	if err != nil {
		return 0, err
	}
	run := d.s.runDir(d.host.Name)
	env := append([]string{
		"PATH=" + strings.Join(append(slices.Clone(d.s.start.Path), "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"), ":"),
		"HOME=/root", "TMPDIR=" + os.TempDir(),
	}, d.spec.Env...)
	proc, err := sandbox.Start(sandbox.Spec{
		Args: d.spec.Args, Env: env, Dir: d.spec.Dir, Netns: netspace.Path(d.host.Netns), Hostname: d.host.Name,
		ResolvConf: filepath.Join(run, "resolv.conf"), Hosts: filepath.Join(run, "hosts"),
		Log: d.status.Log, Cgroup: cgroup,
	})
	if err != nil {
		return 0, err
	}
	d.mu.Lock()
	d.proc = proc
	d.status.State, d.status.Pid, d.status.Started = "running", proc.Pid(), proc.Started
	d.status.Ready, d.status.NotReady = d.spec.Ready == "", ""
	if d.held != nil {
		// The fault came while the process was being started.
		proc.Signal(syscall.SIGKILL)
	}
	d.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	probed := make(chan struct{})
	go func() {
		defer close(probed)
		d.watchReady(ctx)
	}()
	select {
	case <-proc.Done():
	case <-d.stop:
		grace := d.spec.Grace
		if grace == 0 {
			grace = 5 * time.Second
		}
		proc.Stop(grace, d.s.quit)
	}
	cancel()
	<-probed
	d.mu.Lock()
	d.proc = nil
	d.mu.Unlock()
	// Children that outlive their daemon would hold its ports.
	if err := d.s.cgroups.Kill("daemons/" + d.spec.Name); err != nil {
		return proc.ExitCode(), err
	}
	return proc.ExitCode(), nil
}

// watchReady asks whether the process is ready, often at first and then now and again.
func (d *daemon) watchReady(ctx context.Context) {
	if d.spec.Ready == "" {
		return
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := d.askReady(ctx)
		if ctx.Err() != nil {
			return
		}
		d.set(func(st *wire.DaemonStatus) {
			st.Ready, st.NotReady = err == nil, ""
			if err != nil {
				st.NotReady = err.Error()
			}
		})
		if err == nil || n > 200 {
			tick.Reset(time.Second)
		} else {
			tick.Reset(50 * time.Millisecond)
		}
	}
}

func (d *daemon) askReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	url := d.spec.Ready
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return dialIn(ctx, netspace.Path(d.host.Netns), network, addr)
	}}
	if rest, ok := strings.CutPrefix(url, "unix:"); ok {
		socket, path, _ := strings.Cut(rest, ":")
		transport, url = unixTransport(socket), "http://daemon"+path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	text := make([]byte, 512)
	n, _ := resp.Body.Read(text)
	return errors.New(strings.TrimSpace(string(text[:n])))
}

func (d *daemon) set(change func(*wire.DaemonStatus)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(&d.status)
}

func (d *daemon) snapshot() wire.DaemonStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.status
}

// kill ends the process at once. With hold it stays down until release.
func (d *daemon) kill(hold bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if hold && d.held == nil {
		d.held = make(chan struct{})
	}
	if d.proc != nil {
		d.proc.Signal(syscall.SIGKILL)
	}
}

func (d *daemon) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held != nil {
		close(d.held)
		d.held = nil
	}
}

// signal sends any signal to the process.
func (d *daemon) signal(sig syscall.Signal) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.proc == nil {
		return fmt.Errorf("daemon %s is not running", d.spec.Name)
	}
	d.proc.Signal(sig)
	return nil
}
