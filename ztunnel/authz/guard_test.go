package authz_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/authz"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

func account(name string) identity.ID {
	return identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: name}
}

func TestGuard(t *testing.T) {
	wp, other, web := account("wp"), account("other"), account("web")
	closed := state.Guard{
		Ports: []uint16{8080}, Waypoints: []identity.ID{wp}, Gateway: "shop/gw", Service: "shop/cart.svc",
		Policies: []string{"AuthorizationPolicy shop/a", "RequestAuthentication shop/b", "AuthorizationPolicy shop/c", "AuthorizationPolicy shop/d"},
	}
	open := closed
	open.Open = true
	second := state.Guard{Ports: []uint16{8080}, Waypoints: []identity.ID{other}, Gateway: "shop/second", Service: "shop/twin.svc"}
	nobody := state.Guard{Gateway: "shop/gone", Policies: []string{"AuthorizationPolicy shop/a"}}
	const refused = "service shop/cart.svc must be reached through waypoint shop/gw: it enforces AuthorizationPolicy shop/a, RequestAuthentication shop/b, AuthorizationPolicy shop/c and others"
	for _, tt := range []struct {
		name   string
		guards []state.Guard
		peer   identity.ID
		port   uint16
		want   string // of the error
		open   bool
	}{
		{"none", nil, web, 8080, "", false},
		{"through", []state.Guard{closed}, wp, 8080, "", false},
		{"around", []state.Guard{closed}, web, 8080, refused, false},
		{"around in plaintext", []state.Guard{closed}, identity.ID{}, 8080, refused, false},
		{"another port", []state.Guard{closed}, web, 8081, "", false},
		{"open", []state.Guard{open}, web, 8080, "", true},
		{"open, through", []state.Guard{open}, wp, 8080, "", false},
		{"open and closed", []state.Guard{open, closed}, web, 8080, refused, false},
		{"through the waypoint of the other service", []state.Guard{closed, second}, other, 8080, "", false},
		{"around both", []state.Guard{closed, second}, web, 8080, refused, false},
		{"no waypoint at all", []state.Guard{nobody}, wp, 1, "this workload must be reached through waypoint shop/gone, which does not exist: it enforces AuthorizationPolicy shop/a", false},
		{"no waypoint beats others", []state.Guard{closed, nobody}, wp, 8080, "this workload must be reached through waypoint shop/gone, which does not exist: it enforces AuthorizationPolicy shop/a", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := authz.Guard(&state.Guards{List: tt.guards}, tt.peer, tt.port)
			err := p.Error()
			switch {
			case tt.want == "" && err != nil, tt.want != "" && (err == nil || err.Error() != tt.want), p.Open != tt.open:
				t.Errorf("got %+v, error %v", p, err)
			case err != nil && telemetry.ReasonOf(err) != telemetry.WaypointRequired:
				t.Errorf("reason %s", telemetry.ReasonOf(err))
			}
		})
	}
	if p := authz.Guard(nil, web, 8080); p.Error() != nil || p.Open {
		t.Error("no guards at all, and refused")
	}
}

// TestGuardProperties: what is let through without being counted met no guard on its port, or came through a waypoint of one
// of them; and no order of the guards changes anything.
func TestGuardProperties(t *testing.T) {
	ids := []identity.ID{account("a"), account("b"), account("c")}
	rapid.Check(t, func(rt *rapid.T) {
		guards := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) state.Guard {
			return state.Guard{
				Ports:     rapid.SliceOfNDistinct(rapid.Uint16Range(1, 3), 0, 2, rapid.ID).Draw(t, "ports"),
				Waypoints: rapid.SliceOfNDistinct(rapid.SampledFrom(ids), 0, 2, rapid.ID).Draw(t, "waypoints"),
				Open:      rapid.Bool().Draw(t, "open"),
			}
		}), 0, 4).Draw(rt, "guards")
		peer := rapid.SampledFrom(append(ids, identity.ID{})).Draw(rt, "peer")
		port := rapid.Uint16Range(1, 3).Draw(rt, "port")
		covering, through, closed, orphaned := 0, false, false, false
		for _, g := range guards {
			if g.Covers(port) {
				covering++
				through = through || slices.Contains(g.Waypoints, peer)
				closed = closed || !g.Open
				orphaned = orphaned || !g.Open && len(g.Waypoints) == 0
			}
		}
		for range 2 {
			p := authz.Guard(&state.Guards{List: guards}, peer, port)
			refuse := orphaned || closed && !through
			open := !refuse && covering > 0 && !through
			if (p.Error() != nil) != refuse || p.Open != open {
				rt.Fatalf("%+v for %v on %d: %+v", guards, peer, port, p)
			}
			slices.Reverse(guards)
		}
	})
}
