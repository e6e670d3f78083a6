// Package node builds the image of a cluster's nodes from Go modules and Debian packages, so that no image registry is needed:
// Kubernetes, etcd, CoreDNS and our own small programs, a root file system, the container images of a control plane inside.
//
// Programs and the root file system are kept in a folder of the user's cache, named after what they are made of; the image
// itself is streamed to whoever loads it and never lies on disk. The package does not know how a cluster is made of the image.
// It owns no goroutines beyond a call. Start reading at Builder.Prepare, then image.go for what is in it.
package node

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/ambit-mesh/ambit/tools/kind/steps"
)

// Versions that fit all releases of Kubernetes. That of CoreDNS is in coredns/go.mod too, which a test compares.
const (
	CoreDNS = "v1.12.4"
	// The name that containerd's configuration has for it.
	pauseImage = "registry.k8s.io/pause:3.10"
)

//go:embed files
var files embed.FS

// Builder builds.
type Builder struct {
	// Root is the repository, Cache the folder for what is kept.
	Root, Cache string
	Release     Release
	Steps       *steps.Printer
}

// A Node is all that an image is made of.
type Node struct {
	// Reference is the image's name; it changes with the content.
	Reference string
	// Programs is the folder with kube, kubectl, kind and the others.
	Programs string

	release Release
	rootfs  string
}

// Prepare builds what is not there yet.
func (b *Builder) Prepare(ctx context.Context) (*Node, error) {
	programs, err := b.programs(ctx)
	if err != nil {
		return nil, err
	}
	rootfs, err := b.rootfs(ctx)
	if err != nil {
		return nil, err
	}
	n := &Node{Programs: programs, release: b.Release, rootfs: rootfs}
	key, err := n.key()
	if err != nil {
		return nil, err
	}
	n.Reference = b.Release.images() + key
	return n, nil
}

// key names the content of the image.
func (n *Node) key() (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.GOARCH, filepath.Base(n.rootfs))
	names := n.inImage()
	slices.Sort(names)
	for _, name := range names {
		f, err := os.Open(filepath.Join(n.Programs, name))
		if err != nil {
			return "", err
		}
		_, err = io.Copy(hash, f)
		f.Close()
		if err != nil {
			return "", err
		}
	}
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := files.ReadFile(path)
		fmt.Fprintf(hash, "%s %d\n%s", path, len(content), content)
		return err
	})
	return hex.EncodeToString(hash.Sum(nil))[:12], err
}
