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
	"strconv"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/tools/kind/archive"
)

// TestVersions: the versions that are said are those that are built.
func TestVersions(t *testing.T) {
	for _, r := range Releases() {
		raw, err := os.ReadFile("../kube/" + r.modfile())
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(raw), "k8s.io/kubernetes "+r.Version+"\n") {
			t.Errorf("%s is not for Kubernetes %s", r.modfile(), r.Version)
		}
		staging(t, r.modfile(), string(raw), r.Version)
	}
	raw, err := os.ReadFile("../coredns/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), "github.com/coredns/coredns "+CoreDNS+"\n") {
		t.Errorf("coredns/go.mod is not for CoreDNS %s", CoreDNS)
	}
	staging(t, "coredns/go.mod", string(raw), Releases()[0].Version)
}

// staging holds the modules that are published with Kubernetes to its release: not all of them are for each of its patches, but
// none may be newer.
func staging(t *testing.T, file, text, version string) {
	t.Helper()
	found := regexp.MustCompile(`k8s\.io/\S+ => \S+ v0\.(\d+)\.(\d+)\n`).FindAllStringSubmatch(text, -1)
	want := strings.Split(version, ".")
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	exact := 0
	for _, m := range found {
		if m[1] != want[1] || number(m[2]) > number(want[2]) {
			t.Errorf("%s: %s", file, m[0])
		}
		if m[2] == want[2] {
			exact++
		}
	}
	if exact*10 < len(found)*8 || exact < 3 {
		t.Errorf("%s: only %d of %d modules are of the release", file, exact, len(found))
	}
}

func TestFindRelease(t *testing.T) {
	for name, want := range map[string]string{"": "v1.33.13", "1.33": "v1.33.13", "1.36": "v1.36.3", "1.29": "v1.29.6", "v1.29": "v1.29.6", "1.29.6": "v1.29.6", "v1.29.6": "v1.29.6"} {
		if r, err := FindRelease(name); err != nil || r.Version != want {
			t.Errorf("%q is %q, %v", name, r.Version, err)
		}
	}
	for _, name := range []string{"1.2", "1.30", "1.29.7", "latest"} {
		if r, err := FindRelease(name); err == nil || !strings.Contains(err.Error(), "1.33, 1.36 or 1.29") {
			t.Errorf("%q is %q, %v", name, r.Version, err)
		}
	}
}

// TestKubectl: the newest release that was built.
func TestKubectl(t *testing.T) {
	dir, old := t.TempDir(), Releases()[1]
	for _, step := range []struct{ built, want string }{{old.program(), old.program()}, {"kube", "kube"}, {"", "kube"}} {
		if step.built != "" {
			if err := os.WriteFile(filepath.Join(dir, step.built), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := linkKubectl(dir, old); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(filepath.Join(dir, "kubectl")); err != nil || got != step.want {
			t.Errorf("after %q kubectl is %q, %v", step.built, got, err)
		}
	}
}

// TestScripts: the node's scripts are shell, and executable in the image.
func TestScripts(t *testing.T) {
	small, err := smallFiles("v1")
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
	n := &Node{Programs: dir, release: Releases()[0], rootfs: "/x/rootfs-1.tar"}
	for _, name := range n.inImage() {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
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
