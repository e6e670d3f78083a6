package state_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
)

// Whatever bytes arrive as an address, they are refused, or can be looked up and removed again without a trace.
func FuzzAddressBytes(f *testing.F) {
	w := In(Pod("a", "p", "sa", "10.0.0.1", "fd00::1"), "a/x.a.svc.cluster.local", 80, 8080)
	w.Waypoint = WaypointAt("10.0.0.2")
	s := Service("a", "x", []string{"10.96.0.1", "10.0.0.0/8"}, 80, 0)
	s.WeightedWaypoints = []*workload.WeightedWaypoint{{Destination: Waypoint("a", "w"), Weight: 3}}
	for _, m := range []proto.Message{w, s} {
		_, raw := Raw(f, m)
		f.Add(raw.Body)
	}
	f.Add([]byte{0x0a, 0x00})
	f.Fuzz(func(t *testing.T, body []byte) {
		st := state.New()
		if len(st.Apply(mesh.TypeAddress, []xds.Raw{{Name: "x", Body: body}}, nil)) > 0 {
			for range st.Current().Workloads() {
				t.Fatal("refused and kept")
			}
			return
		}
		s := st.Current()
		var names []string
		for uid, w := range s.Workloads() {
			names = append(names, uid)
			for _, a := range w.Addrs {
				if got := s.WorkloadAt(state.NetAddr{Network: w.Network, Addr: a}); (got == nil) != w.HostNetwork {
					t.Fatalf("WorkloadAt(%s) = %v", a, got)
				}
			}
		}
		for key, svc := range s.Services() {
			names = append(names, key)
			for _, v := range svc.VIPs {
				if got := state.Best(s.ServicesAt(v), svc.Namespace, ""); got != svc {
					t.Fatalf("ServicesAt(%s) = %v", v, got)
				}
			}
			for _, c := range svc.CIDRs {
				for range s.ServicesAt(state.NetAddr{Network: c.Network, Addr: c.Prefix.Addr()}) {
					break
				}
			}
		}
		st.Apply(mesh.TypeAddress, nil, names)
		s = st.Current()
		if n := count2(s.Workloads()) + count2(s.Services()) + count2(s.Staged()); n != 0 {
			t.Fatalf("%d things left of %v", n, names)
		}
	})
}
