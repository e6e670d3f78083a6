package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Mount shows the file or folder Source of the machine at Target.
type Mount struct {
	Source, Target string
	ReadOnly       bool
}

// place makes the mount in this process's own mount namespace.
func (m Mount) place() error {
	info, err := os.Stat(m.Source)
	if err != nil {
		return fmt.Errorf("mount %s: %w", m.Target, err)
	}
	target, err := reach(filepath.Clean(m.Target), info.IsDir())
	if err != nil {
		return fmt.Errorf("mount %s: %w", m.Target, err)
	}
	if err := unix.Mount(m.Source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.Source, target, err)
	}
	if !m.ReadOnly {
		return nil
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount %s read-only: %w", target, err)
	}
	return nil
}

// reach returns the path of something that can be covered at target, and makes it where there is nothing. What is made
// lies in a file system of this sandbox's own: the machine's folders get no new entries.
func reach(target string, dir bool) (string, error) {
	parent, missing := target, []string{}
	for {
		real, err := filepath.EvalSymlinks(parent)
		if err == nil {
			parent = real
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		missing = append([]string{filepath.Base(parent)}, missing...)
		parent = filepath.Dir(parent)
	}
	if len(missing) == 0 {
		return parent, nil
	}
	if parent == "/" {
		return "", fmt.Errorf("/%s is not there on this machine, and a sandbox cannot add to the root folder: mount below a folder that exists, like /var/lib", missing[0])
	}
	if !private(parent) {
		if err := mirror(parent); err != nil {
			return "", fmt.Errorf("make room in %s: %w", parent, err)
		}
	}
	last := filepath.Join(append([]string{parent}, missing...)...)
	folder := last
	if !dir {
		folder = filepath.Dir(last)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	if dir {
		return last, nil
	}
	f, err := os.OpenFile(last, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return "", err
	}
	return last, f.Close()
}

// marker is in every folder that mirror has replaced.
const marker = ".ambit-lab-sandbox"

// private says whether a folder was made in this sandbox: its nearest marker is on the same file system.
func private(dir string) bool {
	var here unix.Stat_t
	if unix.Stat(dir, &here) != nil {
		return false
	}
	for ; ; dir = filepath.Dir(dir) {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(dir, marker), &st) == nil {
			return st.Dev == here.Dev
		}
		if dir == "/" {
			return false
		}
	}
}

// mirror covers a folder with one in memory that shows the same entries and can take others.
func mirror(dir string) error {
	// The folder as it is stays within reach through this descriptor when it is covered.
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m"); err != nil {
		return err
	}
	for _, e := range entries {
		if err := show(fmt.Sprintf("/proc/self/fd/%d/%s", fd, e.Name()), filepath.Join(dir, e.Name()), e); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, marker), nil, 0o444)
}

func show(from, to string, e os.DirEntry) error {
	switch {
	case e.Type()&fs.ModeSymlink != 0:
		text, err := os.Readlink(from)
		if err != nil {
			return nil // gone meanwhile
		}
		return os.Symlink(text, to)
	case e.IsDir():
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
	default:
		if err := os.WriteFile(to, nil, 0o644); err != nil {
			return err
		}
	}
	err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, "")
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}
