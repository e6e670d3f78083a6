package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroups is a tree of control groups that belongs to one lab, so that everything the lab ever started can be found and
// ended even when the supervisor is gone. The zero value stands for a machine without a writable unified hierarchy:
// it makes no groups and kills nothing.
type Cgroups struct {
	root string
}

// FindCgroups returns the lab's tree, whether it exists or not.
func FindCgroups(lab string) Cgroups {
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if err := unix.Statfs(mount, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC &&
			unix.Access(mount, unix.W_OK) == nil {
			return Cgroups{root: filepath.Join(mount, "ambit-lab-"+lab)}
		}
	}
	return Cgroups{}
}

// Make makes the group at the path below the lab's own and returns its folder; "" where there are no groups.
func (c Cgroups) Make(path string) (string, error) {
	if c.root == "" {
		return "", nil
	}
	dir := filepath.Join(c.root, path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("control group: %w", err)
	}
	return dir, nil
}

// Join moves a process into the group at path.
func (c Cgroups) Join(path string, pid int) error {
	dir, err := c.Make(path)
	if err != nil || dir == "" {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
		return fmt.Errorf("join control group: %w", err)
	}
	return nil
}

// Kill ends everything in the group at path and below it with SIGKILL, and removes the groups. Groups that are not
// there are no error.
func (c Cgroups) Kill(path string) error {
	if c.root == "" {
		return nil
	}
	dir := filepath.Join(c.root, path)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0o644)
	if errors.Is(err, fs.ErrNotExist) {
		// Kernels before 5.14 have no cgroup.kill.
		err = c.killEach(dir)
	}
	if err != nil {
		return fmt.Errorf("end processes of %s: %w", path, err)
	}
	return removeTree(dir)
}

func (c Cgroups) killEach(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, f := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(f); err == nil {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		return nil
	})
}

// removeTree removes the groups bottom up. A killed process leaves its group a moment after the signal.
func removeTree(dir string) error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		var dirs []string
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		var failed error
		for i := len(dirs) - 1; i >= 0; i-- {
			if err := unix.Rmdir(dirs[i]); err != nil && !errors.Is(err, unix.ENOENT) {
				failed = fmt.Errorf("remove control group %s: %w", dirs[i], err)
			}
		}
		if failed == nil || time.Now().After(deadline) {
			return failed
		}
		poll := time.NewTimer(5 * time.Millisecond)
		<-poll.C
	}
}
