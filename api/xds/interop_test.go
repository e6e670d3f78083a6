package xds

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/anypb"
)

// plain is a client made of Envoy's generated code and nothing of ours.
type plain struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]
}

func (w *world) plain() *plain { return w.plainContext(context.Background()) }

func (w *world) plainContext(ctx context.Context) *plain {
	w.t.Helper()
	conn, err := grpc.NewClient("passthrough:///bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return w.dial(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceived)))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	w.t.Cleanup(func() { cancel(); conn.Close() })
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	return &plain{t: w.t, stream: stream}
}

func (p *plain) send(req *discoveryv3.DeltaDiscoveryRequest) {
	p.t.Helper()
	if err := p.stream.Send(req); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plain) recv() *discoveryv3.DeltaDiscoveryResponse {
	p.t.Helper()
	resp, err := p.stream.Recv()
	if err != nil {
		p.t.Fatal(err)
	}
	return resp
}

func (p *plain) ask(req *discoveryv3.DeltaDiscoveryRequest) *discoveryv3.DeltaDiscoveryResponse {
	p.t.Helper()
	p.send(req)
	return p.recv()
}

func respNames(r *discoveryv3.DeltaDiscoveryResponse) []string {
	var names []string
	for _, res := range r.GetResources() {
		names = append(names, res.GetName())
	}
	slices.Sort(names)
	return names
}

func wantNames(t *testing.T, r *discoveryv3.DeltaDiscoveryResponse, upserts, removed []string) {
	t.Helper()
	gone := slices.Sorted(slices.Values(r.GetRemovedResources()))
	if !slices.Equal(respNames(r), upserts) || !slices.Equal(gone, removed) {
		t.Fatalf("got %v removed %v, want %v removed %v", respNames(r), gone, upserts, removed)
	}
}

func TestPlainClientSeesEnvoysMessages(t *testing.T) {
	w := newWorld(t, ServerConfig{})
	w.address.Apply([]*Resource{{Name: "c//Pod/ns/a", Version: "7", Aliases: []string{"n/10.0.0.1", "n/fd00::1"}, Body: []byte{8, 1}}}, nil)
	p := w.plain()
	r := p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, Node: testNode("n1")})
	if r.GetTypeUrl() != addressType || r.GetNonce() == "" || r.GetSystemVersionInfo() == "" {
		t.Fatalf("head of the response: %v", r)
	}
	got := r.GetResources()[0]
	if got.GetName() != "c//Pod/ns/a" || got.GetVersion() != "7" || !slices.Equal(got.GetAliases(), []string{"n/10.0.0.1", "n/fd00::1"}) ||
		got.GetResource().GetTypeUrl() != addressType || !slices.Equal(got.GetResource().GetValue(), []byte{8, 1}) {
		t.Fatalf("resource: %v", got)
	}
	// An ACK gets no answer: what comes next is the push.
	p.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, ResponseNonce: r.GetNonce()})
	eventually(t, "the ACK is seen", func() bool { return w.server.Clients()[0].Types[0].AckedVersion == r.GetSystemVersionInfo() })
	w.address.Apply(nil, []string{"c//Pod/ns/a"})
	next := p.recv()
	wantNames(t, next, nil, []string{"c//Pod/ns/a"})

	// A stale refusal says nothing about the present state; a current one does. Neither is answered.
	refusal := &status.Status{Code: 3, Message: "c//Pod/ns/a: no"}
	p.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, ResponseNonce: r.GetNonce(), ErrorDetail: refusal})
	p.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, ResponseNonce: next.GetNonce()})
	eventually(t, "the ACK is seen", func() bool { return w.server.Clients()[0].Types[0].AckedVersion == next.GetSystemVersionInfo() })
	if nack := w.server.Clients()[0].Types[0].NACK; nack != "" {
		t.Fatalf("a stale NACK was taken for current: %s", nack)
	}
	p.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, ResponseNonce: next.GetNonce(), ErrorDetail: refusal})
	eventually(t, "the NACK is seen", func() bool { return w.server.Clients()[0].Types[0].NACK == "c//Pod/ns/a: no" })
	w.policy.Apply([]*Resource{{Name: "ns/p"}}, nil) // not subscribed: no push
	wantNames(t, p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: policyType}), []string{"ns/p"}, nil)
}

func TestResume(t *testing.T) {
	w := newWorld(t, ServerConfig{})
	w.address.Apply([]*Resource{res("same", "1"), res("newer", "2"), res("unheard", "1")}, nil)
	w.policy.Apply([]*Resource{{Name: "ns/p", Body: []byte("x")}, {Name: "ns/q", Body: []byte("x")}}, nil)
	p := w.plain()
	r := p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, Node: testNode("n1"),
		InitialResourceVersions: map[string]string{"same": "v-1", "newer": "v-1", "gone": "v-1"}})
	wantNames(t, r, []string{"newer", "unheard"}, []string{"gone"})
	// Unversioned resources are always sent in full.
	r = p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: policyType,
		InitialResourceVersions: map[string]string{"ns/p": "", "ns/old": ""}})
	wantNames(t, r, []string{"ns/p", "ns/q"}, []string{"ns/old"})
	if v := r.GetResources()[0].GetVersion(); v != "" {
		t.Fatalf("policy has version %q", v)
	}
}

func TestResumeWithNothingNewIsAnswered(t *testing.T) {
	w := newWorld(t, ServerConfig{})
	w.address.Apply([]*Resource{res("same", "1")}, nil)
	r := w.plain().ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, Node: testNode("n1"),
		InitialResourceVersions: map[string]string{"same": "v-1"}})
	wantNames(t, r, nil, nil)
}

func TestUnknownTypeIsAnsweredEmpty(t *testing.T) {
	w := newWorld(t, ServerConfig{})
	r := w.plain().ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "type.googleapis.com/x.Y", Node: testNode("n1"),
		ResourceNamesSubscribe: []string{"q"}})
	wantNames(t, r, nil, []string{"q"})
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	w := newWorld(t, ServerConfig{Admit: func(ctx context.Context) error {
		if md, _ := metadata.FromIncomingContext(ctx); md.Get("clusterid") != nil {
			return errors.New("not from there")
		}
		return nil
	}, Authorize: func(_ context.Context, n *corev3.Node) error {
		if n.GetId() == "stranger" {
			return grpcstatus.Error(codes.Unauthenticated, "no token")
		}
		return nil
	}})
	expect := func(code codes.Code, req *discoveryv3.DeltaDiscoveryRequest) {
		t.Helper()
		p := w.plain()
		p.send(req)
		if _, err := p.stream.Recv(); grpcstatus.Code(err) != code {
			t.Fatalf("got %v, want %v", err, code)
		}
	}
	expect(codes.Unauthenticated, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, Node: &corev3.Node{Id: "stranger"}})
	ctx := metadata.AppendToOutgoingContext(context.Background(), "clusterid", "far")
	if _, err := w.plainContext(ctx).stream.Recv(); grpcstatus.Code(err) != codes.Unauthenticated {
		t.Fatalf("not admitted, yet: %v", err)
	}
	expect(codes.InvalidArgument, &discoveryv3.DeltaDiscoveryRequest{Node: testNode("n1")})

	conn, err := grpc.NewClient("passthrough:///bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return w.dial(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	sotw, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sotw.Recv(); grpcstatus.Code(err) != codes.Unimplemented {
		t.Fatalf("state of the world: %v", err)
	}
}

// foreign is a server made of Envoy's generated code: our client must get along with it as well.
type foreign struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	script func(discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error
}

func (f *foreign) DeltaAggregatedResources(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return f.script(s)
}

func serveForeign(t *testing.T, script func(discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error) *bufconn.Listener {
	t.Helper()
	l := bufconn.Listen(1 << 16)
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, &foreign{script: script})
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return l
}

func TestOurClientTalksToAForeignServer(t *testing.T) {
	requests := make(chan *discoveryv3.DeltaDiscoveryRequest, 100)
	streams := 0
	l := serveForeign(t, func(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		streams++
		for i := range 2 {
			req, err := s.Recv()
			if err != nil {
				return err
			}
			requests <- req
			if i == 1 {
				break
			}
			if err := s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: addressType, Nonce: "n1", SystemVersionInfo: "s",
				RemovedResources: []string{"old"},
				Resources: []*discoveryv3.Resource{
					{Name: "a", Version: "1", Resource: &anypb.Any{TypeUrl: addressType, Value: []byte("A")}},
					{Name: "b", Version: "2", Resource: &anypb.Any{TypeUrl: addressType, Value: []byte("B")}},
				}}); err != nil {
				return err
			}
		}
		return nil // ends the stream in order: the client returns at once with what it knows
	})
	w := &world{t: t, listener: l}
	r := newReplica()
	c, stop := w.run(ClientConfig{Headers: map[string]string{"clusterid": "c1"}}, r, addressType)
	awaitSynced(t, c)
	first, ack, again := <-requests, <-requests, <-requests
	stop()
	if first.GetTypeUrl() != addressType || first.GetNode().GetId() == "" || len(first.GetResourceNamesSubscribe()) != 0 {
		t.Fatalf("first request %v", first)
	}
	if ack.GetResponseNonce() != "n1" || ack.GetErrorDetail() != nil || ack.GetNode() != nil {
		t.Fatalf("ack %v", ack)
	}
	if v := again.GetInitialResourceVersions(); len(v) != 2 || v["a"] != "1" || v["b"] != "2" {
		t.Fatalf("resumed with %v", v)
	}
}

// TestResumeDuringChanges resumes a large collection while it is churned: no name may be given and removed at once, and what the
// client ends up with is what there is.
func TestResumeDuringChanges(t *testing.T) {
	c, versions := filled(3 * resumeStep)
	stop, done := make(chan struct{}), make(chan struct{})
	names := slices.Sorted(maps.Keys(versions))
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			one, two := names[i*7%len(names)], names[i*13%len(names)]
			c.Apply([]*Resource{{Name: one, Version: fmt.Sprint(i)}}, []string{two})
		}
	}()
	for range 20 {
		state := maps.Clone(versions)
		b, cursor, err := c.resume(knownOf(versions))
		if err != nil {
			t.Fatal(err)
		}
		take := func(b *batch) {
			given := upserted(t, b)
			for _, name := range b.removed {
				if _, twice := slices.BinarySearch(given, name); twice {
					t.Fatalf("%s is given and removed", name)
				}
				delete(state, name)
			}
			for _, name := range given {
				state[name] = ""
			}
		}
		take(b)
		c.mu.RLock()
		seq := c.seq
		live := make(map[string]bool)
		for name, e := range c.entries {
			if e.item != nil {
				live[name] = true
			}
		}
		c.after(cursor, func(e *entry) bool {
			if e.seq <= seq && e.item == nil {
				delete(state, e.name)
			} else if e.item != nil {
				state[e.name] = ""
			}
			return true
		})
		c.mu.RUnlock()
		for name := range state {
			if !live[name] {
				t.Fatalf("%s stayed though it is gone", name)
			}
		}
		if len(state) != len(live) {
			t.Fatalf("%d names, want %d", len(state), len(live))
		}
	}
	close(stop)
	<-done
}
