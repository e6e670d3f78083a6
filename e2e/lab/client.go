package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
	"github.com/ambit-mesh/ambit/e2e/lab/resource"
	"github.com/ambit-mesh/ambit/e2e/lab/sandbox"
	"github.com/ambit-mesh/ambit/e2e/lab/wire"
)

// Status says how the lab's daemons are, what it cannot do as asked, and what is broken on purpose.
func (l *Lab) Status(ctx context.Context) (wire.Status, error) {
	var st wire.Status
	err := l.client.Call(ctx, http.MethodGet, "/v1/status", nil, nil, &st)
	return st, err
}

// Apply applies YAML. Documents are judged one by one; the error names all that were refused, the others are in force.
func (l *Lab) Apply(ctx context.Context, yaml []byte, namespace string) ([]wire.Result, error) {
	var results []wire.Result
	err := l.client.Call(ctx, http.MethodPost, "/v1/apply", url.Values{"namespace": {namespace}}, yaml, &results)
	if err != nil {
		return nil, err
	}
	return results, refused(results)
}

// Delete deletes what the YAML names. Pods end gracefully afterwards.
func (l *Lab) Delete(ctx context.Context, yaml []byte, namespace string) ([]wire.Result, error) {
	var results []wire.Result
	err := l.client.Call(ctx, http.MethodPost, "/v1/delete", url.Values{"namespace": {namespace}}, yaml, &results)
	if err != nil {
		return nil, err
	}
	return results, refused(results)
}

// DeleteObject deletes one object. A pod ends within grace seconds, or its own number if grace is negative.
func (l *Lab) DeleteObject(ctx context.Context, kind, namespace, name string, grace int) error {
	q := url.Values{"kind": {kind}, "namespace": {namespace}, "name": {name}}
	if grace >= 0 {
		q.Set("grace", strconv.Itoa(grace))
	}
	var results []wire.Result
	if err := l.client.Call(ctx, http.MethodPost, "/v1/delete", q, nil, &results); err != nil {
		return err
	}
	return refused(results)
}

func refused(results []wire.Result) error {
	var errs []error
	for _, r := range results {
		if r.Error == "" {
			continue
		}
		var where []string
		if r.Line > 0 {
			where = append(where, fmt.Sprintf("line %d", r.Line))
		}
		if r.Kind != "" {
			where = append(where, strings.ToLower(r.Kind)+" "+r.Name)
		}
		errs = append(errs, errors.New(strings.Join(append(where, r.Error), ": ")))
	}
	return errors.Join(errs...)
}

// Get lists objects of a kind, given by any of its usual names, in one namespace or, if that is empty, in all.
func (l *Lab) Get(ctx context.Context, kind, namespace, name string) ([]resource.Object, error) {
	q := url.Values{"kind": {kind}, "namespace": {namespace}, "name": {name}}
	if namespace == "" {
		q.Set("all", "1")
	}
	var out wire.Objects
	err := l.client.Call(ctx, http.MethodGet, "/v1/objects", q, nil, &out)
	return out.Items, err
}

// Label sets and removes labels of an object.
func (l *Lab) Label(ctx context.Context, kind, namespace, name string, set map[string]string, remove ...string) error {
	req := wire.Label{Ref: wire.Ref{Kind: kind, Namespace: namespace, Name: name}, Set: set, Remove: remove}
	return l.client.Call(ctx, http.MethodPost, "/v1/label", nil, req, nil)
}

// Scale changes the number of replicas.
func (l *Lab) Scale(ctx context.Context, kind, namespace, name string, replicas int) error {
	req := wire.Scale{Ref: wire.Ref{Kind: kind, Namespace: namespace, Name: name}, Replicas: replicas}
	return l.client.Call(ctx, http.MethodPost, "/v1/scale", nil, req, nil)
}

// Restart replaces all pods of a Deployment, StatefulSet or DaemonSet, one safe step at a time.
func (l *Lab) Restart(ctx context.Context, kind, namespace, name string) error {
	return l.client.Call(ctx, http.MethodPost, "/v1/restart", nil, wire.Ref{Kind: kind, Namespace: namespace, Name: name}, nil)
}

// Settled waits until every controller has the pods it wants and all are ready; with a name, only that object's.
// Progress is told whenever what it waits for changes; it may be nil.
func (l *Lab) Settled(ctx context.Context, kind, namespace, name string, progress func(string)) error {
	q := url.Values{"kind": {kind}, "namespace": {namespace}, "name": {name}}
	return l.await(ctx, "/v1/rollout", q, progress)
}

// Enrolled waits until every running pod that the mesh wants is captured, by its labels and its namespace's, and no
// other is.
func (l *Lab) Enrolled(ctx context.Context, progress func(string)) error {
	return l.await(ctx, "/v1/enrolled", nil, progress)
}

func (l *Lab) await(ctx context.Context, path string, q url.Values, progress func(string)) error {
	last := ""
	for {
		var r wire.Rollout
		if err := l.client.Call(ctx, http.MethodGet, path, q, nil, &r); err != nil {
			if ctx.Err() != nil && last != "" {
				return fmt.Errorf("still waiting: %s: %w", last, ctx.Err())
			}
			return err
		}
		if r.Done {
			return nil
		}
		if r.Waiting != last && progress != nil {
			progress(r.Waiting)
		}
		last = r.Waiting
		if err := l.poll(ctx, last); err != nil {
			return err
		}
	}
}

func (l *Lab) poll(ctx context.Context, what string) error {
	timer := time.NewTimer(50 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("still waiting: %s: %w", what, ctx.Err())
	}
}

// Run adds daemons, or replaces those of the same name.
func (l *Lab) Run(ctx context.Context, daemons ...Daemon) error {
	return l.client.Call(ctx, http.MethodPost, "/v1/daemons", nil, daemons, nil)
}

// Stop ends a daemon for good and waits until it has ended.
func (l *Lab) Stop(ctx context.Context, daemon string) error {
	return l.client.Call(ctx, http.MethodDelete, "/v1/daemons/"+url.PathEscape(daemon), nil, nil, nil)
}

// Signal sends a signal to a daemon, which is started again if that ends it.
func (l *Lab) Signal(ctx context.Context, daemon string, sig syscall.Signal) error {
	return l.client.Call(ctx, http.MethodPost, fmt.Sprintf("/v1/daemons/%s/signal/%d", url.PathEscape(daemon), int(sig)), nil, nil, nil)
}

// DaemonsReady waits until all daemons, or those named, are running and ready.
func (l *Lab) DaemonsReady(ctx context.Context, progress func(string), names ...string) error {
	last := ""
	for {
		st, err := l.Status(ctx)
		if err != nil {
			return err
		}
		var waiting []string
		for _, d := range st.Daemons {
			if d.Once || len(names) > 0 && !slices.Contains(names, d.Name) || d.State == "running" && d.Ready {
				continue
			}
			why := d.NotReady
			if d.State != "running" {
				why = d.State + ", " + d.LastExit
			}
			waiting = append(waiting, d.Name+" ("+strings.Trim(why, ", ")+")")
		}
		if len(waiting) == 0 {
			return nil
		}
		what := strings.Join(waiting, ", ")
		if what != last && progress != nil {
			progress(what)
		}
		last = what
		if err := l.poll(ctx, what); err != nil {
			return err
		}
	}
}

// Fail breaks something: node, link, ztunnel or cni of a host, the ca, or control. It stays broken until Heal unless the
// fault says Restart.
func (l *Lab) Fail(ctx context.Context, f Fault) error {
	return l.client.Call(ctx, http.MethodPost, "/v1/fail", nil, f, nil)
}

// Heal repairs a fault; the zero Fault means all of them. It returns what was repaired.
func (l *Lab) Heal(ctx context.Context, f Fault) ([]Fault, error) {
	var healed []Fault
	err := l.client.Call(ctx, http.MethodPost, "/v1/heal", nil, f, &healed)
	return healed, err
}

// Pod tells how to enter a pod and where its logs are.
func (l *Lab) Pod(ctx context.Context, namespace, name string) (wire.PodProcess, error) {
	var p wire.PodProcess
	err := l.client.Call(ctx, http.MethodGet, "/v1/pod", url.Values{"namespace": {namespace}, "name": {name}}, nil, &p)
	return p, err
}

// Exec runs a command in a container of a pod, the first if container is empty, and returns its exit code.
func (l *Lab) Exec(ctx context.Context, namespace, pod, container string, args []string, stdio sandbox.Stdio) (int, error) {
	p, err := l.Pod(ctx, namespace, pod)
	if err != nil {
		return 0, err
	}
	c, err := choose(p, pod, container)
	if err != nil {
		return 0, err
	}
	if c.Pid == 0 {
		return 0, fmt.Errorf("container %s of pod %s/%s is not running", c.Name, namespace, pod)
	}
	env := c.Env
	if term := os.Getenv("TERM"); term != "" {
		env = append(env, "TERM="+term)
	}
	return sandbox.Enter(ctx, c.Pid, args, env, c.Dir, stdio)
}

// Output runs a command in a pod and returns what it wrote to both outputs. A status other than 0 is an error.
func (l *Lab) Output(ctx context.Context, namespace, pod string, args ...string) (string, error) {
	var b strings.Builder
	code, err := l.Exec(ctx, namespace, pod, "", args, sandbox.Stdio{Out: &b, Err: &b})
	if err == nil && code != 0 {
		err = fmt.Errorf("%s in %s/%s: exit status %d: %s", args[0], namespace, pod, code, strings.TrimSpace(b.String()))
	}
	return b.String(), err
}

func choose(p wire.PodProcess, pod, container string) (wire.ContainerInfo, error) {
	var names []string
	for _, c := range p.Containers {
		if container == "" || container == c.Name {
			return c, nil
		}
		names = append(names, c.Name)
	}
	return wire.ContainerInfo{}, fmt.Errorf("pod %s has no container %q, only %s", pod, container, strings.Join(names, ", "))
}

// PodsOf lists the names of the pods with a label, those that are running and not ending.
func (l *Lab) PodsOf(ctx context.Context, namespace string, selector map[string]string) ([]string, error) {
	pods, err := l.Get(ctx, "Pod", namespace, "")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range pods {
		if resource.Matches(selector, p.Labels()) && p.Text("metadata", "deletionTimestamp") == "" && p.Text("status", "phase") == "Running" {
			names = append(names, p.Name())
		}
	}
	return names, nil
}

// Netns is the path of the network namespace of a host, or of a pod given as namespace/name.
func (l *Lab) Netns(ctx context.Context, what string) (string, error) {
	if what == ControlHost {
		return l.Control.Netns, nil
	}
	if n, ok := l.Node(what); ok {
		return n.Netns, nil
	}
	if ns, pod, ok := strings.Cut(what, "/"); ok {
		p, err := l.Pod(ctx, ns, pod)
		return p.Netns, err
	}
	return "", fmt.Errorf("%q is neither a node, %q, nor a pod as namespace/name", what, ControlHost)
}

// In runs fn on a thread inside a host's or pod's network namespace, for opening sockets there.
func (l *Lab) In(ctx context.Context, what string, fn func() error) error {
	path, err := l.Netns(ctx, what)
	if err != nil {
		return err
	}
	return netspace.Do(path, fn)
}

// DaemonLog reads a daemon's log.
func (l *Lab) DaemonLog(daemon string) ([]byte, error) {
	return l.ReadLog(filepath.Join(l.Dir, "logs", "daemon_"+daemon+".log"))
}

// ReadLog reads a log file with the part that was rotated away before it.
func (l *Lab) ReadLog(file string) ([]byte, error) {
	var all []byte
	for _, f := range []string{file + ".1", file} {
		data, err := os.ReadFile(f)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read log: %w", err)
		}
		all = append(all, data...)
	}
	return all, nil
}
