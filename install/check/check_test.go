package check

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func good() Facts {
	return Facts{
		Now: now, Server: now, Version: Version{1, 33, "v1.33.1"}, Namespace: Namespace{Name: "ambit-system"}, Redirection: "auto",
		Nodes:   []Node{{Name: "a", OS: "linux", Arch: "amd64", Kernel: "6.1.0-13-amd64", Runtime: "containerd://2.0.0", Ready: true}},
		Gateway: GatewayAPI{Installed: true, Version: "v1.6.1", Channel: "standard"},
	}
}

func installed() Facts {
	f := good()
	f.Mesh = &Mesh{
		Version: "v1.0.0", Profile: "ambient", Complete: true, Root: now.Add(365 * 24 * time.Hour),
		Parts: []Part{{Name: "ambitd", Kind: "Deployment", Want: 2, Have: 2, Settled: true}},
		Nodes: []Agent{{Node: "a", Ready: true, Desired: 3, Captured: 3, Taken: 3, Proxies: 1}},
	}
	return f
}

// tell prints findings as people see them, without those that are good.
func tell(list []Finding) string {
	var out []string
	for _, f := range list {
		if f.State != OK {
			out = append(out, fmt.Sprintf("%s %s: %s | %s", f.State, f.Check, f.Text, f.Fix))
		}
	}
	return strings.Join(out, "\n")
}

func TestNothingWrong(t *testing.T) {
	for name, f := range map[string]Facts{"before": good(), "after": installed()} {
		list := Judge(f)
		if got := tell(list); got != "" || Failures(list) != 0 {
			t.Errorf("%s: %s", name, got)
		}
		if len(list) < 6 {
			t.Errorf("%s: only %d checks: %v", name, len(list), list)
		}
	}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Facts)
		want   string
	}{
		{"old server", func(f *Facts) { f.Version = Version{1, 28, "v1.28.3"} }, "failed api-server: the API server is of version v1.28.3, and Ambit needs 1.29 or newer | upgrade the cluster"},
		{"clock", func(f *Facts) { f.Server = now.Add(-90 * time.Second) }, "failed clock: the clocks of this machine and of the API server are 1m29s apart"},
		{"clock a little", func(f *Facts) { f.Server = now.Add(10 * time.Second) }, "warning clock: "},
		{"clock not told", func(f *Facts) { f.Server = time.Time{} }, ""},
		{"rights", func(f *Facts) { f.Denied = []string{"create clusterroles"} }, "failed rights: we may not create clusterroles | kubectl create clusterrolebinding"},
		{"no CNI", func(f *Facts) { f.Nodes[0].Ready, f.Nodes[0].Trouble = false, "cni plugin not initialized" }, "failed nodes: node a is not ready: cni plugin not initialized | install a CNI first"},
		{"old kernel", func(f *Facts) { f.Nodes[0].Kernel = "5.4.0-100-generic" }, "failed nodes: node a has kernel 5.4.0-100-generic, and redirection needs 5.10 or newer"},
		{"kernel for eBPF", func(f *Facts) { f.Nodes[0].Kernel, f.Redirection = "6.4.9", "ebpf" }, "failed nodes: node a has kernel 6.4.9, and redirection by eBPF needs 6.5 or newer: its iterator over TCP sockets cannot put them into maps, and the agent there would not start | --set cni.redirection=auto"},
		{"kernel that eBPF can do with", func(f *Facts) { f.Nodes[0].Kernel, f.Redirection = "6.5.0", "ebpf" }, ""},
		{"kernel without eBPF", func(f *Facts) { f.Nodes[0].Kernel, f.Redirection = "5.10.0", "auto" }, ""},
		{"strange kernel", func(f *Facts) { f.Nodes[0].Kernel = "unknown" }, "warning nodes: node a has a kernel that calls itself"},
		{"windows", func(f *Facts) { f.Nodes = append(f.Nodes, Node{Name: "w", OS: "windows", Ready: true}) }, "warning nodes: nodes w do not run Linux"},
		{"arch", func(f *Facts) { f.Nodes[0].Arch = "s390x" }, "failed nodes: node a is s390x, for which there are no images"},
		{"node ahead", func(f *Facts) { f.Nodes[0].Ahead = 2 * time.Minute }, "failed nodes: the clock of node a is 2m0s before"},
		{"no nodes", func(f *Facts) { f.Nodes = nil }, "failed nodes: the cluster has no nodes"},
		{"no gateway API", func(f *Facts) { f.Gateway = GatewayAPI{} }, "warning gateway-api: the Gateway API is not installed: there will be no waypoints and gateways | kubectl apply --server-side -f https://"},
		{"no gateway API on an old server", func(f *Facts) { f.Gateway, f.Version = GatewayAPI{}, Version{1, 30, "v1.30.4"} }, "warning gateway-api: the Gateway API is not installed: there will be no waypoints and gateways | kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.4.1/"},
		{"what an old server cannot have", func(f *Facts) {
			f.Version, f.Gateway = Version{1, 29, "v1.29.6"}, GatewayAPI{Installed: true, Version: "v1.4.1", Channel: "standard", Missing: []string{"tlsroutes"}}
		}, ""},
		{"old gateway API", func(f *Facts) { f.Gateway.Version = "v0.8.1" }, "failed gateway-api: the Gateway API is of version v0.8.1"},
		{"gateway API of a day", func(f *Facts) { f.Gateway.Version = "main-abc" }, ""},
		{"kinds missing", func(f *Facts) { f.Gateway.Missing = []string{"grpcroutes"} }, "warning gateway-api: Gateway API v1.6.1 (standard channel) lacks grpcroutes"},
		{"istio", func(f *Facts) { f.Rivals = []string{"daemonset istio-system/istio-cni-node"} }, "failed other-meshes: daemonset istio-system/istio-cni-node would take the same pods"},
		{"restricted", func(f *Facts) { f.Namespace = Namespace{Name: "n", Exists: true, Enforce: "restricted"} }, "failed namespace: namespace n admits restricted pods only, and node agents are not | kubectl label namespace n"},
		{"ending", func(f *Facts) { f.Namespace = Namespace{Name: "n", Exists: true, Ending: true} }, "failed namespace: namespace n is being deleted"},
		{"policy", func(f *Facts) {
			f.Policies = []Policy{{Namespace: "shop", Name: "only-http", Pods: 4, Rules: []int{0, 2}}}
		}, `failed network-policies: networkpolicy shop/only-http lets no tunnels (port 15008) into 4 pods of the mesh | kubectl -n shop patch networkpolicy only-http --type json -p '[{"op":"add","path":"/spec/ingress/0/ports/-","value":{"port":15008,"protocol":"TCP"}},{"op":"add","path":"/spec/ingress/2/ports/-","value":{"port":15008,"protocol":"TCP"}}]'; before it "ambitctl upgrade --set control.networkPolicies=true", or these peers may then connect to every port of the pods by the tunnel`},
		{"policy that node proxies enforce", func(f *Facts) {
			f.Enforced, f.Policies = true, []Policy{{Namespace: "shop", Name: "only-http", Pods: 4, Rules: []int{0}}}
		}, `failed network-policies: networkpolicy shop/only-http lets no tunnels (port 15008) into 4 pods of the mesh | kubectl -n shop patch networkpolicy only-http --type json -p '[{"op":"add","path":"/spec/ingress/0/ports/-","value":{"port":15008,"protocol":"TCP"}}]'`},
		{"widened policy", func(f *Facts) {
			f.Widened = []Policy{{Namespace: "shop", Name: "web", Pods: 2, By: "web"}}
		}, "warning network-policies: networkpolicy shop/web restricts nothing inside the mesh: whom it admits may connect to every port of 2 pods by the tunnels' port 15008, which it admits | ambitctl upgrade --set control.networkPolicies=true, or say the ports in an AuthorizationPolicy"},
		{"policy widened by another", func(f *Facts) {
			f.Widened = []Policy{{Namespace: "shop", Name: "web", Pods: 2, By: "mesh", Others: true}}
		}, "warning network-policies: networkpolicy shop/web restricts nothing inside the mesh: others than it admits, too, may connect to every port of 2 pods by the tunnels' port 15008, which networkpolicy mesh admits | ambitctl upgrade --set control.networkPolicies=true, or say the ports in an AuthorizationPolicy; and let networkpolicy mesh admit port 15008 only \"from\" the peers of the other rules"},
		{"policy that is not widened", func(f *Facts) {
			f.Enforced, f.Widened = true, []Policy{{Namespace: "shop", Name: "web", Pods: 2, By: "web"}}
		}, ""},
		{"broken off", func(f *Facts) { f.Mesh.Complete = false }, "failed installation: the installation of v1.0.0 was broken off | ambitctl upgrade"},
		{"part missing", func(f *Facts) { f.Mesh.Parts[0].Missing = true }, "failed parts: deployment ambitd is missing | ambitctl upgrade"},
		{"part not ready", func(f *Facts) { f.Mesh.Parts[0].Have, f.Mesh.Parts[0].Trouble = 1, []string{"x: ImagePullBackOff"} }, "failed parts: ambitd: 1 of 2 pods ready: x: ImagePullBackOff | kubectl -n ambit-system describe deployment ambitd"},
		{"part stuck", func(f *Facts) { f.Mesh.Parts[0].Settled, f.Mesh.Parts[0].Trouble = false, []string{"x: ErrImagePull"} }, "failed parts: ambitd is being rolled out, and does not get on: x: ErrImagePull"},
		{"gateway not ready", func(f *Facts) { p := &f.Mesh.Parts[0]; p.Namespace, p.Name, p.Have = "shop", "front", 1 }, "failed parts: shop/front: 1 of 2 pods ready | kubectl -n shop describe deployment front"},
		{"part rolling", func(f *Facts) { f.Mesh.Parts[0].Settled = false }, "warning parts: ambitd is being rolled out"},
		{"not captured", func(f *Facts) {
			f.Mesh.Nodes[0].Taken = 2
			f.Mesh.Nodes[0].Waiting = map[string]string{"shop/web": "no netns"}
		}, "failed pods: pod shop/web on node a: no netns | kubectl -n shop describe pod web\nfailed pods: 2 of 3 pods are in the mesh | ambitctl enrolment"},
		{"plugin", func(f *Facts) { f.Mesh.Nodes[0].Plugin = "no conflist" }, "failed cni: on node a new pods are not brought in: no conflist"},
		{"plugin without a token", func(f *Facts) { f.Mesh.Nodes[0].PluginWarning = "no token" }, "warning cni: on node a new pods are brought in, but: no token | kubectl -n "},
		{"no proxy", func(f *Facts) { f.Mesh.Nodes[0].Proxies = 0 }, "failed node-proxies: no node proxy is connected on node a"},
		{"silent agent", func(f *Facts) { f.Mesh.Silent = map[string]string{"b": "timeout"} }, "failed cni: the agent of node b does not answer: timeout"},
		{"root soon", func(f *Facts) { f.Mesh.Root = now.Add(24 * time.Hour) }, "warning certificates: the mesh's root certificate ends on 2026-11-22 | ambitctl ca rotate"},
		{"root ended", func(f *Facts) { f.Mesh.Root = now.Add(-time.Hour) }, "failed certificates: the mesh's root certificate ended on 2026-11-21"},
		{"serving certificate", func(f *Facts) {
			f.Mesh.Certificates = []Certificate{{Serving, "CN=ambitd", now.Add(-time.Minute)}}
		}, "failed certificates: the authority's serving certificate (CN=ambitd) ended at 2026-11-21T11:59:00Z | ambitctl ca status"},
		{"serving certificate that will be renewed", func(f *Facts) {
			f.Mesh.Certificates = []Certificate{{Serving, "CN=ambitd", now.Add(time.Hour)}}
		}, ""},
		{"issuer soon", func(f *Facts) {
			f.Mesh.Certificates = []Certificate{{Issuer, "O=shop", now.Add(29 * 24 * time.Hour)}, {Intermediate, "O=corp", now.Add(31 * 24 * time.Hour)}}
		}, "warning certificates: the authority's issuer certificate (O=shop) ends on 2026-12-20 | replace the Secret cacerts"},
		{"authority", func(f *Facts) { f.Mesh.Warned = []string{"the new key does not fit"} }, "warning certificates: the authority warns: the new key does not fit | ambitctl ca status"},
		{"one version", func(f *Facts) { f.Mesh.Proxies = map[string]int{"v1.0.0": 3} }, ""},
		{"two versions", func(f *Facts) { f.Mesh.Proxies = map[string]int{"v1.0.0": 3, "": 1} }, "warning versions: proxies that are connected are of several versions: 1 of no version, 3 of v1.0.0 | wait for a rollout"},
		{"refused", func(f *Facts) { f.Mesh.Refused = 2 }, "warning configuration: 2 documents are refused, or have no effect | ambitctl config refused"},
		{"definitions lost", func(f *Facts) { f.Mesh.Lost = []string{"a.istio.io", "b.istio.io"} }, "failed definitions: 2 definitions of the mesh's kinds are missing (a.istio.io, b.istio.io): "},
		{"control silent", func(f *Facts) { f.Mesh.Unknown = "timeout" }, "failed control-plane: the control plane does not answer: timeout"},
	} {
		f := installed()
		if c.name == "rights" {
			f = good()
		}
		c.change(&f)
		got := tell(Judge(f))
		if c.want == "" && got != "" || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

// TestServers: what is said of API servers that will do.
func TestServers(t *testing.T) {
	for minor, want := range map[int]string{29: "API server v1.29.6; from 1.30 on", 30: "API server v1.30.6", 36: "API server v1.36.6"} {
		f := good()
		f.Version = Version{1, minor, fmt.Sprintf("v1.%d.6", minor)}
		i := slices.IndexFunc(Judge(f), func(f Finding) bool {
			return f.Check == "api-server" && f.State == OK && strings.HasPrefix(f.Text, want)
		})
		if i < 0 {
			t.Errorf("1.%d: no finding %q in %v", minor, want, Judge(f))
		}
	}
}

func TestManyPolicies(t *testing.T) {
	f := good()
	for i := range 9 {
		f.Policies = append(f.Policies, Policy{Namespace: "shop", Name: fmt.Sprint("np", i), Pods: 1})
		f.Widened = append(f.Widened, Policy{Namespace: "shop", Name: fmt.Sprint("wide", i), Pods: 1})
	}
	list := Judge(f)
	if n := Failures(list); n != 5 {
		t.Errorf("%d failures", n)
	}
	if got := tell(list); !strings.Contains(got, "and 4 more |") || !strings.Contains(got, "and 4 more are widened") || strings.Contains(got, "wide5") {
		t.Error(got)
	}
}

func TestVersions(t *testing.T) {
	type v struct {
		A, B int
		OK   bool
	}
	got := map[string]v{}
	for _, s := range []string{"6.1.0-13-amd64", "5.15.0", "6.18-rc1", "6", "", "x.y"} {
		a, b, ok := kernelVersion(s)
		got[s] = v{a, b, ok}
	}
	want := map[string]v{"6.1.0-13-amd64": {6, 1, true}, "5.15.0": {5, 15, true}, "6.18-rc1": {6, 18, true}, "6": {6, 0, false}, "": {}, "x.y": {}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
