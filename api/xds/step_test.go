package xds

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// TestMarkIsProtobuf: other clients read a marked response as any other.
func TestMarkIsProtobuf(t *testing.T) {
	b := &batch{removed: []string{"gone"}, mark: markMore}
	var got discoveryv3.DeltaDiscoveryResponse
	if err := proto.Unmarshal(b.response("t", "n", "v").parts.Materialize(), &got); err != nil {
		t.Fatal(err)
	}
	want := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: "t", Nonce: "n", SystemVersionInfo: "v", RemovedResources: []string{"gone"},
		ControlPlane: &corev3.ControlPlane{Identifier: markMore}}
	if !proto.Equal(&got, want) {
		t.Fatalf("got %v, want %v", &got, want)
	}
	var ours received
	if err := ours.decode(b.response("t", "n", "v").parts.Materialize()); err != nil || ours.mark != markMore {
		t.Errorf("read as %q, %v", ours.mark, err)
	}
}

// steppedHandler takes down what it is told.
type steppedHandler struct {
	mu    sync.Mutex
	under bool
	whole []string // types of each complete step
	part  []string
	loose int // responses outside of steps
	last  string
}

func (h *steppedHandler) Apply(typeURL string, upserts []Raw, _ []string) []Rejected {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(upserts) > 0 && typeURL == mesh.TypeWaypointService {
		h.last = strings.Clone(slices.MaxFunc(upserts, func(a, b Raw) int {
			return cmp.Or(len(a.Version)-len(b.Version), strings.Compare(a.Version, b.Version))
		}).Version)
	}
	if !h.under {
		h.loose++
		return nil
	}
	h.part = append(h.part, typeURL[len(typeURL)-7:])
	return nil
}

func (h *steppedHandler) Step(under bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.under = under; !under {
		h.whole = append(h.whole, fmt.Sprint(h.part))
		h.part = nil
	}
}

// TestSteps: what is changed as one arrives as one, however the changes fall upon the stream.
func TestSteps(t *testing.T) {
	const scope = "ns/gw"
	name := mesh.GatewayScope("ns", "gw")
	types := []string{mesh.TypeWaypointDestination, mesh.TypeWaypointService}
	collections := []*Collection{NewCollection(types[0]), NewCollection(types[1])}
	step := &Step{}
	w := newWorld(t, ServerConfig{Step: step}, collections...)
	h := &steppedHandler{}
	c, _ := w.run(ClientConfig{Node: testNode("n1"), Named: true}, h, types...)
	for _, typeURL := range types {
		c.Subscribe(typeURL, name)
	}
	awaitSynced(t, c)
	const n = 200
	for i := range n {
		put := func(j int) {
			collections[j].Apply([]*Resource{{Name: fmt.Sprintf("ns/gw/%d", i%7), Version: fmt.Sprint(i), Body: []byte("x"), Scopes: []string{scope}}}, nil)
		}
		step.Do(func() { put(0); put(1) })
	}
	eventually(t, "the last step", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.last == fmt.Sprint(n-1) && !h.under
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	// A client that is behind may get several steps as one, but none in part.
	if i := slices.IndexFunc(h.whole, func(s string) bool { return s != fmt.Sprint([]string{"ination", "Service"}) }); i >= 0 {
		t.Errorf("step %d of %d has %s", i, len(h.whole), h.whole[i])
	}
	if h.loose > 2*len(types) { // first answers, and those to subscribing
		t.Errorf("%d responses outside of steps", h.loose)
	}
}
