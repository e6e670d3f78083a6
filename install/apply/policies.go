package apply

import (
	"cmp"
	"context"
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ambit-mesh/ambit/install/check"
)

const (
	labelMode  = "istio.io/dataplane-mode"
	modeMeshed = "ambient"
	tunnelPort = 15008
	// enforceFlag has node proxies enforce NetworkPolicies: control.networkPolicies.
	enforceFlag = "--network-policies"
)

// lookPolicies finds NetworkPolicies that mean to let something into pods of the mesh, and keep out the tunnels in which it
// comes, or let tunnels in and by that more than they mean. Policies that mean to let nothing in do what they say.
func (c *Client) lookPolicies(ctx context.Context, f *check.Facts) error {
	deployment, err := c.Core.AppsV1().Deployments(f.Namespace.Name).Get(ctx, control, metav1.GetOptions{})
	if err == nil {
		f.Enforced = enforces(deployment.Spec.Template.Spec)
	}
	spaces, err := c.Core.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: labelMode + "=" + modeMeshed})
	if err != nil {
		return err
	}
	for _, ns := range spaces.Items {
		policies, err := c.Core.NetworkingV1().NetworkPolicies(ns.Name).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(policies.Items) == 0 {
			continue
		}
		pods, err := c.Core.CoreV1().Pods(ns.Name).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		closed, wide := judged(ns.Name, policies.Items, pods.Items)
		f.Policies, f.Widened = append(f.Policies, closed...), append(f.Widened, wide...)
	}
	return nil
}

// enforces reports whether a control plane has node proxies enforce NetworkPolicies.
func enforces(pod corev1.PodSpec) bool {
	return slices.ContainsFunc(pod.Containers, func(c corev1.Container) bool { return slices.Contains(c.Args, enforceFlag) })
}

// ruled is a rule of a policy.
type ruled struct {
	networkingv1.NetworkPolicyIngressRule
	policy string
	i      int
}

// judged names policies with rules for ports of the application: those whose peers find the tunnels' port closed, and those
// whose peers come in by the tunnels to every port. `ambitctl analyze` asks the same (control/analyze, ingress).
func judged(namespace string, policies []networkingv1.NetworkPolicy, pods []corev1.Pod) (closed, wide []check.Policy) {
	shut, open := findings{}, findings{}
	for _, p := range pods {
		if p.Spec.HostNetwork || p.Labels[labelMode] == "none" || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		var rules []ruled
		for _, np := range policies {
			if !selects(np, p) {
				continue
			}
			for i, rule := range np.Spec.Ingress {
				rules = append(rules, ruled{rule, np.Name, i})
			}
		}
		for _, r := range rules {
			if !restricts(r.Ports) {
				continue // it is about tunnels alone, about all ports, or about none of TCP
			}
			admitted, every, others, by := false, false, false, ""
			for _, o := range rules {
				admits, named := tunnels(o.Ports)
				if !admits || !covers(o.From, r.From) {
					continue
				}
				admitted = true
				if named {
					by = cmp.Or(by, o.policy)
					others = others || !covers(r.From, o.From)
				} else {
					every = true // these peers are meant to reach all ports
				}
			}
			switch {
			case !admitted:
				shut.add(p.Name, r, "", false)
			case by != "" && !every:
				open.add(p.Name, r, by, others)
			}
		}
	}
	return shut.list(namespace), open.list(namespace)
}

// findings are the rules and pods of each policy.
type findings map[string]*finding

type finding struct {
	pods   map[string]bool
	rules  map[int]bool
	by     string
	others bool
}

func (f findings) add(pod string, r ruled, by string, others bool) {
	at := f[r.policy]
	if at == nil {
		at = &finding{pods: map[string]bool{}, rules: map[int]bool{}, by: by}
		f[r.policy] = at
	}
	at.pods[pod], at.rules[r.i], at.others = true, true, at.others || others
}

func (f findings) list(namespace string) (out []check.Policy) {
	for _, name := range slices.Sorted(maps.Keys(f)) {
		at := f[name]
		out = append(out, check.Policy{Namespace: namespace, Name: name, Pods: len(at.pods), Rules: slices.Sorted(maps.Keys(at.rules)), By: at.by, Others: at.others})
	}
	return out
}

func selects(np networkingv1.NetworkPolicy, p corev1.Pod) bool {
	if len(np.Spec.PolicyTypes) > 0 && !slices.Contains(np.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) {
		return false
	}
	s, err := metav1.LabelSelectorAsSelector(&np.Spec.PodSelector)
	return err == nil && s.Matches(labels.Set(p.Labels))
}

// restricts reports whether ports name TCP ports of the application, and not simply all.
func restricts(ports []networkingv1.NetworkPolicyPort) bool {
	some := false
	for _, p := range ports {
		switch {
		case p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP:
		case p.Port == nil || all(p):
			return false
		case p.Port.Type != intstr.Int || p.Port.IntVal != tunnelPort:
			some = true
		}
	}
	return some
}

// tunnels reports whether the tunnels' port is among those of a rule, and whether the rule names it, as opposed to all ports.
func tunnels(ports []networkingv1.NetworkPolicyPort) (admits, named bool) {
	if len(ports) == 0 {
		return true, false
	}
	for _, p := range ports {
		switch {
		case p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP:
		case p.Port == nil || all(p):
			return true, false
		case p.Port.Type != intstr.Int: // a named port is one of the application's
		case p.Port.IntVal <= tunnelPort && tunnelPort <= last(p):
			admits, named = true, true
		}
	}
	return admits, named
}

// all reports whether a range is that of all ports.
func all(p networkingv1.NetworkPolicyPort) bool {
	return p.Port.Type == intstr.Int && p.Port.IntVal <= 1 && last(p) == 65535
}

func last(p networkingv1.NetworkPolicyPort) int32 {
	if p.EndPort != nil {
		return *p.EndPort
	}
	return p.Port.IntVal
}

// covers reports whether all of some peers are surely among others; none at all means everybody.
func covers(others, peers []networkingv1.NetworkPolicyPeer) bool {
	if len(others) == 0 {
		return true
	}
	return len(peers) > 0 && !slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool {
		return !slices.ContainsFunc(others, func(o networkingv1.NetworkPolicyPeer) bool { return wider(o, p) })
	})
}

// wider reports whether a peer is surely among another one's.
func wider(o, p networkingv1.NetworkPolicyPeer) bool {
	if o.IPBlock != nil || p.IPBlock != nil {
		return reflect.DeepEqual(o.IPBlock, p.IPBlock)
	}
	// No selector of namespaces is the policy's own, an empty one is all of them.
	spaces := everything(o.NamespaceSelector) || reflect.DeepEqual(o.NamespaceSelector, p.NamespaceSelector)
	return spaces && (o.PodSelector == nil || everything(o.PodSelector) || reflect.DeepEqual(o.PodSelector, p.PodSelector))
}

func everything(s *metav1.LabelSelector) bool {
	return s != nil && len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 0
}
