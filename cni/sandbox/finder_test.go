package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/api/netns/netnstest"
)

// proc is a folder that looks like /proc.
type proc struct {
	t   *testing.T
	dir string
}

// add makes a process.
func (p proc) add(pid int, pod, start string, ns *netns.Netns) {
	p.t.Helper()
	dir := filepath.Join(p.dir, strconv.Itoa(pid))
	target := fmt.Sprintf("/proc/self/fd/%d", ns.File().Fd())
	stat := fmt.Sprintf("%d (app)%s%s 1 1", pid, strings.Repeat(" 0", 19), " "+start)
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "ns"), 0o755),
		os.WriteFile(filepath.Join(dir, "cgroup"), []byte("0::/kubepods/pod"+pod+"/c\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "stat"), []byte(stat), 0o644),
		os.Symlink(target, filepath.Join(dir, "ns/net")),
	} {
		if err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p proc) end(pid int) {
	p.t.Helper()
	if err := os.RemoveAll(filepath.Join(p.dir, strconv.Itoa(pid))); err != nil {
		p.t.Fatal(err)
	}
}

func TestOpen(t *testing.T) {
	p := proc{t, t.TempDir()}
	node, pod, inner, second := netnstest.Make(t), netnstest.Make(t), netnstest.Make(t), netnstest.Make(t)
	const other = "11111111-2222-3333-4444-555555555555"
	p.add(1, "none", "1", node)
	p.add(90, uid, "1000", inner) // a container that has made itself a namespace
	p.add(200, uid, "999", pod)   // the sandbox, with a higher number, started before
	p.add(91, other, "5", node)   // in the node's network
	if err := os.Mkdir(filepath.Join(p.dir, "sys"), 0o755); err != nil {
		t.Fatal(err)
	}
	f := NewFinder(p.dir)
	want := func(uid string, ns *netns.Netns) {
		t.Helper()
		got, err := f.Open(uid)
		if ns == nil {
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v", uid, err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		defer got.Close()
		if got.ID() != ns.ID() {
			t.Errorf("%s: namespace %s, want %s", uid, got.ID(), ns.ID())
		}
	}
	want(uid, pod)
	want(strings.ReplaceAll(uid, "-", "_"), pod)
	want(other, nil)
	want("99999999-2222-3333-4444-555555555555", nil)
	want("no UID", nil)

	// The sandbox is made again under the same number: what was found before does not count.
	p.end(200)
	p.end(90)
	p.add(200, uid, "5000", second)
	want(uid, second)
	p.end(200)
	want(uid, nil)

	if _, err := NewFinder(t.TempDir()).Open(uid); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("a folder that is no /proc: %v", err)
	}
}
