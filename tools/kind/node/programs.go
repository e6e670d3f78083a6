package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/ambit-mesh/ambit/tools/kind/steps"
)

// A program and how it is built.
type program struct {
	name, title string
	// module is the folder of its module below tools, pkg what is built there.
	module, pkg string
	ldflags     string
	// release, for what is built of its module file.
	release Release
	// kept programs take long: they are built once for what is in the module's own folder. The others are left to the build cache.
	kept bool
}

func allPrograms(r Release) []program {
	version := ""
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, set := range []string{
			"gitVersion=" + r.Version, "gitMajor=1", "gitMinor=" + strings.Split(r.Version, ".")[1], "gitTreeState=clean", "buildDate=1970-01-01T00:00:01Z",
		} {
			version += " -X " + pkg + "." + set
		}
	}
	return []program{
		{name: r.program(), title: "building Kubernetes " + r.Version + " (the first time 10 minutes or more)", module: "kind/kube", pkg: ".", ldflags: version, release: r, kept: true},
		{name: r.etcdProgram(), title: "building etcd", module: "kind/kube", pkg: "go.etcd.io/etcd/server/v3", release: r.etcdRelease(), kept: true},
		{name: "coredns", title: "building CoreDNS " + CoreDNS, module: "kind/coredns", pkg: ".", kept: true},
		{name: "kind", title: "building kind", module: ".", pkg: "sigs.k8s.io/kind"},
		{name: "ambit-nodenet", title: "building the pod network", module: ".", pkg: "./kind/cmd/ambit-nodenet"},
		{name: "ambit-pause", title: "building the pause program", module: ".", pkg: "./kind/cmd/ambit-pause"},
		{name: "ambit-runc", title: "building the runc wrapper", module: ".", pkg: "./kind/cmd/ambit-runc"},
	}
}

// inImage are the programs that the node image consists of.
func (n *Node) inImage() []string {
	return []string{n.release.program(), n.release.etcdProgram(), "coredns", "ambit-nodenet", "ambit-pause"}
}

// Kind builds only kind itself, for clusters of published images.
func (b *Builder) Kind(ctx context.Context) (programs string, err error) {
	dir := filepath.Join(b.Cache, "programs")
	for _, p := range allPrograms(b.Release) {
		if p.name == "kind" {
			err = b.build(ctx, p, dir)
		}
	}
	return dir, err
}

func (b *Builder) programs(ctx context.Context) (string, error) {
	dir := filepath.Join(b.Cache, "programs")
	for _, p := range allPrograms(b.Release) {
		if err := b.build(ctx, p, dir); err != nil {
			return "", err
		}
	}
	return dir, linkKubectl(dir, b.Release)
}

// linkKubectl makes kubectl that of the newest release, which works with older ones too, or of r if that was not built.
func linkKubectl(dir string, r Release) error {
	target := Releases()[0].program()
	if _, err := os.Stat(filepath.Join(dir, target)); err != nil {
		target = r.program()
	}
	link := filepath.Join(dir, "kubectl")
	if is, err := os.Readlink(link); err == nil && is == target {
		return nil
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(target, link)
}

func (b *Builder) build(ctx context.Context, p program, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	out := filepath.Join(dir, p.name)
	module := filepath.Join(b.Root, "tools", p.module)
	note, key := out+".built-of", ""
	if p.kept {
		var err error
		if key, err = sources(module, p); err != nil {
			return err
		}
		if was, err := os.ReadFile(note); err == nil && string(was) == key {
			if _, err := os.Stat(out); err == nil {
				return nil
			}
		}
	}
	env := []string{"GOWORK=off", "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false -trimpath"}
	args := append([]string{"go", "build", "-ldflags", "-s -w" + p.ldflags, "-o", out + ".new"}, p.release.flags()...)
	args = append(args, p.pkg)
	if _, err := b.Steps.Run(ctx, steps.Command{Title: p.title, Args: args, Dir: module, Env: env}); err != nil {
		return err
	}
	if err := os.Rename(out+".new", out); err != nil {
		return err
	}
	if !p.kept {
		return nil
	}
	return os.WriteFile(note, []byte(key), 0o644)
}

// sources is a key of what a program's module consists of in its own folder, the architecture and the Go release.
func sources(module string, p program) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, p.pkg, p.ldflags, runtime.GOARCH, runtime.Version())
	code, err := filepath.Glob(filepath.Join(module, "*.go"))
	if err != nil {
		return "", err
	}
	modfile := filepath.Join(module, p.release.modfile())
	for _, path := range append([]string{modfile, strings.TrimSuffix(modfile, ".mod") + ".sum"}, code...) {
		content, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %d\n%s", filepath.Base(path), len(content), content)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
