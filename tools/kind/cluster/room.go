package cluster

import (
	"errors"
	"fmt"
	"syscall"
)

// Watchers is how many inotify instances a cluster of a shape uses, with some room for what runs in it: kubelets and the control
// plane have most of them.
func Watchers(s Shape) int { return 30 + 12*(1+s.Workers) }

// Room fails when the machine does not give as many inotify instances, which kubelets report only in their logs. Linux counts
// them per user over the whole machine, containers included, and allows 128 unless told otherwise.
func Room(watchers int) error {
	for i := range watchers {
		fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC)
		if errors.Is(err, syscall.EMFILE) {
			return fmt.Errorf("only %d of %d inotify instances that the cluster needs are left to this user: "+
				"delete other clusters (ambit-kind list), or say sysctl -w fs.inotify.max_user_instances=1024", i, watchers)
		} else if err != nil {
			return fmt.Errorf("try inotify: %w", err)
		}
		defer syscall.Close(fd)
	}
	return nil
}
