package supervisor

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab/resource"
	"github.com/ambit-mesh/ambit/e2e/lab/sandbox"
)

// container runs one container again and again, as its pod's restart policy says.
type container struct {
	k    *kubelet
	spec resource.Container
	proc *sandbox.Proc // guarded by k.mu; nil while none runs
}

const (
	firstRestart = 200 * time.Millisecond
	lastRestart  = 10 * time.Second
)

func (k *kubelet) newContainer(spec resource.Container) *container {
	c := &container{k: k, spec: spec}
	k.mu.Lock()
	k.containers[spec.Name] = c
	k.mu.Unlock()
	return c
}

// initContainer runs c to its end and says whether the next may start.
func (k *kubelet) initContainer(ctx context.Context, spec resource.Container) bool {
	c := &container{k: k, spec: spec}
	for wait := firstRestart; ; wait = min(2*wait, lastRestart) {
		proc, err := c.start()
		if err == nil {
			code, ended := c.await(ctx, proc)
			if code == 0 && !ended {
				return true
			}
			if ended {
				return false
			}
			err = fmt.Errorf("init container %s ended with status %d", spec.Name, code)
		}
		if k.spec.RestartPolicy == "Never" {
			k.report(func(st *podStatus) { st.phase, st.reason, st.message = "Failed", "InitError", err.Error() })
			return false
		}
		k.report(func(st *podStatus) { st.reason, st.message = "InitError", err.Error() })
		if !c.pause(ctx, wait) {
			return false
		}
	}
}

// pause waits before the next attempt; it says false when there is to be none.
func (c *container) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil && !c.k.told()
	case <-ctx.Done():
	case <-c.k.ending:
	}
	return false
}

// run is the container's goroutine.
func (c *container) run(ctx context.Context) {
	restarts := 0
	for wait := firstRestart; ; {
		proc, err := c.start()
		if err != nil {
			c.set(func(st *containerStatus) { st.reason, st.message = "CreateContainerError", err.Error() })
			// A program that is not there now may be built in a moment.
			if c.k.spec.RestartPolicy == "Never" || !c.pause(ctx, min(wait, 2*time.Second)) {
				c.set(func(st *containerStatus) { st.exited, st.exitCode = true, 128 })
				return
			}
			wait = min(2*wait, lastRestart)
			continue
		}
		code, ended := c.supervise(ctx, proc, restarts)
		said := ""
		if code != 0 {
			said = lastWords(c.k.logFile(c.spec.Name))
		}
		c.set(func(st *containerStatus) {
			st.running, st.ready, st.exited, st.exitCode, st.reason, st.last, st.said = false, false, true, code, "", true, said
		})
		if ended || c.k.spec.RestartPolicy == "Never" || c.k.spec.RestartPolicy == "OnFailure" && code == 0 {
			return
		}
		if time.Since(proc.Started) > 10*time.Second {
			wait = firstRestart
		}
		c.set(func(st *containerStatus) {
			st.reason, st.message = "CrashLoopBackOff", fmt.Sprintf("ended with status %d, starting again in %v", code, wait)
		})
		if !c.pause(ctx, wait) {
			return
		}
		wait = min(2*wait, lastRestart)
		restarts++
	}
}

func (c *container) start() (*sandbox.Proc, error) {
	k := c.k
	cgroup, err := k.s.cgroups.Make("pods/pod" + k.uid + "/" + c.spec.Name)
	if err != nil {
		return nil, err
	}
	env := k.env(c.spec)
	vars := map[string]string{}
	for _, kv := range env {
		for i := range kv {
			if kv[i] == '=' {
				vars[kv[:i]] = kv[i+1:]
				break
			}
		}
	}
	var args []string
	for _, a := range append(append([]string{}, c.spec.Command...), c.spec.Args...) {
		args = append(args, expand(a, vars))
	}
	spec := sandbox.Spec{
		Args: args, Env: env, Dir: c.spec.WorkingDir, Netns: k.netnsPath(), Isolated: true,
		ResolvConf: k.s.path("pods", k.uid, "resolv.conf"), Hosts: k.s.path("pods", k.uid, "hosts"),
		Hostname: k.hostname(), Log: k.logFile(c.spec.Name), Cgroup: cgroup,
	}
	if k.spec.HostNetwork {
		spec.Hostname = k.host.Name
	}
	spec.Mounts = k.mounts(c.spec)
	spec.User, spec.Group = user(k.spec.SecurityContext, c.spec.SecurityContext)
	return sandbox.Start(spec)
}

func user(levels ...resource.Security) (uid, gid uint32) {
	for _, l := range levels {
		if l.RunAsUser != nil {
			uid = *l.RunAsUser
		}
		if l.RunAsGroup != nil {
			gid = *l.RunAsGroup
		}
	}
	return uid, gid
}

// supervise watches one run of the container until it has ended; ended says that it is to stay so.
func (c *container) supervise(ctx context.Context, proc *sandbox.Proc, restarts int) (code int, ended bool) {
	c.k.mu.Lock()
	c.proc = proc
	c.k.mu.Unlock()
	defer func() {
		c.k.mu.Lock()
		c.proc = nil
		c.k.mu.Unlock()
	}()
	c.set(func(st *containerStatus) {
		*st = containerStatus{name: st.name, running: true, restarts: restarts, started: now(), last: st.last, exitCode: st.exitCode, said: st.said}
		st.ready = c.spec.ReadinessProbe == nil && c.spec.StartupProbe == nil
	})
	probing, stop := context.WithCancel(ctx)
	probed := make(chan struct{})
	go func() {
		defer close(probed)
		c.probe(probing, proc)
	}()
	code, ended = c.await(ctx, proc)
	stop()
	<-probed
	return code, ended
}

// lastWords is the end of a log: what a cluster keeps of a container that failed where it is asked to fall back to that.
func lastWords(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 2 << 10
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, end-most), io.SeekStart)
	}
	data, _ := io.ReadAll(io.LimitReader(f, most))
	lines := strings.Split(strings.ToValidUTF8(strings.TrimSpace(string(data)), ""), "\n")
	return lines[len(lines)-1]
}

// await returns the exit status of proc, which it ends when the pod is to end or the node fails.
func (c *container) await(ctx context.Context, proc *sandbox.Proc) (code int, ended bool) {
	select {
	case <-proc.Done():
		return proc.ExitCode(), false
	case <-ctx.Done():
		proc.Stop(0, nil)
		return proc.ExitCode(), true
	case <-c.k.ending:
	}
	c.set(func(st *containerStatus) { st.ready = false })
	deadline := time.Now().Add(c.k.grace)
	c.preStop(ctx, proc)
	proc.Stop(time.Until(deadline), c.k.hurry)
	return proc.ExitCode(), true
}

func (c *container) preStop(ctx context.Context, proc *sandbox.Proc) {
	hook := c.spec.Lifecycle.PreStop
	if hook == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, c.k.grace)
	defer cancel()
	if hook.Sleep != nil {
		timer := time.NewTimer(time.Duration(hook.Sleep.Seconds) * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		case <-proc.Done():
		case <-c.k.hurry:
		}
	}
	if hook.Exec != nil && len(hook.Exec.Command) > 0 {
		if _, err := sandbox.Enter(ctx, proc.Pid(), hook.Exec.Command, c.k.env(c.spec), c.spec.WorkingDir, sandbox.Stdio{}); err != nil {
			c.k.s.log.Warn("preStop hook", "pod", c.k.key.String(), "error", err)
		}
	}
}

// set changes this container's part of the pod's status.
func (c *container) set(change func(*containerStatus)) {
	c.k.report(func(st *podStatus) {
		for i := range st.containers {
			if st.containers[i].name == c.spec.Name {
				change(&st.containers[i])
			}
		}
	})
}
