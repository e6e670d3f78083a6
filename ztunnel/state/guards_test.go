package state_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
)

func TestGuardsAreDecoded(t *testing.T) {
	const wp = "spiffe://cluster.local/ns/shop/sa/wp"
	in := &waypoint.Guards{Waypoints: []string{wp}, Guards: []*waypoint.Guard{
		{Ports: []uint32{8080}, Waypoints: []string{wp}, Gateway: "shop/gw", Service: "shop/cart", Policies: []string{"AuthorizationPolicy shop/a"}, Open: true},
	}}
	pod := Guarded(Pod("shop", "cart", "cart-sa", "10.0.0.1"), in)
	pod.Extensions = append(pod.Extensions, &workload.Extension{Name: "somebody.else/extension"})
	s := World(t, pod, Guarded(Service("shop", "cart", []string{"10.96.0.1"}, 80, 8080), in), Pod("shop", "web", "web-sa", "10.0.0.9")).Current()
	id := identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "wp"}
	for what, g := range map[string]*state.Guards{"workload": s.Pod("Kubernetes", "shop", "cart").Guards, "service": s.ServiceByKey(cartService).Guards} {
		if g == nil || len(g.List) != 1 || !g.Trusts(id) || g.Unreadable != nil {
			t.Fatalf("%s has guards %+v", what, g)
		}
		got := g.List[0]
		if !got.Covers(8080) || got.Covers(80) || got.Waypoints[0] != id || got.Gateway != "shop/gw" || got.Service != "shop/cart" || !got.Open || len(got.Policies) != 1 {
			t.Fatalf("%s has guard %+v", what, got)
		}
	}
	if g := s.Pod("Kubernetes", "shop", "web").Guards; g != nil || g.Trusts(id) || g.Trusts(identity.ID{}) {
		t.Fatalf("guards out of nothing: %+v", g)
	}
}

const cartService = "shop/cart.shop.svc.cluster.local"

// TestUnreadableGuardsClose: the resource is refused by name, and is there all the same with a guard nobody gets past.
func TestUnreadableGuardsClose(t *testing.T) {
	foreign, err := anypb.New(&workload.Workload{})
	if err != nil {
		t.Fatal(err)
	}
	one := func(g *waypoint.Guard) *workload.Workload {
		return Guarded(Pod("shop", "cart", "cart-sa", "10.0.0.1"), &waypoint.Guards{Guards: []*waypoint.Guard{g}})
	}
	bare := func(e ...*workload.Extension) *workload.Workload {
		w := Pod("shop", "cart", "cart-sa", "10.0.0.1")
		w.Extensions = e
		return w
	}
	many := &waypoint.Guards{Guards: make([]*waypoint.Guard, 1001)}
	for i := range many.Guards {
		many.Guards[i] = &waypoint.Guard{}
	}
	for name, tt := range map[string]struct {
		w    *workload.Workload
		want string
	}{
		"no config":    {bare(&workload.Extension{Name: mesh.ExtensionGuards}), "is no ambit.waypoint.Guards"},
		"another type": {bare(&workload.Extension{Name: mesh.ExtensionGuards, Config: foreign}), "is no ambit.waypoint.Guards"},
		"garbage":      {bare(&workload.Extension{Name: mesh.ExtensionGuards, Config: &anypb.Any{TypeUrl: "type.googleapis.com/ambit.waypoint.Guards", Value: []byte{0xff}}}), "is no ambit.waypoint.Guards"},
		"twice":        {Guarded(one(&waypoint.Guard{}), &waypoint.Guards{}), "is there twice"},
		"port":         {one(&waypoint.Guard{Ports: []uint32{80, 70000}}), "guards[0].ports[1]: 70000 is not a port"},
		"waypoint":     {one(&waypoint.Guard{Waypoints: []string{"cluster.local/ns/a/sa/b"}}), "guards[0].waypoints[0]: identity"},
		"bound":        {Guarded(Pod("shop", "cart", "cart-sa", "10.0.0.1"), &waypoint.Guards{Waypoints: []string{""}}), "waypoints[0]: identity"},
		"far too many": {Guarded(Pod("shop", "cart", "cart-sa", "10.0.0.1"), many), "1001 guards"},
	} {
		t.Run(name, func(t *testing.T) {
			st := World(t, Pod("shop", "cart", "cart-sa", "10.0.0.1")) // it was open before
			typeURL, raw := Raw(t, tt.w)
			rejected := st.Apply(typeURL, []xds.Raw{raw}, nil)
			if len(rejected) != 1 || rejected[0].Name != tt.w.GetUid() || !strings.Contains(rejected[0].Err.Error(), tt.want) ||
				!strings.Contains(rejected[0].Err.Error(), "extension ambit.io/guards") {
				t.Fatalf("refused with %v", rejected)
			}
			g := st.Current().Workload(tt.w.GetUid()).Guards
			if g == nil || g.Unreadable == nil || len(g.List) != 1 || len(g.List[0].Waypoints) != 0 || g.List[0].Open || !g.List[0].Covers(8080) || len(g.Waypoints) != 0 {
				t.Fatalf("guards %+v", g)
			}
			// Mended, it opens again.
			Put(t, st, Pod("shop", "cart", "cart-sa", "10.0.0.1"))
			if g := st.Current().Workload(tt.w.GetUid()).Guards; g != nil {
				t.Fatalf("guards %+v stay", g)
			}
		})
	}
}
