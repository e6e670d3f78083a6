package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/api/labfile"
	"github.com/ambit-mesh/ambit/e2e/lab/fabric"
	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
	"github.com/ambit-mesh/ambit/e2e/lab/sandbox"
	"github.com/ambit-mesh/ambit/e2e/lab/supervisor"
	"golang.org/x/sys/unix"
)

// Clean removes a lab by name, whatever state it is in: its processes, found by control group, pid file and network
// namespace; its namespaces; its mounts; its folder. A lab that is not there is no error.
func Clean(name string) error {
	if !nameRule.MatchString(name) {
		return fmt.Errorf("lab name %q: up to 20 lower case letters, digits and dashes", name)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("remove lab %q: labs are for root: try again with sudo", name)
	}
	dir := labfile.Dir(name)
	// The supervisor first, or it would start again what is killed next.
	errs := []error{killSupervisor(dir), sandbox.FindCgroups(id(name)).Kill(""), killResidents(id(name))}
	errs = append(errs, fabric.Destroy(id(name)), unmountBelow(dir))
	if err := os.RemoveAll(dir); err != nil {
		errs = append(errs, fmt.Errorf("remove lab folder: %w", err))
	}
	// Only succeeds for the last lab.
	_ = os.Remove(filepath.Dir(dir))
	return errors.Join(errs...)
}

// Names lists every lab that has left a trace: a folder or a namespace.
func Names() ([]string, error) {
	seen := map[string]bool{}
	var names []string
	add := func(name string) {
		if nameRule.MatchString(name) && !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	entries, err := os.ReadDir(labfile.Root())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	for _, e := range entries {
		add(e.Name())
	}
	spaces, err := netspace.List("ambit.")
	if err != nil {
		return nil, err
	}
	for _, s := range spaces {
		if parts := strings.SplitN(s, ".", 3); len(parts) == 3 {
			if name, _, _ := strings.Cut(parts[1], "~"); parts[1] == id(name) {
				add(name)
			}
		}
	}
	return names, nil
}

// supervisorPid reads the pid file; 0 means that the process it names is gone, even if the number is in use again.
func supervisorPid(dir string) int {
	data, err := os.ReadFile(filepath.Join(dir, supervisor.PidFile))
	if err != nil {
		return 0
	}
	var pid int
	var started uint64
	if _, err := fmt.Sscan(string(data), &pid, &started); err != nil {
		return 0
	}
	if t, err := sandbox.StartTime(pid); err != nil || t != started {
		return 0
	}
	return pid
}

// alive says whether a lab has a supervisor, or someone who is about to start one.
func alive(dir string) bool {
	if supervisorPid(dir) != 0 {
		return true
	}
	info, err := os.Stat(dir)
	_, unsigned := os.Stat(filepath.Join(dir, supervisor.PidFile))
	return err == nil && unsigned != nil && time.Since(info.ModTime()) < 2*time.Second
}

func killSupervisor(dir string) error {
	pid := supervisorPid(dir)
	if pid == 0 || pid == os.Getpid() {
		return nil
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end supervisor: %w", err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for supervisorPid(dir) == pid && !zombie(pid) {
		if time.Now().After(deadline) {
			return fmt.Errorf("supervisor %d does not end", pid)
		}
		pause(5 * time.Millisecond)
	}
	return nil
}

func pause(d time.Duration) {
	timer := time.NewTimer(d)
	<-timer.C
}

// zombie says whether a process has ended and only waits for its parent to notice.
func zombie(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	i := strings.LastIndexByte(string(data), ')')
	return i >= 0 && strings.HasPrefix(string(data[i+1:]), " Z")
}

// killResidents ends every process that lives in one of the lab's network namespaces.
func killResidents(id string) error {
	spaces, err := netspace.List(fabric.Prefix(id))
	if err != nil {
		return err
	}
	inodes := map[string]bool{}
	for _, s := range spaces {
		var st unix.Stat_t
		if err := unix.Stat(netspace.Path(s), &st); err == nil {
			inodes[fmt.Sprintf("net:[%d]", st.Ino)] = true
		}
	}
	if len(inodes) == 0 {
		return nil
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("look for processes of the lab: %w", err)
	}
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if link, err := os.Readlink(filepath.Join("/proc", p.Name(), "ns/net")); err == nil && inodes[link] {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	return nil
}

func unmountBelow(dir string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("look for mounts of the lab: %w", err)
	}
	var errs []error
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			if err := unix.Unmount(fields[4], unix.MNT_DETACH); err != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w", fields[4], err))
			}
		}
	}
	return errors.Join(errs...)
}
