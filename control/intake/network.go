package intake

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ambit-mesh/ambit/control/object"
)

// networkPolicy reads the part of a NetworkPolicy that is about connections to pods.
func (r *reader) networkPolicy(in *networkingv1.NetworkPolicy) *object.NetworkPolicy {
	out := &object.NetworkPolicy{Meta: r.meta(&in.ObjectMeta, true, isSubdomain)}
	out.Pods = r.labelSelector(&in.Spec.PodSelector, at("spec", "podSelector"))
	// Without policyTypes a policy is about incoming connections, and about outgoing ones if it has rules for them.
	out.Ingress, out.Egress = true, len(in.Spec.Egress) > 0
	if types := in.Spec.PolicyTypes; len(types) > 0 {
		out.Ingress, out.Egress = false, false
		for i, t := range types {
			switch t {
			case networkingv1.PolicyTypeIngress:
				out.Ingress = true
			case networkingv1.PolicyTypeEgress:
				out.Egress = true
			default:
				r.oneOf(string(t), at("spec", "policyTypes", i), "Ingress", "Egress")
			}
		}
	}
	for i := range in.Spec.Ingress {
		rule, path := &in.Spec.Ingress[i], at("spec", "ingress", i)
		var nr object.NetworkRule
		for j := range rule.From {
			nr.From = append(nr.From, r.networkPeer(&rule.From[j], sub(path, "from", j)))
		}
		for j := range rule.Ports {
			nr.Ports = append(nr.Ports, r.networkPort(&rule.Ports[j], sub(path, "ports", j)))
		}
		out.Rules = append(out.Rules, nr)
	}
	return out
}

func (r *reader) networkPeer(in *networkingv1.NetworkPolicyPeer, path []any) object.NetworkPeer {
	var out object.NetworkPeer
	switch {
	case in.IPBlock != nil && (in.PodSelector != nil || in.NamespaceSelector != nil):
		r.refuse(sub(path, "ipBlock"), "a peer is an ipBlock or is chosen by selectors, not both", "write two peers")
	case in.IPBlock != nil:
		out.Block = r.networkBlock(in.IPBlock.CIDR, sub(path, "ipBlock", "cidr"))
		for i, s := range in.IPBlock.Except {
			p := sub(path, "ipBlock", "except", i)
			except := r.networkBlock(s, p)
			if except.IsValid() && out.Block.IsValid() && (except.Bits() <= out.Block.Bits() || !out.Block.Contains(except.Addr())) {
				r.refuse(p, fmt.Sprintf("%s is not within %s", except, out.Block), "write a smaller range within cidr, or remove it")
			}
			out.Except = append(out.Except, except)
		}
	case in.PodSelector == nil && in.NamespaceSelector == nil:
		r.refuse(path, "the peer chooses nothing", "write podSelector, namespaceSelector or ipBlock; {} as selector chooses all")
	}
	if s := in.PodSelector; s != nil {
		sel := r.labelSelector(s, sub(path, "podSelector"))
		out.Pods = &sel
	}
	if s := in.NamespaceSelector; s != nil {
		sel := r.labelSelector(s, sub(path, "namespaceSelector"))
		out.Namespaces = &sel
	}
	return out
}

func (r *reader) networkBlock(s string, path []any) netip.Prefix {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		problem, fix := whyNotPrefix(s)
		r.refuse(path, problem, fix)
		return netip.Prefix{}
	}
	return p.Masked()
}

func (r *reader) networkPort(in *networkingv1.NetworkPolicyPort, path []any) object.NetworkPort {
	var out object.NetworkPort
	if in.Protocol != nil {
		switch *in.Protocol {
		case corev1.ProtocolTCP:
		case corev1.ProtocolUDP:
			out.Protocol = object.UDP
		case corev1.ProtocolSCTP:
			out.Protocol = object.SCTP
		default:
			r.oneOf(string(*in.Protocol), sub(path, "protocol"), "TCP", "UDP", "SCTP")
		}
	}
	number := func(n int32, field string) uint16 {
		if n < 1 || n > 65535 {
			r.refuse(sub(path, field), fmt.Sprintf("%d is not a port", n), "write a number from 1 to 65535")
			return 0
		}
		return uint16(n)
	}
	switch {
	case in.Port == nil:
	case in.Port.Type == intstr.String:
		if out.Name = in.Port.StrVal; !isPortName(out.Name) {
			r.refuse(sub(path, "port"), fmt.Sprintf("%q is neither a port nor the name of one", clip(out.Name)), "write a number, or the name of a container's port")
		}
	default:
		out.Port = number(in.Port.IntVal, "port")
	}
	if in.EndPort != nil {
		out.End = number(*in.EndPort, "endPort")
		switch {
		case in.Port == nil || in.Port.Type == intstr.String:
			r.refuse(sub(path, "endPort"), "a range begins with a port given as a number", "write port")
		case out.End != 0 && out.End < out.Port:
			r.refuse(sub(path, "endPort"), fmt.Sprintf("the range from %d to %d is empty", out.Port, out.End), "write the larger number here")
		}
	}
	return out
}
