package apply

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/ambit-mesh/ambit/install/check"
)

func TestPlugin(t *testing.T) {
	agents := func(namespace, name, app string, env ...corev1.EnvVar) appsv1.DaemonSet {
		d := appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		d.Spec.Template.Labels = map[string]string{"k8s-app": app}
		d.Spec.Template.Spec.Containers = []corev1.Container{{Name: name, Env: env}}
		return d
	}
	settings := func(group, version, kind string, spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": group + "/" + version, "kind": kind, "metadata": map[string]any{"name": "default"}, "spec": spec}}
	}
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "cilium-config"}, Data: map[string]string{"cni-exclusive": "true"}}
	felix := settings("crd.projectcalico.org", "v1", "FelixConfiguration", map[string]any{"bpfEnabled": true, "bpfConnectTimeLoadBalancing": "TCP", "bpfConnectTimeLoadBalancingEnabled": false, "logSeverityScreen": "Info"})
	plain := settings("projectcalico.org", "v3", "FelixConfiguration", map[string]any{})
	operator := settings("operator.tigera.io", "v1", "Installation", map[string]any{"calicoNetwork": map[string]any{"linuxDataplane": "BPF"}})
	for _, c := range []struct {
		name      string
		agents    []appsv1.DaemonSet
		objects   []runtime.Object
		forbidden bool
		want      check.Plugin
	}{
		{name: "none that is known", agents: []appsv1.DaemonSet{agents("kube-system", "kindnet", "kindnet")}},
		{name: "Cilium", agents: []appsv1.DaemonSet{agents("kube-system", "kube-proxy", "kube-proxy"), agents("kube-system", "cilium", "cilium")},
			want: check.Plugin{Name: check.Cilium, Namespace: "kube-system", DaemonSet: "cilium", Settings: config.Data}},
		{name: "Cilium elsewhere, without settings", agents: []appsv1.DaemonSet{agents("cilium", "cilium", "cilium")}},
		{name: "Cilium that may not be read", agents: []appsv1.DaemonSet{agents("kube-system", "cilium", "cilium")}, forbidden: true},
		{name: "Calico", agents: []appsv1.DaemonSet{agents("kube-system", "calico-node", "calico-node")}, objects: []runtime.Object{felix},
			want: check.Plugin{Name: check.Calico, Namespace: "kube-system", DaemonSet: "calico-node", Settings: map[string]string{
				"bpfEnabled": "true", "bpfConnectTimeLoadBalancing": "TCP", "bpfConnectTimeLoadBalancingEnabled": "false",
			}}},
		{name: "Calico of its operator", agents: []appsv1.DaemonSet{agents("calico-system", "calico-node", "calico-node")}, objects: []runtime.Object{plain, operator},
			want: check.Plugin{Name: check.Calico, Namespace: "calico-system", DaemonSet: "calico-node", Settings: map[string]string{"bpfEnabled": "true"}}},
		{name: "Calico by environment", objects: []runtime.Object{felix}, agents: []appsv1.DaemonSet{agents("kube-system", "calico-node", "calico-node",
			corev1.EnvVar{Name: "FELIX_BPFENABLED", Value: "false"}, corev1.EnvVar{Name: "FELIX_BPFCONNECTTIMELOADBALANCING", Value: "Disabled"})},
			want: check.Plugin{Name: check.Calico, Namespace: "kube-system", DaemonSet: "calico-node", Settings: map[string]string{
				"bpfEnabled": "false", "bpfConnectTimeLoadBalancing": "Disabled", "bpfConnectTimeLoadBalancingEnabled": "false",
			}}},
		{name: "Calico that may not be read", agents: []appsv1.DaemonSet{agents("kube-system", "calico-node", "calico-node")}, objects: []runtime.Object{felix}, forbidden: true},
	} {
		lists := map[schema.GroupVersionResource]string{resourceInstallations: "InstallationList"}
		for _, gvr := range resourceFelix {
			lists[gvr] = "FelixConfigurationList"
		}
		core, dyn := kubefake.NewClientset(config), dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), lists, c.objects...)
		if c.forbidden {
			no := func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("forbidden") }
			core.PrependReactor("get", "*", no)
			dyn.PrependReactor("get", "*", no)
		}
		client := &Client{Core: core, Dynamic: dyn}
		if diff := cmp.Diff(c.want, client.lookPlugin(t.Context(), c.agents)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}
