package daemon

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/xds"
)

const waypointTown = town + `---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: wp}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{type: Hostname, value: wp.shop.svc.cluster.local}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: istio, listeners: [{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec: {parentRefs: [{name: edge}], hostnames: [shop.example], rules: [{backendRefs: [{name: web, port: 80}]}]}
`

const split = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec: {hosts: [web], http: [{route: [{destination: {host: web}}], timeout: 3s}]}
`

// connectGateway is a proxy of a Gateway: it asks for what belongs to it.
func (p *plane) connectGateway(ns, name string) *proxy {
	x := &proxy{have: map[string]string{}}
	types := []string{mesh.TypeAddress, mesh.TypeWaypointGateway, mesh.TypeWaypointVirtualHost, mesh.TypeWaypointService, mesh.TypeWaypointDestination, mesh.TypeWaypointSecret}
	c := xds.NewClient(xds.ClientConfig{
		Target: "control", Named: true,
		Dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(p.cfg.Plaintext, "unix:"))
		},
		Node: &corev3.Node{Id: "waypoint~10.0.0.1~wp.shop~shop.svc.cluster.local"},
	}, x, types...)
	for _, t := range types {
		c.Subscribe(t, mesh.GatewayScope(ns, name))
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	p.t.Cleanup(func() { cancel(); <-done })
	select {
	case <-c.Synced():
	case <-time.After(20 * time.Second):
		p.t.Fatal("the client never had a complete answer")
	}
	return x
}

// TestFolderToWaypoint follows YAML to the proxies of two Gateways: each hears of its own alone, and of what changes only.
func TestFolderToWaypoint(t *testing.T) {
	p := newPlane(t)
	p.write("town.yaml", waypointTown)
	p.start()
	defer p.stop()
	w, e := p.connectGateway("shop", "wp"), p.connectGateway("shop", "edge")
	service := "shop/wp/shop/web.shop.svc.cluster.local"
	p.await("the waypoint's facts", func() bool {
		// Its Service and its Destination have the same name.
		return slices.Equal(w.names(), []string{"shop/wp/gateway", service})
	})
	p.await("the edge's facts", func() bool {
		return slices.Equal(e.names(), []string{"shop/edge/gateway", "shop/edge/https/shop.example", "shop/edge/shop/web.shop.svc.cluster.local"})
	})
	w.drain()
	e.drain()
	p.write("split.yaml", split)
	p.await("the route", func() bool { return len(w.drain()) > 0 })
	if _, b := p.get("/debug/facts?gateway=shop/wp&name=web"); !strings.Contains(b, `"timeout": "3s"`) && !strings.Contains(b, `"timeout":"3s"`) {
		t.Errorf("the route is not in the dump: %s", b)
	}
	if l := e.drain(); len(l) > 0 {
		t.Errorf("the other gateway was told %v", l)
	}
	if code, b := p.get("/debug/facts"); code != 200 || !strings.Contains(b, "shop/edge/gateway") {
		t.Errorf("%d %.300s", code, b)
	}
	if _, b := p.get("/debug/refusals"); !strings.Contains(b, `"Gateway"`) || !strings.Contains(b, "there is no Secret shop/cert") {
		t.Errorf("the missing certificate is not told: %.300s", b)
	}
}
