package ads

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// fake is an Envoy on the other end of a stream, without a wire.
type fake struct {
	grpc.ServerStream

	t        *testing.T
	ctx      context.Context
	cancel   context.CancelFunc
	requests chan *discoveryv3.DeltaDiscoveryRequest
	sent     chan *discoveryv3.DeltaDiscoveryResponse
	ended    chan error
}

func (f *fake) Context() context.Context { return f.ctx }

func (f *fake) Send(r *discoveryv3.DeltaDiscoveryResponse) error {
	select {
	case f.sent <- r:
		return nil
	case <-f.ctx.Done():
		return f.ctx.Err()
	}
}

func (f *fake) Recv() (*discoveryv3.DeltaDiscoveryRequest, error) {
	select {
	case r := <-f.requests:
		return r, nil
	case <-f.ctx.Done():
		return nil, f.ctx.Err()
	}
}

// connect opens a stream. It runs in a synctest bubble.
func connect(t *testing.T, s *Server) *fake {
	ctx, cancel := context.WithCancel(t.Context())
	f := &fake{
		t: t, ctx: ctx, cancel: cancel, requests: make(chan *discoveryv3.DeltaDiscoveryRequest),
		sent: make(chan *discoveryv3.DeltaDiscoveryResponse, 100), ended: make(chan error, 1),
	}
	go func() { f.ended <- s.serve(f, resource.AnyType) }()
	return f
}

func (f *fake) close() {
	f.cancel()
	<-f.ended
	synctest.Wait()
}

func (f *fake) subscribe(typeURL string, names ...string) {
	f.requests <- &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: names}
	synctest.Wait()
}

// next is the next response, which must be there already.
func (f *fake) next() *discoveryv3.DeltaDiscoveryResponse {
	f.t.Helper()
	synctest.Wait()
	select {
	case r := <-f.sent:
		return r
	default:
		f.t.Fatal("nothing was sent")
		return nil
	}
}

func (f *fake) quiet() {
	f.t.Helper()
	synctest.Wait()
	select {
	case r := <-f.sent:
		f.t.Fatalf("sent: %v", text(r))
	default:
	}
}

func (f *fake) ack(r *discoveryv3.DeltaDiscoveryResponse) {
	f.requests <- &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}
	synctest.Wait()
}

func (f *fake) nack(r *discoveryv3.DeltaDiscoveryResponse, why string) {
	f.requests <- &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce, ErrorDetail: &status.Status{Message: why}}
	synctest.Wait()
}

// expect takes the next response, compares and acknowledges it. Names of removed resources have a minus.
func (f *fake) expect(want ...string) *discoveryv3.DeltaDiscoveryResponse {
	f.t.Helper()
	r := f.next()
	if d := cmp.Diff(want, text(r)); d != "" {
		f.t.Fatalf("response (-want +got):\n%s", d)
	}
	return r
}

func (f *fake) take(want ...string) { f.t.Helper(); f.ack(f.expect(want...)) }

// text is a response as "Type", "name=body" …, "-name" ….
func text(r *discoveryv3.DeltaDiscoveryResponse) []string {
	out := []string{r.TypeUrl[strings.LastIndexByte(r.TypeUrl, '.')+1:]}
	for _, x := range r.Resources {
		out = append(out, x.Name+"="+string(x.Resource.Value))
	}
	for _, name := range r.RemovedResources {
		out = append(out, "-"+name)
	}
	return out
}

// put is an update of "name=body" pairs; "-name" removes.
func put(typeURL string, pairs ...string) Update {
	u := Update{Type: typeURL}
	for _, p := range pairs {
		name, body, found := strings.Cut(p, "=")
		if !found {
			u.Remove = append(u.Remove, strings.TrimPrefix(p, "-"))
			continue
		}
		u.Put = append(u.Put, Resource{name, []byte(body)})
	}
	return u
}

func bubble(t *testing.T, fn func(t *testing.T, s *Server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(nil, Events{})
		s.Open()
		fn(t, s)
	})
}

func TestWildcardAndNames(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server) {
		f := connect(t, s)
		defer f.close()
		f.subscribe(TypeCluster)
		f.take("Cluster") // everything, which is nothing
		s.Apply(put(TypeCluster, "a=1", "b=1"))
		f.take("Cluster", "a=1", "b=1")
		s.Apply(put(TypeCluster, "a=1", "b=2", "c=1"))
		f.take("Cluster", "b=2", "c=1")
		s.Apply(put(TypeCluster, "-b"))
		f.take("Cluster", "-b")
		f.subscribe(TypeRoute, "x", "y")
		f.quiet()
		s.Apply(put(TypeRoute, "y=1", "z=1"))
		f.take("RouteConfiguration", "y=1")
		f.subscribe(TypeRoute, "y") // asked again is answered again
		f.take("RouteConfiguration", "y=1")
		s.Apply(put(TypeRoute, "-y", "x=1"))
		f.take("RouteConfiguration", "x=1")
		f.take("RouteConfiguration", "-y")
		f.quiet()
	})
}

// One response of a type is under way at a time, and what changed meanwhile goes into the next.
func TestChangesAreTakenTogether(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server) {
		f := connect(t, s)
		defer f.close()
		f.subscribe(TypeRoute, "x")
		s.Apply(put(TypeRoute, "x=1"))
		r := f.expect("RouteConfiguration", "x=1")
		for i := range 5 {
			s.Apply(put(TypeRoute, fmt.Sprintf("x=%d", i+2)))
		}
		f.quiet()
		f.ack(r)
		f.take("RouteConfiguration", "x=6")
		f.quiet()
	})
}

// Routes wait until the clusters have endpoints, whether or not Envoy has accepted the clusters, and what is referred to
// goes last.
func TestOrder(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server) {
		f := connect(t, s)
		defer f.close()
		f.subscribe(TypeCluster)
		f.take("Cluster")
		f.subscribe(TypeRoute, "r")
		s.Apply(put(TypeRoute, "r=c1"), put(TypeEndpoint, "c1=e", "c2=e"), put(TypeCluster, "c1=1"))
		r := f.expect("Cluster", "c1=1")
		f.quiet()
		f.subscribe(TypeEndpoint, "c1")
		e := f.expect("ClusterLoadAssignment", "c1=e")
		f.quiet()
		f.ack(e)
		f.take("RouteConfiguration", "r=c1")
		f.ack(r)

		s.Apply(put(TypeCluster, "-c1", "c2=1"), put(TypeRoute, "r=c2"), put(TypeEndpoint, "-c1"))
		f.take("Cluster", "c2=1")
		f.subscribe(TypeEndpoint, "c2")
		f.take("ClusterLoadAssignment", "c2=e")
		last := f.expect("RouteConfiguration", "r=c2")
		f.quiet()
		f.ack(last)
		f.take("Cluster", "-c1")
		f.take("ClusterLoadAssignment", "-c1")
	})
}

// A cluster that never gets its endpoints holds up routes for a moment only.
func TestPatience(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server) {
		f := connect(t, s)
		defer f.close()
		f.subscribe(TypeCluster)
		f.take("Cluster")
		f.subscribe(TypeRoute, "r")
		s.Apply(put(TypeRoute, "r=1"), put(TypeCluster, "c=1"), put(TypeEndpoint, "c=e"))
		f.take("Cluster", "c=1")
		f.quiet()
		time.Sleep(patience + 10*time.Millisecond)
		f.take("RouteConfiguration", "r=1")
	})
}

// Endpoints follow a changed cluster unasked: Envoy makes it anew and does not ask again.
func TestEndpointsFollowACluster(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server) {
		f := connect(t, s)
		defer f.close()
		s.Apply(put(TypeCluster, "c=1"), put(TypeEndpoint, "c=e"))
		f.subscribe(TypeCluster)
		f.take("Cluster", "c=1")
		f.subscribe(TypeEndpoint, "c")
		f.take("ClusterLoadAssignment", "c=e")
		s.Apply(put(TypeCluster, "c=2"))
		f.take("Cluster", "c=2")
		f.take("ClusterLoadAssignment", "c=e")
		f.quiet()
	})
}

// A refused resource that Envoy names goes back to its last good version; the others are sent again.
func TestRefusalByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []Refusal
		s := NewServer(nil, Events{Refused: func(r Refusal) { told = append(told, r) }})
		s.Open()
		f := connect(t, s)
		defer f.close()
		f.subscribe(TypeCluster)
		f.take("Cluster")
		s.Apply(put(TypeCluster, "a=1", "a.b=1"))
		f.take("Cluster", "a=1", "a.b=1")
		s.Apply(put(TypeCluster, "a=2", "a.b=bad", "new=bad"))
		f.nack(f.expect("Cluster", "a=2", "a.b=bad", "new=bad"), "Error adding/updating cluster(s) a.b: no, new: never")
		f.take("Cluster", "a=2", "a.b=1")
		f.quiet()
		got := s.Refusals()
		if len(got) != 2 || got[0].Name != "a.b" || !got[0].Kept || got[1].Name != "new" || got[1].Kept || !strings.Contains(got[0].Reason, "no") {
			t.Errorf("refusals %+v", got)
		}
		if len(told) != 2 {
			t.Errorf("told of %+v", told)
		}
		// The same again is no news; something else is tried.
		s.Apply(put(TypeCluster, "a.b=bad"))
		f.quiet()
		s.Apply(put(TypeCluster, "a.b=3", "-new"))
		f.take("Cluster", "a.b=3")
		f.take("Cluster", "-new") // after a refusal nobody can be sure
		f.quiet()
		if got := s.Refusals(); len(got) != 0 {
			t.Errorf("refusals %+v after they were mended", got)
		}
	})
}

// Of a response that is refused without a name, the culprits are found by trying parts of it.
func TestRefusalIsFound(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server) {
		f := connect(t, s)
		defer f.close()
		bad := map[string]bool{"r13": true, "r14": true, "r40": true}
		var names, pairs []string
		for i := range 50 {
			name := fmt.Sprintf("r%02d", i)
			names = append(names, name)
			if bad[name] {
				pairs = append(pairs, name+"=bad")
			} else {
				pairs = append(pairs, name+"=good")
			}
		}
		s.Apply(put(TypeRoute, pairs...))
		f.subscribe(TypeRoute, names...)
		accepted := map[string]bool{}
		for n := 0; ; n++ {
			synctest.Wait()
			if len(f.sent) == 0 {
				if n > 200 {
					t.Errorf("took %d responses", n)
				}
				break
			}
			r := <-f.sent
			refuse := slices.ContainsFunc(r.Resources, func(x *discoveryv3.Resource) bool { return string(x.Resource.Value) == "bad" })
			if refuse {
				f.nack(r, "something is wrong")
				continue
			}
			for _, x := range r.Resources {
				accepted[x.Name] = true
			}
			f.ack(r)
		}
		for _, name := range names {
			if accepted[name] == bad[name] {
				t.Errorf("%s: accepted %v", name, accepted[name])
			}
		}
		if got := s.Refusals(); len(got) != 3 {
			t.Errorf("refusals %+v", got)
		}
		s.Apply(put(TypeRoute, "r01=new"))
		f.take("RouteConfiguration", "r01=new")
	})
}

// A new stream says what it has: only differences are sent. A restarted Envoy has nothing and gets the good versions.
func TestReconnect(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server) {
		f := connect(t, s)
		f.subscribe(TypeCluster)
		f.take("Cluster")
		s.Apply(put(TypeCluster, "a=1", "b=1"))
		r := f.expect("Cluster", "a=1", "b=1")
		f.ack(r)
		s.Apply(put(TypeCluster, "a=bad"))
		f.nack(f.expect("Cluster", "a=bad"), "a is bad")
		f.take("Cluster", "a=1")
		f.close()
		s.Apply(put(TypeCluster, "b=2", "c=1"))

		again := connect(t, s)
		have := map[string]string{"gone": "1"}
		for _, x := range r.Resources {
			have[x.Name] = x.Version
		}
		again.requests <- &discoveryv3.DeltaDiscoveryRequest{TypeUrl: TypeCluster, InitialResourceVersions: have}
		again.take("Cluster", "b=2", "c=1")
		again.take("Cluster", "-gone")
		again.close()

		fresh := connect(t, s)
		defer fresh.close()
		fresh.subscribe(TypeCluster)
		fresh.take("Cluster", "a=1", "b=2", "c=1")
	})
}

// Large resources are kept compressed and sent as they were.
func TestLarge(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server) {
		f := connect(t, s)
		defer f.close()
		body := strings.Repeat("all alike ", 1000)
		s.Apply(put(TypeChain, "c="+body))
		f.subscribe(TypeChain, "c")
		f.take("FilterChain", "c="+body)
		if n := len(s.types[TypeChain]["c"].want.body); n > len(body)/10 {
			t.Errorf("kept in %d bytes", n)
		}
	})
}

// Nothing is answered before Open, except secrets.
func TestOpen(t *testing.T) {
	s := NewServer(nil, Events{})
	s.Apply(put(TypeSecret, "default=key"))
	g := grpc.NewServer()
	s.Register(g)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	defer func() { g.Stop(); <-served }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: TypeCluster}); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() { _, err := stream.Recv(); answered <- err }()
	select {
	case err := <-answered:
		t.Fatalf("answered before Open: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	s.Open()
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	if n := s.Streams(); n != 1 {
		t.Error(errors.New("the stream is not counted"))
	}
}
