package chain

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// errRaced says that somebody else has written a file at the same moment. Theirs is what counts.
var errRaced = errors.New("somebody else is writing the same file")

// largest is more than any configuration is.
const largest = 1 << 20

// read returns what a folder holds that may be a configuration, or was one.
func read(dir string) ([]File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("folder of CNI configurations: %w", err)
	}
	var out []File
	for _, e := range entries {
		if name, _ := strings.CutSuffix(e.Name(), saved); !IsConf(name) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if fi, err := os.Stat(path); err != nil || !fi.Mode().IsRegular() || fi.Size() > largest {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return nil, fmt.Errorf("CNI configuration: %w", err)
		}
		out = append(out, File{Name: e.Name(), Data: data})
	}
	return out, nil
}

// apply makes one change. A file is always as it was or as it will be, also after the machine has lost its power.
func apply(dir string, c Change) error {
	path := filepath.Join(dir, c.Name)
	var err error
	switch {
	case c.To != "":
		err = move(path, filepath.Join(dir, c.To), c)
	case c.New == nil:
		err = remove(path, c)
	default:
		err = write(path, c)
	}
	if err != nil {
		return fmt.Errorf("CNI configuration %s: %w", c.Name, err)
	}
	return nil
}

// move renames a file. Only what was set aside before is replaced.
func move(path, to string, c Change) error {
	rename := os.Rename
	if !strings.HasSuffix(to, saved) {
		rename = renameNew
	}
	if err := rename(path, to); err != nil {
		return err
	}
	return unchanged(to, path, c)
}

// remove deletes a file. What takes its name away is no more than a rename, which also works on a full disk.
func remove(path string, c Change) error {
	tmp := filepath.Join(filepath.Dir(path), fmt.Sprintf("%s%d-%s.tmp", stagePrefix, os.Getpid(), c.Name))
	err := os.Rename(path, tmp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = unchanged(tmp, path, c)
	}
	if err != nil {
		return err
	}
	return os.Remove(tmp)
}

// unchanged looks whether a file whose name was taken away is the one that was read. Somebody else's goes back to its place, unless
// there is a newer one by now.
func unchanged(at, path string, c Change) error {
	was, err := os.ReadFile(at)
	if err != nil || bytes.Equal(was, c.Old) {
		return err
	}
	if err := renameNew(at, path); err != nil && !errors.Is(err, errRaced) {
		return errors.Join(errRaced, err)
	}
	return errRaced
}

// renameNew renames a file where there is none of that name.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	switch {
	case errors.Is(err, unix.EEXIST):
		return errRaced
	case noFlags(err):
		return os.Rename(from, to)
	}
	return err
}

func write(path string, c Change) error {
	mode := fs.FileMode(0o644)
	if fi, err := os.Stat(path); err == nil {
		mode = fi.Mode().Perm()
	}
	tmp, err := stage(path, bytes.NewReader(c.New), mode)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	if c.Old == nil {
		// Somebody may have made it since we looked.
		return renameNew(tmp, path)
	}
	// The files change places, so that what was there can be compared with what was read: another writer loses nothing.
	err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
	if noFlags(err) {
		return os.Rename(tmp, path)
	}
	if err != nil {
		return err
	}
	was, err := os.ReadFile(tmp)
	if err != nil || bytes.Equal(was, c.Old) {
		return err
	}
	return errors.Join(errRaced, unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE))
}

// noFlags tells file systems apart that can only rename.
func noFlags(err error) bool { return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) }

// stagePrefix begins the names of files that are being written.
const stagePrefix = ".ambit-"

// unstage removes what keepers that were killed have left half written in a folder.
func unstage(dir string) error {
	left, _ := filepath.Glob(filepath.Join(dir, stagePrefix+"*.tmp")) // the pattern is good
	var errs []error
	for _, path := range left {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("left by an agent that was killed: %w", err))
		}
	}
	return errors.Join(errs...)
}

// stage writes a file beside where it is to be, under a name that nobody reads.
func stage(path string, from io.Reader, mode fs.FileMode) (tmp string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), stagePrefix+"*.tmp")
	if err != nil {
		return "", unwritten(path, err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err = io.Copy(f, from); err == nil {
		err = errors.Join(f.Chmod(mode), f.Sync())
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return "", unwritten(path, err)
	}
	return f.Name(), nil
}

// unwritten says which file could not be written and why. It is the same as long as the cause is: the temporary file has
// another name each time.
func unwritten(path string, err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("write %s: %w: free space or inodes on the node's file system of that folder", path, err)
	}
	return fmt.Errorf("write %s: %w", path, err)
}

// install copies a program to where runtimes look for it, if it is not there already. A call that is under way goes on with the
// old one.
func install(from, to string) (changed bool, err error) {
	want, err := sum(from)
	if err != nil {
		return false, fmt.Errorf("the plugin's program: %w", err)
	}
	if have, err := sum(to); err == nil && have == want {
		return false, nil
	}
	f, err := os.Open(from)
	if err != nil {
		return false, fmt.Errorf("the plugin's program: %w", err)
	}
	defer f.Close()
	tmp, err := stage(to, f, 0o755)
	if err == nil {
		err = os.Rename(tmp, to)
	}
	if err != nil {
		return false, fmt.Errorf("install the plugin's program: %w", err)
	}
	return true, nil
}

func sum(path string) (digest [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return digest, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return digest, err
	}
	if !fi.Mode().IsRegular() || fi.Mode().Perm()&0o111 == 0 {
		return digest, fmt.Errorf("%s is no program", path)
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	return [sha256.Size]byte(h.Sum(nil)), err
}
