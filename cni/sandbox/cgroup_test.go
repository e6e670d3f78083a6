package sandbox

import (
	"strings"
	"testing"
)

const uid = "2c48913c-b29f-11e7-9350-020968147796"

func TestPodUID(t *testing.T) {
	under := strings.ReplaceAll(uid, "-", "_")
	const id = "f1b6e4542df0252bc9432471d4a407be872d4015b2497074d665eccab0d7b198"
	for name, c := range map[string]struct{ cgroups, want string }{
		"v1, cgroupfs, containerd": {"11:memory:/kubepods/burstable/pod" + uid + "/" + id + "\n10:cpu,cpuacct:/kubepods/burstable/pod" + uid + "/" + id + "\n0::/\n", uid},
		"v1, only one controller":  {"0::/\n1:name=systemd:/kubepods/besteffort/pod" + uid + "/" + id + "\n", uid},
		"v1, guaranteed":           {"4:memory:/kubepods/pod" + uid + "/" + id, uid},
		"v1, systemd":              {"4:memory:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under + ".slice/cri-containerd-" + id + ".scope\n", uid},
		"v2, cgroupfs":             {"0::/kubepods/burstable/pod" + uid + "/" + id + "\n", uid},
		"v2, systemd, containerd":  {"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + under + ".slice/cri-containerd-" + id + ".scope\n", uid},
		"v2, systemd, cri-o":       {"0::/kubepods.slice/kubepods-pod" + under + ".slice/crio-" + id + ".scope/container\n", uid},
		"v2, systemd, docker":      {"0::/kubepods.slice/kubepods-pod" + under + ".slice/docker-" + id + ".scope\n", uid},
		"v2, kind":                 {"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod" + under + ".slice/cri-containerd-" + id + ".scope\n", uid},
		"v2, from another group":   {"0::/../../pod" + uid + "/" + id + "\n", uid},
		"v2, from another slice":   {"0::/../../kubepods-besteffort-pod" + under + ".slice/cri-containerd-" + id + ".scope\n", uid},
		"below containerd":         {"5:cpuset:/system.slice/containerd.service/kubepods-burstable-pod" + under + ".slice:cri-containerd:" + id + "\n", uid},
		"a static pod":             {"0::/kubepods/pod4f1b2e6a0d6c9e6b7a8f9c0d1e2f3a4b/" + id, "4f1b2e6a0d6c9e6b7a8f9c0d1e2f3a4b"},
		"a child of the container": {"0::/kubepods/pod" + uid + "/" + id + "/system.slice/app.service\n", uid},
		"a service":                {"0::/system.slice/podman.service\n", ""},
		"podman":                   {"0::/machine.slice/libpod-" + id + ".scope\n", ""},
		"a pod without a UID":      {"0::/kubepods/pod/" + id + "\n", ""},
		"an upper-case UID":        {"0::/kubepods/pod" + strings.ToUpper(uid) + "\n", ""},
		"a UID too long":           {"0::/kubepods/pod" + uid + "0\n", ""},
		"a user's slice":           {"0::/user.slice/user-0.slice/session-1.scope\n", ""},
		"the root":                 {"0::/\n", ""},
		"nothing":                  {"", ""},
		"no cgroups at all":        {"hello", ""},
	} {
		if got := PodUID(c.cgroups); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestStartTime(t *testing.T) {
	const rest = " S 1 1 1 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 %s 1000 10"
	for stat, want := range map[string]string{
		"7 (pause)" + strings.ReplaceAll(rest, "%s", "4711"):            "4711",
		"7 (a) (b) x) S 1" + strings.ReplaceAll(rest[4:], "%s", "4711"): "4711",
		"7 (pause) S 1 1": "",
		"7 pause S":       "",
		"":                "",
		"7 (pause)" + strings.ReplaceAll(rest, "%s", "-1"): "",
	} {
		if got, ok := startTime(stat); got != want || ok != (want != "") {
			t.Errorf("%q: %q %v, want %q", stat, got, ok, want)
		}
	}
}

func FuzzPodUID(f *testing.F) {
	f.Add("0::/kubepods/burstable/pod" + uid + "/x\n")
	f.Add("5:cpuset:/a:b/kubepods-pod" + strings.ReplaceAll(uid, "-", "_") + ".slice:cri-containerd:x")
	f.Fuzz(func(t *testing.T, cgroups string) {
		got := PodUID(cgroups)
		if got == "" {
			return
		}
		if normalUID(got) != got {
			t.Fatalf("%q is no UID", got)
		}
		if !strings.Contains(strings.ReplaceAll(cgroups, "_", "-"), "pod"+got) {
			t.Fatalf("%q is not in %q", got, cgroups)
		}
	})
}
