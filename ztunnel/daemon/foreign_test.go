package daemon

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/ztunnel/state/statetest"
)

// foreign is a control plane made of Envoy's generated code that behaves as istiod does towards a ztunnel: no versions on
// Authorization, one response per push and type, the difference to initial_resource_versions after a reconnect, names of
// unknown resources among the removed, and silence towards acknowledgements.
type foreign struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	t *testing.T

	mu        sync.Mutex
	resources map[string]map[string]*discoveryv3.Resource // guarded by mu: type → name
	pushes    chan push                                   // to the present stream
	opened    []*discoveryv3.DeltaDiscoveryRequest        // guarded by mu: first requests of each type, in order
	refusals  []string                                    // guarded by mu
	end       chan struct{}                               // closed to end the present stream
}

type push struct {
	typeURL string
	names   []string
}

func (f *foreign) put(typeURL, name, version string, m proto.Message) {
	f.t.Helper()
	body, err := anypb.New(m)
	if err != nil {
		f.t.Fatal(err)
	}
	body.TypeUrl = typeURL
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.resources[typeURL] == nil {
		f.resources[typeURL] = map[string]*discoveryv3.Resource{}
	}
	f.resources[typeURL][name] = &discoveryv3.Resource{Name: name, Version: version, Resource: body}
}

func (f *foreign) drop(typeURL, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.resources[typeURL], name)
}

// answer builds a response about the names: what exists, and what does not.
func (f *foreign) answer(typeURL, nonce string, names []string) *discoveryv3.DeltaDiscoveryResponse {
	r := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: nonce, SystemVersionInfo: "2026-01-01T00:00:00Z/1"}
	for _, name := range names {
		if res := f.resources[typeURL][name]; res != nil {
			r.Resources = append(r.Resources, res)
		} else {
			r.RemovedResources = append(r.RemovedResources, name)
		}
	}
	return r
}

func (f *foreign) first(req *discoveryv3.DeltaDiscoveryRequest) *discoveryv3.DeltaDiscoveryResponse {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened = append(f.opened, req)
	names := slices.Sorted(maps.Keys(f.resources[req.GetTypeUrl()]))
	if slices.Contains(req.GetResourceNamesUnsubscribe(), "*") { // on demand
		names = slices.DeleteFunc(slices.Clone(req.GetResourceNamesSubscribe()), func(n string) bool { return n == "*" })
	}
	for name, version := range req.GetInitialResourceVersions() {
		known := f.resources[req.GetTypeUrl()][name]
		if i := slices.Index(names, name); known != nil && version != "" && known.GetVersion() == version && i >= 0 {
			names = slices.Delete(names, i, i+1)
		} else if known == nil {
			names = append(names, name)
		}
	}
	return f.answer(req.GetTypeUrl(), fmt.Sprint("first-", len(f.opened)), names)
}

func (f *foreign) DeltaAggregatedResources(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	requests := make(chan *discoveryv3.DeltaDiscoveryRequest)
	go func() {
		defer close(requests)
		for {
			req, err := s.Recv()
			if err != nil {
				return
			}
			select {
			case requests <- req:
			case <-s.Context().Done():
				return
			}
		}
	}()
	f.mu.Lock()
	end := f.end
	f.mu.Unlock()
	seen := map[string]bool{}
	for n := 0; ; n++ {
		var r *discoveryv3.DeltaDiscoveryResponse
		select {
		case req, ok := <-requests:
			switch {
			case !ok:
				return nil
			case req.GetErrorDetail() != nil:
				f.mu.Lock()
				f.refusals = append(f.refusals, req.GetErrorDetail().GetMessage())
				f.mu.Unlock()
				continue
			case !seen[req.GetTypeUrl()]:
				seen[req.GetTypeUrl()] = true
				r = f.first(req)
			case len(req.GetResourceNamesSubscribe()) > 0:
				f.mu.Lock()
				r = f.answer(req.GetTypeUrl(), fmt.Sprint("named-", n), req.GetResourceNamesSubscribe())
				f.mu.Unlock()
			default:
				continue // an acknowledgement
			}
		case p := <-f.pushes:
			f.mu.Lock()
			r = f.answer(p.typeURL, fmt.Sprint("push-", n), p.names)
			f.mu.Unlock()
		case <-end:
			return nil
		case <-s.Context().Done():
			return nil
		}
		if err := s.Send(r); err != nil {
			return err
		}
	}
}

func startForeign(t *testing.T) (*foreign, string) {
	t.Helper()
	f := &foreign{t: t, resources: map[string]map[string]*discoveryv3.Resource{}, pushes: make(chan push), end: make(chan struct{})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, f)
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return f, l.Addr().String()
}

func (f *foreign) pod(namespace, name, version string, addrs ...string) string {
	w := statetest.Pod(namespace, name, "sa", addrs...)
	f.put(mesh.TypeAddress, w.GetUid(), version, &workload.Address{Type: &workload.Address_Workload{Workload: w}})
	return w.GetUid()
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// TestForeignControlPlane follows a foreign control plane through a start, pushes, a refusal, a reconnect with changes in
// between, and ends with what it holds.
func TestForeignControlPlane(t *testing.T) {
	f, addr := startForeign(t)
	a, b := f.pod("shop", "a", "1", "10.0.0.1"), f.pod("shop", "b", "1", "10.0.0.2")
	svc := statetest.Service("shop", "web", []string{"10.96.0.1"}, 80, 8080)
	f.put(mesh.TypeAddress, "shop/"+svc.GetHostname(), "1", &workload.Address{Type: &workload.Address_Service{Service: svc}})
	f.put(mesh.TypeAuthorization, "shop/deny", "", &security.Authorization{Name: "deny", Namespace: "shop", Scope: security.Scope_NAMESPACE, Action: security.Action_DENY})

	cfg, err := FromEnv([]string{"NODE_NAME=n1", "XDS_ADDRESS=http://" + addr, "CA_ADDRESS=", "AUTH_TOKEN="})
	if err != nil {
		t.Fatal(err)
	}
	z, err := assemble(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- z.xds.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-z.synced:
	case <-time.After(10 * time.Second):
		t.Fatal("never in sync")
	}
	s := z.state.Current()
	if s.Workload(a) == nil || s.Workload(b) == nil || s.ServiceByKey("shop/"+svc.GetHostname()) == nil || s.Policy("shop/deny") == nil {
		t.Fatal("the first answer is not in force")
	}

	// A push that changes, adds and removes; one resource of it is bad and is refused by name, alone.
	f.pod("shop", "a", "2", "10.0.0.11")
	f.drop(mesh.TypeAddress, b)
	c := f.pod("shop", "c", "1", "10.0.0.3")
	bad := statetest.Pod("shop", "bad", "sa")
	bad.Addresses = [][]byte{{1, 2, 3}}
	f.put(mesh.TypeAddress, bad.GetUid(), "1", &workload.Address{Type: &workload.Address_Workload{Workload: bad}})
	f.pushes <- push{mesh.TypeAddress, []string{a, b, c, bad.GetUid()}}
	until(t, "the push is in force", func() bool {
		s := z.state.Current()
		return s.Workload(c) != nil && s.Workload(b) == nil && s.Workload(a).Addrs[0].String() == "10.0.0.11"
	})
	until(t, "the bad one is refused", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.refusals) == 1 && strings.Contains(f.refusals[0], bad.GetUid()) && strings.Contains(f.refusals[0], "3 bytes")
	})

	// While nobody is connected c goes, d comes, and the policy goes.
	f.mu.Lock()
	delete(f.resources[mesh.TypeAddress], c)
	delete(f.resources[mesh.TypeAddress], bad.GetUid())
	delete(f.resources[mesh.TypeAuthorization], "shop/deny")
	old := f.end
	f.end = make(chan struct{})
	f.mu.Unlock()
	d := f.pod("shop", "d", "1", "10.0.0.4")
	close(old)
	until(t, "the changes of the meantime are in force", func() bool {
		s := z.state.Current()
		return s.Workload(c) == nil && s.Workload(d) != nil && s.Policy("shop/deny") == nil && s.Workload(a) != nil
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	var again *discoveryv3.DeltaDiscoveryRequest
	for _, req := range f.opened[2:] {
		if req.GetTypeUrl() == mesh.TypeAddress {
			again = req
		}
	}
	have := again.GetInitialResourceVersions()
	if have[a] != "2" || have[c] != "1" || len(again.GetResourceNamesSubscribe()) != 0 {
		t.Errorf("came back with %v", again)
	}
	if v, known := have[bad.GetUid()]; known && v != "" {
		t.Errorf("claims to have the refused one in version %q", v)
	}
}
