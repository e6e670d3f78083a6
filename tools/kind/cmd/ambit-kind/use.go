package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/ambit-mesh/ambit/tools/kind/cluster"
	"github.com/ambit-mesh/ambit/tools/kind/engine"
	"github.com/ambit-mesh/ambit/tools/kind/way"
)

// load puts archives on the nodes of a cluster of our own.
func (t *tool) load(ctx context.Context, archives []string) error {
	if len(archives) == 0 {
		return errors.New("name the archives to load")
	}
	if t.given != "" {
		t.steps.Say("images are not loaded into a given cluster: its nodes have to be able to pull them (HUB=…)")
		return nil
	}
	c, _, err := t.existing()
	if err != nil {
		return err
	}
	return c.Load(ctx, archives)
}

func (t *tool) gatewayAPI(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("name the folder with the definitions")
	}
	if t.given != "" {
		return cluster.GatewayAPI(ctx, t.steps, nil, "", args[0])
	}
	c, err := t.reachable()
	if err != nil {
		return err
	}
	return cluster.GatewayAPI(ctx, t.steps, c.Env(), c.Programs, args[0])
}

// run becomes a command that works on the cluster, inside the network of its nodes if that is not the machine's.
func (t *tool) run(command []string, inside bool) error {
	if len(command) == 0 {
		return errors.New("name the command to run: ambit-kind run -- kubectl get nodes")
	}
	if t.given == "" {
		c, err := t.reachable()
		if err != nil {
			return err
		}
		for _, kv := range c.Env() {
			k, v, _ := strings.Cut(kv, "=")
			if err := os.Setenv(k, v); err != nil {
				return err
			}
		}
		if inside && c.DockerHost != "" {
			command = t.engine.Inside(command...)
		}
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	return syscall.Exec(path, command, os.Environ())
}

func (t *tool) env() error {
	if t.given != "" {
		fmt.Printf("export KUBECONFIG=%s\n", t.given)
		return nil
	}
	c, err := t.reachable()
	if err != nil {
		return err
	}
	for _, kv := range c.Env() {
		fmt.Println("export", kv)
	}
	return nil
}

// list names the clusters that have a folder, and how they are.
func (t *tool) list(ctx context.Context) error {
	for _, c := range t.clusters() {
		nodes, running, err := c.Nodes(ctx)
		state := "running"
		if err != nil || !running {
			state = "stopped"
		}
		fmt.Printf("%s\t%s\t%s\t%s\n", c.Name, state, strings.Join(nodes, ","), c.Kubeconfig())
	}
	return nil
}

// clusters are those that were made here and not deleted.
func (t *tool) clusters() []*cluster.Cluster {
	var out []*cluster.Cluster
	dirs, _ := filepath.Glob(filepath.Join(t.cache, "clusters", "*"))
	for _, dir := range dirs {
		one := *t
		one.shape.Name = filepath.Base(dir)
		if c, _, err := one.existing(); err == nil {
			out = append(out, c)
		}
	}
	return out
}

// delete removes what was made here, and nothing else.
func (t *tool) delete(ctx context.Context, all bool) error {
	if t.given != "" && !all {
		t.steps.Say("the cluster of KUBECONFIG=%s was not made here and stays", t.given)
		return nil
	}
	doomed := t.clusters()
	if !all {
		c, _, err := t.existing()
		if err != nil {
			// Half a cluster has no note, but may have containers on our own Docker.
			if !t.engine.Running(ctx) {
				t.steps.Say("there is no cluster %s", t.shape.Name)
				return nil
			}
			c = t.cluster(t.engine.Host())
		}
		doomed = []*cluster.Cluster{c}
	}
	for _, c := range doomed {
		if c.DockerHost == t.engine.Host() {
			if _, err := os.Stat(t.engine.Run); err != nil {
				if err := os.RemoveAll(c.Dir); err != nil {
					return err
				}
				continue
			}
			if err := t.engine.Start(ctx); err != nil {
				return err
			}
		}
		if err := t.remove(ctx, c); err != nil {
			return err
		}
	}
	for _, c := range t.clusters() {
		if c.DockerHost == t.engine.Host() {
			return nil
		}
	}
	return t.unused(func() error { return t.engine.Stop(ctx) })
}

func (t *tool) remove(ctx context.Context, c *cluster.Cluster) error {
	return errors.Join(t.engine.EndForward(ctx, c.Name, t.self), c.Delete(ctx))
}

var serverLine = regexp.MustCompile(`(?m)^\s*server:\s*(\S+)\s*$`)

// ensureForward makes a cluster on our own Docker reachable from the machine.
func (t *tool) ensureForward(c *cluster.Cluster, kind way.Kind) error {
	if kind != way.Built || t.engine.Forwards(c.Name, t.self) {
		return nil
	}
	raw, err := os.ReadFile(c.Kubeconfig())
	if err != nil {
		return err
	}
	m := serverLine.FindSubmatch(raw)
	if m == nil {
		return fmt.Errorf("%s names no server", c.Kubeconfig())
	}
	u, err := url.Parse(string(m[1]))
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return fmt.Errorf("%s: the server %s has no port", c.Kubeconfig(), u)
	}
	l, _, err := engine.Listen(port)
	if err != nil {
		return err
	}
	defer l.Close()
	return t.engine.Forward(c.Name, l, t.self)
}

// forward is the process that ensureForward starts: the listener is file descriptor 3.
func forward(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("forward is started by create")
	}
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	go func() {
		<-ctx.Done()
		l.Close()
	}()
	return engine.Relay(l, func() (net.Conn, error) { return net.Dial("tcp", args[0]) })
}
