package check

import (
	"strings"
	"testing"
)

func TestPlugin(t *testing.T) {
	type settings = map[string]string
	for _, c := range []struct {
		name, plugin string
		settings     settings
		want         string
	}{
		{"another plugin", "", settings{"cni-exclusive": "true"}, ""},
		{"Cilium as it comes", Cilium, settings{"cni-exclusive": "true", "kube-proxy-replacement": "false", "bpf-lb-sock": "false"},
			`warning network-plugin: Cilium wants the CNI for itself (cni-exclusive): it takes the mesh's plugin out of the configuration whenever it writes that, and pods that start before the agent has put it back join a little later | kubectl -n net patch configmap cilium-config --type merge -p '{"data":{"cni-exclusive":"false"}}' && kubectl -n net rollout restart daemonset agents; in Helm's values it is cni.exclusive=false`},
		{"instead of kube-proxy", Cilium, settings{"kube-proxy-replacement": "true"},
			`failed network-plugin: Cilium resolves Services in pods' sockets (bpf-lb-sock-hostns-only is not "true"): connections of pods have the address of a pod instead of the Service's before the node proxy sees them, so that waypoints and routes of Services are passed by | kubectl -n net patch configmap cilium-config --type merge -p '{"data":{"bpf-lb-sock-hostns-only":"true"}}' && kubectl -n net rollout restart daemonset agents; in Helm's values it is socketLB.hostNamespaceOnly=true`},
		{"as older ones say it", Cilium, settings{"kube-proxy-replacement": "strict", "bpf-lb-sock-hostns-only": "false"}, "failed network-plugin: Cilium resolves"},
		{"sockets alone", Cilium, settings{"kube-proxy-replacement": "false", "bpf-lb-sock": "true"}, "failed network-plugin: Cilium resolves"},
		{"sockets of the node", Cilium, settings{"kube-proxy-replacement": "true", "bpf-lb-sock-hostns-only": "true", "cni-exclusive": "false"}, ""},
		{"masquerading", Cilium, settings{"enable-bpf-masquerade": "true", "enable-ipv4-masquerade": "true"},
			"warning network-plugin: Cilium masquerades by eBPF (enable-bpf-masquerade): probes of pods in the mesh"},
		{"no masquerading at all", Cilium, settings{"enable-bpf-masquerade": "true", "enable-ipv4-masquerade": "false"}, ""},
		{"settings that say nothing", Cilium, nil, ""},
		{"Calico", Calico, settings{"bpfConnectTimeLoadBalancing": "TCP"}, ""},
		{"Calico with eBPF", Calico, settings{"bpfEnabled": "true"},
			`failed network-plugin: Calico's eBPF data plane resolves Services when pods connect (bpfConnectTimeLoadBalancing is not Disabled): connections of pods have the address of a pod instead of the Service's before the node proxy sees them, so that waypoints and routes of Services are passed by | kubectl patch felixconfiguration default --type merge -p '{"spec":{"bpfConnectTimeLoadBalancing":"Disabled"`},
		{"for TCP", Calico, settings{"bpfEnabled": "true", "bpfConnectTimeLoadBalancing": "TCP"}, "failed network-plugin: Calico's eBPF"},
		{"when packets pass", Calico, settings{"bpfEnabled": "true", "bpfConnectTimeLoadBalancing": "Disabled"}, ""},
		{"as older ones say it", Calico, settings{"bpfEnabled": "true", "bpfConnectTimeLoadBalancingEnabled": "false"}, ""},
	} {
		f := good()
		f.Plugin = Plugin{Name: c.plugin, Namespace: "net", DaemonSet: "agents", Settings: c.settings}
		list := Judge(f)
		got := tell(list)
		if c.want == "" && got != "" || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
		said := false
		for _, f := range list {
			said = said || f.Check == "network-plugin"
		}
		if said != (c.plugin != "") {
			t.Errorf("%s: %v", c.name, list)
		}
	}
}
