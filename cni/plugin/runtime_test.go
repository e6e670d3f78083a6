package plugin

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/api/netns/netnstest"
)

// program builds the plugin, as a runtime would find it in a folder.
func program(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("go", "build", "-o", dir+"/ambit-cni", "../cmd/ambit-cni").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// before is a plugin that gives every pod the same address.
const before = `#!/bin/sh
cat > /dev/null
[ "$CNI_COMMAND" = VERSION ] && echo '{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}'
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion":"@","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],"ips":[{"version":"4","address":"10.0.0.5/24","interface":0}],"dns":{}}'
`

// One conflist for each version of the specification, carried out by the library that containerd and CRI-O use.
func TestRuntimeLibrary(t *testing.T) {
	dir := program(t)
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			first := filepath.Join(t.TempDir(), "before")
			if err := os.WriteFile(first, []byte(strings.ReplaceAll(before, "@", version)), 0o755); err != nil {
				t.Fatal(err)
			}
			a := newAgent(t)
			list := conflist(t, version, `{"type":"before"}`, a.dir)
			cni := libcni.NewCNIConfigWithCacheDir([]string{filepath.Dir(first), dir}, t.TempDir(), nil)
			lifecycle(t, cni, list, a, version, "/var/run/netns/x")
			if _, err := cni.AddNetworkList(t.Context(), list, runtimeConf("out", "/var/run/netns/x")); err != nil {
				t.Errorf("a pod outside: %v", err)
			}
			a.code = http.StatusInternalServerError
			_, err := cni.AddNetworkList(t.Context(), list, runtimeConf("in", "/var/run/netns/x"))
			if err == nil || !strings.Contains(err.Error(), "no ztunnel here") || !strings.Contains(err.Error(), "ambit-cni") {
				t.Errorf("the agent refuses: %v", err)
			}
		})
	}
}

// A chain with a plugin that really makes an interface, as on a node.
func TestBehindARealPlugin(t *testing.T) {
	real := ""
	for _, d := range []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"} {
		if _, err := os.Stat(d + "/ptp"); err == nil {
			real = d
		}
	}
	if real == "" {
		t.Skip("the plugins ptp and host-local are not installed (containernetworking-plugins)")
	}
	node, pod := netnstest.Make(t), netnstest.Make(t)
	a := newAgent(t)
	dir := program(t)
	const version = "1.0.0"
	list := conflist(t, version, fmt.Sprintf(`{"type":"ptp","ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.9.0.0/24"}],[{"subnet":"fd09::/64"}]]}}`, t.TempDir()), a.dir)
	cni := libcni.NewCNIConfigWithCacheDir([]string{real, dir}, t.TempDir(), nil)
	if err := node.Do(func() error { lifecycle(t, cni, list, a, version, path(pod)); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := `"IP":"10.9.0.2"`; !strings.Contains(strings.Join(a.asked, "\n"), want) || !strings.Contains(strings.Join(a.asked, "\n"), "fd09::2") {
		t.Errorf("the agent was told %q", a.asked)
	}
}

func path(n *netns.Netns) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.File().Fd()) }

func conflist(t *testing.T, version, first, runDir string) *libcni.NetworkConfigList {
	t.Helper()
	text := fmt.Sprintf(`{"cniVersion":%q,"name":"net","plugins":[%s,{"type":"ambit-cni","cni_agent_run_dir":%q,"pod_namespace":"ambit-system"}]}`, version, first, runDir)
	list, err := libcni.NetworkConfFromBytes([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func runtimeConf(pod, netns string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: "c-" + pod, NetNS: netns, IfName: "eth0", Args: [][2]string{
		{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", pod},
	}}
}

// lifecycle is all that a runtime does with a pod of the mesh.
func lifecycle(t *testing.T, cni *libcni.CNIConfig, list *libcni.NetworkConfigList, a *agent, version, netns string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	rt := runtimeConf("in", netns)
	r, err := cni.AddNetworkList(ctx, list, rt)
	if err != nil {
		t.Error(err)
		return
	}
	if len(a.asked) != 2 || !strings.HasPrefix(a.asked[1], "POST /cmdadd") {
		t.Errorf("the agent was asked %q", a.asked)
	}
	if r.Version() != version {
		t.Errorf("the result is of version %s", r.Version())
	}
	full, err := types100.GetResult(r)
	if err != nil || len(full.IPs) == 0 {
		t.Errorf("the first plugin's result is lost: %v %v", r, err)
	}
	if version >= "0.4.0" {
		if err := cni.CheckNetworkList(ctx, list, rt); err != nil {
			t.Errorf("CHECK: %v", err)
		}
	}
	if version >= "1.1.0" {
		if err := cni.GetStatusNetworkList(ctx, list); err != nil {
			t.Errorf("STATUS: %v", err)
		}
		if err := cni.GCNetworkList(ctx, list, &libcni.GCArgs{}); err != nil {
			t.Errorf("GC: %v", err)
		}
	}
	if err := cni.DelNetworkList(ctx, list, rt); err != nil {
		t.Errorf("DEL: %v", err)
	}
	if _, err := cni.ValidateNetworkList(ctx, list); err != nil {
		t.Errorf("VERSION: %v", err)
	}
}
