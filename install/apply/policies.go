package apply

import (
	"cmp"
	"context"
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
)

// lookPolicies finds NetworkPolicies that mean to let something into pods of the mesh, and keep out the tunnels in which it
// comes. Policies that mean to let nothing in do what they say.
func (c *Client) lookPolicies(ctx context.Context, f *check.Facts) error {
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
		f.Policies = append(f.Policies, blocked(ns.Name, policies.Items, pods.Items)...)
	}
	return nil
}

// blocked names, for pods into which no policy lets tunnels, the first policy that lets something else in.
func blocked(namespace string, policies []networkingv1.NetworkPolicy, pods []corev1.Pod) []check.Policy {
	count := map[string]int{}
	for _, p := range pods {
		if p.Spec.HostNetwork || p.Labels[labelMode] == "none" || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		first, open := "", false
		for _, np := range policies {
			if !selects(np, p) {
				continue
			}
			for _, rule := range np.Spec.Ingress {
				first = cmp.Or(first, np.Name)
				open = open || admits(rule.Ports)
			}
		}
		if first != "" && !open {
			count[first]++
		}
	}
	var out []check.Policy
	for name, n := range count {
		out = append(out, check.Policy{Namespace: namespace, Name: name, Pods: n})
	}
	slices.SortFunc(out, func(a, b check.Policy) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func selects(np networkingv1.NetworkPolicy, p corev1.Pod) bool {
	if len(np.Spec.PolicyTypes) > 0 && !slices.Contains(np.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) {
		return false
	}
	s, err := metav1.LabelSelectorAsSelector(&np.Spec.PodSelector)
	return err == nil && s.Matches(labels.Set(p.Labels))
}

// admits reports whether the tunnels' port is among those of a rule.
func admits(ports []networkingv1.NetworkPolicyPort) bool {
	if len(ports) == 0 {
		return true
	}
	return slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool {
		if p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
			return false
		}
		if p.Port == nil {
			return true
		}
		if p.Port.Type != intstr.Int {
			return false // a named port is one of the application's
		}
		last := p.Port.IntVal
		if p.EndPort != nil {
			last = *p.EndPort
		}
		return p.Port.IntVal <= tunnelPort && tunnelPort <= last
	})
}
