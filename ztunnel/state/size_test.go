package state_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
)

// town is a mesh of n pods in n/10 services of one namespace per hundred pods, over n/50 nodes.
func town(tb testing.TB, n int) []xds.Raw {
	out := make([]xds.Raw, 0, n+n/10)
	ip := netip.MustParseAddr("10.0.0.0")
	vip := netip.MustParseAddr("10.128.0.0")
	for i := range n {
		ns, svc := fmt.Sprintf("namespace-%d", i/100), fmt.Sprintf("service-%d", i/10)
		if i%10 == 0 {
			vip = vip.Next()
			_, raw := Raw(tb, Service(ns, svc, []string{vip.String()}, 80, 8080))
			out = append(out, raw)
		}
		ip = ip.Next()
		w := Pod(ns, fmt.Sprintf("%s-%08x-%05x", svc, i/10, i), svc, ip.String())
		w.Node, w.CanonicalName, w.WorkloadName = fmt.Sprintf("node-%d", i%max(n/50, 1)), svc, svc
		In(w, mesh.ServiceName(ns, mesh.ServiceHostname(ns, svc, "cluster.local")), 80, 8080)
		_, raw := Raw(tb, w)
		out = append(out, raw)
	}
	return out
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A node proxy holds the whole mesh: 50,000 workloads must fit in 2.4 KB each, services and indexes included.
func TestBytesPerWorkload(t *testing.T) {
	const n, limit = 50000, 2400
	ups := town(t, n)
	before := heap()
	st := state.New()
	if rejected := st.Apply(mesh.TypeAddress, ups, nil); len(rejected) > 0 {
		t.Fatal(rejected[0])
	}
	after := heap()
	per := (after - before) / n
	runtime.KeepAlive(ups)
	t.Logf("%d bytes a workload", per)
	if per > limit {
		t.Errorf("%d bytes a workload, more than %d", per, limit)
	}
	runtime.KeepAlive(st)
}

// The cost of a change must not grow with the mesh: what one update of one pod allocates is about the same beside fifty
// thousand others as beside a few hundred.
func TestCostOfOneChange(t *testing.T) {
	cost := func(n int) float64 {
		ups := town(t, n)
		st := state.New()
		st.Apply(mesh.TypeAddress, ups, nil)
		one := ups[1:2]
		var before, after runtime.MemStats
		const rounds = 200
		runtime.ReadMemStats(&before)
		for range rounds {
			st.Apply(mesh.TypeAddress, one, nil)
		}
		runtime.ReadMemStats(&after)
		return float64(after.TotalAlloc-before.TotalAlloc) / rounds
	}
	small, large := cost(500), cost(50000)
	t.Logf("one change allocates %.0f bytes among 500 workloads, %.0f among 50,000", small, large)
	if large > 3*small {
		t.Errorf("one change allocates %.0f bytes among 500 workloads but %.0f among 50,000", small, large)
	}
}

func BenchmarkApplyOne(b *testing.B) {
	ups := town(b, 50000)
	st := state.New()
	st.Apply(mesh.TypeAddress, ups, nil)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		st.Apply(mesh.TypeAddress, ups[i%len(ups):i%len(ups)+1], nil)
	}
}

func BenchmarkFullSync(b *testing.B) {
	ups := town(b, 10000)
	b.ReportAllocs()
	for b.Loop() {
		state.New().Apply(mesh.TypeAddress, ups, nil)
	}
}

func BenchmarkWorkloadAt(b *testing.B) {
	st := state.New()
	st.Apply(mesh.TypeAddress, town(b, 50000), nil)
	a := state.NetAddr{Addr: netip.MustParseAddr("10.0.100.1")}
	s := st.Current()
	b.ReportAllocs()
	for b.Loop() {
		if s.WorkloadAt(a) == nil {
			b.Fatal("not found")
		}
	}
}
