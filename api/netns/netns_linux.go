package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// ID tells namespaces apart: two descriptors with the same ID are of the same namespace.
type ID struct{ Dev, Ino uint64 }

func (id ID) String() string { return fmt.Sprintf("%d:%d", id.Dev, id.Ino) }

// Netns is one network namespace, such as a pod's. It stays usable, and the namespace alive, until Close. Its methods may be
// called from any goroutine.
type Netns struct {
	id   ID
	file *os.File
	home *os.File // where threads return to
	same bool     // the namespace is home already
}

// New takes over f, which must be a network namespace.
func New(f *os.File) (*Netns, error) {
	id, err := check(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open own network namespace: %w", err)
	}
	homeID, err := identify(home)
	if err != nil {
		f.Close()
		home.Close()
		return nil, err
	}
	return &Netns{id: id, file: f, home: home, same: id == homeID}, nil
}

// Open opens a namespace by path, such as /proc/<pid>/ns/net or a file below /var/run/netns.
func Open(path string) (*Netns, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return New(f)
}

// ID identifies the namespace.
func (n *Netns) ID() ID { return n.id }

// File is the descriptor, to be handed to another process or to a netlink library. It belongs to the Netns.
func (n *Netns) File() *os.File { return n.file }

// Dup returns a second handle on the namespace, with a life of its own.
func (n *Netns) Dup() (*Netns, error) {
	f, err := dup(n.file)
	if err != nil {
		return nil, err
	}
	home, err := dup(n.home)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Netns{id: n.id, file: f, home: home, same: n.same}, nil
}

func dup(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	fd, derr := -1, error(nil)
	if err := raw.Control(func(old uintptr) { fd, derr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	if derr != nil {
		return nil, fmt.Errorf("duplicate network namespace descriptor: %w", derr)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// Make makes a namespace that nobody else is in and whose interfaces are down.
func Make() (*Netns, error) {
	type result struct {
		n   *Netns
		err error
	}
	done := make(chan result)
	go func() {
		// Never unlocked: the thread stays in the new namespace and ends with the goroutine.
		runtime.LockOSThread()
		f, err := unshare()
		if err != nil {
			done <- result{err: err}
			return
		}
		id, err := check(f)
		done <- result{&Netns{id: id, file: f}, err}
	}()
	r := <-done
	if r.err != nil {
		return nil, r.err
	}
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		r.n.file.Close()
		return nil, fmt.Errorf("open own network namespace: %w", err)
	}
	r.n.home = home
	return r.n, nil
}

func unshare() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("make a network namespace (needs CAP_SYS_ADMIN): %w", err)
	}
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open the network namespace just made: %w", err)
	}
	return f, nil
}

// Close lets go of the namespace. Sockets opened in it live on.
func (n *Netns) Close() error { return errors.Join(n.file.Close(), n.home.Close()) }

func identify(f *os.File) (ID, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return ID{}, fmt.Errorf("network namespace: %w", err)
	}
	var st unix.Stat_t
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.Fstat(int(fd), &st) }); err != nil {
		return ID{}, fmt.Errorf("network namespace: %w", err)
	}
	if serr != nil {
		return ID{}, fmt.Errorf("network namespace: fstat: %w", serr)
	}
	return ID{Dev: uint64(st.Dev), Ino: st.Ino}, nil
}

// check refuses descriptors that are no network namespace before any thread follows them.
// istio/ztunnel src/inpod/netns.rs and packet.rs: NS_GET_NSTYPE, else the file system's magic number.
func check(f *os.File) (ID, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return ID{}, fmt.Errorf("network namespace: %w", err)
	}
	var nserr error
	if err := raw.Control(func(fd uintptr) { nserr = checkType(int(fd)) }); err != nil {
		return ID{}, fmt.Errorf("network namespace: %w", err)
	}
	if nserr != nil {
		return ID{}, nserr
	}
	return identify(f)
}

func checkType(fd int) error {
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err == nil {
		if kind != unix.CLONE_NEWNET {
			return fmt.Errorf("descriptor is a namespace of kind %#x, not a network namespace", kind)
		}
		return nil
	}
	// Kernels before 4.11 do not know the ioctl; there the file system has to do.
	var fs unix.Statfs_t
	if ferr := unix.Fstatfs(fd, &fs); ferr != nil {
		return fmt.Errorf("descriptor is no network namespace: ioctl: %w, fstatfs: %w", err, ferr)
	}
	if fs.Type != unix.NSFS_MAGIC && fs.Type != unix.PROC_SUPER_MAGIC {
		return fmt.Errorf("descriptor is no network namespace: %w, and its file system is %#x", err, fs.Type)
	}
	return nil
}

// Do runs fn with the calling thread inside the namespace and waits for it. Sockets fn creates belong to the namespace
// for good; fn should do no more than that, and must not start goroutines that expect to be inside.
func (n *Netns) Do(fn func() error) error {
	return n.inside(func(leave func() error) error {
		err := fn()
		return errors.Join(err, leave())
	})
}

// inside runs fn on a thread of its own that has entered the namespace. fn calls leave when it needs the namespace no
// more. A thread that cannot return home is never unlocked, so that it dies with its goroutine instead of opening
// other people's sockets in the pod.
func (n *Netns) inside(fn func(leave func() error) error) error {
	if n.same {
		return fn(func() error { return nil })
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := setns(n.file); err != nil {
			// The thread never left.
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter network namespace %s: %w", n.id, err)
			return
		}
		left := false
		done <- fn(func() error {
			if left {
				return nil
			}
			if err := setns(n.home); err != nil {
				return fmt.Errorf("leave network namespace %s: %w", n.id, err)
			}
			left = true
			runtime.UnlockOSThread()
			return nil
		})
	}()
	return <-done
}

func setns(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.Setns(int(fd), unix.CLONE_NEWNET) }); err != nil {
		return err
	}
	return serr
}
