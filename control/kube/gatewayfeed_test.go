package kube

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/ambit-mesh/ambit/control/gateways"
	"github.com/ambit-mesh/ambit/control/kube/kubetest"
	"github.com/ambit-mesh/ambit/waypoint/deploy"
)

const (
	deployments = "apis/apps/v1/deployments"
	waypointDoc = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: NAME, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
`
)

// reign runs what looks after Gateways until stop is called.
func reign(t *testing.T, f *GatewayFeed, r *gateways.Reconciler) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { f.Run(ctx) })
	wg.Go(func() { _ = r.Run(ctx) })
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return stop
}

// early remembers what was written while it was too early for it.
type early struct {
	gateways.Applier
	mu    sync.Mutex
	now   bool
	calls []string
}

func (e *early) note(what string, k gateways.Key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.now {
		e.calls = append(e.calls, what+" "+k.String())
	}
}

func (e *early) set(now bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.now = now
}

func (e *early) Apply(ctx context.Context, o gateways.Object) error {
	e.note("apply", gateways.Key{Kind: o["kind"].(string)})
	return e.Applier.Apply(ctx, o)
}

func (e *early) Delete(ctx context.Context, k gateways.Key) error {
	e.note("delete", k)
	return e.Applier.Delete(ctx, k)
}

func (e *early) SetStatus(ctx context.Context, k gateways.Key, uid string, change func(gateways.Object) gateways.Object) error {
	e.note("status", k)
	return e.Applier.SetStatus(ctx, k, uid, change)
}

// gatewayWorld is a server that serves what Gateways need, and who looks after them.
func gatewayWorld(t *testing.T) (*kubetest.Server, *early, *GatewayFeed, *gateways.Reconciler) {
	a := kubetest.New(t)
	a.Serve(gatewaysPath, "Gateway", true)
	a.Serve("apis/gateway.networking.k8s.io/v1/gatewayclasses", "GatewayClass", false)
	a.Put("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n")
	w := start(t, a)
	w.synced(t)
	writer := &early{Applier: NewWriter(w.source)}
	r := gateways.New(gateways.Config{Applier: writer, Deploy: deploy.Config{}, Status: w.status})
	return a, writer, NewGatewayFeed(w.source, r), r
}

// A replica that leads again knows nothing of what another has made meanwhile: what runs for a Gateway it has not heard of
// yet is no orphan.
func TestGatewayFeedRunsAgain(t *testing.T) {
	a, writer, feed, r := gatewayWorld(t)
	a.Put(called(waypointDoc, "one"))
	stop := reign(t, feed, r)
	there := func(name string) func() bool {
		return func() bool { return a.Object("api/v1/services", "shop", name) != nil }
	}
	await(t, "the first waypoint", there("one"))
	stop()

	// Another replica has led: it has deleted the first and made a second.
	for _, path := range []string{gatewaysPath, deployments, "api/v1/services", "api/v1/serviceaccounts"} {
		if path != gatewaysPath {
			o := a.Object(path, "shop", "one")
			o["metadata"].(kubetest.Doc)["name"] = "again"
			o["metadata"].(kubetest.Doc)["labels"].(kubetest.Doc)["gateway.networking.k8s.io/gateway-name"] = "again"
			a.PutDoc(o)
		}
		a.Remove(path, "shop", "one")
	}
	a.Put(called(waypointDoc, "again"))
	slow, read := make(chan struct{}), make(chan struct{})
	var once sync.Once
	a.Fail(func(r *http.Request) int {
		q := r.URL.Query()
		switch {
		case r.URL.Path == "/"+gatewaysPath && q.Get("watch") == "":
			<-slow
		case r.URL.Path == "/"+deployments && q.Get("watch") != "" && q.Get("sendInitialEvents") == "":
			once.Do(func() { close(read) }) // a watch follows a list
		}
		return 0
	})
	uid := a.Object(deployments, "shop", "again")["metadata"].(kubetest.Doc)["uid"]
	before := a.Watches()
	writer.set(true)
	reign(t, feed, r)
	<-read
	await(t, "the watches of other kinds", func() bool { return a.Watches() >= before+8 })
	writer.set(false)
	close(slow)
	if len(writer.calls) > 0 {
		t.Errorf("written before it is known which Gateways there are: %v", writer.calls)
	}
	a.Put(called(waypointDoc, "three"))
	await(t, "the third waypoint", there("three"))
	if n := a.Asked("DELETE", "/apis/apps/v1/namespaces/shop/deployments/again"); n > 0 {
		t.Errorf("the waypoint of a live Gateway was deleted %d times", n)
	}
	if o := a.Object(deployments, "shop", "again"); o == nil || o["metadata"].(kubetest.Doc)["uid"] != uid {
		t.Error("the waypoint of a live Gateway is another one now")
	}
	if there("one")() {
		t.Error("what ran for a Gateway that was deleted was made again")
	}
}

func called(text, name string) string { return strings.ReplaceAll(text, "NAME", name) }

// A ConfigMap that is there, and says nothing about how a Gateway is deployed, is not said to be missing as a whole.
func TestOverlayWithoutKeys(t *testing.T) {
	a, _, feed, r := gatewayWorld(t)
	a.Put("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: overlay, namespace: shop}\ndata: {deployments: ''}\n")
	a.Put(strings.Replace(called(waypointDoc, "one"), "spec: {", "spec: {infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: overlay}}, ", 1))
	reign(t, feed, r)
	await(t, "the refusal", func() bool {
		status, _ := a.Object(gatewaysPath, "shop", "one")["status"].(kubetest.Doc)
		list, _ := status["conditions"].([]any)
		for _, c := range list {
			if m, _ := c.(kubetest.Doc)["message"].(string); strings.Contains(m, "ConfigMap shop/overlay with one of the keys deployment,") {
				return true
			}
		}
		return false
	})
	a.Put("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: overlay, namespace: shop}\ndata: {deployment: '{}'}\n")
	await(t, "the waypoint", func() bool { return a.Object(deployments, "shop", "one") != nil })
}
