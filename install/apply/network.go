package apply

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/ambit-mesh/ambit/install/check"
)

// Where Calico keeps its settings: definitions of its own, or those its API server serves; and its operator's.
var (
	resourceFelix         = []schema.GroupVersionResource{{Group: "crd.projectcalico.org", Version: "v1", Resource: "felixconfigurations"}, {Group: "projectcalico.org", Version: "v3", Resource: "felixconfigurations"}}
	resourceInstallations = schema.GroupVersionResource{Group: "operator.tigera.io", Version: "v1", Resource: "installations"}
)

// lookPlugin finds the cluster's network plugin by its agents, and reads its settings. What may not be read is not known, and
// nothing is said of it.
func (c *Client) lookPlugin(ctx context.Context, agents []appsv1.DaemonSet) check.Plugin {
	for _, d := range agents {
		p := check.Plugin{Namespace: d.Namespace, DaemonSet: d.Name}
		switch d.Spec.Template.Labels["k8s-app"] {
		case "cilium":
			cm, err := c.Core.CoreV1().ConfigMaps(d.Namespace).Get(ctx, "cilium-config", metav1.GetOptions{})
			if err != nil {
				return check.Plugin{}
			}
			p.Name, p.Settings = check.Cilium, cm.Data
			return p
		case "calico-node":
			felix, ok := c.first(ctx, resourceFelix...)
			if !ok {
				return check.Plugin{}
			}
			installation, _ := c.first(ctx, resourceInstallations)
			p.Name, p.Settings = check.Calico, calico(d.Spec.Template.Spec, felix, installation)
			return p
		}
	}
	return check.Plugin{}
}

// first is the object called default of the first kind that has one.
func (c *Client) first(ctx context.Context, kinds ...schema.GroupVersionResource) (map[string]any, bool) {
	for _, gvr := range kinds {
		if u, err := c.Dynamic.Resource(gvr).Get(ctx, "default", metav1.GetOptions{}); err == nil {
			return u.Object, true
		}
	}
	return nil, false
}

// calico are the settings of Calico that matter here. Environment goes over configuration, as its own agent reads them.
func calico(pod corev1.PodSpec, felix, installation map[string]any) map[string]string {
	out := map[string]string{}
	if plane, _, _ := unstructured.NestedString(installation, "spec", "calicoNetwork", "linuxDataplane"); plane == "BPF" {
		out[check.CalicoBPF] = "true"
	}
	for key, variable := range map[string]string{
		check.CalicoBPF: "FELIX_BPFENABLED", check.CalicoConnect: "FELIX_BPFCONNECTTIMELOADBALANCING", check.CalicoConnectOld: "FELIX_BPFCONNECTTIMELOADBALANCINGENABLED",
	} {
		if v, found, err := unstructured.NestedFieldNoCopy(felix, "spec", key); err == nil && found {
			out[key] = fmt.Sprint(v)
		}
		for _, container := range pod.Containers {
			i := slices.IndexFunc(container.Env, func(e corev1.EnvVar) bool { return e.Name == variable && e.Value != "" })
			if container.Name == "calico-node" && i >= 0 {
				out[key] = container.Env[i].Value
			}
		}
	}
	return out
}
