package xds

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/ambit-mesh/ambit/api/mesh"
)

const factType = mesh.TypeWaypointService

// estate is a mesh with two gateways: some workloads are bound to one, one to both.
func estate(c *Collection) {
	c.Apply([]*Resource{
		{Name: "ns/web.ns.svc", Version: "1"},
		{Name: "c//Pod/ns/web-1", Version: "1", Services: []string{"ns/web.ns.svc"}, Scopes: []string{"ns/gw"}},
		{Name: "c//Pod/ns/web-2", Version: "1", Services: []string{"ns/web.ns.svc"}},
		{Name: "c//Pod/ns/db-0", Version: "1", Node: "n1", Scopes: []string{"ns/gw", "ns/other"}},
		{Name: "c//Pod/ns/db-1", Version: "1", Scopes: []string{"ns/other"}},
	}, nil)
}

func TestScopeOfAName(t *testing.T) {
	for name, want := range map[string]string{
		"ns/gw/*": "ns/gw", "ns/gw/http/*": "", "*": "", "/*": "", "ns/*": "", "//*": "", "ns/gw/ns/*.example.com": "", "ns/gw": "", "ns//*": "",
	} {
		if got, ok := scopeOf(name); ok != (want != "") || ok && got != want {
			t.Errorf("%q is the scope %q, %v", name, got, ok)
		}
	}
}

func TestScopeFollowsItsMembers(t *testing.T) {
	w := newWorld(t, ServerConfig{})
	estate(w.address)
	p := w.plain()
	r := p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, Node: testNode("n1"), ResourceNamesSubscribe: []string{"ns/gw/*"}})
	wantNames(t, r, []string{"c//Pod/ns/db-0", "c//Pod/ns/web-1"}, nil) // and no workload only for being on node n1

	// One joins, one leaves, one changes without either, one that is none of ours changes; all in one step.
	w.address.Apply([]*Resource{
		{Name: "c//Pod/ns/web-1", Version: "2", Services: []string{"ns/web.ns.svc"}, Scopes: []string{"ns/gw"}},
		{Name: "c//Pod/ns/web-2", Version: "1", Services: []string{"ns/web.ns.svc"}, Scopes: []string{"ns/gw"}},
		{Name: "c//Pod/ns/db-0", Version: "1", Node: "n1", Scopes: []string{"ns/other"}},
		{Name: "c//Pod/ns/db-1", Version: "2", Scopes: []string{"ns/other"}},
	}, nil)
	wantNames(t, p.recv(), []string{"c//Pod/ns/web-1", "c//Pod/ns/web-2"}, []string{"c//Pod/ns/db-0"})

	// A service by name brings what is missing of its endpoints; then the scope may go without taking them along.
	r = p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, ResourceNamesSubscribe: []string{"ns/web.ns.svc", "ns/none.svc", "ns/empty/*"}})
	wantNames(t, r, []string{"ns/web.ns.svc"}, []string{"ns/none.svc"})
	r = p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, ResourceNamesUnsubscribe: []string{"ns/gw/*"}, ResourceNamesSubscribe: []string{"ns/other/*"}})
	wantNames(t, r, []string{"c//Pod/ns/db-0", "c//Pod/ns/db-1"}, nil)
	// The service goes, and with it its endpoints, which exist on.
	w.address.Apply(nil, []string{"ns/web.ns.svc"})
	wantNames(t, p.recv(), nil, []string{"c//Pod/ns/web-1", "c//Pod/ns/web-2", "ns/web.ns.svc"})
	// It comes back, and they with it.
	w.address.Apply([]*Resource{{Name: "ns/web.ns.svc", Version: "1"}}, nil)
	wantNames(t, p.recv(), []string{"c//Pod/ns/web-1", "c//Pod/ns/web-2", "ns/web.ns.svc"}, nil)
	r = p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, ResourceNamesUnsubscribe: []string{"ns/web.ns.svc"}})
	wantNames(t, r, nil, []string{"c//Pod/ns/web-1", "c//Pod/ns/web-2", "ns/web.ns.svc"})
}

func TestScopeResumes(t *testing.T) {
	w := newWorld(t, ServerConfig{})
	estate(w.address)
	r := w.plain().ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, Node: testNode("n1"),
		ResourceNamesSubscribe: []string{"ns/gw/*", "ns/none.svc"}, InitialResourceVersions: map[string]string{
			"c//Pod/ns/db-0": "1", "c//Pod/ns/db-1": "1", "c//Pod/ns/gone": "1", "ns/web.ns.svc": "1",
		}})
	// db-1 and the service exist, but belong to what is not asked for any more.
	wantNames(t, r, []string{"c//Pod/ns/web-1"}, []string{"c//Pod/ns/db-1", "c//Pod/ns/gone", "ns/none.svc", "ns/web.ns.svc"})
}

func TestFactsAreNeverServedWhole(t *testing.T) {
	facts := NewCollection(factType)
	w := newWorld(t, ServerConfig{}, facts)
	facts.Apply([]*Resource{{Name: "ns/gw/ns/web", Version: "1", Scopes: []string{"ns/gw"}}}, nil)
	for _, subscribe := range [][]string{nil, {"*"}} {
		p := w.plain()
		r := p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: factType, Node: testNode("n1"), ResourceNamesSubscribe: subscribe,
			InitialResourceVersions: map[string]string{"ns/gw/ns/web": "1"}})
		wantNames(t, r, nil, []string{"ns/gw/ns/web"})
		p.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: factType, ResourceNamesSubscribe: []string{"*"}}) // still nothing, and no answer is owed
		r = p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: factType, ResourceNamesSubscribe: []string{"ns/gw/ns/web"}})
		wantNames(t, r, []string{"ns/gw/ns/web"}, nil)
	}
}

func TestScopesAreAuthorized(t *testing.T) {
	asked := make(chan string, 100)
	facts := NewCollection(factType)
	w := newWorld(t, ServerConfig{AuthorizeScope: func(_ context.Context, scope string) error {
		asked <- scope
		if scope != "ns/gw" {
			return errors.New("spiffe://td/ns/ns/sa/gw is not the identity of Gateway " + scope)
		}
		return nil
	}}, facts)
	facts.Apply([]*Resource{{Name: "ns/other/ns/web", Version: "1", Scopes: []string{"ns/other"}}}, nil)
	for _, tc := range []struct{ typeURL, name, scope string }{
		{addressType, "ns/other/*", "ns/other"},
		{factType, "ns/other/*", "ns/other"},
		{factType, "ns/other/ns/web", "ns/other"},
		{factType, "ns/other/http/*", "ns/other"},
		{factType, "web", "web"},
	} {
		for _, first := range []bool{true, false} {
			p := w.plain()
			req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: tc.typeURL, Node: testNode("n1"), ResourceNamesSubscribe: []string{tc.name}}
			if !first {
				p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: tc.typeURL, Node: testNode("n1"), ResourceNamesSubscribe: []string{"ns/gw/*"}})
				if got := <-asked; got != "ns/gw" {
					t.Fatalf("asked for %s", got)
				}
			}
			p.send(req)
			_, err := p.stream.Recv()
			if grpcstatus.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "Gateway "+tc.scope) {
				t.Fatalf("%s of %s: %v", tc.name, tc.typeURL, err)
			}
			if got := <-asked; got != tc.scope {
				t.Fatalf("asked for %s, want %s", got, tc.scope)
			}
		}
	}
	// Addresses by name are everybody's; a scope is asked for once.
	p := w.plain()
	p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, Node: testNode("n1"), ResourceNamesSubscribe: []string{"ns/other.svc", "ns/gw/*", "n/10.0.0.1"}})
	p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: factType, ResourceNamesSubscribe: []string{"ns/gw/*", "ns/gw/ns/web"}})
	if got := <-asked; got != "ns/gw" || len(asked) != 0 {
		t.Fatalf("asked for %s and %d more", got, len(asked))
	}
}

func TestNamedClient(t *testing.T) {
	facts := NewCollection(factType)
	w := newWorld(t, ServerConfig{}, facts)
	estate(w.address)
	facts.Apply([]*Resource{{Name: "ns/gw/ns/web", Version: "1", Scopes: []string{"ns/gw"}}, {Name: "ns/other/ns/web", Version: "1", Scopes: []string{"ns/other"}}}, nil)
	w.policy.Apply([]*Resource{{Name: "ns/p"}}, nil)
	r := newReplica()
	c, _ := w.run(ClientConfig{Named: true}, r, addressType, factType, policyType)
	awaitSynced(t, c) // with nothing subscribed but policies
	if len(r.get(addressType))+len(r.get(factType)) != 0 || len(r.get(policyType)) != 1 {
		t.Fatalf("unasked: %v", r.state)
	}
	c.Subscribe(addressType, "ns/gw/*", "ns/web.ns.svc")
	c.Subscribe(factType, "ns/gw/*")
	has := func(typeURL string, names ...string) func() bool {
		return func() bool { return slices.Equal(r.names(typeURL), names) }
	}
	eventually(t, "what is subscribed arrives", has(addressType, "c//Pod/ns/db-0", "c//Pod/ns/web-1", "c//Pod/ns/web-2", "ns/web.ns.svc"))
	eventually(t, "the facts arrive", has(factType, "ns/gw/ns/web"))

	w.cut()
	c.Unsubscribe(addressType, "ns/web.ns.svc") // perhaps while there is no connection
	c.Unsubscribe(factType, "ns/gw/*")
	c.Subscribe(factType, "ns/other/*")
	eventually(t, "the service and its other endpoint go", has(addressType, "c//Pod/ns/db-0", "c//Pod/ns/web-1"))
	eventually(t, "facts are those of the other gateway", has(factType, "ns/other/ns/web"))
}

// TestScopePushesInChunks lets a scope grow and empty by more than a chunk, with a subscriber to something else looking on.
func TestScopePushesInChunks(t *testing.T) {
	w := newWorld(t, ServerConfig{})
	r, other := newReplica(), newReplica()
	c, _ := w.run(ClientConfig{Named: true}, r, addressType)
	c.Subscribe(addressType, "ns/gw/*")
	awaitSynced(t, c)
	o, _ := w.run(ClientConfig{Named: true}, other, addressType)
	o.Subscribe(addressType, "ns/other/*")
	awaitSynced(t, o)
	put := make([]*Resource, 3000)
	want := make(map[string]string)
	for i := range put {
		put[i] = res(fmt.Sprintf("c//Pod/ns/%d", i), strings.Repeat(string(rune('a'+i%26)), 1000))
		put[i].Scopes = []string{"ns/gw"}
		want[put[i].Name] = string(put[i].Body)
	}
	w.address.Apply(put, nil)
	eventually(t, "all of them arrive", func() bool { return maps.Equal(r.get(addressType), want) })
	moved := make([]*Resource, len(put))
	for i, p := range put {
		q := *p
		q.Scopes = []string{"ns/other"}
		moved[i] = &q
	}
	w.address.Apply(moved, nil)
	eventually(t, "all of them leave", func() bool { return len(r.get(addressType)) == 0 })
	eventually(t, "and arrive at the other", func() bool { return maps.Equal(other.get(addressType), want) })
}
