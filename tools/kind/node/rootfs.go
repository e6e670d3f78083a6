package node

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/tools/kind/archive"
	"github.com/ambit-mesh/ambit/tools/kind/steps"
)

const suite = "bookworm"

// packages of a node: a container runtime, network plugins, and what Kubernetes, kind and people call in a node.
var packages = []string{
	"ca-certificates", "conntrack", "containerd", "containernetworking-plugins", "curl", "ebtables", "ethtool", "hostname", "ipset", "iproute2",
	"iptables", "jq", "kmod", "mount", "nftables", "procps", "runc", "socat", "util-linux",
}

// rootfs has the distribution's packages put into a root file system, and returns the tar file of it.
func (b *Builder) rootfs(ctx context.Context) (string, error) {
	sum := sha256.Sum256([]byte(suite + runtime.GOARCH + strings.Join(packages, ",")))
	out := filepath.Join(b.Cache, "rootfs-"+hex.EncodeToString(sum[:6])+".tar")
	if _, err := os.Stat(out); err == nil {
		return out, nil
	}
	args := []string{"mmdebstrap", "--variant=minbase", "--include=" + strings.Join(packages, ","), `--aptopt=APT::Install-Recommends "false"`}
	for _, dir := range []string{"doc", "man", "locale", "info"} {
		args = append(args, "--dpkgopt=path-exclude=/usr/share/"+dir+"/*")
	}
	args = append(args, suite, out+".new.tar")
	if _, err := b.Steps.Run(ctx, steps.Command{Title: "collecting the Debian packages of a node", Args: args}); err != nil {
		os.Remove(out + ".new.tar")
		return "", err
	}
	return out, os.Rename(out+".new.tar", out)
}

// triplets are the names of Debian's library folders.
var triplets = map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}

// proxyTools are the files kube-proxy needs beside its program: iptables with all its extensions, each of which may need
// libraries of its own, and conntrack.
func proxyTools(rootfs string) ([]archive.File, error) {
	libs := "usr/lib/" + triplets[runtime.GOARCH]
	all, err := readTree(rootfs, "usr/sbin/", libs+"/", "usr/lib64/", "usr/lib/ld-")
	if err != nil {
		return nil, err
	}
	want := []string{"usr/sbin/xtables-nft-multi", "usr/sbin/conntrack", "usr/sbin/nft", "usr/sbin/ipset"}
	for name := range all {
		if strings.HasPrefix(name, libs+"/xtables/") {
			want = append(want, name)
		}
	}
	slices.Sort(want)
	out := []archive.File{{Path: "/tmp"}, {Path: "/run"}, {Path: "/var/lib"}, {Path: "/lib", Link: "usr/lib"}, {Path: "/lib64", Link: "usr/lib64"}, {Path: "/sbin", Link: "usr/sbin"}}
	done := map[string]bool{}
	for len(want) > 0 {
		name := want[0]
		want = want[1:]
		if done[name] {
			continue
		}
		done[name] = true
		f, ok := all[name]
		if !ok {
			return nil, fmt.Errorf("the root file system has no %s", name)
		}
		out = append(out, f)
		if f.Link != "" {
			want = append(want, merged(path.Dir(f.Path), f.Link))
			continue
		}
		needs, err := needed(f.Content)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, lib := range needs {
			want = append(want, merged("/"+libs, lib))
		}
	}
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		out = append(out, archive.File{Path: "/usr/sbin/" + name, Link: "xtables-nft-multi"})
	}
	return out, nil
}

// merged is the name of a file in a root file system in which /lib is /usr/lib; file may be relative to dir.
func merged(dir, file string) string {
	if !path.IsAbs(file) {
		file = path.Join(dir, file)
	}
	if strings.HasPrefix(file, "/lib") {
		file = "/usr" + file
	}
	return strings.TrimPrefix(file, "/")
}

// needed lists the libraries of a program, and its loader by absolute path.
func needed(content []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	out, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			raw, err := io.ReadAll(p.Open())
			if err != nil {
				return nil, err
			}
			out = append(out, strings.TrimRight(string(raw), "\x00"))
		}
	}
	return out, nil
}

// readTree reads the files and links of a tar file below some folders, by name without leading slash.
func readTree(file string, below ...string) (map[string]archive.File, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string]archive.File{}
	for in := tar.NewReader(f); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		name := strings.TrimPrefix(path.Clean(h.Name), "/")
		if !slices.ContainsFunc(below, func(dir string) bool { return strings.HasPrefix(name, dir) }) {
			continue
		}
		switch h.Typeflag {
		case tar.TypeReg:
			content, err := io.ReadAll(in)
			if err != nil {
				return nil, err
			}
			out[name] = archive.File{Path: "/" + name, Mode: h.Mode, Content: content}
		case tar.TypeSymlink:
			out[name] = archive.File{Path: "/" + name, Link: h.Linkname}
		}
	}
}
