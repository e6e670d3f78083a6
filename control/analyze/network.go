package analyze

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ambit-mesh/ambit/api/document"
	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// A network plugin that enforces NetworkPolicies sees of traffic inside the mesh connections to port 15008, whatever port of
// the application is meant: a rule for other ports keeps the mesh out, and one for 15008 lets it in to every port.

// networkPolicies looks at what NetworkPolicies do to pods of the mesh.
func (w *world) networkPolicies() {
	seen := map[string]bool{} // pods of one maker are alike
	defer w.oncePerRule(len(w.findings))
	for _, p := range w.pods {
		// A waypoint is reached at the same port as what is behind it.
		through := p.Labels.Get(mesh.LabelGatewayManaged) == "istio.io-mesh-controller"
		if !p.meshed && !through || p.isGateway() && !through || p.HostNetwork || seen[p.by] {
			continue
		}
		seen[p.by] = true
		var in, out []*object.NetworkPolicy
		each(w, func(n *object.NetworkPolicy) {
			if n.Namespace != p.Namespace || !n.Pods.Matches(p.Labels) {
				return
			}
			if n.Ingress {
				in = append(in, n)
			}
			if n.Egress {
				out = append(out, n)
			}
		})
		w.ingress(p, in)
		w.egress(p, out)
		if !through {
			w.probes(p, in)
		}
	}
}

// oncePerRule leaves of the findings from one on only the first about a rule of a policy: what is wrong for one pod is mostly
// wrong for others too.
func (w *world) oncePerRule(from int) {
	type rule struct {
		code            status.Code
		ns, name, field string
	}
	said := map[rule]bool{}
	w.findings = append(w.findings[:from], slices.DeleteFunc(w.findings[from:], func(f Finding) bool {
		k := rule{f.Code, f.Namespace, f.Object, f.Field}
		was := said[k]
		said[k] = true
		return was
	})...)
}

// hbone reports whether a rule admits the mesh's port, and whether it does so by naming it.
func hbone(r *object.NetworkRule) (admits, named bool) {
	for _, p := range r.Ports {
		if covers(p, mesh.PortHBONE, nil) {
			return true, p.Port != 0
		}
	}
	return len(r.Ports) == 0, false
}

// covers reports whether a port of a rule is a TCP port of a pod.
func covers(p object.NetworkPort, port uint16, of *object.Pod) bool {
	if p.Protocol != object.TCP {
		return false
	}
	if p.Name != "" {
		n, ok := uint16(0), false
		if of != nil {
			n, ok = of.NamedPort(p.Name, object.TCP)
		}
		return ok && n == port
	}
	return p.Port == 0 || p.Port <= port && port <= max(p.Port, p.End)
}

// reaches reports whether whoever a rule is about is also among those of another.
func reaches(of, other *object.NetworkRule) bool {
	return len(other.From) == 0 || len(of.From) > 0 && !slices.ContainsFunc(of.From, func(p object.NetworkPeer) bool {
		return !slices.ContainsFunc(other.From, func(q object.NetworkPeer) bool { return reflect.DeepEqual(p, q) })
	})
}

// ingress compares rules for ports of the application with those for the mesh's.
func (w *world) ingress(p *pod, policies []*object.NetworkPolicy) {
	type ruled struct {
		*object.NetworkRule
		by *object.NetworkPolicy
		i  int
	}
	var all []ruled
	for _, n := range policies {
		for i := range n.Rules {
			all = append(all, ruled{&n.Rules[i], n, i})
		}
	}
	for _, r := range all {
		tcp := slices.ContainsFunc(r.Ports, func(p object.NetworkPort) bool { return p.Protocol == object.TCP })
		if admits, _ := hbone(r.NetworkRule); admits || !tcp {
			continue
		}
		open, named := false, false
		for _, o := range all {
			if a, n := hbone(o.NetworkRule); a && reaches(r.NetworkRule, o.NetworkRule) {
				open, named = true, named || n
			}
		}
		field := fmt.Sprintf("spec.ingress[%d].ports", r.i)
		switch {
		case !open:
			w.about(status.BlocksHBONE, r.by.Key(), field, "it keeps port %d of %s closed, where connections inside the mesh arrive: a network plugin that enforces it cuts them off", mesh.PortHBONE, p.by).
				fix("admit port %d to the same peers; which ports of the application they may reach is then said by an AuthorizationPolicy, or by this policy once the mesh is installed with control.networkPolicies=true (ambitd --network-policies)", mesh.PortHBONE)
		case named && !w.cfg.NetworkPolicies:
			w.about(status.WidenedByHBONE, r.by.Key(), field, "inside the mesh it restricts nothing: its peers reach every port of %s by way of port %d", p.by, mesh.PortHBONE).
				fix("install the mesh with control.networkPolicies=true (ambitd --network-policies), which enforces the ports inside the mesh too, or name them in an AuthorizationPolicy")
		}
	}
}

// egress does the same for what goes out.
func (w *world) egress(p *pod, policies []*object.NetworkPolicy) {
	type ruled struct {
		networkingv1.NetworkPolicyEgressRule
		by *object.NetworkPolicy
		i  int
	}
	var all []ruled
	for _, n := range policies {
		var spec networkingv1.NetworkPolicySpec
		if r := w.byName[name{"networking.k8s.io/NetworkPolicy", n.Namespace, n.Name}]; r == nil || !into(r.o["spec"], &spec) {
			continue
		}
		for i, rule := range spec.Egress {
			all = append(all, ruled{rule, n, i})
		}
	}
	admits := func(r ruled) bool {
		return len(r.Ports) == 0 || slices.ContainsFunc(r.Ports, func(p networkingv1.NetworkPolicyPort) bool { return outgoing(p, mesh.PortHBONE) })
	}
	for _, r := range all {
		tcp := slices.ContainsFunc(r.Ports, func(p networkingv1.NetworkPolicyPort) bool { return p.Protocol == nil || *p.Protocol == "TCP" })
		dns := !slices.ContainsFunc(r.Ports, func(p networkingv1.NetworkPolicyPort) bool {
			return !outgoing(p, 53) && (p.Protocol == nil || *p.Protocol == "TCP")
		})
		open := slices.ContainsFunc(all, func(o ruled) bool {
			return admits(o) && (len(o.To) == 0 || reflect.DeepEqual(o.To, r.To))
		})
		if tcp && !dns && !open {
			w.about(status.BlocksHBONE, r.by.Key(), fmt.Sprintf("spec.egress[%d].ports", r.i), "%s may not connect to port %d, where pods of the mesh are reached: a network plugin that enforces it cuts it off from them", p.by, mesh.PortHBONE).
				fix("admit port %d to the same destinations", mesh.PortHBONE)
		}
	}
}

// outgoing reports whether a port of a rule is a TCP port.
func outgoing(p networkingv1.NetworkPolicyPort, port int32) bool {
	if p.Protocol != nil && *p.Protocol != "TCP" || p.Port != nil && p.Port.Type == intstr.String {
		return false
	}
	last := p.EndPort
	if p.Port == nil {
		return true
	}
	if last == nil {
		last = &p.Port.IntVal
	}
	return p.Port.IntVal <= port && port <= *last
}

// probes finds out whether the kubelet's probes get in. They come from an address of their own inside the mesh.
func (w *world) probes(p *pod, policies []*object.NetworkPolicy) {
	if len(policies) == 0 {
		return
	}
	for _, port := range probed(p) {
		for _, source := range p.probeSources() {
			open := false
			for _, n := range policies {
				for i := range n.Rules {
					r := &n.Rules[i]
					from := len(r.From) == 0 || slices.ContainsFunc(r.From, func(q object.NetworkPeer) bool {
						return q.Block.IsValid() && q.Block.Contains(source) && !slices.ContainsFunc(q.Except, func(e netip.Prefix) bool { return e.Contains(source) })
					})
					to := len(r.Ports) == 0 || slices.ContainsFunc(r.Ports, func(q object.NetworkPort) bool { return covers(q, port, p.Pod) })
					open = open || from && to
				}
			}
			if open {
				continue
			}
			w.about(status.BlocksProbes, policies[0].Key(), "spec.ingress", "probes of %s on port %d come from %s inside the mesh, which no rule admits: network plugins that do not let the node in anyhow will fail them", p.by, port, source).
				fix("admit ipBlock {cidr: %s} to the ports of probes", netip.PrefixFrom(source, source.BitLen()))
			return
		}
	}
}

// probeSources are the addresses probes come from.
func (p *pod) probeSources() (out []netip.Addr) {
	for _, ip := range p.IPs {
		if ip.Unmap().Is4() {
			out = append(out, netip.MustParseAddr(mesh.ProbeSourceIPv4))
		} else {
			out = append(out, netip.MustParseAddr(mesh.ProbeSourceIPv6))
		}
	}
	return out
}

// probed are the ports of a pod that the kubelet connects to.
func probed(p *pod) (ports []uint16) {
	for _, c := range document.Items(p.spec, "containers") {
		for _, probe := range []string{"livenessProbe", "readinessProbe", "startupProbe"} {
			for _, how := range []string{"httpGet", "tcpSocket", "grpc"} {
				var n uint16
				switch v := document.At(c, probe, how, "port").(type) {
				case int:
					n = uint16(v)
				case float64:
					n = uint16(v)
				case string:
					n, _ = p.NamedPort(v, object.TCP)
				}
				if n != 0 && !slices.Contains(ports, n) {
					ports = append(ports, n)
				}
			}
		}
	}
	return ports
}
