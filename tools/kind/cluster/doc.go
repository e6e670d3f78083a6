// Package cluster makes clusters by kind and finds them again: it writes kind's configuration, calls kind, keeps each cluster's
// kubeconfig in a folder of the user's cache, and says what environment a program needs to work on it.
//
// It takes the Docker to use as given (a DOCKER_HOST) and does not know how node images are made. It owns no goroutines. Start
// reading at Config, which is pure, then Cluster.Create.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/tools/kind/steps"
)

// Shape is what a cluster is to be like.
type Shape struct {
	Name    string
	Workers int
	// Family is ipv4, ipv6 or dual.
	Family string
	// Port of the loopback at which the API server listens; 0 leaves the choice to kind.
	Port int
	// Kubeadm are patches of what kubeadm is told, each a document.
	Kubeadm []string
}

var nameRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// Check says what is wrong with a shape.
func (s Shape) Check() error {
	if !nameRule.MatchString(s.Name) {
		return fmt.Errorf("NAME=%q cannot name a cluster: use at most 32 small letters, digits and dashes", s.Name)
	}
	if !slices.Contains([]string{"ipv4", "ipv6", "dual"}, s.Family) {
		return fmt.Errorf("IP_FAMILY=%q: write ipv4, ipv6 or dual", s.Family)
	}
	if s.Workers < 0 || s.Workers > 20 {
		return fmt.Errorf("%d workers: between 0 and 20 fit on one machine", s.Workers)
	}
	return nil
}

// Config is kind's configuration of a cluster.
func Config(s Shape) string {
	var b strings.Builder
	fmt.Fprintf(&b, "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nname: %s\nnetworking:\n  ipFamily: %s\n", s.Name, s.Family)
	if s.Port != 0 {
		fmt.Fprintf(&b, "  apiServerAddress: 127.0.0.1\n  apiServerPort: %d\n", s.Port)
	}
	b.WriteString("nodes:\n  - role: control-plane\n")
	for range s.Workers {
		b.WriteString("  - role: worker\n")
	}
	if len(s.Kubeadm) > 0 {
		b.WriteString("kubeadmConfigPatches:\n")
	}
	for _, p := range s.Kubeadm {
		b.WriteString("  - |\n    " + strings.ReplaceAll(strings.TrimSpace(p), "\n", "\n    ") + "\n")
	}
	return b.String()
}

// A Cluster of kind.
type Cluster struct {
	Name string
	// Dir keeps the cluster's kubeconfig; Programs is the folder of kind and, maybe, kubectl.
	Dir, Programs string
	// DockerHost is empty for the user's own Docker.
	DockerHost string
	Steps      *steps.Printer
}

// Kubeconfig is the path of the cluster's kubeconfig.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.Dir, "kubeconfig") }

// Env is the environment for programs that work on the cluster.
func (c *Cluster) Env() []string {
	env := []string{"KUBECONFIG=" + c.Kubeconfig(), "KIND_CLUSTER_NAME=" + c.Name, "PATH=" + c.Programs + ":" + os.Getenv("PATH")}
	if c.DockerHost != "" {
		// What the user says of a Docker elsewhere would be said of this one.
		env = append(env, "DOCKER_HOST="+c.DockerHost, "DOCKER_CONTEXT=", "DOCKER_TLS_VERIFY=")
	}
	return env
}

func (c *Cluster) kind(ctx context.Context, title, in string, args ...string) (string, error) {
	return c.Steps.Run(ctx, steps.Command{
		Title: title, Args: append([]string{filepath.Join(c.Programs, "kind")}, args...), Env: c.Env(), In: strings.NewReader(in),
	})
}

// Docker runs the docker command on the cluster's Docker.
func (c *Cluster) Docker(ctx context.Context, args ...string) (string, error) {
	return c.Steps.Run(ctx, steps.Command{Args: append([]string{"docker"}, args...), Env: c.Env()})
}

// Nodes are the names of the cluster's containers, and whether all of them run. None means that there is no such cluster.
func (c *Cluster) Nodes(ctx context.Context) (names []string, running bool, err error) {
	out, err := c.Docker(ctx, "ps", "-a", "--filter", "label=io.x-k8s.kind.cluster="+c.Name, "--format", "{{.Names}} {{.State}}")
	if err != nil {
		return nil, false, err
	}
	running = true
	for line := range strings.Lines(out) {
		name, state, _ := strings.Cut(strings.TrimSpace(line), " ")
		names = append(names, name)
		running = running && state == "running"
	}
	slices.Sort(names)
	return names, running && len(names) > 0, nil
}

// Image is the node image that the cluster's control plane runs on.
func (c *Cluster) Image(ctx context.Context) (string, error) {
	out, err := c.Docker(ctx, "inspect", "--format", "{{.Config.Image}}", c.Name+"-control-plane")
	return strings.TrimSpace(out), err
}

// Create makes the cluster of a node image and waits until it can be used.
func (c *Cluster) Create(ctx context.Context, s Shape, image string) error {
	if err := s.Check(); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	if err := Room(Watchers(s)); err != nil {
		return err
	}
	title := fmt.Sprintf("creating the cluster %s (1 control plane, %d workers, %s)", s.Name, s.Workers, s.Family)
	_, err := c.kind(ctx, title, Config(s), "create", "cluster", "--config", "-", "--image", image, "--kubeconfig", c.Kubeconfig(), "--retain")
	return err
}

// Ready waits until all nodes are ready and names are resolved.
func (c *Cluster) Ready(ctx context.Context) error {
	for _, args := range [][]string{
		{"wait", "--for=condition=Ready", "nodes", "--all", "--timeout=180s"},
		{"-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=180s"},
	} {
		if _, err := c.Steps.Run(ctx, steps.Command{Title: "waiting for nodes and DNS", Args: append([]string{"kubectl"}, args...), Env: c.Env(), Path: c.Programs}); err != nil {
			return err
		}
	}
	return nil
}

// Delete removes the cluster. It is no error when there is none.
func (c *Cluster) Delete(ctx context.Context) error {
	_, err := c.kind(ctx, "deleting the cluster "+c.Name, "", "delete", "cluster", "--name", c.Name, "--kubeconfig", c.Kubeconfig())
	return errors.Join(err, os.RemoveAll(c.Dir))
}
