package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

const mesh = "ambit-system"

// thing is an object of a mesh, or of somebody else.
func thing(gvr schema.GroupVersionResource, kind, namespace, name, manager string, labels map[string]string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(gvr.GroupVersion().WithKind(kind))
	u.SetNamespace(namespace)
	u.SetName(name)
	u.SetLabels(labels)
	if manager != "" {
		u.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: manager}})
	}
	return u
}

// world is a cluster with a mesh, a waypoint, and things of users.
func world(t *testing.T, extra ...runtime.Object) (*Installer, *dynamicfake.FakeDynamicClient, *[]string) {
	t.Helper()
	lists := map[schema.GroupVersionResource]string{
		resourceDefinitions: "CustomResourceDefinitionList", resourceClasses: "GatewayClassList", resourceSecrets: "SecretList", resourceLeases: "LeaseList",
		resourceNamespaces: "NamespaceList", {Version: "v1", Resource: "pods"}: "PodList",
		{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}: "VirtualServiceList",
	}
	for _, gvr := range kinds() {
		lists[gvr] = "ThingList"
	}
	apps := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	sets := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}
	services := schema.GroupVersionResource{Version: "v1", Resource: "services"}
	own := map[string]string{LabelMesh: mesh}
	managed := map[string]string{labelManaged: "istio.io-mesh-controller"}
	definition := thing(resourceDefinitions, "CustomResourceDefinition", "", "virtualservices.networking.istio.io", Manager, own)
	definition.Object["spec"] = map[string]any{"group": "networking.istio.io", "names": map[string]any{"plural": "virtualservices"}, "versions": []any{map[string]any{"name": "v1", "served": true}}}
	objects := []runtime.Object{
		thing(sets, "DaemonSet", mesh, agentDaemonSet, Manager, own), thing(sets, "DaemonSet", mesh, "ztunnel", Manager, own),
		thing(apps, "Deployment", mesh, control, Manager, own), thing(services, "Service", mesh, control, Manager, own),
		thing(resourceNamespaces, "Namespace", "", mesh, Manager, own),
		thing(apps, "Deployment", "shop", "waypoint", "ambitd-gateways", managed), thing(services, "Service", "shop", "waypoint", "ambitd-gateways", managed),
		thing(apps, "Deployment", "shop", "web", "kubectl", nil), thing(apps, "Deployment", "shop", "istios", "istio.io/gateway-controller", managed),
		thing(resourceConfigMaps, "ConfigMap", "shop", "istio-ca-root-cert", "ambitd-roots", map[string]string{"istio.io/config": "true"}),
		thing(resourceConfigMaps, "ConfigMap", "other", "istio-ca-root-cert", "pilot-discovery", map[string]string{"istio.io/config": "true"}),
		thing(resourceClasses, "GatewayClass", "", "istio-waypoint", "ambitd-gateways", nil), thing(resourceClasses, "GatewayClass", "", "nginx", "helm", nil),
		thing(resourceSecrets, "Secret", mesh, caSecret, "ambitd", nil), thing(resourceLeases, "Lease", mesh, control, "ambitd", nil),
		definition, thing(resourceDefinitions, "CustomResourceDefinition", "", "gateways.gateway.networking.k8s.io", "kubectl", nil),
	}
	dyn := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), lists, append(objects, extra...)...)
	core := kubefake.NewClientset(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", Annotations: map[string]string{annotationRedirection: "enabled"}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"istio.io/dataplane-mode": "ambient"}}})
	var said []string
	i := &Installer{Client: &Client{Core: core, Dynamic: dyn}, Namespace: mesh, Poll: time.Millisecond, Tell: func(format string, args ...any) {
		said = append(said, fmt.Sprintf(format, args...))
	}}
	return i, dyn, &said
}

// deleted are the objects that were deleted, in that order.
func deleted(dyn *dynamicfake.FakeDynamicClient) []string {
	var out []string
	for _, a := range dyn.Actions() {
		if d, ok := a.(clienttesting.DeleteActionImpl); ok && len(d.DeleteOptions.DryRun) == 0 {
			out = append(out, strings.Trim(d.GetNamespace()+"/"+d.GetName(), "/")+" "+d.GetResource().Resource)
		}
	}
	return out
}

func TestUninstall(t *testing.T) {
	i, dyn, said := world(t)
	if err := i.Uninstall(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	want := []string{
		// Pods leave first, then nobody makes anew what goes next.
		mesh + "/ambit-cni-node daemonsets", mesh + "/ambitd deployments",
		"shop/waypoint deployments", "shop/waypoint services",
		mesh + "/ztunnel daemonsets", mesh + "/ambitd services",
		"shop/istio-ca-root-cert configmaps", "istio-waypoint gatewayclasses", mesh + "/ambitd leases", mesh + "/ambitd-last-good secrets",
	}
	if diff := cmp.Diff(want, deleted(dyn)); diff != "" {
		t.Error(diff)
	}
	text := strings.Join(*said, "\n")
	for _, w := range []string{"1 pods leave the mesh", "warning: 1 pods still have the mesh's rules (shop/web", "what stays: 1 definitions", "what stays: the program ambit-cni", "label istio.io/dataplane-mode on namespaces shop"} {
		if !strings.Contains(text, w) {
			t.Errorf("it does not say %q:\n%s", w, text)
		}
	}
}

func TestPurge(t *testing.T) {
	route := thing(schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}, "VirtualService", "shop", "web", "kubectl", nil)
	i, dyn, said := world(t, route)
	if err := i.Uninstall(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	got := deleted(dyn)
	want := []string{mesh + "/istio-ca-secret secrets", "virtualservices.networking.istio.io customresourcedefinitions", mesh + " namespaces"}
	if len(got) < 3 || !slices.Equal(got[len(got)-3:], want) {
		t.Errorf("got %v", got)
	}
	if text := strings.Join(*said, "\n"); !strings.Contains(text, "virtualservices.networking.istio.io: deleted with 1 objects") {
		t.Error(text)
	}
}

// TestPurgeKeeps: a namespace in which somebody else keeps something stays.
func TestPurgeKeeps(t *testing.T) {
	i, dyn, said := world(t, thing(resourceSecrets, "Secret", mesh, "cacerts", "kubectl", nil))
	if err := i.Uninstall(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(deleted(dyn), mesh+" namespaces") {
		t.Error("the namespace is gone")
	}
	if text := strings.Join(*said, "\n"); !strings.Contains(text, "namespace ambit-system stays: it has things that are not the mesh's (secret ambit-system/cacerts)") {
		t.Error(text)
	}
}

func TestUninstallDry(t *testing.T) {
	i, dyn, _ := world(t)
	i.Dry = true
	if err := i.Uninstall(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if got := deleted(dyn); len(got) > 0 {
		t.Errorf("deleted %v", got)
	}
}

// TestPurgeHeldUp: an object that a finalizer keeps is named when patience ends, with what to do; nothing else goes before it.
func TestPurgeHeldUp(t *testing.T) {
	route := thing(schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}, "VirtualService", "shop", "web", "kubectl", nil)
	route.SetFinalizers([]string{"example.com/gone"})
	i, dyn, _ := world(t, route)
	dyn.PrependReactor("delete", "customresourcedefinitions", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, nil })
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("not done in time"))
	defer cancel()
	err := i.Uninstall(ctx, true)
	for _, want := range []string{"virtualservices.networking.istio.io is still being deleted", "virtualservice shop/web waits for its finalizer example.com/gone", "kubectl -n shop patch virtualservices.networking.istio.io web", "not done in time"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nhas no %q", err, want)
		}
	}
	if slices.Contains(deleted(dyn), mesh+" namespaces") {
		t.Error("the namespace is gone")
	}
}

// copied is what somebody made of an object of the mesh's, under another name and with the labels.
func copied() *unstructured.Unstructured {
	return thing(schema.GroupVersionResource{Version: "v1", Resource: "services"}, "Service", "shop", "mine", "kubectl-edit", map[string]string{LabelMesh: mesh})
}

// TestCopies of the mesh's objects in other namespaces are their makers'. What comes from a backup is the mesh's.
func TestCopies(t *testing.T) {
	restored := thing(schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"}, "ClusterRole", "", "ambitd", "velero-server", map[string]string{LabelMesh: mesh})
	i, dyn, _ := world(t, copied(), restored)
	if err := i.Uninstall(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if got := deleted(dyn); slices.Contains(got, "shop/mine services") || !slices.Contains(got, "ambitd clusterroles") {
		t.Errorf("deleted %v", got)
	}
	i, dyn, _ = world(t, copied())
	if err := i.Prune(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got := deleted(dyn); slices.Contains(got, "shop/mine services") {
		t.Errorf("pruned %v", got)
	}
}

func TestPrune(t *testing.T) {
	i, dyn, _ := world(t)
	keep := []Object{
		{"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": map[string]any{"namespace": mesh, "name": agentDaemonSet}},
		{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"namespace": mesh, "name": control}},
		{"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"namespace": mesh, "name": control}},
	}
	if err := i.Prune(t.Context(), keep); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{mesh + "/ztunnel daemonsets"}, deleted(dyn)); diff != "" {
		t.Error(diff)
	}
}

func TestForeign(t *testing.T) {
	i := &Installer{Namespace: mesh}
	apps := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	ours := thing(apps, "Deployment", mesh, control, "", nil)
	helm := thing(apps, "Deployment", mesh, control, "helm", map[string]string{labelPartOf: partOf})
	helm.SetAnnotations(map[string]string{annotationRelease: "ambit-control"})
	if _, err := i.foreign(ours, helm); err == nil || !strings.Contains(err.Error(), `belongs to the Helm release ambit-control: use "helm upgrade"`) {
		t.Errorf("got %v", err)
	}
	istios := thing(resourceDefinitions, "CustomResourceDefinition", "", "virtualservices.networking.istio.io", "istioctl", nil)
	if keep, err := i.foreign(istios, istios); !keep || err != nil {
		t.Errorf("somebody else's definition: %v %v", keep, err)
	}
	if keep, err := i.foreign(ours, thing(apps, "Deployment", mesh, control, Manager, map[string]string{LabelMesh: mesh})); keep || err != nil {
		t.Errorf("our own: %v %v", keep, err)
	}
}

// TestKeepScale: an autoscaler that is turned on finds as many pods as there are.
func TestKeepScale(t *testing.T) {
	apps := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	deployment := func(manager, fields string, spec map[string]any) *unstructured.Unstructured {
		u := thing(apps, "Deployment", mesh, control, "", nil)
		u.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: manager, FieldsV1: &metav1.FieldsV1{Raw: []byte(fields)}}})
		u.Object["spec"] = spec
		return u
	}
	const replicas, none = `{"f:spec":{"f:replicas":{}}}`, `{"f:spec":{"f:template":{}}}`
	for name, c := range map[string]struct {
		u, old *unstructured.Unstructured
		want   any
	}{
		"handed over":      {deployment("", "", map[string]any{}), deployment(Manager, replicas, map[string]any{"replicas": int64(4)}), int64(4)},
		"the autoscaler's": {deployment("", "", map[string]any{}), deployment(Manager, none, map[string]any{"replicas": int64(4)}), nil},
		"said":             {deployment("", "", map[string]any{"replicas": int64(2)}), deployment(Manager, replicas, map[string]any{"replicas": int64(4)}), int64(2)},
		"new":              {deployment("", "", map[string]any{}), nil, nil},
	} {
		keepScale(c.u, c.old)
		if got := c.u.Object["spec"].(map[string]any)["replicas"]; got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestUninstallPastDeadNodes: a pod on a node that is down ends never, which is no reason to leave half of a mesh. One on a node that is
// up is waited for, and named when patience ends.
func TestUninstallPastDeadNodes(t *testing.T) {
	agent := func(name, node string, since time.Duration) *corev1.Pod {
		until := metav1.NewTime(time.Now().Add(-since))
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: mesh, Name: name, Labels: map[string]string{"k8s-app": "ambit-cni-node"}, DeletionTimestamp: &until, Finalizers: []string{"x/y"}},
			Spec:       corev1.PodSpec{NodeName: node},
		}
	}
	node := func(name string, ready corev1.ConditionStatus) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, Message: "Kubelet stopped posting node status."}},
		}}
	}
	for name, c := range map[string]struct {
		pods  []*corev1.Pod
		stuck string
		said  string
	}{
		"down":      {[]*corev1.Pod{agent("a", "dead", time.Minute)}, "", "warning: pod a is passed over, because node dead is not ready (Kubelet stopped posting node status.)"},
		"deleted":   {[]*corev1.Pod{agent("a", "none", time.Minute)}, "", "there is no node none any more"},
		"in time":   {[]*corev1.Pod{agent("a", "dead", -time.Minute)}, "1 pods (k8s-app=ambit-cni-node) are still ending: a on node dead", ""},
		"up":        {[]*corev1.Pod{agent("a", "dead", time.Minute), agent("b", "alive", time.Minute)}, "1 pods (k8s-app=ambit-cni-node) are still ending: b on node alive", "pod a is passed over"},
		"are named": {[]*corev1.Pod{agent("d", "alive", 0), agent("c", "alive", 0), agent("b", "alive", 0), agent("a", "alive", 0)}, "a on node alive, b on node alive, c on node alive …", ""},
	} {
		i, dyn, said := world(t)
		core := kubefake.NewClientset(node("dead", corev1.ConditionUnknown), node("alive", corev1.ConditionTrue))
		for _, p := range c.pods {
			if err := core.Tracker().Add(p); err != nil {
				t.Fatal(err)
			}
		}
		i.Client.Core = core
		ctx, cancel := context.WithTimeoutCause(t.Context(), map[bool]time.Duration{true: time.Minute, false: 50 * time.Millisecond}[c.stuck == ""], errors.New("not done in time"))
		err := i.Uninstall(ctx, false)
		cancel()
		if (err != nil) != (c.stuck != "") || err != nil && !strings.Contains(err.Error(), c.stuck) {
			t.Errorf("%s: %v, want %q", name, err, c.stuck)
		}
		if text := strings.Join(*said, "\n"); !strings.Contains(text, c.said) {
			t.Errorf("%s: it does not say %q:\n%s", name, c.said, text)
		}
		if c.stuck == "" && !slices.Contains(deleted(dyn), mesh+"/ztunnel daemonsets") {
			t.Errorf("%s: half of the mesh is there: %v", name, deleted(dyn))
		}
	}
}

// TestUninstallPastALeader: a control plane on a node that is down for the API server alone may lead on, and make anew what was deleted,
// until it has no rights any more.
func TestUninstallPastALeader(t *testing.T) {
	i, dyn, said := world(t)
	until := metav1.NewTime(time.Now().Add(-time.Minute))
	i.Client.Core = kubefake.NewClientset(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "dead"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}}},
		&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: mesh, Name: "ambitd-1", Labels: map[string]string{"app": control}, DeletionTimestamp: &until, Finalizers: []string{"x/y"}},
			Spec:       corev1.PodSpec{NodeName: "dead"},
		})
	apps := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	dyn.PrependReactor("delete", "services", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if d := a.(clienttesting.DeleteAction); d.GetNamespace() == mesh {
			again := thing(apps, "Deployment", "shop", "waypoint", "ambitd-gateways", map[string]string{labelManaged: "istio.io-mesh-controller"})
			if err := dyn.Tracker().Create(apps, again, "shop"); err != nil {
				t.Error(err)
			}
		}
		return false, nil, nil
	})
	if err := i.Uninstall(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(*said, "\n"); !strings.Contains(text, "warning: pod ambitd-1 is passed over") {
		t.Error(text)
	}
	if _, err := dyn.Tracker().Get(apps, "shop", "waypoint"); err == nil {
		t.Error("the waypoint that was made anew is left")
	}
}
