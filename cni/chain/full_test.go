package chain

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// small makes a folder a file system of its own with room for little.
func (n *node) small(dir string) {
	n.Helper()
	n.must(os.MkdirAll(dir, 0o755))
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); errors.Is(err, unix.EPERM) {
		n.Skip("this process may not mount a tmpfs (CAP_SYS_ADMIN)")
	} else if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { n.must(unix.Unmount(dir, unix.MNT_DETACH)) })
}

// fill leaves no room in a folder's file system.
func (n *node) fill(dir string) {
	n.Helper()
	if err := os.WriteFile(filepath.Join(dir, "filler"), bytes.Repeat([]byte("x"), 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		n.Fatalf("the disk is not full: %v", err)
	}
}

func (n *node) full() bool { return errors.Is(n.keeper.Err(), unix.ENOSPC) }

// On a full disk the configuration stays as it is, whole; the keeper says which folder is full, once, and does not try
// with all of a core; when there is room again it does its work.
func TestFullDisk(t *testing.T) {
	n := newNode(t)
	n.small(n.conf)
	n.write("10-a.conflist", conflist(bridge))
	n.fill(n.conf)
	watch, err := fsnotify.NewWatcher()
	n.must(err)
	defer watch.Close()
	n.must(watch.Add(n.conf))
	var made atomic.Int32
	go func() {
		for e := range watch.Events {
			if e.Has(fsnotify.Create) && strings.HasPrefix(filepath.Base(e.Name), stagePrefix) {
				made.Add(1)
			}
		}
	}()
	n.cfg.Every = 50 * time.Millisecond
	n.run()
	n.soon("word of it", n.full)
	if text := n.keeper.Err().Error(); !strings.Contains(text, n.conf) || !strings.Contains(text, "free space") || strings.Contains(text, stagePrefix) {
		t.Error(text)
	}
	before := made.Load()
	time.Sleep(10 * n.cfg.Every) // so often it tries, and not more often
	if tries := made.Load() - before; tries > 15 {
		t.Errorf("%d tries in %s", tries, 10*n.cfg.Every)
	}
	if said := n.log.count("no space left"); said != 1 {
		t.Errorf("said %d times", said)
	}
	if got := n.read(filepath.Join(n.conf, "10-a.conflist")); got != conflist(bridge) {
		t.Errorf("the configuration has changed: %s", got)
	}
	if left, _ := filepath.Glob(filepath.Join(n.conf, stagePrefix+"*")); len(left) > 1 { // one may be under way
		t.Errorf("left: %s", left)
	}
	n.must(os.Remove(filepath.Join(n.conf, "filler")))
	n.soon("chained", n.chained("10-a.conflist"))
	n.soon("no trouble", func() bool { return n.keeper.Err() == nil })
}

// A program that cannot be replaced is no reason not to have it called.
func TestFullDiskOfPrograms(t *testing.T) {
	n := newNode(t)
	n.small(n.bin)
	program := filepath.Join(n.bin, Type)
	n.must(os.WriteFile(n.cfg.Program, bytes.Repeat([]byte("#"), 8<<10), 0o755))
	n.fill(n.bin)
	n.cfg.Every = 50 * time.Millisecond
	n.write("10-a.conflist", conflist(bridge))
	stop := n.run()
	n.soon("word of it", n.full)
	if n.chained("10-a.conflist")() {
		t.Error("the configuration names a program that is not there")
	}
	stop()

	n.must(os.Remove(filepath.Join(n.bin, "filler")))
	n.must(os.WriteFile(program, []byte("older"), 0o755))
	n.fill(n.bin)
	n.run()
	n.soon("word of it", n.full)
	n.soon("the older program is called", n.chained("10-a.conflist"))
	if n.read(program) != "older" {
		t.Error("the older program is gone")
	}
	n.must(os.Remove(filepath.Join(n.bin, "filler")))
	n.soon("the program is new", func() bool { return n.keeper.Err() == nil && n.read(program) == n.read(n.cfg.Program) })
}
