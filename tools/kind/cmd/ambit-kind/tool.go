package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/tools/kind/cluster"
	"github.com/ambit-mesh/ambit/tools/kind/engine"
	"github.com/ambit-mesh/ambit/tools/kind/node"
	"github.com/ambit-mesh/ambit/tools/kind/steps"
	"github.com/ambit-mesh/ambit/tools/kind/way"
)

// tool is what the subcommands share.
type tool struct {
	steps *steps.Printer
	root  string // the repository
	cache string
	self  string
	shape cluster.Shape
	image string
	given string
	// kubernetes is the version that was asked for, empty for any.
	kubernetes string
	engine     *engine.Engine
	builder    *node.Builder
}

func newTool(p *steps.Printer) (*tool, error) {
	root, err := findRoot()
	if err != nil {
		return nil, err
	}
	user, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("find the cache folder (set HOME or XDG_CACHE_HOME): %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	workers, err := strconv.Atoi(or(os.Getenv("WORKERS"), "2"))
	if err != nil {
		return nil, fmt.Errorf("WORKERS=%q is no number", os.Getenv("WORKERS"))
	}
	release, err := node.FindRelease(os.Getenv("KUBERNETES"))
	if err != nil {
		return nil, err
	}
	cache := filepath.Join(user, "ambit", "kind")
	programs := filepath.Join(cache, "programs")
	_, err = os.Stat("/proc/net/if_inet6")
	six := err == nil
	t := &tool{
		steps: p, root: root, cache: cache, self: self, image: os.Getenv("KIND_IMAGE"), given: os.Getenv("KUBECONFIG"), kubernetes: os.Getenv("KUBERNETES"),
		shape: cluster.Shape{Name: or(os.Getenv("NAME"), "ambit"), Workers: workers, Family: or(os.Getenv("IP_FAMILY"), "ipv4")},
		engine: &engine.Engine{
			Run: "/run/ambit-kind", Data: filepath.Join(cache, "docker"), Namespace: "ambit-kind", IPv6: six, Wrapper: filepath.Join(programs, "ambit-runc"), Steps: p,
		},
		builder: &node.Builder{Root: root, Cache: cache, Release: release, Steps: p},
	}
	if t.image == "" {
		_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers") // cgroups(7): only the root of version 2 has it
		t.shape.Kubeadm = release.Kubeadm(errors.Is(err, fs.ErrNotExist))
	}
	return t, t.shape.Check()
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// findRoot looks for the repository from the working directory upwards.
func findRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("run this inside the repository: a cluster's programs are built from it")
		}
	}
}

// way decides, from what is true now.
func (t *tool) way(ctx context.Context) (way.Way, error) {
	f := way.Facts{Kubeconfig: t.given, Image: t.image, Kubernetes: t.kubernetes, Root: os.Geteuid() == 0, OS: runtime.GOOS}
	_, err := exec.LookPath("apt-get")
	f.Debian = err == nil
	_, err = exec.LookPath("kubectl")
	_, own := os.Stat(filepath.Join(t.cache, "programs", "kubectl"))
	f.Kubectl = err == nil || own == nil
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "docker", "version", "--format", "{{.Server.Version}}").CombinedOutput()
	if f.Docker = err == nil; err != nil {
		f.DockerProblem = strings.TrimSpace(err.Error() + " " + string(out))
	}
	return way.Decide(f)
}

// cluster is the one of our own with the tool's name. host is empty for the user's Docker.
func (t *tool) cluster(host string) *cluster.Cluster {
	return &cluster.Cluster{
		Name: t.shape.Name, Dir: filepath.Join(t.cache, "clusters", t.shape.Name), Programs: filepath.Join(t.cache, "programs"),
		DockerHost: host, Steps: t.steps,
	}
}

// existing finds the cluster made earlier; its folder says by which way, and so on whose Docker.
func (t *tool) existing() (*cluster.Cluster, way.Kind, error) {
	c := t.cluster("")
	raw, err := os.ReadFile(t.note(c))
	if errors.Is(err, os.ErrNotExist) {
		return nil, "", fmt.Errorf("there is no cluster %s: make kind makes it", c.Name)
	} else if err != nil {
		return nil, "", err
	}
	if way.Kind(raw) == way.Built {
		c.DockerHost = t.engine.Host()
	}
	return c, way.Kind(raw), nil
}

// reachable finds the cluster made earlier and makes sure that its API server can be reached from here.
func (t *tool) reachable() (*cluster.Cluster, error) {
	c, kind, err := t.existing()
	if err != nil {
		return nil, err
	}
	return c, t.ensureForward(c, kind)
}

// use says that our own Docker is in use until the function it returns is called; delete leaves it running then.
func (t *tool) use() (done func(), err error) {
	if err := os.MkdirAll(t.cache, 0o755); err != nil {
		return nil, err
	}
	return engine.Flock(filepath.Join(t.cache, "in-use"), syscall.LOCK_SH)
}

// unused calls stop if nobody uses our own Docker.
func (t *tool) unused(stop func() error) error {
	done, err := engine.Flock(filepath.Join(t.cache, "in-use"), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer done()
	return stop()
}

// note is the file that says by which way a cluster came to be.
func (t *tool) note(c *cluster.Cluster) string { return filepath.Join(c.Dir, "way") }
