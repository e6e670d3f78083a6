package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/ambit-mesh/ambit/ca/issuer"
	"github.com/ambit-mesh/ambit/control/kube/kubetest"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// live connects to the API server that AMBIT_TEST_KUBECONFIG names; etcd and kube-apiserver alone are enough.
func live(t *testing.T) *Cluster {
	path := os.Getenv("AMBIT_TEST_KUBECONFIG")
	if path == "" {
		t.Skip("AMBIT_TEST_KUBECONFIG names no cluster")
	}
	c, err := Connect(Access{Kubeconfig: path}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// scratch makes a namespace for the test.
func scratch(t *testing.T, c *Cluster) string {
	t.Helper()
	name := fmt.Sprintf("ambit-test-%x", time.Now().UnixNano())
	ns := c.dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"})
	if _, err := ns.Create(t.Context(), &unstructured.Unstructured{Object: kubetest.Doc{"apiVersion": "v1", "kind": "Namespace", "metadata": kubetest.Doc{"name": name}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = ns.Delete(context.Background(), name, metav1.DeleteOptions{})
	})
	return name
}

// A real API server's tokens, pods and Secrets, from the token of a pod to the certificate it may have.
func TestLive(t *testing.T) {
	c := live(t)
	ns := scratch(t, c)
	ctx := t.Context()
	sink, places := newSink(), NewPlaces()
	source := NewSource(SourceConfig{Cluster: c, Sink: sink, Status: status.New(), Places: places, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	run, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- source.Run(run) }()
	defer func() { cancel(); <-done }()
	await(t, "the cluster", sink.isSynced)
	core := func(resource string) schema.GroupVersionResource {
		return schema.GroupVersionResource{Version: "v1", Resource: resource}
	}
	create := func(resource string, o kubetest.Doc) *unstructured.Unstructured {
		t.Helper()
		u, err := c.dynamic.Resource(core(resource)).Namespace(ns).Create(ctx, &unstructured.Unstructured{Object: clean64(t, o)}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	create("serviceaccounts", kubetest.Doc{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": kubetest.Doc{"name": "ztunnel"}})
	pod := create("pods", kubetest.Doc{"apiVersion": "v1", "kind": "Pod", "metadata": kubetest.Doc{"name": "zt"}, "spec": kubetest.Doc{
		"serviceAccountName": "ztunnel", "nodeName": "n1", "containers": []any{kubetest.Doc{"name": "c", "image": "x"}},
	}})
	token := func(audience string) string {
		t.Helper()
		request, err := json.Marshal(kubetest.Doc{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": kubetest.Doc{
			"audiences": []any{audience}, "boundObjectRef": kubetest.Doc{"kind": "Pod", "apiVersion": "v1", "name": "zt", "uid": string(pod.GetUID())},
		}})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := c.raw.Post().AbsPath("/api/v1/namespaces/"+ns+"/serviceaccounts/ztunnel/token").SetHeader("Content-Type", "application/json").Body(request).Do(ctx).Raw()
		if err != nil {
			t.Fatal(err)
		}
		var out struct{ Status struct{ Token string } }
		if err := json.Unmarshal(raw, &out); err != nil {
			t.Fatal(err)
		}
		return out.Status.Token
	}
	tokens := NewTokens(c, "cluster.local")
	as := func(raw string) context.Context {
		return metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", "Bearer "+raw))
	}
	caller, err := tokens.Authenticate(as(token("istio-ca")))
	if err != nil || caller.ID.Namespace != ns || caller.ID.ServiceAccount != "ztunnel" || caller.Pod.Name != "zt" || caller.Pod.UID != string(pod.GetUID()) {
		t.Fatalf("%+v %v", caller, err)
	}
	if _, err := tokens.Authenticate(as(token("somebody-else"))); err == nil {
		t.Error("a token for somebody else is accepted")
	}
	if _, err := tokens.Authenticate(as("nonsense")); err == nil || !strings.Contains(err.Error(), "refuses the token") {
		t.Error(err)
	}
	if node, err := places.Node(ctx, caller.ID, caller.Pod); node != "n1" || err != nil {
		t.Error(node, err)
	}
	if runs, err := places.Runs(ctx, "n1", ns, "ztunnel"); !runs || err != nil {
		t.Error(runs, err)
	}
	if o := sink.get(object.Key{Kind: object.KindPod, Namespace: ns, Name: "zt"}); o == nil || o.Metadata().UID != string(pod.GetUID()) {
		t.Errorf("%+v", o)
	}
	var roots [2]*issuer.Issuer
	for i := range roots {
		a := NewAuthority(AuthorityConfig{Cluster: c, Namespace: ns, Dir: t.TempDir()})
		if roots[i], err = a.Open(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if !roots[0].Bundle().Equal(roots[1].Bundle()) {
		t.Error("two replicas have two roots")
	}
}

// clean64 makes a document of values that client-go copies.
func clean64(t *testing.T, o kubetest.Doc) kubetest.Doc {
	t.Helper()
	u, err := plain(o)
	if err != nil {
		t.Fatal(err)
	}
	return u.Object
}
