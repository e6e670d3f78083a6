package route_test

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/ztunnel/route"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// What could not be reached is not chosen again, also where preference would have it, until nothing is left.
func TestAvoid(t *testing.T) {
	for _, mode := range []workload.LoadBalancing_Mode{workload.LoadBalancing_UNSPECIFIED_MODE, workload.LoadBalancing_FAILOVER} {
		world := []proto.Message{client(), with(cartService(), func(s *workload.Service) {
			s.LoadBalancing = &workload.LoadBalancing{Mode: mode, RoutingPreference: []workload.LoadBalancing_Scope{workload.LoadBalancing_NODE}}
		})}
		for i := range 3 {
			world = append(world, with(In(Pod("shop", fmt.Sprint("cart-", i), "sa", fmt.Sprintf("10.0.1.%d", i)), cartKey, 80, 80), func(w *workload.Workload) {
				if i > 0 {
					w.Node = "elsewhere"
				}
			}))
		}
		s := World(t, world...).Current()
		req := request(t, s, "10.96.0.1:80")
		seen := map[string]bool{}
		for range 3 {
			d, err := route.Outbound(s, req, nil)
			if err != nil || seen[d.Workload.UID] {
				t.Fatalf("mode %v: after %v: %v, %v", mode, req.Avoid, d.Workload, err)
			}
			seen[d.Workload.UID] = true
			req.Avoid = append(req.Avoid, d.Workload.UID)
		}
		if _, err := route.Outbound(s, req, nil); telemetry.ReasonOf(err) != telemetry.NoHealthyUpstream {
			t.Errorf("mode %v: with nothing left: %v", mode, err)
		}
	}
}
