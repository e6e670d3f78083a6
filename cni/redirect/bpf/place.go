package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Place is where programs hang and where they are kept.
type Place struct {
	// Dir is a folder in a BPF file system that belongs to one agent alone.
	Dir string
	// Cgroup is the root of control groups v2; empty means where they are mounted.
	Cgroup string
}

// DefaultDir is the agent's folder on a node.
const DefaultDir = mountPoint + "/ambit"

const mountPoint = "/sys/fs/bpf"

// layout is the version of the maps' shapes: an agent with other shapes does not touch those in use.
const layout = "v1"

func (p Place) maps() string         { return filepath.Join(p.Dir, layout, "maps") }
func (p Place) links() string        { return filepath.Join(p.Dir, layout, "links") }
func (p Place) pods() string         { return filepath.Join(p.Dir, layout, "pods") }
func (p Place) pod(c uint64) string  { return filepath.Join(p.pods(), fmt.Sprintf("%x", c)) }
func (p Place) link(n string) string { return filepath.Join(p.links(), n) }

// prepare makes the folders, in a BPF file system.
func (p Place) prepare() error {
	if p.Dir == "" {
		return errors.New("no folder for BPF programs: set --bpf-dir")
	}
	ok, err := inBPF(p.Dir)
	if err == nil && !ok && strings.HasPrefix(p.Dir, mountPoint+"/") {
		if err = unix.Mount("bpf", mountPoint, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
			return fmt.Errorf("mount a BPF file system at %s (CONFIG_BPF_SYSCALL, CAP_SYS_ADMIN): %w", mountPoint, err)
		}
		ok = true
	}
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%s is not in a BPF file system: mount one there (mount -t bpf bpf DIR) or set --bpf-dir to a folder in one", p.Dir)
	}
	for _, dir := range []string{p.maps(), p.links(), p.pods()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("folder for BPF programs: %w", err)
		}
	}
	return nil
}

// inBPF asks the nearest folder that exists.
func inBPF(dir string) (bool, error) {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if err == nil {
			return st.Type == unix.BPF_FS_MAGIC, nil
		}
		if !errors.Is(err, unix.ENOENT) || dir == filepath.Dir(dir) {
			return false, fmt.Errorf("look at %s: %w", dir, err)
		}
		dir = filepath.Dir(dir)
	}
}

// cgroup opens the root of control groups v2: a hook there sees every process of the machine. On machines that have both
// versions it is below the folder where v1 is; in a container the machine's root is what was mounted there. Where nothing is
// mounted a mount is made that nobody sees. The path is good until the file, if there is one, is closed.
func (p Place) cgroup() (string, *os.File, error) {
	path, err := p.mounted()
	if err != nil || path != "" {
		return path, nil, errors.Join(err, below(path))
	}
	f, err := mountCgroup()
	if err != nil {
		return "", nil, fmt.Errorf("control groups v2 are not mounted here (mount -t cgroup2, or set --cgroup-root): %w", err)
	}
	path = fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if err := below(path); err != nil {
		return "", nil, errors.Join(err, f.Close())
	}
	return path, f, nil
}

func mountCgroup() (*os.File, error) {
	fs, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, err
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "cgroup2"), nil
}

// mounted is where control groups v2 are mounted; empty for nowhere.
func (p Place) mounted() (string, error) {
	var st unix.Statfs_t
	if p.Cgroup != "" {
		if err := unix.Statfs(p.Cgroup, &st); err != nil {
			return "", fmt.Errorf("root of control groups: %s: %w", p.Cgroup, err)
		}
		if st.Type == unix.CGROUP2_SUPER_MAGIC {
			return p.Cgroup, nil
		}
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find control groups v2: %w", err)
	}
	defer f.Close()
	return cgroupMount(f, p.Cgroup)
}

// below refuses a container's own control group, from which hooks would see nobody else.
func below(root string) error {
	procs, err := os.ReadFile(filepath.Join(root, "cgroup.procs"))
	if err != nil {
		return fmt.Errorf("root of control groups: %w", err)
	}
	// Processes of other containers would be there as well, as 0.
	if alone := strings.TrimSpace(string(procs)) == strconv.Itoa(os.Getpid()); alone {
		return fmt.Errorf("%s is the agent's own control group, not the node's: mount the node's /sys/fs/cgroup and set --cgroup-root to it", root)
	}
	return nil
}

// cgroupMount reads mounts, as in /proc/self/mountinfo, for the one of control groups v2: anywhere if it shows the reader's
// own root, or else below dir.
func cgroupMount(mounts io.Reader, dir string) (string, error) {
	lines := bufio.NewScanner(mounts)
	for lines.Scan() {
		// proc(5): … root mount-point options … - type source options
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if !ok || !strings.HasPrefix(after, "cgroup2 ") || len(fields) < 5 {
			continue
		}
		if dir == "" && fields[3] == "/" || dir != "" && strings.HasPrefix(fields[4], strings.TrimSuffix(dir, "/")+"/") {
			return fields[4], nil
		}
	}
	return "", lines.Err()
}
