package folder

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockPatience bounds how long a writer waits for the others. Writers hold the lock for one file's worth of work.
const lockPatience = 15 * time.Second

// Write replaces the file rel, or creates it along with its directories. A watcher sees the old content or the new one.
// Writing what is there already touches nothing.
func Write(root, rel string, data []byte) error {
	return locked(root, rel, "write", func(r *os.Root) error { return replace(r, rel, data) })
}

// Remove deletes the file rel. A file that is not there is ErrNotFound.
func Remove(root, rel string) error {
	return locked(root, rel, "remove", func(r *os.Root) error { return r.Remove(rel) })
}

// Read returns the content of the file rel.
func Read(root, rel string) ([]byte, error) {
	if err := checkName(rel); err != nil {
		return nil, fmt.Errorf("read %s in %s: %w", rel, root, err)
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, fmt.Errorf("open folder %s: %w", root, err)
	}
	defer r.Close()
	data, err := readFile(r, rel, MaxFileSize)
	if err != nil {
		return nil, fmt.Errorf("read %s in %s: %w", rel, root, translate(err))
	}
	return data, nil
}

// locked runs fn with the folder open and locked.
func locked(root, rel, verb string, fn func(*os.Root) error) error {
	err := checkName(rel)
	if err == nil {
		var r *os.Root
		if r, err = os.OpenRoot(root); err == nil {
			defer r.Close()
			var unlock func()
			if unlock, err = lock(r); err == nil {
				defer unlock()
				err = fn(r)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("%s %s in %s: %w", verb, rel, root, translate(err))
	}
	return nil
}

// checkName refuses names a watcher would never see, so that a typing error does not end in silence.
func checkName(rel string) error {
	if !filepath.IsLocal(rel) || path.Clean(rel) != rel || rel == "." {
		return fmt.Errorf("%w: the name must be relative and clean", ErrOutside)
	}
	for part := range strings.SplitSeq(rel, "/") {
		if strings.HasPrefix(part, ".") {
			return errors.New("names that begin with a dot are ignored by readers; choose another one")
		}
	}
	if !wanted(rel) {
		return errors.New("readers take only .yaml, .yml and .json files; choose such a name")
	}
	return nil
}

// wanted reports whether the file's name says that it holds configuration.
func wanted(name string) bool {
	base := path.Base(name)
	if strings.HasPrefix(base, ".") {
		return false
	}
	switch path.Ext(base) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// lock takes the folder's lock. Closing the file gives it back, so a writer that dies does too.
func lock(r *os.Root) (unlock func(), err error) {
	f, err := r.OpenFile(LockName, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the lock file %s: %w", LockName, err)
	}
	give := time.Now().Add(lockPatience)
	for try := 0; ; try++ {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.EWOULDBLOCK):
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", LockName, err)
		case time.Now().After(give):
			f.Close()
			return nil, fmt.Errorf("another process has held %s for more than %s; end it and try again", LockName, lockPatience)
		default:
			time.Sleep(backoff(try))
		}
	}
}

// backoff grows from a fraction of a millisecond to some 20 ms, with jitter so that many writers do not march in step.
func backoff(try int) time.Duration {
	var b [1]byte
	rand.Read(b[:])
	d := 200 * time.Microsecond << min(try/2, 6)
	return d/2 + d*time.Duration(bits.Reverse8(b[0]))/256
}

// replace writes a temporary file beside rel and renames it over rel. It does not sync to disk: the folder's readers
// live on the same machine, and a folder that must survive a power cut is kept in version control anyway.
func replace(r *os.Root, rel string, data []byte) error {
	if old, err := r.ReadFile(rel); err == nil && bytes.Equal(old, data) {
		return nil
	}
	dir := path.Dir(rel)
	if err := r.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	temp := path.Join(dir, "."+path.Base(rel)+"."+rand.Text()[:8]+".tmp")
	f, err := r.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = r.Rename(temp, rel)
	}
	if err != nil {
		err = errors.Join(err, r.Remove(temp))
	}
	return err
}

// translate gives errors of the system the package's own names where callers tell them apart.
func translate(err error) error {
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}
