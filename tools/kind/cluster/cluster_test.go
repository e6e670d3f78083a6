package cluster

import (
	"strings"
	"syscall"
	"testing"
)

func TestConfig(t *testing.T) {
	got := Config(Shape{Name: "x", Workers: 2, Family: "dual", Port: 40123})
	const want = `kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
name: x
networking:
  ipFamily: dual
  apiServerAddress: 127.0.0.1
  apiServerPort: 40123
nodes:
  - role: control-plane
  - role: worker
  - role: worker
`
	if got != want {
		t.Errorf("got\n%s", got)
	}
	const patched = `kubeadmConfigPatches:
  - |
    kind: KubeletConfiguration
    failCgroupV1: false
  - |
    kind: ClusterConfiguration
`
	if got := Config(Shape{Name: "x", Workers: 2, Family: "dual", Port: 40123, Kubeadm: []string{"kind: KubeletConfiguration\nfailCgroupV1: false\n", "kind: ClusterConfiguration"}}); got != want+patched {
		t.Errorf("with patches\n%s", got)
	}
	// On the user's Docker kind finds a port itself.
	if got := Config(Shape{Name: "x", Workers: 1, Family: "ipv4"}); strings.Contains(got, "apiServer") {
		t.Errorf("for a published image:\n%s", got)
	}
}

func TestCheck(t *testing.T) {
	for _, tc := range []struct {
		shape Shape
		want  string
	}{
		{Shape{Name: "ambit", Workers: 2, Family: "ipv4"}, ""},
		{Shape{Name: "../x", Workers: 2, Family: "ipv4"}, "NAME="},
		{Shape{Name: "Ambit", Workers: 2, Family: "ipv4"}, "NAME="},
		{Shape{Name: "", Workers: 2, Family: "ipv4"}, "NAME="},
		{Shape{Name: "a", Workers: 2, Family: "both"}, "IP_FAMILY="},
		{Shape{Name: "a", Workers: 99, Family: "dual"}, "99 workers"},
	} {
		err := tc.shape.Check()
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v", tc.shape, err)
		}
	}
}

func TestRoom(t *testing.T) {
	if n := Watchers(Shape{Workers: 2}); n < 50 || n > 100 {
		t.Errorf("three nodes are said to need %d: one cluster has to fit where Linux allows 128", n)
	}
	if err := Room(1); err != nil {
		t.Error(err)
	}
	// Descriptors run out as inotify instances do, whatever the machine allows.
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	few := syscall.Rlimit{Cur: 100, Max: was.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
			t.Error(err)
		}
	}()
	if err := Room(200); err == nil || !strings.Contains(err.Error(), "sysctl -w fs.inotify.max_user_instances") {
		t.Errorf("more than there are: %v", err)
	}
}

func TestServerMinor(t *testing.T) {
	for text, want := range map[string]int{
		`{"clientVersion":{"minor":"33"},"serverVersion":{"major":"1","minor":"29"}}`: 29,
		`{"serverVersion":{"minor":"30+"}}`:                                           30, `{"clientVersion":{"minor":"33"}}`: 0, `no`: 0,
	} {
		if got, err := serverMinor(text); got != want || (err == nil) != (want > 0) {
			t.Errorf("%s is %d, %v", text, got, err)
		}
	}
}
