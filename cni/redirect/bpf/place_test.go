package bpf

import (
	"strings"
	"testing"
)

func TestCgroupMount(t *testing.T) {
	const hybrid = `25 20 0:21 / /sys/fs/cgroup ro - tmpfs tmpfs ro
30 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
90 80 0:26 /../../.. /host/sys/fs/cgroup/unified rw master:4 - cgroup2 cgroup2 rw
`
	const inside = `25 20 0:26 /../.. /host/sys/fs/cgroup rw - cgroup2 cgroup2 rw
`
	for _, c := range []struct{ mounts, dir, want string }{
		{hybrid, "", "/sys/fs/cgroup/unified"},
		{hybrid, "/host/sys/fs/cgroup", "/host/sys/fs/cgroup/unified"},
		{hybrid, "/host/sys/fs/cgroup/", "/host/sys/fs/cgroup/unified"},
		{hybrid, "/elsewhere", ""},
		{inside, "", ""},
		{"", "", ""},
		{"garbage - cgroup2 \n", "", ""},
	} {
		got, err := cgroupMount(strings.NewReader(c.mounts), c.dir)
		if err != nil || got != c.want {
			t.Errorf("%q in %q: %q, %v, want %q", c.dir, c.mounts, got, err, c.want)
		}
	}
}
