package envoy

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
)

func TestAccepted(t *testing.T) {
	e := routesEnv()
	e.Gateway = &waypoint.Gateway{TrustDomains: []string{"cluster.local", "old.example"}}
	svc := &workload.Service{Namespace: "tenant", SubjectAltNames: []string{
		"spiffe://cluster.local/ns/tenant/sa/a", "spiffe://old.example/ns/tenant/sa/b",
		"spiffe://cluster.local/ns/shop/sa/vault", "spiffe://cluster.local/ns/tenant2/sa/c", "spiffe://evil.example/ns/tenant/sa/d", "db.example",
		"spiffe://cluster.local/ns/tenant/sa/a,spiffe://cluster.local/ns/shop/sa/vault",
	}}
	if got := e.accepted(svc); !slices.Equal(got, svc.SubjectAltNames[:2]) {
		t.Errorf("%v", got)
	}
}

func TestBorrowed(t *testing.T) {
	e := routesEnv()
	e.Options = Options{Namespace: "infra", ServiceAccount: "wp"}
	pod := func(ns string, guards ...*waypoint.Guard) *workload.Workload {
		w := &workload.Workload{Namespace: ns}
		if len(guards) > 0 {
			config, err := anypb.New(&waypoint.Guards{Guards: guards})
			if err != nil {
				t.Fatal(err)
			}
			w.Extensions = []*workload.Extension{{Name: mesh.ExtensionGuards, Config: config}}
		}
		return w
	}
	ours := []string{"spiffe://cluster.local/ns/infra/sa/wp"}
	for name, c := range map[string]struct {
		w    *workload.Workload
		want bool
	}{
		"not guarded":                 {pod("shop"), false},
		"guarded":                     {pod("shop", &waypoint.Guard{Waypoints: ours}), true},
		"guarded on the port":         {pod("shop", &waypoint.Guard{Waypoints: ours, Ports: []uint32{80, 8080}}), true},
		"guarded on another port":     {pod("shop", &waypoint.Guard{Waypoints: ours, Ports: []uint32{80}}), false},
		"open":                        {pod("shop", &waypoint.Guard{Waypoints: ours, Open: true}), false},
		"guarded by another waypoint": {pod("shop", &waypoint.Guard{Waypoints: []string{"spiffe://cluster.local/ns/shop/sa/wp"}}), false}, // refused there
		"of the service's namespace":  {pod("tenant", &waypoint.Guard{Waypoints: ours}), false},
	} {
		if got := e.borrowed(&waypoint.Destination{Namespace: "tenant"}, c.w, 8080); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
