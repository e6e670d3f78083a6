package main

import (
	"context"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/xds"
)

// watch is a second client of the control plane that asks for what the waypoint does and keeps nothing: it says when a
// resource was pushed.
type watch struct {
	client *xds.Client
	done   chan error
	cancel context.CancelFunc

	mu   sync.Mutex
	want string // guarded by mu
	at   time.Time
}

func newWatch(ctx context.Context, target string) *watch {
	w := &watch{done: make(chan error, 1)}
	types := []string{mesh.TypeAddress, mesh.TypeWaypointGateway, mesh.TypeWaypointService, mesh.TypeWaypointDestination}
	w.client = xds.NewClient(xds.ClientConfig{Target: target, Named: true, Node: &corev3.Node{Id: "waypoint~10.1.1.2~watch." + namespace + "~" + namespace + ".svc.cluster.local"}}, w, types...)
	for _, t := range types {
		w.client.Subscribe(t, mesh.GatewayScope(namespace, gatewayName))
	}
	w.client.Subscribe(mesh.TypeAddress, mesh.ServiceName(namespace, host(mover)))
	ctx, w.cancel = context.WithCancel(ctx)
	go func() { w.done <- w.client.Run(ctx) }()
	return w
}

func (w *watch) stop() {
	w.cancel()
	<-w.done
}

// Apply implements xds.Handler.
func (w *watch) Apply(_ string, upserts []xds.Raw, removed []string) []xds.Rejected {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range upserts {
		if r.Name == w.want && w.at.IsZero() {
			w.at = now
		}
	}
	return nil
}

// expect starts to wait for a resource, pushed says when it came; zero if it has not.
func (w *watch) expect(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.want, w.at = name, time.Time{}
}

func (w *watch) pushed() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at
}
