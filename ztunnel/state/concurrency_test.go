package state_test

import (
	"sync"
	"testing"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
)

// Readers hold snapshots while the writer goes on; under -race this fails if a batch ever touches what it does not own.
// What a snapshot says must also hold together: a service's endpoints are workloads of that very snapshot.
func TestReadersBesideTheWriter(t *testing.T) {
	const key = "a/x.a.svc.cluster.local"
	st := World(t, Service("a", "x", []string{"10.96.0.1"}, 80, 80))
	var ups []xds.Raw
	for i := range 64 {
		_, raw := Raw(t, In(Pod("a", string(rune('A'+i)), "sa", "10.0.0."+string(rune('0'+i%10))), key, 80, 80))
		ups = append(ups, raw)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				s := st.Current()
				list, _ := s.Endpoints(s.ServiceByKey(key)).List()
				for _, e := range list {
					if s.Workload(e.Workload.UID) != e.Workload {
						t.Errorf("endpoint %s is not of this snapshot", e.Workload.UID)
						return
					}
				}
				select {
				case <-done:
					return
				case <-s.Superseded():
				}
			}
		})
	}
	for i := range 500 {
		at := i % len(ups)
		st.Apply(mesh.TypeAddress, ups[at:at+1], []string{ups[(at+7)%len(ups)].Name})
	}
	close(done)
	wg.Wait()
	if n := state.Best(st.Current().ServicesAt(at("10.96.0.1")), "a", ""); n == nil {
		t.Error("the service is gone")
	}
}
