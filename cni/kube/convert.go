package kube

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/cni/enroll"
)

// configHash is, on the object that stands for a static pod, the UID under which the kubelet really runs it.
const configHash = "kubernetes.io/config.hash"

// kept are the annotations that mean something to enrolment.
var kept = []string{
	mesh.AnnotationRedirection, mesh.AnnotationBypassInbound, mesh.AnnotationDNSCapture, mesh.AnnotationVirtualInterfaces,
	mesh.AnnotationSidecarStatus, configHash,
}

// slim drops all of an object that the agent does not look at, before it is stored.
func slim(obj any) (any, error) {
	switch o := obj.(type) {
	case *corev1.Pod:
		out := &corev1.Pod{
			ObjectMeta: slimMeta(o.ObjectMeta),
			Spec:       corev1.PodSpec{NodeName: o.Spec.NodeName, HostNetwork: o.Spec.HostNetwork, ServiceAccountName: o.Spec.ServiceAccountName},
			Status:     corev1.PodStatus{Phase: o.Status.Phase, PodIP: o.Status.PodIP, PodIPs: o.Status.PodIPs},
		}
		for _, k := range kept {
			if v, ok := o.Annotations[k]; ok {
				if out.Annotations == nil {
					out.Annotations = map[string]string{}
				}
				out.Annotations[k] = v
			}
		}
		return out, nil
	case *corev1.Namespace:
		return &corev1.Namespace{ObjectMeta: slimMeta(o.ObjectMeta)}, nil
	}
	return obj, nil
}

func slimMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion, Labels: m.Labels}
}

// podOf is what enrolment needs to know of a pod.
func podOf(o *corev1.Pod) enroll.Pod {
	p := enroll.Pod{
		UID: string(o.UID), Namespace: o.Namespace, Name: o.Name, Node: o.Spec.NodeName, Labels: o.Labels, Annotations: o.Annotations,
		ServiceAccount: cmp.Or(o.Spec.ServiceAccountName, "default"), HostNetwork: o.Spec.HostNetwork, Phase: string(o.Status.Phase),
		RuntimeUID: o.Annotations[configHash],
	}
	texts := []string{o.Status.PodIP}
	for _, ip := range o.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil && !slices.Contains(p.IPs, a.Unmap()) {
			p.IPs = append(p.IPs, a.Unmap())
		}
	}
	return p
}
