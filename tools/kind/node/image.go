package node

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/ambit-mesh/ambit/tools/kind/archive"
)

const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Write writes the node image as an archive for `docker load`.
func (n *Node) Write(w io.Writer) error {
	everywhere, onControlPlanes, err := n.inside()
	if err != nil {
		return err
	}
	// The containers' images lie in the node image as archives, which the entrypoint imports. Each is a file of a layer, and so
	// has to lie on disk while the layer is written.
	layers := []*archive.Layer{{Tar: n.rootfs}, {Files: n.programFiles()}}
	for _, part := range []struct {
		path   string
		images []archive.Image
	}{{"/kind/images/all/all.tar", everywhere}, {"/kind/images/control-plane/control-plane.tar", onControlPlanes}} {
		file, remove, err := spool(part.images)
		if err != nil {
			return err
		}
		defer remove()
		layers = append(layers, &archive.Layer{Files: []archive.File{{Path: part.path, Mode: 0o644, From: file}}})
	}
	small, err := smallFiles(n.release.Version)
	if err != nil {
		return err
	}
	layers = append(layers, &archive.Layer{Files: small})
	return archive.Write(w, archive.Image{
		Names: []string{n.Reference}, Layers: layers, Arch: runtime.GOARCH,
		Env: []string{searchPath, "container=docker"}, Entrypoint: []string{"/kind/entrypoint"},
	})
}

// programFiles are the programs that run in the node itself.
func (n *Node) programFiles() []archive.File {
	out := []archive.File{{Path: "/usr/local/bin/kube", Mode: 0o755, From: filepath.Join(n.Programs, n.release.program())}}
	for _, name := range []string{"kubeadm", "kubectl", "kubelet"} {
		out = append(out, archive.File{Path: "/usr/local/bin/" + name, Link: "kube"})
	}
	// Kubernetes looks for CNI plugins elsewhere than Debian puts them.
	for _, name := range []string{"bandwidth", "bridge", "firewall", "host-local", "loopback", "portmap", "ptp", "tuning"} {
		out = append(out, archive.File{Path: "/opt/cni/bin/" + name, Link: "/usr/lib/cni/" + name})
	}
	return out
}

// smallFiles are those of the folder files, where they belong, and the version of Kubernetes.
func smallFiles(version string) ([]archive.File, error) {
	out := []archive.File{{Path: "/kind/version", Mode: 0o644, Content: []byte(version)}}
	err := fs.WalkDir(files, "files", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := files.ReadFile(file)
		name := strings.TrimPrefix(file, "files/")
		f := archive.File{Path: "/kind/" + name, Mode: 0o644, Content: content}
		switch path.Base(name) {
		case "entrypoint":
			f.Mode = 0o755
		case "systemctl", "journalctl":
			f.Path, f.Mode = "/usr/local/bin/"+name, 0o755
		case "containerd.toml":
			f.Path = "/etc/containerd/config.toml"
		}
		out = append(out, f)
		return err
	})
	return out, err
}

// inside are the container images of every node, and those only a control plane needs.
func (n *Node) inside() (everywhere, onControlPlanes []archive.Image, err error) {
	tools, err := proxyTools(n.rootfs)
	if err != nil {
		return nil, nil, fmt.Errorf("collect kube-proxy's tools: %w", err)
	}
	people := []archive.File{
		{Path: "/etc/passwd", Mode: 0o644, Content: []byte("root:x:0:0::/:/\nnobody:x:65534:65534::/:/\n")},
		{Path: "/etc/nsswitch.conf", Mode: 0o644, Content: []byte("hosts: files dns\n")},
	}
	base := &archive.Layer{Files: append(people, tools...)}
	kube := []archive.File{{Path: "/usr/local/bin/kube", Mode: 0o755, From: filepath.Join(n.Programs, n.release.program())}}
	names := []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"}
	for _, name := range names {
		kube = append(kube, archive.File{Path: "/usr/local/bin/" + name, Link: "kube"})
	}
	// One image under four names: each is told its program by the manifests of kubeadm.
	image := archive.Image{Layers: []*archive.Layer{base, {Files: kube}}, Env: []string{searchPath}, Arch: runtime.GOARCH}
	for _, name := range names {
		image.Names = append(image.Names, "registry.k8s.io/"+name+":"+n.release.Version)
	}
	single := func(reference, name, program string) archive.Image {
		at := "/usr/local/bin/" + name
		return archive.Image{
			Names: []string{reference}, Env: []string{searchPath}, Entrypoint: []string{at}, Arch: runtime.GOARCH,
			Layers: []*archive.Layer{{Files: append(people[:len(people):len(people)], archive.File{Path: at, Mode: 0o755, From: filepath.Join(n.Programs, program)},
				archive.File{Path: "/tmp"})}},
		}
	}
	everywhere = []archive.Image{image, single(pauseImage, "ambit-pause", "ambit-pause"), single(n.release.coreDNS, "coredns", "coredns"),
		single("localhost/ambit-nodenet:1", "ambit-nodenet", "ambit-nodenet")}
	return everywhere, []archive.Image{single(n.release.etcd, "etcd", n.release.etcdProgram())}, nil
}
