package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ambit-mesh/ambit/tools/kind/cluster"
	"github.com/ambit-mesh/ambit/tools/kind/engine"
	"github.com/ambit-mesh/ambit/tools/kind/node"
	"github.com/ambit-mesh/ambit/tools/kind/steps"
	"github.com/ambit-mesh/ambit/tools/kind/way"
)

// prepare builds what takes long, so that create is quick.
func (t *tool) prepare(ctx context.Context) error {
	w, err := t.way(ctx)
	if err != nil {
		return err
	}
	t.steps.Say("%s", w.Because)
	done, err := t.use()
	if err != nil {
		return err
	}
	defer done()
	switch w.Kind {
	case way.Published:
		_, err = t.builder.Kind(ctx)
	case way.Built:
		_, err = t.node(ctx)
	}
	return err
}

// node builds the node image, one run of this program after the other, and loads it into our own Docker, which is started for it.
func (t *tool) node(ctx context.Context) (*node.Node, error) {
	script := filepath.Join(t.root, "tools", "kind", "prereqs.sh")
	if _, err := t.steps.Run(ctx, steps.Command{Title: "installing what a cluster needs", Args: []string{script}}); err != nil {
		return nil, err
	}
	unlock, err := engine.Flock(filepath.Join(t.cache, "building"), syscall.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer unlock()
	n, err := t.builder.Prepare(ctx)
	if err != nil {
		return nil, err
	}
	if err := t.engine.Start(ctx); err != nil {
		return nil, err
	}
	c := t.cluster(t.engine.Host())
	have, err := c.Docker(ctx, "images", "--quiet", n.Reference)
	if err != nil || strings.TrimSpace(have) != "" {
		return n, err
	}
	read, write := io.Pipe()
	go func() { write.CloseWithError(n.Write(write)) }()
	_, err = t.steps.Run(ctx, steps.Command{Title: "making the node image", Args: []string{"docker", "load", "--quiet"}, Env: c.Env(), In: read})
	read.Close()
	if err == nil {
		t.forget(ctx, c, n.Reference)
	}
	return n, err
}

// forget removes node images of a release that were made of other sources, but for those that clusters run on.
func (t *tool) forget(ctx context.Context, c *cluster.Cluster, keep string) {
	repository, _, _ := strings.Cut(keep, ":")
	out, err := c.Docker(ctx, "images", "--format", "{{.Repository}}:{{.Tag}}", repository)
	if err != nil {
		return // they only take room
	}
	for _, old := range strings.Fields(out) {
		if old != keep && t.builder.Release.Made(old) {
			_, _ = c.Docker(ctx, "image", "rm", old)
		}
	}
}

func (t *tool) create(ctx context.Context, ask bool) error {
	w, err := t.way(ctx)
	if err != nil {
		return err
	}
	t.steps.Say("%s", w.Because)
	done, err := t.use()
	if err != nil {
		return err
	}
	defer done()
	switch w.Kind {
	case way.Given:
		return t.confirm(ask)
	case way.Published:
		if _, err := t.builder.Kind(ctx); err != nil {
			return err
		}
		return t.ensure(ctx, t.cluster(""), w.Kind, t.image)
	default:
		c := t.cluster(t.engine.Host())
		if image := t.stands(ctx, c); image != "" {
			if t.kubernetes != "" && !t.builder.Release.Made(image) {
				return fmt.Errorf("the cluster %s is there and runs %s, not Kubernetes %s: make kind-delete NAME=%s first, or choose another NAME",
					c.Name, image, t.builder.Release.Version, c.Name)
			}
			return t.ensure(ctx, c, w.Kind, image)
		}
		n, err := t.node(ctx)
		if err != nil {
			return err
		}
		return t.ensure(ctx, c, w.Kind, n.Reference)
	}
}

// stands returns the image that a cluster on our own Docker runs on, empty unless it is complete and runs: nothing has to be
// built for one that is used again.
func (t *tool) stands(ctx context.Context, c *cluster.Cluster) string {
	if !t.engine.Running(ctx) {
		return ""
	}
	if _, running, err := c.Nodes(ctx); err != nil || !running {
		return ""
	}
	if _, err := os.Stat(t.note(c)); err != nil {
		return ""
	}
	image, err := c.Image(ctx)
	if err != nil {
		return ""
	}
	return image
}

// confirm lets a person think who has KUBECONFIG in the environment for other reasons.
func (t *tool) confirm(ask bool) error {
	info, err := os.Stdin.Stat()
	if !ask || err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return nil
	}
	fmt.Fprintf(os.Stderr, "  KUBECONFIG=%s comes from your environment. Install Ambit into its current context? [y/N] ", t.given)
	answer, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	if strings.HasPrefix(strings.ToLower(strings.TrimSpace(answer)), "y") {
		return nil
	}
	return fmt.Errorf("left alone; KUBECONFIG= make kind makes a cluster of its own")
}

// ensure makes the cluster unless it is there and runs.
func (t *tool) ensure(ctx context.Context, c *cluster.Cluster, kind way.Kind, image string) error {
	nodes, running, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	_, err = os.Stat(t.note(c))
	switch {
	case running && err == nil:
		t.steps.Say("the cluster %s is there: %s", c.Name, strings.Join(nodes, ", "))
	default:
		if len(nodes) > 0 {
			t.steps.Say("the cluster %s is there, but stopped or unfinished: making it anew", c.Name)
			if err := t.remove(ctx, c); err != nil {
				return err
			}
		}
		if err := t.make(ctx, c, kind, image); err != nil {
			return err
		}
	}
	if err := t.ensureForward(c, kind); err != nil {
		return err
	}
	if err := c.Ready(ctx); err != nil {
		return err
	}
	t.steps.Say("export KUBECONFIG=%s", c.Kubeconfig())
	return nil
}

func (t *tool) make(ctx context.Context, c *cluster.Cluster, kind way.Kind, image string) error {
	if kind == way.Built {
		// The port is free on the machine's loopback as well, where the forwarder listens later.
		l, port, err := engine.Listen(0)
		if err != nil {
			return err
		}
		l.Close()
		t.shape.Port = port
	}
	if err := c.Create(ctx, t.shape, image); err != nil {
		return err
	}
	return os.WriteFile(t.note(c), []byte(kind), 0o600)
}
