package node

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/tools/kind/archive"
)

// TestVersions: the versions that are said are those that are built.
func TestVersions(t *testing.T) {
	for file, want := range map[string][]string{
		"../kube/go.mod":    {"k8s.io/kubernetes " + Kubernetes, "k8s.io/kubelet => k8s.io/kubelet v0." + strings.TrimPrefix(Kubernetes, "v1.")},
		"../coredns/go.mod": {"github.com/coredns/coredns " + CoreDNS, "k8s.io/client-go => k8s.io/client-go v0." + strings.TrimPrefix(Kubernetes, "v1.")},
	} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(string(raw), w) {
				t.Errorf("%s has no %q", file, w)
			}
		}
		// The staging modules are of one release.
		for _, m := range regexp.MustCompile(`k8s\.io/\S+ => \S+ (v0\.\d+\.\d+)\n`).FindAllStringSubmatch(string(raw), -1) {
			if m[1] != "v0."+strings.TrimPrefix(Kubernetes, "v1.") {
				t.Errorf("%s: %s", file, m[0])
			}
		}
	}
}

// TestScripts: the node's scripts are shell, and executable in the image.
func TestScripts(t *testing.T) {
	small, err := smallFiles()
	if err != nil {
		t.Fatal(err)
	}
	modes := map[string]int64{}
	for _, f := range small {
		modes[f.Path] = f.Mode
		if bytes.HasPrefix(f.Content, []byte("#!/bin/bash")) {
			check := exec.Command("bash", "-n")
			check.Stdin = bytes.NewReader(f.Content)
			if out, err := check.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", f.Path, err, out)
			}
		}
	}
	for path, want := range map[string]int64{
		"/kind/entrypoint": 0o755, "/usr/local/bin/systemctl": 0o755, "/usr/local/bin/journalctl": 0o755,
		"/etc/containerd/config.toml": 0o644, "/kind/manifests/default-cni.yaml": 0o644, "/kind/version": 0o644,
	} {
		if modes[path] != want {
			t.Errorf("%s has mode %o", path, modes[path])
		}
	}
}

// TestNames: what the manifests and containerd ask for by name is what the image holds.
func TestNames(t *testing.T) {
	var all string
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := files.ReadFile(path)
		all += string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(all, `sandbox_image = "`+pauseImage+`"`) || !strings.Contains(all, "image: localhost/ambit-nodenet:1") {
		t.Error("an image is asked for by another name than it has")
	}
}

// TestKey: another file, another image name.
func TestKey(t *testing.T) {
	dir := t.TempDir()
	for _, name := range inImage {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n := &Node{Programs: dir, rootfs: "/x/rootfs-1.tar"}
	one, err := n.key()
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := n.key(); again != one {
		t.Errorf("%s, then %s", one, again)
	}
	if err := os.WriteFile(filepath.Join(dir, "kube"), []byte("newer"), 0o755); err != nil {
		t.Fatal(err)
	}
	if other, _ := n.key(); other == one {
		t.Error("another kube, the same name")
	}
}

// TestProxyTools follows the libraries of a program through a root file system made for it: those of this machine.
func TestProxyTools(t *testing.T) {
	var tree []archive.File
	lib := "/usr/lib/" + triplets[runtime.GOARCH]
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"xtables-nft-multi", "conntrack", "nft", "ipset"} {
		tree = append(tree, archive.File{Path: "/usr/sbin/" + name, Mode: 0o755, From: program})
	}
	tree = append(tree, archive.File{Path: lib + "/xtables/libxt_statistic.so", Mode: 0o644, From: program}, archive.File{Path: lib + "/unrelated.so", Content: []byte("x")})
	needs, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	libs, err := needed(needs)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range libs {
		tree = append(tree, archive.File{Path: "/" + merged(lib, l), Mode: 0o644, From: program})
	}
	file := filepath.Join(t.TempDir(), "rootfs.tar")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(archive.Tar(f, tree), f.Close()); err != nil {
		t.Fatal(err)
	}
	got, err := proxyTools(file)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := archive.Tar(&b, got); err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for in := tar.NewReader(&b); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		have[h.Name] = true
	}
	for _, want := range []string{"usr/sbin/iptables", "usr/sbin/ip6tables-restore", strings.TrimPrefix(lib, "/") + "/xtables/libxt_statistic.so", "lib64"} {
		if !have[want] {
			t.Errorf("%s is missing", want)
		}
	}
	if have[strings.TrimPrefix(lib, "/")+"/unrelated.so"] {
		t.Error("what nobody needs is there")
	}
}

func TestMerged(t *testing.T) {
	for _, tc := range [][3]string{
		{"/usr/lib/x", "libc.so.6", "usr/lib/x/libc.so.6"}, {"/usr/lib64", "../lib/x/ld.so", "usr/lib/x/ld.so"},
		{"/usr/lib/x", "/lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2"}, {"/usr/lib64", "/lib/x/ld.so", "usr/lib/x/ld.so"},
	} {
		if got := merged(tc[0], tc[1]); got != tc[2] {
			t.Errorf("%s in %s is %s, want %s", tc[1], tc[0], got, tc[2])
		}
	}
}
