package xds

import (
	"slices"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// upserted reads the names back out of a batch's encoded resources.
func upserted(t *testing.T, b *batch) []string {
	t.Helper()
	names := []string{}
	for _, buf := range b.resources {
		var r received
		if err := r.decode(buf.ReadOnlyData()); err != nil {
			t.Fatal(err)
		}
		for _, u := range r.upserts {
			names = append(names, u.Name)
		}
	}
	slices.Sort(names)
	return names
}

// town is a small mesh: a web service with two endpoints on two nodes, a database outside it, an external range.
func town() *Collection {
	c := NewCollection(addressType)
	c.Apply([]*Resource{
		{Name: "ns/web.ns.svc", Version: "1", Aliases: []string{"net/10.9.0.1"}},
		{Name: "c//Pod/ns/web-1", Version: "1", Aliases: []string{"net/10.0.1.1"}, Node: "n1", Services: []string{"ns/web.ns.svc"}},
		{Name: "c//Pod/ns/web-2", Version: "1", Aliases: []string{"net/10.0.2.1", "net/fd00::2"}, Node: "n2", Services: []string{"ns/web.ns.svc"}},
		{Name: "c//Pod/ns/db-0", Version: "1", Aliases: []string{"net/10.0.2.2"}, Node: "n2"},
		{Name: "ns/partner.example", Version: "1", Aliases: []string{"net/192.0.2.0/24", "/2001:db8::/32"}},
		{Name: "ns/wide.example", Version: "1", Aliases: []string{"net/192.0.0.0/16"}},
	}, nil)
	return c
}

func TestDemandAnswers(t *testing.T) {
	web := []string{"c//Pod/ns/web-1", "c//Pod/ns/web-2", "ns/web.ns.svc"}
	for _, tc := range []struct {
		name    string
		node    string
		ask     []string
		want    []string
		unknown []string
	}{
		{name: "nothing asked: the own node's workloads", node: "n1", want: []string{"c//Pod/ns/web-1"}},
		{name: "a service brings its endpoints", ask: []string{"ns/web.ns.svc"}, want: web},
		{name: "a service by its address", ask: []string{"net/10.9.0.1"}, want: web},
		{name: "a workload by uid", ask: []string{"c//Pod/ns/db-0"}, want: []string{"c//Pod/ns/db-0"}},
		{name: "a workload by address", ask: []string{"net/10.0.2.2"}, want: []string{"c//Pod/ns/db-0"}},
		{name: "IPv6 in another spelling", ask: []string{"net/fd00:0::0:2"}, want: []string{"c//Pod/ns/web-2"}},
		{name: "an address within a range", ask: []string{"net/192.0.2.77"}, want: []string{"ns/partner.example"}},
		{name: "an address within the wider range only", ask: []string{"net/192.0.3.1"}, want: []string{"ns/wide.example"}},
		{name: "the range itself", ask: []string{"net/192.0.2.0/24"}, want: []string{"ns/partner.example"}},
		{name: "a range without network", ask: []string{"/2001:db8::1"}, want: []string{"ns/partner.example"}},
		{name: "the right address on the wrong network", ask: []string{"other/10.0.2.2"}, want: []string{}, unknown: []string{"other/10.0.2.2"}},
		{name: "nonsense", ask: []string{"", "/", "x"}, want: []string{}, unknown: []string{"", "/", "x"}},
		{name: "one resource by two names", ask: []string{"net/10.0.2.2", "c//Pod/ns/db-0"}, want: []string{"c//Pod/ns/db-0"}},
		{name: "asked and on the node", node: "n2", ask: []string{"c//Pod/ns/db-0"}, want: []string{"c//Pod/ns/db-0", "c//Pod/ns/web-2"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newDemand(tc.node).answer(town(), tc.ask)
			if got := upserted(t, b); !slices.Equal(got, tc.want) || !slices.Equal(b.removed, tc.unknown) {
				t.Errorf("got %v removed %v, want %v removed %v", got, b.removed, tc.want, tc.unknown)
			}
		})
	}
}

func TestDemandFollowsChanges(t *testing.T) {
	c := town()
	d := newDemand("n1")
	d.answer(c, []string{"net/10.9.0.1", "net/10.0.7.7", "net/192.0.2.9"})
	cursor := c.seq
	step := func(what string, put []*Resource, remove, want, gone []string) {
		t.Helper()
		c.Apply(put, remove)
		b, next, err := d.changes(c, cursor)
		if err != nil {
			t.Fatal(err)
		}
		cursor = next
		if got := upserted(t, b); !slices.Equal(got, want) || !slices.Equal(b.removed, gone) {
			t.Fatalf("%s: got %v removed %v, want %v removed %v", what, got, b.removed, want, gone)
		}
	}
	none := []string{}
	step("a stranger changes", []*Resource{{Name: "c//Pod/ns/db-0", Version: "2", Node: "n2"}}, nil, none, nil)
	step("a new endpoint", []*Resource{{Name: "c//Pod/ns/web-3", Version: "1", Node: "n2", Services: []string{"ns/web.ns.svc"}}}, nil, []string{"c//Pod/ns/web-3"}, nil)
	step("it leaves the service but exists on", []*Resource{{Name: "c//Pod/ns/web-3", Version: "2", Node: "n2"}}, nil, []string{"c//Pod/ns/web-3"}, nil)
	step("it goes", nil, []string{"c//Pod/ns/web-3"}, none, []string{"c//Pod/ns/web-3"})
	step("a stranger goes", nil, []string{"c//Pod/ns/db-0"}, none, nil)
	step("a pod of our node", []*Resource{{Name: "c//Pod/ns/x", Version: "1", Node: "n1"}}, nil, []string{"c//Pod/ns/x"}, nil)
	step("the address asked for in vain appears", []*Resource{{Name: "c//Pod/ns/late", Version: "1", Node: "n3", Aliases: []string{"net/10.0.7.7"}}}, nil, []string{"c//Pod/ns/late"}, nil)
	step("the narrow range goes, the wide one takes over", nil, []string{"ns/partner.example"}, []string{"ns/wide.example"}, []string{"ns/partner.example"})
	step("a narrow range appears around the asked address", []*Resource{{Name: "ns/new.example", Version: "1", Aliases: []string{"net/192.0.2.8/30"}}}, nil, []string{"ns/new.example"}, nil)
	step("the service goes", nil, []string{"ns/web.ns.svc"}, none, []string{"ns/web.ns.svc"})
	step("an endpoint of no service yet", []*Resource{{Name: "c//Pod/ns/web-9", Version: "1", Node: "n2", Services: []string{"ns/web.ns.svc"}}}, nil, none, nil)
	step("the service returns under another name's address", []*Resource{{Name: "ns/web.ns.svc", Version: "2", Aliases: []string{"net/10.9.0.1"}}}, nil, []string{"c//Pod/ns/web-9", "ns/web.ns.svc"}, nil)

	d.forget(c, []string{"net/10.9.0.1"})
	step("after forgetting the service", []*Resource{{Name: "c//Pod/ns/web-9", Version: "2", Node: "n2", Services: []string{"ns/web.ns.svc"}}}, nil, none, nil)
}

func TestOnDemandStream(t *testing.T) {
	w := newWorld(t, ServerConfig{})
	w.address = nil
	c := town()
	w.server.collections[addressType] = c
	p := w.plain()
	star := []string{"*"}
	r := p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, Node: testNode("n1"), ResourceNamesSubscribe: star, ResourceNamesUnsubscribe: star})
	wantNames(t, r, []string{"c//Pod/ns/web-1"}, nil)
	r = p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, ResourceNamesSubscribe: []string{"net/10.9.0.1"}})
	wantNames(t, r, []string{"c//Pod/ns/web-2", "ns/web.ns.svc"}, nil)
	r = p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, ResourceNamesSubscribe: []string{"net/10.9.0.1", "net/9.9.9.9"}})
	wantNames(t, r, []string{"ns/web.ns.svc"}, []string{"net/9.9.9.9"})
	r = p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, ResourceNamesSubscribe: []string{"net/10.0.2.2"}})
	wantNames(t, r, []string{"c//Pod/ns/db-0"}, nil)

	// The next stream of the same client names what it has, and what it still waits for.
	c.Apply([]*Resource{{Name: "c//Pod/ns/db-0", Version: "2", Aliases: []string{"net/10.0.2.2"}, Node: "n2"}}, []string{"c//Pod/ns/web-1"})
	r = w.plain().ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, Node: testNode("n1"),
		ResourceNamesSubscribe: []string{"*", "net/10.9.0.1", "net/9.9.9.9"}, ResourceNamesUnsubscribe: star,
		InitialResourceVersions: map[string]string{"ns/web.ns.svc": "1", "c//Pod/ns/web-1": "1", "c//Pod/ns/web-2": "1", "c//Pod/ns/db-0": "1"}})
	wantNames(t, r, []string{"c//Pod/ns/db-0", "ns/web.ns.svc"}, []string{"c//Pod/ns/web-1", "net/9.9.9.9"})
}

func TestWildcardAndBack(t *testing.T) {
	w := newWorld(t, ServerConfig{})
	w.server.collections[addressType] = town()
	p := w.plain()
	if r := p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, Node: testNode("n9")}); len(r.GetResources()) != 6 {
		t.Fatalf("wildcard got %v", respNames(r))
	}
	// Unsubscribing is not owed an answer, the name in the next request is.
	p.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, ResourceNamesUnsubscribe: []string{"*"}})
	r := p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, ResourceNamesSubscribe: []string{"net/10.0.2.2"}})
	wantNames(t, r, []string{"c//Pod/ns/db-0"}, nil)
	if r := p.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, ResourceNamesSubscribe: []string{"*"}}); len(r.GetResources()) != 6 {
		t.Fatalf("wildcard again got %v", respNames(r))
	}
}

func TestBatchIsSplitAtMessageLimit(t *testing.T) {
	c := town()
	img := c.everything()
	b := &batch{resources: img.slabs, bytes: img.slabs.Len(), removed: []string{"x"}}
	if part, rest := b.split(1); rest != nil || part != b {
		t.Fatal("a single piece was split")
	}
	b, _, err := c.changes(0)
	if err != nil {
		t.Fatal(err)
	}
	b.removed = []string{"x"}
	var names []string
	removed, parts := 0, 0
	for rest := b; rest != nil; parts++ {
		b, rest = rest.split(200)
		names = append(names, upserted(t, b)...)
		removed += len(b.removed)
	}
	if len(names) != 6 || removed != 1 || parts < 3 {
		t.Fatalf("%d parts with %v and %d removals", parts, names, removed)
	}
}
