package check

import "fmt"

// Plugin is the cluster's own network plugin, as far as its settings decide about a mesh; its name is empty if it is none of
// those whose settings we know, or if nobody lets us see.
type Plugin struct {
	Name string
	// Namespace and DaemonSet of its agents.
	Namespace, DaemonSet string
	// Settings by the plugin's own names: those of Cilium's ConfigMap cilium-config, or Calico's bpf… ones.
	Settings map[string]string
}

// Plugins that are known.
const (
	Cilium = "Cilium"
	Calico = "Calico"
)

// Settings of Cilium's ConfigMap.
const (
	ciliumExclusive   = "cni-exclusive"
	ciliumReplacement = "kube-proxy-replacement"
	ciliumSocket      = "bpf-lb-sock"
	ciliumSocketHost  = "bpf-lb-sock-hostns-only"
	ciliumMasquerade  = "enable-bpf-masquerade"
	ciliumMasquerade4 = "enable-ipv4-masquerade"
)

// Settings of Calico's FelixConfiguration.
const (
	CalicoBPF     = "bpfEnabled"
	CalicoConnect = "bpfConnectTimeLoadBalancing"
	// CalicoConnectOld is what it was before 3.27.
	CalicoConnectOld = "bpfConnectTimeLoadBalancingEnabled"
)

// plugin judges settings with which the cluster's plugin gets in the mesh's way.
func (j *judge) plugin(p Plugin) {
	before := len(j.out)
	switch p.Name {
	case Cilium:
		j.cilium(p)
	case Calico:
		j.calico(p)
	default:
		return
	}
	if len(j.out) == before {
		j.ok("network-plugin", "no setting of %s is in the mesh's way", p.Name)
	}
}

// rewritten is what becomes of a mesh when Services are resolved before its proxies see them.
const rewritten = "connections of pods have the address of a pod instead of the Service's before the node proxy sees them, so that waypoints and routes of Services are passed by"

func (j *judge) cilium(p Plugin) {
	fix := func(key, value, helm string) string {
		return fmt.Sprintf(`kubectl -n %s patch configmap cilium-config --type merge -p '{"data":{%q:%q}}' && kubectl -n %s rollout restart daemonset %s; in Helm's values it is %s`, p.Namespace, key, value, p.Namespace, p.DaemonSet, helm)
	}
	on := func(key string) bool { return p.Settings[key] == "true" }
	// Replacing kube-proxy takes socket load balancing along. Before 1.14 it was called strict.
	socket := on(ciliumSocket) || on(ciliumReplacement) || p.Settings[ciliumReplacement] == "strict"
	if socket && !on(ciliumSocketHost) {
		j.fail("network-plugin", fix(ciliumSocketHost, "true", "socketLB.hostNamespaceOnly=true"), "Cilium resolves Services in pods' sockets (%s is not \"true\"): %s", ciliumSocketHost, rewritten)
	}
	if on(ciliumMasquerade) && p.Settings[ciliumMasquerade4] != "false" {
		j.warn("network-plugin", fix(ciliumMasquerade, "false", "bpf.masquerade=false"), "Cilium masquerades by eBPF (%s): probes of pods in the mesh come from an address that is not routed, which it does not leave alone, and may fail", ciliumMasquerade)
	}
	if on(ciliumExclusive) {
		j.warn("network-plugin", fix(ciliumExclusive, "false", "cni.exclusive=false"), "Cilium wants the CNI for itself (%s): it takes the mesh's plugin out of the configuration whenever it writes that, and pods that start before the agent has put it back join a little later", ciliumExclusive)
	}
}

func (j *judge) calico(p Plugin) {
	if p.Settings[CalicoBPF] != "true" {
		return
	}
	off := p.Settings[CalicoConnectOld] == "false"
	if v, said := p.Settings[CalicoConnect]; said {
		off = v == "Disabled"
	}
	if !off {
		j.fail("network-plugin", `kubectl patch felixconfiguration default --type merge -p '{"spec":{"bpfConnectTimeLoadBalancing":"Disabled","bpfHostNetworkedNATWithoutCTLB":"Enabled"}}'`,
			"Calico's eBPF data plane resolves Services when pods connect (%s is not Disabled): %s", CalicoConnect, rewritten)
	}
}
