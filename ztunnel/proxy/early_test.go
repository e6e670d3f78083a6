package proxy

import (
	"errors"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
)

// Workloads and policies are separate answers of the control plane. Between the two, a pod that is known but whose
// policies are not must let nobody in.
func TestInboundWaitsForTheFirstPolicies(t *testing.T) {
	st := cartWorld(t)
	synced := make(chan struct{})
	w := startSynced(t, st, nil, synced)
	a := w.listen("10.0.0.1:8080")
	status := make(chan error, 1)
	client := w.tunnel("10.0.0.9", "shop", "web-sa")
	go func() {
		_, err := w.open(client, "10.0.0.1:8080")
		status <- err
	}()
	select {
	case err := <-status:
		t.Fatalf("the request was answered before any policy was known: %v", err)
	case <-a.calls:
		t.Fatal("the application was reached before any policy was known")
	case <-time.After(200 * time.Millisecond):
	}
	Put(t, st, denyAccount("d", "web-sa"))
	close(synced)
	var se *hbone.StatusError
	if err := <-status; !errors.As(err, &se) || se.Code != 401 {
		t.Fatalf("%v, want status 401", err)
	}
	w.logged(`error="explicitly denied by: shop/d"`)
}

// A pod that was made anew under its old name, with another service account, is not the pod the control plane still
// describes: the old one's policies do not apply to it.
func TestInboundIgnoresTheOldPodOfThatName(t *testing.T) {
	st := World(t, Pod("shop", "cart", "old-sa", "10.0.0.1"), Pod("shop", "web", "web-sa", "10.0.0.9"))
	w := start(t, st, nil)
	a := w.listen("10.0.0.1:8080")
	status := make(chan error, 1)
	client := w.tunnel("10.0.0.9", "shop", "web-sa")
	go func() {
		_, err := w.open(client, "10.0.0.1:8080")
		status <- err
	}()
	select {
	case err := <-status:
		t.Fatalf("answered by what is known of another pod: %v", err)
	case <-a.calls:
		t.Fatal("the application was reached by what is known of another pod")
	case <-time.After(200 * time.Millisecond):
	}
	Put(t, st, Pod("shop", "cart", "cart-sa", "10.0.0.1"))
	a.next(t)
	if err := <-status; err != nil {
		t.Fatal(err)
	}
}
