package stories

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

const webDeployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: web
      terminationGracePeriodSeconds: 5
      containers:
      - name: web
        command: [ambit-echo, serve]
        readinessProbe: {tcpSocket: {port: 9000}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 1}}}
`

// TestRollout rolls a Deployment over twice under a storm of new connections, and none of them fails: not when a pod's
// proxy comes up, not when its endpoints go away, not when its namespace is taken down.
func TestRollout(t *testing.T) {
	w := start(t, options{nodes: 2})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "client", "client", "node1")
	w.apply(webDeployment)
	w.must(w.Settled(w.soon(), "Deployment", "shop", "web", nil))
	vip := w.service("shop", "web", 9000, 9000)
	w.protocol("shop", "HBONE")
	w.eventually("an answer", func() error { _, err := w.call("shop", "client", vip, "hi"); return err })

	began := time.Now()
	var stops []func() load
	for range 6 {
		stops = append(stops, w.load("shop", "client", vip))
	}
	for range 2 {
		w.must(w.Restart(w.soon(), "Deployment", "shop", "web"))
		w.must(w.Settled(w.soon(), "Deployment", "shop", "web", nil))
	}
	calls := 0
	for _, stop := range stops {
		got := stop()
		calls += got.Calls
		if len(got.Errors) > 0 {
			t.Error(got)
		}
	}
	t.Logf("%d connections, %.0f a second", calls, float64(calls)/time.Since(began).Seconds())
}

// TestAddressReuse gives the address of a pod that went to a pod of another identity, again and again: who asks for the
// first one's service never hears the second.
func TestAddressReuse(t *testing.T) {
	const place = `lab.ambit.io/place: "77"`
	w := start(t, options{nodes: 2})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "web", "node2", place)
	ip := w.podIP("shop", "web")
	vip := w.service("shop", "web", 80, 8080)
	first := w.serve("shop", "web", 8080)
	w.protocol("shop", "HBONE")
	w.want("shop", "client", vip, "web "+w.podIP("shop", "client"))

	ctx, cancel := context.WithCancel(w.ctx)
	var wg sync.WaitGroup
	var mu sync.Mutex
	heard := map[string]int{}
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if got, err := w.call("shop", "client", vip, "hi"); err == nil {
					who, _, _ := strings.Cut(got, " ")
					mu.Lock()
					heard[who]++
					mu.Unlock()
				}
			}
		})
	}
	for i := range 3 {
		first.close()
		w.must(w.DeleteObject(w.soon(), "Pod", "shop", "web", 0))
		w.gone("shop", "web")
		name := fmt.Sprintf("thief%d", i)
		w.pod("shop", "thief", name, "node2", place)
		if got := w.podIP("shop", name); got != ip {
			t.Fatalf("%s has address %s, not %s", name, got, ip)
		}
		thief := w.serve("shop", name, 8080)
		// The address is the other's now, for whoever asks for the address.
		w.eventually("the new owner to answer", func() error {
			got, err := w.call("shop", "client", w.podIP("shop", name)+":8080", "hi")
			if err == nil && !strings.HasPrefix(got, name) {
				t.Errorf("%s answered", got)
			}
			return err
		})
		thief.close()
		w.must(w.DeleteObject(w.soon(), "Pod", "shop", name, 0))
		w.gone("shop", name)
		w.pod("shop", "web", "web", "node2", place)
		first = w.serve("shop", "web", 8080)
		w.eventually("web to answer again", func() error { _, err := w.call("shop", "client", vip, "hi"); return err })
	}
	cancel()
	wg.Wait()
	for who, n := range heard {
		if who != "web" {
			t.Errorf("%s answered %d times for web", who, n)
		}
	}
	t.Logf("answers: %v", heard)
}

// gone waits until a pod is no longer there.
func (w *world) gone(ns, pod string) {
	w.Helper()
	w.eventually(pod+" to go", func() error {
		pods, err := w.Get(w.ctx, "Pod", ns, pod)
		if err == nil && len(pods) > 0 {
			err = errors.New("still there")
		}
		return err
	})
}
