package sandbox

import "strings"

// PodUID reads the UID of a pod from what /proc/<pid>/cgroup says, or returns "" for a process of no pod. It understands
// control groups of both versions, made by the kubelet's drivers cgroupfs and systemd, seen from outside or from inside a
// control group's namespace (cgroups(7), k8s.io/kubernetes pkg/kubelet/cm/cgroup_manager_linux.go):
//
//	0::/kubepods/burstable/pod2c48913c-b29f-11e7-9350-020968147796/<container>
//	0::/kubelet.slice/…/kubelet-kubepods-besteffort-pod2c48913c_b29f_11e7_9350_020968147796.slice/cri-containerd-<container>.scope
//	4:memory:/system.slice/containerd.service/kubepods-pod2c48913c_….slice:cri-containerd:<container>
//	0::/../../pod2c48913c-…/<container>
func PodUID(cgroups string) string {
	for line := range strings.Lines(cgroups) {
		// hierarchy:controllers:path; a path may hold colons.
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for segment := range strings.FieldsFuncSeq(parts[2], func(r rune) bool { return r == '/' || r == ':' }) {
			if uid := podSegment(segment); uid != "" {
				return uid
			}
		}
	}
	return ""
}

// podSegment is one name of a path: "pod<uid>", or with systemd the names of all groups above before it.
func podSegment(s string) string {
	s = strings.TrimSuffix(s, ".slice")
	if i := strings.LastIndex(s, "pod"); i == 0 || i > 0 && s[i-1] == '-' {
		return normalUID(s[i+len("pod"):])
	}
	return ""
}

// normalUID returns a UID as the API writes it: systemd has no dashes in names. Static pods have a hash for one.
func normalUID(s string) string {
	s = strings.ReplaceAll(s, "_", "-")
	switch len(s) {
	case 36:
		for i, c := range []byte(s) {
			dash := i == 8 || i == 13 || i == 18 || i == 23
			if dash && c != '-' || !dash && !hex(c) {
				return ""
			}
		}
	case 32:
		for _, c := range []byte(s) {
			if !hex(c) {
				return ""
			}
		}
	default:
		return ""
	}
	return s
}

func hex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' }

// startTime is when a process was started, in ticks since the machine was: field 22 of proc_pid_stat(5). The second field
// is the program's name, which may hold blanks and parentheses.
func startTime(stat string) (string, bool) {
	i := strings.LastIndexByte(stat, ')')
	if i < 0 {
		return "", false
	}
	fields := strings.Fields(stat[i+1:])
	if len(fields) < 20 {
		return "", false
	}
	ticks := fields[19]
	for _, c := range []byte(ticks) {
		if c < '0' || c > '9' {
			return "", false
		}
	}
	return ticks, true
}
