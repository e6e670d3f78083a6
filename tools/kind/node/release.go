package node

import (
	"cmp"
	"fmt"
	"strings"
)

// A Release of Kubernetes that nodes can be made of. The zero value stands for what does not depend on it.
type Release struct {
	// Version is that of its module, which a test compares with the module file.
	Version string
	// file is the module file in kube if it is not go.mod, tags are the build tags it takes.
	file, tags string
	// The names under which its kubeadm looks for what it did not build itself.
	etcd, coreDNS string
	// ownEtcd: its kubeadm has flags for etcd that the first release's does not know, so it gets that of its own module file.
	ownEtcd bool
	// refusesV1: its kubelet wants to be told that cgroups of version 1 will do (from 1.35 on).
	refusesV1 bool
}

// Releases are those that there are: first the one that is taken unless another is asked for, last the oldest that Ambit works with.
func Releases() []Release {
	return []Release{
		{Version: "v1.33.13", etcd: "registry.k8s.io/etcd:3.5.24-0", coreDNS: "registry.k8s.io/coredns/coredns:v1.12.0"},
		{Version: "v1.36.3", file: "v1.36.mod", tags: "kube136", etcd: "registry.k8s.io/etcd:3.6.8-0", ownEtcd: true, refusesV1: true, coreDNS: "registry.k8s.io/coredns/coredns:v1.14.2"},
		// Without the clouds that it still had code for: their modules are large, and no node here is in one.
		{Version: "v1.29.6", file: "v1.29.mod", tags: "providerless", etcd: "registry.k8s.io/etcd:3.5.12-0", coreDNS: "registry.k8s.io/coredns/coredns:v1.11.1"},
	}
}

// FindRelease finds the release that people call 1.29 or v1.29.6; "" is the first one.
func FindRelease(name string) (Release, error) {
	var minors []string
	for _, r := range Releases() {
		minor := r.Version[:strings.LastIndexByte(r.Version, '.')]
		if name = cmp.Or(name, r.Version); "v"+strings.TrimPrefix(name, "v") == r.Version || "v"+strings.TrimPrefix(name, "v") == minor {
			return r, nil
		}
		minors = append(minors, strings.TrimPrefix(minor, "v"))
	}
	last := len(minors) - 1
	return Release{}, fmt.Errorf("KUBERNETES=%q: nodes are built of %s or %s; KIND_IMAGE=kindest/node:… takes another version", name, strings.Join(minors[:last], ", "), minors[last])
}

// Kubeadm are patches of what kubeadm is told on a machine that has cgroups of version 1 alone, or not.
func (r Release) Kubeadm(oldCgroups bool) []string {
	if !r.refusesV1 || !oldCgroups {
		return nil
	}
	return []string{"kind: KubeletConfiguration\nfailCgroupV1: false\n"}
}

// program is the file name of its one program.
func (r Release) program() string {
	if r.file == "" {
		return "kube"
	}
	return "kube-" + r.Version
}

// etcdRelease is whose module file etcd is built of; the zero value is the one that most share.
func (r Release) etcdRelease() Release {
	if r.ownEtcd {
		return r
	}
	return Release{}
}

func (r Release) etcdProgram() string {
	if r.ownEtcd {
		return "etcd-" + r.Version
	}
	return "etcd"
}

// images is what the names of its node images begin with.
func (r Release) images() string { return "localhost/ambit-node:" + r.Version + "-" }

// Made says whether a node image is of the release.
func (r Release) Made(reference string) bool { return strings.HasPrefix(reference, r.images()) }

func (r Release) modfile() string { return cmp.Or(r.file, "go.mod") }

// flags are those of go build.
func (r Release) flags() []string {
	var out []string
	if r.file != "" {
		out = append(out, "-modfile="+r.file)
	}
	if r.tags != "" {
		out = append(out, "-tags="+r.tags)
	}
	return out
}
