package intake

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/ambit-mesh/ambit/control/object"
)

func (r *reader) namespaceOf(in *corev1.Namespace) *object.Namespace {
	out := &object.Namespace{Meta: r.meta(&in.ObjectMeta, false, isLabel)}
	out.Deleting = out.Deleting || in.Status.Phase == corev1.NamespaceTerminating
	return out
}

func (r *reader) serviceAccount(in *corev1.ServiceAccount) *object.ServiceAccount {
	return &object.ServiceAccount{Meta: r.meta(&in.ObjectMeta, true, isSubdomain)}
}

func (r *reader) node(in *corev1.Node) *object.Node {
	out := &object.Node{Meta: r.meta(&in.ObjectMeta, false, isSubdomain)}
	var external []netip.Addr
	for i, a := range in.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
			continue
		}
		ip := r.ip(a.Address, at("status", "addresses", i, "address"))
		switch {
		case !ip.IsValid():
		case a.Type == corev1.NodeInternalIP:
			out.Addresses = append(out.Addresses, ip)
		default:
			external = append(external, ip)
		}
	}
	out.Addresses = append(out.Addresses, external...)
	cidrs, path := in.Spec.PodCIDRs, at("spec", "podCIDRs")
	if len(cidrs) == 0 && in.Spec.PodCIDR != "" {
		cidrs, path = []string{in.Spec.PodCIDR}, at("spec", "podCIDR")
	}
	for i, s := range cidrs {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			problem, fix := whyNotPrefix(s)
			if len(in.Spec.PodCIDRs) > 0 {
				r.refuse(sub(path, i), problem, fix)
			} else {
				r.refuse(path, problem, fix)
			}
			continue
		}
		out.PodCIDRs = append(out.PodCIDRs, p.Masked())
	}
	for _, c := range in.Status.Conditions {
		if c.Type == corev1.NodeReady {
			out.Ready = c.Status == corev1.ConditionTrue
		}
	}
	return out
}

// ip checks an IP address.
func (r *reader) ip(s string, path []any) netip.Addr {
	a, ok := address(s)
	if !ok {
		fix := "write an address like 10.1.2.3 or 2001:db8::1"
		if p, err := netip.ParsePrefix(s); err == nil {
			fix = "leave out the prefix length: " + p.Addr().String()
		} else if host, _, ok := cutPort(s); ok {
			fix = "leave out the port: " + host
		}
		r.refuse(path, fmt.Sprintf("%q is not an IP address", clip(s)), fix)
		return netip.Addr{}
	}
	return a
}

func cutPort(s string) (host string, port uint16, ok bool) {
	ap, err := netip.ParseAddrPort(s)
	return ap.Addr().String(), ap.Port(), err == nil
}

func (r *reader) pod(in *corev1.Pod) *object.Pod {
	if r.refused > 0 {
		r.meta(&in.ObjectMeta, true, isSubdomain)
		return nil
	}
	one := r.d.words.one
	out := &object.Pod{
		Meta:           r.meta(&in.ObjectMeta, true, isSubdomain),
		Node:           one(in.Spec.NodeName),
		ServiceAccount: one(in.Spec.ServiceAccountName),
		Hostname:       in.Spec.Hostname,
		Subdomain:      one(in.Spec.Subdomain),
		HostNetwork:    in.Spec.HostNetwork,
	}
	if out.ServiceAccount == "" {
		out.ServiceAccount = one(in.Spec.DeprecatedServiceAccount)
	}
	if out.ServiceAccount == "" {
		out.ServiceAccount = "default"
	}
	if !isSubdomain(out.ServiceAccount) {
		r.refuse(at("spec", "serviceAccountName"), fmt.Sprintf("%q is not a valid name", clip(out.ServiceAccount)), nameFix(out.ServiceAccount))
	}
	if out.Node != "" && !isSubdomain(out.Node) {
		r.refuse(at("spec", "nodeName"), fmt.Sprintf("%q is not a valid name", clip(out.Node)), nameFix(out.Node))
	}
	for _, o := range in.OwnerReferences {
		if o.Controller != nil && *o.Controller {
			out.Owner = object.Owner{APIVersion: one(o.APIVersion), Kind: one(o.Kind), Name: one(o.Name)}
			break
		}
	}
	r.podPorts(&in.Spec, out)
	r.podStatus(&in.Status, out)
	return out
}

// podPorts collects the named ports. Plain init containers have ended when the pod serves; restartable ones run beside
// the containers.
func (r *reader) podPorts(in *corev1.PodSpec, out *object.Pod) {
	for i := range in.Containers {
		r.containerPorts(&in.Containers[i], at("spec", "containers", i), out, true)
	}
	for i := range in.InitContainers {
		c := &in.InitContainers[i]
		always := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		r.containerPorts(c, at("spec", "initContainers", i), out, always)
	}
}

func (r *reader) containerPorts(c *corev1.Container, path []any, out *object.Pod, serves bool) {
	for i, p := range c.Ports {
		if p.ContainerPort < 1 || p.ContainerPort > 65535 {
			r.port(int64(p.ContainerPort), sub(path, "ports", i, "containerPort"))
			continue
		}
		proto := object.TCP
		if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP {
			proto = r.protocol(string(p.Protocol), sub(path, "ports", i, "protocol"))
		}
		if p.Name == "" {
			continue
		}
		if !isPortName(p.Name) {
			r.refuse(sub(path, "ports", i, "name"), fmt.Sprintf("%q is not a valid port name", clip(p.Name)), "use at most 15 lower case letters, digits and dashes, one letter at least")
			continue
		}
		for j := range i {
			if c.Ports[j].Name == p.Name {
				r.refuse(sub(path, "ports", i, "name"), fmt.Sprintf("the port name %q stands twice in the container", p.Name), "choose another name")
			}
		}
		if serves {
			out.Ports = append(out.Ports, object.ContainerPort{Name: r.d.words.one(p.Name), Port: uint16(p.ContainerPort), Protocol: proto})
		}
	}
}

func (r *reader) podStatus(in *corev1.PodStatus, out *object.Pod) {
	switch in.Phase {
	case "", corev1.PodPending:
	case corev1.PodRunning:
		out.Phase = object.Running
	case corev1.PodSucceeded:
		out.Phase = object.Succeeded
	case corev1.PodFailed:
		out.Phase = object.Failed
	case corev1.PodUnknown:
		out.Phase = object.Unknown
	default:
		r.oneOf(string(in.Phase), at("status", "phase"), "Pending", "Running", "Succeeded", "Failed", "Unknown")
	}
	for i, c := range in.Conditions {
		if c.Type != corev1.PodReady {
			continue
		}
		r.oneOf(string(c.Status), at("status", "conditions", i, "status"), "True", "False", "Unknown")
		out.Ready = c.Status == corev1.ConditionTrue
	}
	if in.HostIP != "" {
		out.HostIP = r.ip(in.HostIP, at("status", "hostIP"))
	}
	for i, p := range in.PodIPs {
		if ip := r.ip(p.IP, at("status", "podIPs", i, "ip")); ip.IsValid() {
			out.IPs = append(out.IPs, ip)
		}
	}
	if in.PodIP == "" {
		return
	}
	ip := r.ip(in.PodIP, at("status", "podIP"))
	if len(in.PodIPs) == 0 && ip.IsValid() {
		out.IPs = []netip.Addr{ip}
	} else if len(out.IPs) > 0 && ip.IsValid() && ip != out.IPs[0] {
		r.refuse(at("status", "podIP"), fmt.Sprintf("%s is not the first of podIPs, %s", ip, out.IPs[0]), "make the two agree")
	}
	r.families(out.IPs, at("status", "podIPs"))
}

// families checks that there is at most one address of each family.
func (r *reader) families(ips []netip.Addr, path []any) {
	if len(ips) > 2 || len(ips) == 2 && ips[0].Is4() == ips[1].Is4() {
		r.refuse(path, "there may be one IPv4 and one IPv6 address", "remove the others")
	}
}
