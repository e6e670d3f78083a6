package ads

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/status"
)

// Changes, subscriptions and answers cross each other at will, and some contents are refused: in the end Envoy has what it
// asks for, in the last version it takes.
func TestConverges(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { t.Parallel(); converge(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func converge(t *testing.T, random *rand.Rand) {
	s := NewServer(nil, Events{})
	s.Open()
	f := connect(t, s)
	e := &model{fake: f, state: map[string]map[string]string{}, asked: map[string]map[string]bool{}}
	for _, typeURL := range order {
		e.state[typeURL], e.asked[typeURL] = map[string]string{}, map[string]bool{}
	}
	e.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: TypeCluster})
	e.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: TypeListener})
	answering := make(chan struct{})
	go func() { defer close(answering); e.answer() }()

	want := map[string]map[string]string{TypeCluster: {}, TypeListener: {}, TypeEndpoint: {}, TypeRoute: {}}
	types := slices.Sorted(maps.Keys(want))
	for i := range 400 {
		typeURL, name := types[random.IntN(len(types))], fmt.Sprintf("n%02d", random.IntN(12))
		switch op := random.IntN(10); {
		case op == 0:
			delete(want[typeURL], name)
			s.Apply(put(typeURL, "-"+name))
		case op < 3 && (typeURL == TypeEndpoint || typeURL == TypeRoute):
			e.toggle(typeURL, name)
		case op == 3: // refused; what Envoy had before may never have reached it, so that nothing is certain but that it is not this
			s.Apply(put(typeURL, fmt.Sprintf("%s=bad%d", name, i)))
			want[typeURL][name] = "?"
		default:
			want[typeURL][name] = fmt.Sprint(i)
			s.Apply(put(typeURL, name+"="+want[typeURL][name]))
		}
	}
	for deadline := time.Now().Add(20 * time.Second); len(s.Pending()) > 0 || e.owing(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("pending after 20 s: %v", s.Pending())
		}
	}
	f.cancel()
	<-f.ended
	<-answering
	for _, typeURL := range types {
		named := typeURL == TypeEndpoint || typeURL == TypeRoute
		expect, got := map[string]string{}, e.state[typeURL]
		for name, body := range want[typeURL] {
			switch {
			case named && !e.asked[typeURL][name]:
			case body == "?":
				if strings.HasPrefix(got[name], "bad") {
					t.Errorf("%s %s: took %q", typeURL, name, got[name])
				}
				delete(got, name)
			default:
				expect[name] = body
			}
		}
		if d := cmp.Diff(expect, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", typeURL, d)
		}
	}
}

// model is an Envoy with a memory.
type model struct {
	*fake
	mu    sync.Mutex // guards what follows, and the order of requests
	state map[string]map[string]string
	asked map[string]map[string]bool
}

func (e *model) request(r *discoveryv3.DeltaDiscoveryRequest) {
	select {
	case e.requests <- r:
	case <-e.ctx.Done():
	}
}

// toggle asks for a name or no longer asks for it.
func (e *model) toggle(typeURL, name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL}
	if e.asked[typeURL][name] {
		delete(e.asked[typeURL], name)
		delete(e.state[typeURL], name)
		r.ResourceNamesUnsubscribe = []string{name}
	} else {
		e.asked[typeURL][name] = true
		r.ResourceNamesSubscribe = []string{name}
	}
	e.request(r)
}

// owing: there is a response that was not handled yet.
func (e *model) owing() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.sent) > 0
}

// answer takes what has good contents and refuses responses with any bad one, without a name, taking the rest of them.
func (e *model) answer() {
	for {
		select {
		case r := <-e.sent:
			e.mu.Lock()
			ack := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}
			named := r.TypeUrl == TypeEndpoint || r.TypeUrl == TypeRoute
			for _, x := range r.Resources {
				switch body := string(x.Resource.Value); {
				case strings.HasPrefix(body, "bad"):
					ack.ErrorDetail = &status.Status{Message: "something is wrong"}
				case !named || e.asked[r.TypeUrl][x.Name]:
					e.state[r.TypeUrl][x.Name] = body
				}
			}
			for _, name := range r.RemovedResources {
				delete(e.state[r.TypeUrl], name)
			}
			e.request(ack)
			e.mu.Unlock()
		case <-e.ctx.Done():
			return
		}
	}
}
