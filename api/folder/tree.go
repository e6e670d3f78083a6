package folder

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxDepth bounds the descent into directories.
const maxDepth = 32

// stamp tells two states of a file apart without reading it. The change time is in it because a program can set the
// modification time as it likes, and the inode because a rename keeps both.
type stamp struct {
	ino          uint64
	size         int64
	mtime, ctime int64
}

func stampOf(fi fs.FileInfo) stamp {
	s := stamp{size: fi.Size(), mtime: fi.ModTime().UnixNano()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		s.ino = st.Ino
		s.ctime = st.Ctim.Nano()
	}
	return s
}

// file is what the tree remembers of a file: enough to know whether it changed, not what was in it.
type file struct {
	stamp stamp
	sum   uint64 // of the content, or of the error's text
}

// tree is the last state of the folder that was told to the caller. It has one owner: Watch's goroutine.
type tree struct {
	base  string // absolute, without symbolic links
	root  *os.Root
	opts  Options
	seed  maphash.Seed
	files map[string]file
	dirs  map[string]bool
	// watchDir and unwatchDir are told about each directory before it is read and after it is gone.
	watchDir, unwatchDir func(abs string)
	// emit hands over one change.
	emit func(Change) error
	full bool // the limit on files was hit and reported
}

func newTree(opts Options) *tree {
	ignore := func(string) {}
	return &tree{
		opts: opts, seed: maphash.MakeSeed(),
		files: make(map[string]file), dirs: make(map[string]bool),
		watchDir: ignore, unwatchDir: ignore,
	}
}

// open opens the root anew, because a folder may have been replaced by another one under the same name.
func (t *tree) open(root string) error {
	abs, err := filepath.Abs(root)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return err
	}
	r, err := os.OpenRoot(abs)
	if err != nil {
		return err
	}
	t.close()
	if abs != t.base {
		for d := range t.dirs {
			t.unwatchDir(filepath.Join(t.base, d))
		}
		clear(t.dirs)
	}
	t.base, t.root = abs, r
	return nil
}

// same reports whether the open root is still what its path leads to. When it is not, files that seem to be gone are
// gone with the whole folder.
func (t *tree) same() bool {
	there, err := os.Stat(t.base)
	if err != nil {
		return false
	}
	ours, err := t.root.Stat(".")
	return err == nil && os.SameFile(there, ours)
}

func (t *tree) close() {
	if t.root != nil {
		t.root.Close()
		t.root = nil
	}
}

// scan looks at everything and emits what differs from the last state.
func (t *tree) scan() error {
	seen := make(map[string]bool, len(t.files))
	if err := t.dir(".", 0, seen); err != nil {
		return err
	}
	var gone []string
	for p := range t.files {
		if !seen[p] {
			gone = append(gone, p)
		}
	}
	slices.Sort(gone)
	for _, p := range gone {
		if err := t.forget(p); err != nil {
			return err
		}
	}
	for d := range t.dirs {
		if !seen[d+"/"] {
			t.forgetDir(d)
		}
	}
	if t.full && len(t.files) < t.opts.MaxFiles {
		t.full = false
		return t.emit(Change{Removed: true})
	}
	return nil
}

// dir reads one directory and what is below it. seen may be nil.
func (t *tree) dir(rel string, depth int, seen map[string]bool) error {
	if depth > maxDepth {
		t.opts.Logger.Warn("directories are nested too deeply, the inner ones are not read", "path", rel)
		return nil
	}
	abs := filepath.Join(t.base, rel)
	// Watch first: what is created while we read is then either read or notified, never lost.
	t.watchDir(abs)
	t.dirs[rel] = true
	if seen != nil {
		seen[rel+"/"] = true
	}
	entries, err := os.ReadDir(abs)
	if err != nil && len(entries) == 0 {
		if !errors.Is(err, fs.ErrNotExist) {
			t.opts.Logger.Warn("a directory cannot be read", "path", rel, "err", err)
			// Not being allowed to look is no reason to take back what was known.
			t.keepBelow(rel, seen)
		}
		return nil
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		p := path.Join(rel, e.Name())
		if e.IsDir() {
			if err := t.dir(p, depth+1, seen); err != nil {
				return err
			}
			continue
		}
		if !wanted(p) {
			continue
		}
		if seen != nil {
			seen[p] = true
		}
		if err := t.file(p); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) keepBelow(rel string, seen map[string]bool) {
	if seen == nil {
		return
	}
	for p := range t.files {
		if below(p, rel) {
			seen[p] = true
		}
	}
	for d := range t.dirs {
		if below(d, rel) {
			seen[d+"/"] = true
		}
	}
}

func below(p, dir string) bool { return dir == "." || strings.HasPrefix(p, dir+"/") }

// visit looks at one path that may be a file, a directory or gone.
func (t *tree) visit(rel string) error {
	fi, err := t.root.Lstat(rel)
	switch {
	case err == nil && fi.IsDir():
		return t.dir(rel, strings.Count(rel, "/"), nil)
	case err == nil && wanted(rel):
		return t.file(rel)
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR):
		return nil // the next rescan decides
	}
	if _, ok := t.files[rel]; ok {
		return t.forget(rel)
	}
	if !t.dirs[rel] {
		return nil
	}
	t.forgetDir(rel)
	var gone []string
	for p := range t.files {
		if below(p, rel) {
			gone = append(gone, p)
		}
	}
	slices.Sort(gone)
	for _, p := range gone {
		if err := t.forget(p); err != nil {
			return err
		}
	}
	return nil
}

// forgetDir stops watching a directory and those below it. A directory that was renamed keeps its watch in the kernel
// and would report its files under the old name.
func (t *tree) forgetDir(rel string) {
	for d := range t.dirs {
		if d == rel || below(d, rel) {
			t.unwatchDir(filepath.Join(t.base, d))
			delete(t.dirs, d)
		}
	}
}

func (t *tree) forget(rel string) error {
	delete(t.files, rel)
	return t.emit(Change{Path: rel, Removed: true})
}

// file looks at one file that was there a moment ago.
func (t *tree) file(rel string) error {
	old, known := t.files[rel]
	if !known && len(t.files) >= t.opts.MaxFiles {
		if t.full {
			return nil
		}
		t.full = true
		return t.emit(Change{Err: fmt.Errorf("%w: only the first %d are read", ErrTooMany, t.opts.MaxFiles)})
	}
	fi, err := t.root.Stat(rel)
	if errors.Is(err, fs.ErrNotExist) {
		if known {
			return t.forget(rel)
		}
		// A link that leads nowhere: there is a name, and somebody may wonder why it does nothing.
		if _, lerr := t.root.Lstat(rel); lerr != nil {
			return nil
		}
	}
	now := file{}
	if err == nil {
		now.stamp = stampOf(fi)
		if known && now.stamp == old.stamp {
			return nil
		}
	}
	var data []byte
	if err == nil {
		data, err = readFile(t.root, rel, t.opts.MaxSize)
	}
	if err != nil {
		data = nil
		if !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrNotRegular) {
			now.stamp = stamp{} // it may be readable next time without having changed
		}
		if isEscape(err) {
			err = fmt.Errorf("%w: symbolic links are followed only inside of it", ErrOutside)
		}
		now.sum = maphash.String(t.seed, "err:"+err.Error())
	} else {
		now.sum = maphash.Bytes(t.seed, data)
	}
	t.files[rel] = now
	if known && now.sum == old.sum {
		return nil
	}
	return t.emit(Change{Path: rel, Data: data, Err: err})
}

// isEscape recognises os.Root's refusal to leave the root, which has no exported name.
func isEscape(err error) bool {
	var pe *fs.PathError
	return errors.As(err, &pe) && pe.Err != nil && strings.Contains(pe.Err.Error(), "escapes from parent")
}

// readFile reads a regular file up to a limit, without waiting on pipes.
func readFile(r *os.Root, rel string, limit int64) ([]byte, error) {
	f, err := r.OpenFile(rel, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s", ErrNotRegular, fi.Mode().Type())
	}
	if fi.Size() > limit {
		return nil, tooLarge(fi.Size(), limit)
	}
	data := make([]byte, 0, fi.Size()+1)
	for {
		n, err := f.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		switch {
		case err == io.EOF:
			return data, nil
		case err != nil:
			return nil, err
		case int64(len(data)) > limit:
			return nil, tooLarge(int64(len(data)), limit)
		case len(data) == cap(data):
			data = slices.Grow(data, 4096)
		}
	}
}

func tooLarge(size, limit int64) error {
	return fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, size, limit)
}
