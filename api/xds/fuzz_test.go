package xds

import (
	"context"
	"io"
	"slices"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func mustMarshal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

func seedRequests() [][]byte {
	return [][]byte{
		nil,
		mustMarshal(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, Node: testNode("n1")}),
		mustMarshal(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, Node: testNode("n1"),
			ResourceNamesSubscribe: []string{"*", "net/10.9.0.1"}, ResourceNamesUnsubscribe: []string{"*"},
			InitialResourceVersions: map[string]string{"ns/web.ns.svc": "1", "": ""}}),
		mustMarshal(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, ResponseNonce: "1",
			ErrorDetail: &status.Status{Code: 3, Message: "a: bad"}}),
		mustMarshal(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, ResourceNamesSubscribe: []string{"net/10.0.0.0/8", "/::/0", "x"}}),
		mustMarshal(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: policyType, ResourceNamesUnsubscribe: []string{"*", "ns/web.ns.svc"}}),
		{0x2a, 0x00, 0x08, 0x01, 0x3a, 0x00},
	}
}

// FuzzRequest compares our reading of a request with protobuf's, and that what we write is what we read.
func FuzzRequest(f *testing.F) {
	for _, s := range seedRequests() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var want discoveryv3.DeltaDiscoveryRequest
		wantErr := proto.Unmarshal(b, &want)
		var got request
		if err := got.decode(b); err != nil {
			if wantErr == nil {
				t.Fatalf("we refuse what protobuf accepts: %v", err)
			}
			return
		}
		if wantErr != nil {
			return // protobuf also looks into fields we leave for later or never read
		}
		compareRequest(t, &got, &want)
		versions := map[string]string{} // last wins, as in a map
		for name, version := range got.known.each {
			versions[string(name)] = string(version)
		}
		got.known = knownOf(versions)
		var again request
		if err := again.decode(got.encode()); err != nil {
			t.Fatalf("we cannot read what we wrote: %v", err)
		}
		compareRequest(t, &again, &want)
	})
}

func compareRequest(t *testing.T, got *request, want *discoveryv3.DeltaDiscoveryRequest) {
	t.Helper()
	known := map[string]string{}
	for name, version := range got.known.each {
		known[string(name)] = string(version)
	}
	same := got.typeURL == want.GetTypeUrl() && got.nonce == want.GetResponseNonce() &&
		slices.Equal(got.subscribe, want.GetResourceNamesSubscribe()) && slices.Equal(got.unsubscribe, want.GetResourceNamesUnsubscribe()) &&
		got.refused == (want.ErrorDetail != nil) && got.refusal == want.GetErrorDetail().GetMessage() &&
		len(known) == len(want.GetInitialResourceVersions())
	for n, v := range want.GetInitialResourceVersions() {
		same = same && known[n] == v
	}
	if node, err := got.decodeNode(); err != nil || !proto.Equal(node, want.GetNode()) && want.GetNode() != nil {
		same = false
	}
	if !same {
		t.Fatalf("read as %+v, protobuf says %v", got, want)
	}
}

// FuzzResponse compares our reading of a response with protobuf's.
func FuzzResponse(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(mustMarshal(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: addressType, Nonce: "n", SystemVersionInfo: "3",
		RemovedResources: []string{"a", ""}, Resources: []*discoveryv3.Resource{
			{Name: "x", Version: "1", Aliases: []string{"y"}, Resource: &anypb.Any{TypeUrl: addressType, Value: []byte("v")}}, {}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var want discoveryv3.DeltaDiscoveryResponse
		wantErr := proto.Unmarshal(b, &want)
		var got received
		if err := got.decode(b); err != nil {
			if wantErr == nil {
				t.Fatalf("we refuse what protobuf accepts: %v", err)
			}
			return
		}
		if wantErr != nil {
			return
		}
		same := got.typeURL == want.GetTypeUrl() && got.nonce == want.GetNonce() && got.version == want.GetSystemVersionInfo() &&
			slices.Equal(got.removed, want.GetRemovedResources()) && len(got.upserts) == len(want.GetResources())
		for i := range got.upserts {
			r := want.GetResources()[i]
			same = same && got.upserts[i].Name == r.GetName() && got.upserts[i].Version == r.GetVersion() &&
				string(got.upserts[i].Body) == string(r.GetResource().GetValue())
		}
		if !same {
			t.Fatalf("read as %+v, protobuf says %v", got, &want)
		}
	})
}

// scripted is a stream whose client sends fixed requests and hangs up.
type scripted struct {
	grpc.ServerStream
	ctx      context.Context
	requests [][]byte
	sent     int
}

func (s *scripted) Context() context.Context { return s.ctx }

func (s *scripted) RecvMsg(m any) error {
	if len(s.requests) == 0 {
		return io.EOF
	}
	b := s.requests[0]
	s.requests = s.requests[1:]
	return m.(*request).decode(b)
}

func (s *scripted) SendMsg(m any) error {
	var r received
	s.sent++
	return r.decode(m.(*response).parts.Materialize())
}

// FuzzStream feeds any three requests to a stream: it may refuse them, it must neither panic, hang nor write nonsense.
func FuzzStream(f *testing.F) {
	seeds := seedRequests()
	for i := range seeds {
		f.Add(seeds[i], seeds[(i+1)%len(seeds)], seeds[(i+3)%len(seeds)])
		f.Add(seeds[1], seeds[i], seeds[(i+2)%len(seeds)])
		f.Add(seeds[2], seeds[i], seeds[(i+2)%len(seeds)])
	}
	c := town()
	f.Fuzz(func(t *testing.T, a, b, d []byte) {
		s := NewServer(ServerConfig{}, c)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		st := &stream{srv: s, rpc: &scripted{ctx: ctx, requests: [][]byte{a, b, d}},
			requests: make(chan *request), wake: make(chan struct{}, 1)}
		_ = st.serve(ctx) // a refusal is as good as an answer
		if ctx.Err() != nil {
			t.Fatal("the stream hung")
		}
		cancel()
		s.Wait()
		if len(c.readers) != 0 {
			t.Fatal("the stream left its reader behind")
		}
	})
}
