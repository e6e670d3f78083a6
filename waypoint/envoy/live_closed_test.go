package envoy_test

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

// TestClosedPorts: a waypoint that serves pods by address, too, leads nobody past the policies of a service whose port it is;
// and an entry that claims a pod's address takes nothing from the pod.
func TestClosedPorts(t *testing.T) {
	w, pod, port := echoWorld(t, "127.0.65.1", waypoint.Protocol_HTTP1)
	w.Gateway = &waypoint.Gateway{Namespace: "default", Name: "waypoint", Services: true, Workloads: true, TrustDomains: []string{"cluster.local"}}
	entry := envoytest.Pod("entry", "127.0.65.1", "aaa")
	entry.Uid, entry.TunnelProtocol = "Kubernetes/networking.istio.io/WorkloadEntry/tenant/entry", workload.TunnelProtocol_NONE
	w.Bound = []*workload.Workload{entry, pod}
	p := envoytest.Start(t, w)
	p.Node("127.0.65.1", idEcho)
	at := fmt.Sprintf("127.0.65.1:%d", port)
	get := func(authority string, status int, app string) {
		t.Helper()
		client := p.Peer(idClient).Client(authority)
		got, echo, err := envoytest.Get(client, "http://echo/")
		if status == 0 && err == nil || status != 0 && (err != nil || got != status || echo.App != app) {
			t.Errorf("%s: %d from %q, %v; want %d", authority, got, echo.App, err, status)
		}
	}
	get(at, 200, "echo")
	guard := func(change func(*waypoint.Guard)) {
		g := &waypoint.Guard{Service: "default/echo.default.svc.cluster.local", Waypoints: []string{envoytest.Identity}, Ports: []uint32{port}}
		change(g)
		config, err := anypb.New(&waypoint.Guards{Guards: []*waypoint.Guard{g}})
		if err != nil {
			t.Fatal(err)
		}
		pod.Extensions = []*workload.Extension{{Name: mesh.ExtensionGuards, Config: config}}
		p.Apply(w)
	}
	guard(func(*waypoint.Guard) {})
	get(at, 0, "")
	get("10.96.0.1:80", 200, "echo")
	for name, change := range map[string]func(*waypoint.Guard){
		"open": func(g *waypoint.Guard) { g.Open = true }, "another port": func(g *waypoint.Guard) { g.Ports = []uint32{port + 1} },
		"of the workload": func(g *waypoint.Guard) { g.Service = "" },
	} {
		t.Log(name)
		guard(change)
		get(at, 200, "echo")
	}
	guard(func(g *waypoint.Guard) { g.Ports = nil })
	get(at, 0, "")
}
