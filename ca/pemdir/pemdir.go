// Package pemdir keeps a set of files that belong together, such as a key and its certificate, in a folder whose readers
// see either the whole old set or the whole new one, also after a crash in between.
//
// The layout is the one Kubernetes gives mounted secrets: the files live in a generation folder, the link "..data" names
// the current generation, and each file's usual name is a link through it. Replacing "..data" is one rename. Read also
// understands a plain folder somebody filled by hand. The package knows nothing of what the files hold and starts no
// goroutines. Start reading at Write.
package pemdir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// File is one member of a set.
type File struct {
	Data []byte
	Mode fs.FileMode
}

const (
	current   = "..data"
	genPrefix = "..gen-"
	lockName  = ".lock"
	// maxFile bounds what Read takes in.
	maxFile = 1 << 20
)

// Write makes set the content of dir, creating dir if need be. Files of earlier sets that are not in this one lose their
// name. Two writers must hold Lock.
func Write(dir string, set map[string]File) error {
	if err := write(dir, set); err != nil {
		return fmt.Errorf("write folder %s: %w", dir, err)
	}
	return nil
}

func write(dir string, set map[string]File) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	gen, err := os.MkdirTemp(dir, genPrefix)
	if err != nil {
		return err
	}
	// MkdirTemp makes it private, but the public files of the set may be for other users; keys are guarded by their own mode.
	if err := os.Chmod(gen, 0o755); err != nil {
		return err
	}
	for name, f := range set {
		if err := writeFile(filepath.Join(gen, name), f); err != nil {
			return err
		}
	}
	if err := syncDir(gen); err != nil {
		return err
	}
	previous, _ := os.Readlink(filepath.Join(dir, current))
	if err := link(dir, current, filepath.Base(gen)); err != nil {
		return err
	}
	for name := range set {
		if target, err := os.Readlink(filepath.Join(dir, name)); err != nil || target != filepath.Join(current, name) {
			if err := link(dir, name, filepath.Join(current, name)); err != nil {
				return err
			}
		}
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	return sweep(dir, set, filepath.Base(gen), previous)
}

func writeFile(path string, f File) error {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.Mode)
	if err != nil {
		return err
	}
	_, err = out.Write(f.Data)
	return errors.Join(err, out.Chmod(f.Mode), out.Sync(), out.Close())
}

// link points name at target, replacing whatever is there in one step.
func link(dir, name, target string) error {
	tmp := filepath.Join(dir, "..tmp-"+name)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, name))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// sweep removes generations nobody can be reading any more, and the names of files that left the set. The previous
// generation stays for a reader that resolved the link just before.
func sweep(dir string, set map[string]File, keep ...string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		name := e.Name()
		path := filepath.Join(dir, name)
		if strings.HasPrefix(name, genPrefix) && !slices.Contains(keep, name) {
			errs = append(errs, os.RemoveAll(path))
		}
		if _, ok := set[name]; !ok {
			if target, err := os.Readlink(path); err == nil && target == filepath.Join(current, name) {
				errs = append(errs, os.Remove(path))
			}
		}
	}
	return errors.Join(errs...)
}

// Read returns the files among names that exist in dir, all of one generation. A folder that does not exist is empty.
func Read(dir string, names ...string) (map[string]File, error) {
	// A writer may swap generations while we read: then read again. More than a few swaps in a row is not a writer.
	for range 5 {
		before, linkErr := os.Readlink(filepath.Join(dir, current))
		set := map[string]File{}
		for _, name := range names {
			f, err := readFile(filepath.Join(dir, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("read folder %s: %w", dir, err)
			}
			set[name] = f
		}
		after, _ := os.Readlink(filepath.Join(dir, current))
		if linkErr != nil && after == "" || before == after {
			return set, nil
		}
	}
	return nil, fmt.Errorf("read folder %s: its files change faster than they can be read", dir)
}

func readFile(path string) (File, error) {
	in, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return File{}, err
	}
	if !st.Mode().IsRegular() {
		return File{}, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return File{}, err
	}
	if len(data) > maxFile {
		return File{}, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return File{Data: data, Mode: st.Mode().Perm()}, nil
}

// Lock makes the caller the only writer of dir among processes until unlock is called. The lock ends with the process.
func Lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lock folder %s: %w", dir, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock folder %s: %w", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock folder %s: %w", dir, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}
