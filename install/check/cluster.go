package check

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
)

func (j *judge) server(f Facts) {
	switch {
	case f.Version.Major == 1 && f.Version.Minor < oldestKube:
		j.fail("api-server", "upgrade the cluster", "the API server is of version %s, and Ambit needs 1.%d or newer", f.Version.Text, oldestKube)
	case f.Version.Major == 1 && f.Version.Minor < admissionKube:
		j.ok("api-server", "API server %s; from 1.%d on, it would refuse mistakes in policies and routes when they are applied", f.Version.Text, admissionKube)
	default:
		j.ok("api-server", "API server %s", f.Version.Text)
	}
	if f.Server.IsZero() {
		return
	}
	// The server says the time in whole seconds.
	skew := f.Now.Sub(f.Server).Abs() - time.Second
	switch {
	case skew > skewFailure:
		j.fail("clock", "set the clocks: \"timedatectl\" on both sides, \"chronyc makestep\"", "the clocks of this machine and of the API server are %s apart: certificates may not be valid yet, or not any more", skew.Round(time.Second))
	case skew > skewWarning:
		j.warn("clock", "see \"timedatectl\" on both sides", "the clocks of this machine and of the API server are %s apart", skew.Round(time.Second))
	default:
		j.ok("clock", "clocks agree")
	}
}

func (j *judge) rights(f Facts) {
	switch {
	case f.Mesh != nil:
		return // installed already, and looking takes less
	case len(f.Denied) == 0:
		j.ok("rights", "we may do all that installing takes")
		return
	}
	j.fail("rights", "kubectl create clusterrolebinding ambit-installer --clusterrole cluster-admin --user \"$(kubectl auth whoami -o jsonpath='{.status.userInfo.username}')\", by somebody who may", "we may not %s", strings.Join(f.Denied, ", "))
}

func (j *judge) nodes(f Facts) {
	var fit, others []string
	for _, n := range f.Nodes {
		switch {
		case n.OS != "linux":
			others = append(others, n.Name)
			continue
		case !n.Ready:
			fix := fmt.Sprintf("kubectl describe node %s", n.Name)
			if strings.Contains(n.Trouble, "cni") || strings.Contains(n.Trouble, "network") {
				fix = "install a CNI first: the mesh's plugin is chained after it; see https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/network-plugins/"
			}
			j.fail("nodes", fix, "node %s is not ready: %s", n.Name, n.Trouble)
			continue
		}
		if n.Ahead > skewFailure {
			j.fail("nodes", "set the clock of the node: \"chronyc makestep\" there", "the clock of node %s is %s before the API server's: its certificates are not valid yet for others", n.Name, n.Ahead.Round(time.Second))
		} else if n.Ahead > skewWarning {
			j.warn("nodes", "see \"timedatectl\" there", "the clock of node %s is %s before the API server's", n.Name, n.Ahead.Round(time.Second))
		}
		if n.Arch != "amd64" && n.Arch != "arm64" {
			j.fail("nodes", "keep the mesh from it with cni.nodeSelector and ztunnel.nodeSelector", "node %s is %s, for which there are no images", n.Name, n.Arch)
			continue
		}
		if !j.kernel(f, n) {
			continue
		}
		fit = append(fit, n.Name)
	}
	if len(fit) > 0 {
		j.ok("nodes", "%s of %d nodes: Linux %s, %s", counted(len(fit)), len(f.Nodes), kernels(f.Nodes), runtimes(f.Nodes))
	} else if len(f.Nodes) == 0 {
		j.fail("nodes", "add a node", "the cluster has no nodes")
	}
	if len(others) > 0 {
		j.warn("nodes", "nothing: they have no proxy, and their pods stay outside", "nodes %s do not run Linux", strings.Join(others, ", "))
	}
}

// kernel reports whether a node's kernel has what redirection needs.
func (j *judge) kernel(f Facts, n Node) bool {
	major, minor, ok := kernelVersion(n.Kernel)
	if !ok {
		j.warn("nodes", "", "node %s has a kernel that calls itself %q", n.Name, n.Kernel)
		return true
	}
	older := func(a, b int) bool { return major < a || major == a && minor < b }
	if older(kernelMajor, kernelMinor) {
		j.fail("nodes", "upgrade the node, or keep the mesh from it with cni.nodeSelector and ztunnel.nodeSelector", "node %s has kernel %s, and redirection needs %d.%d or newer", n.Name, n.Kernel, kernelMajor, kernelMinor)
		return false
	}
	if f.Redirection == "ebpf" && older(mesh.EBPFKernelMajor, mesh.EBPFKernelMinor) {
		j.fail("nodes", "--set cni.redirection=auto, or upgrade the node", "node %s has kernel %s, and redirection by eBPF needs %d.%d or newer: its iterator over TCP sockets cannot put them into maps, and the agent there would not start",
			n.Name, n.Kernel, mesh.EBPFKernelMajor, mesh.EBPFKernelMinor)
		return false
	}
	return true
}

// kernelVersion reads the numbers that all kernels' names begin with.
func kernelVersion(s string) (major, minor int, ok bool) {
	a, rest, _ := strings.Cut(s, ".")
	b := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	major, err1 := strconv.Atoi(a)
	minor, err2 := strconv.Atoi(b)
	return major, minor, err1 == nil && err2 == nil
}

func kernels(nodes []Node) string {
	return several(nodes, func(n Node) string { return strings.SplitN(n.Kernel, "-", 2)[0] })
}

func runtimes(nodes []Node) string { return several(nodes, func(n Node) string { return n.Runtime }) }

func several(nodes []Node, of func(Node) string) string {
	var out []string
	for _, n := range nodes {
		if s := of(n); s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func counted(n int) string { return strconv.Itoa(n) }

func (j *judge) gateway(g GatewayAPI, server Version) {
	fix := gatewayCommand(server)
	missing := g.Missing
	if server.beforeGateway() {
		// Not in the standard channel of the release that it takes.
		missing = slices.DeleteFunc(slices.Clone(missing), func(kind string) bool { return kind == "tlsroutes" })
	}
	switch {
	case !g.Installed:
		j.warn("gateway-api", fix, "the Gateway API is not installed: there will be no waypoints and gateways")
	case older(g.Version, leastGateway):
		j.fail("gateway-api", fix, "the Gateway API is of version %s, and Ambit needs %s or newer", g.Version, leastGateway)
	case len(missing) > 0:
		j.warn("gateway-api", fix, "Gateway API %s (%s channel) lacks %s, which the mesh knows", g.Version, g.Channel, strings.Join(missing, ", "))
	default:
		j.ok("gateway-api", "Gateway API %s, %s channel", g.Version, g.Channel)
	}
}

// older compares versions like v1.2.3. What is no version is not older.
func older(a, b string) bool {
	x, y := numbers(a), numbers(b)
	return x != nil && y != nil && slices.Compare(x, y) < 0
}

func numbers(s string) []int {
	var out []int
	s, _, _ = strings.Cut(strings.TrimPrefix(s, "v"), "-")
	for p := range strings.SplitSeq(s, ".") {
		n, err := strconv.Atoi(p)
		if err != nil {
			return nil
		}
		out = append(out, n)
	}
	return out
}

func (j *judge) others(f Facts) {
	if len(f.Rivals) > 0 {
		j.fail("other-meshes", "uninstall one of the two; until then keep each to its own pods with ambient.enablementSelectors", "%s would take the same pods", strings.Join(f.Rivals, ", "))
	} else {
		j.ok("other-meshes", "no other mesh takes pods")
	}
	if len(f.Foreign) > 0 {
		j.warn("definitions", "--set base.enableIstioConfigCRDs=false, if that is meant", "%d definitions of Istio's kinds are somebody else's and stay as they are (%s …)", len(f.Foreign), f.Foreign[0])
	}
	n := f.Namespace
	switch {
	case n.Ending:
		j.fail("namespace", "kubectl get namespace "+n.Name+" -o yaml", "namespace %s is being deleted", n.Name)
	case n.Exists && n.Enforce != "" && n.Enforce != "privileged":
		j.fail("namespace", "kubectl label namespace "+n.Name+" pod-security.kubernetes.io/enforce=privileged --overwrite", "namespace %s admits %s pods only, and node agents are not", n.Name, n.Enforce)
	}
}

// manyPolicies is how many are named.
const manyPolicies = 5

func (j *judge) policies(f Facts) {
	values := "ambitctl install --set control.networkPolicies=true"
	if f.Mesh != nil {
		values = "ambitctl upgrade --set control.networkPolicies=true"
	}
	for i, p := range f.Policies {
		if i == manyPolicies {
			j.warn("network-policies", "ambitctl analyze", "and %d more", len(f.Policies)-i)
			break
		}
		fix := p.admit()
		if !f.Enforced {
			fix += fmt.Sprintf("; before it %q, or these peers may then connect to every port of the pods by the tunnel", values)
		}
		j.fail("network-policies", fix, "networkpolicy %s/%s lets no tunnels (port %d) into %d pods of the mesh", p.Namespace, p.Name, mesh.PortHBONE, p.Pods)
	}
	if len(f.Policies) == 0 {
		j.ok("network-policies", "no NetworkPolicy keeps tunnels out")
	}
	if f.Enforced {
		return
	}
	for i, p := range f.Widened {
		if i == manyPolicies {
			j.warn("network-policies", "ambitctl analyze", "and %d more are widened", len(f.Widened)-i)
			break
		}
		who, by, fix := "whom it admits", "it", values+", or say the ports in an AuthorizationPolicy"
		if p.By != p.Name {
			by = "networkpolicy " + p.By
		}
		if p.Others {
			who, fix = "others than it admits, too,", fix+fmt.Sprintf("; and let %s admit port %d only \"from\" the peers of the other rules", by, mesh.PortHBONE)
		}
		j.warn("network-policies", fix, "networkpolicy %s/%s restricts nothing inside the mesh: %s may connect to every port of %d pods by the tunnels' port %d, which %s admits",
			p.Namespace, p.Name, who, p.Pods, mesh.PortHBONE, by)
	}
}

// admit is the command that opens the tunnels' port to the peers that a policy's rules admit already, and to nobody else.
func (p Policy) admit() string {
	var patch []string
	for _, i := range p.Rules {
		patch = append(patch, fmt.Sprintf(`{"op":"add","path":"/spec/ingress/%d/ports/-","value":{"port":%d,"protocol":"TCP"}}`, i, mesh.PortHBONE))
	}
	return fmt.Sprintf("kubectl -n %s patch networkpolicy %s --type json -p '[%s]'", p.Namespace, p.Name, strings.Join(patch, ","))
}
