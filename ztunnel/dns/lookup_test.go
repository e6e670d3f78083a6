package dns_test

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/ztunnel/dns"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
)

var zone = dns.Zone{Domain: "cluster.local", Search: []string{"example.org"}}

func external(ns, host string, vips ...string) *workload.Service {
	s := Service(ns, "x", vips, 80, 80)
	s.Name, s.Hostname = host, host
	return s
}

func with[T proto.Message](m T, change func(T)) T {
	change(m)
	return m
}

func names(t testing.TB) *state.State {
	onWest := func(w *workload.Workload) { w.Network = "west" }
	return World(t,
		Pod("shop", "client", "sa", "10.0.0.9"),
		Service("shop", "cart", []string{"10.96.0.1", "fd96::1"}, 80, 80),
		with(Service("shop", "west", nil, 80, 80), func(s *workload.Service) {
			s.Addresses = []*workload.NetworkAddress{Net("west", "10.96.0.7")}
		}),
		Service("other", "pay", []string{"10.96.0.2"}, 80, 80),
		with(Service("other", "secret", []string{"10.96.0.3"}, 80, 80), func(s *workload.Service) { s.Visibility = workload.Service_NAMESPACE }),
		Service("shop", "db", nil, 5432, 5432),
		In(Pod("shop", "db-0", "sa", "10.0.1.1", "fd00::1"), "shop/db.shop.svc.cluster.local", 5432, 5432),
		In(Pod("shop", "db-1", "sa", "10.0.1.2"), "shop/db.shop.svc.cluster.local", 5432, 5432),
		with(In(Pod("shop", "db-2", "sa", "10.0.1.3"), "shop/db.shop.svc.cluster.local", 5432, 5432), func(w *workload.Workload) { w.Status = workload.WorkloadStatus_UNHEALTHY }),
		with(In(Pod("shop", "db-3", "sa", "10.0.1.4"), "shop/db.shop.svc.cluster.local", 5432, 5432), onWest),
		external("shop", "www.example.com", "240.0.0.1"),
		external("shop", "*.example.com", "240.0.0.2"),
		external("shop", "*.deep.example.com", "240.0.0.3"),
		external("shop", "nothing.example.net"),
		external("shop", "Mixed.Example.NET", "240.0.0.4"),
		external("shop", "shared.net", "240.0.0.5"),
		with(external("other", "shared.net", "240.0.0.6"), func(s *workload.Service) { s.Canonical = true }),
	)
}

func TestLookup(t *testing.T) {
	s := names(t).Current()
	client := s.Pod("Kubernetes", "shop", "client")
	tests := []struct{ name, want string }{
		{"cart.shop.svc.cluster.local", "10.96.0.1"},
		{"cart", "10.96.0.1"},
		{"cart.shop", "10.96.0.1"},
		{"cart.shop.svc", "10.96.0.1"},
		{"pay", "unknown"},
		{"pay.other", "10.96.0.2"},
		{"secret.other", "unknown"},
		{"west", ""},
		{"db", "10.0.1.1 10.0.1.2"},
		{"db.shop.svc.cluster.local", "10.0.1.1 10.0.1.2"},
		{"www.example.com", "240.0.0.1"},
		{"img.example.com", "240.0.0.2"},
		{"a.b.example.com", "240.0.0.2"},
		{"a.deep.example.com", "240.0.0.3"},
		{"example.com", "unknown"},
		{"nothing.example.net", "unknown"},
		{"mixed.example.net", "240.0.0.4"},
		{"shared.net", "240.0.0.5"},
		{"www.example.com.shop.svc.cluster.local", "www.example.com 240.0.0.1"},
		{"www.example.com.svc.cluster.local", "www.example.com 240.0.0.1"},
		{"www.example.com.cluster.local", "www.example.com 240.0.0.1"},
		{"www.example.com.example.org", "www.example.com 240.0.0.1"},
		{"cart.shop.example.org", "cart.shop 10.96.0.1"},
		{"cart.cluster.local", "cart 10.96.0.1"},
		{"gone.shop.svc.cluster.local", "unknown"},
		{".cluster.local", "unknown"},
		{"cluster.local", "unknown"},
		{"", "unknown"},
		{"a.b.c.d.e.f", "unknown"},
	}
	for _, tt := range tests {
		a, ok := dns.Lookup(s, zone, client, tt.name, false)
		var parts []string
		for _, addr := range a.Addrs {
			parts = append(parts, addr.String())
		}
		slices.Sort(parts)
		if a.Alias > 0 {
			parts = append([]string{tt.name[:a.Alias]}, parts...)
		}
		got := strings.Join(parts, " ")
		if !ok {
			got = "unknown"
		}
		if got != tt.want {
			t.Errorf("Lookup(%s) = %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestLookupFamilies(t *testing.T) {
	s := names(t).Current()
	client := s.Pod("Kubernetes", "shop", "client")
	for name, want := range map[string]string{"cart": "[fd96::1]", "db": "[fd00::1]", "pay.other": "[]"} {
		a, ok := dns.Lookup(s, zone, client, name, true)
		if got := strings.ReplaceAll(strings.Trim(strings.Join(strings.Fields(sprint(a)), " "), " "), "  ", " "); !ok || got != want {
			t.Errorf("Lookup(%s) = %s, %v, want %s", name, got, ok, want)
		}
	}
}

func sprint(a dns.Answer) string {
	var parts []string
	for _, addr := range a.Addrs {
		parts = append(parts, addr.String())
	}
	return "[" + strings.Join(parts, " ") + "]"
}

// From another namespace the canonical service wins a shared name.
func TestLookupSharedName(t *testing.T) {
	st := names(t)
	Put(t, st, Pod("third", "client", "sa", "10.0.0.8"))
	s := st.Current()
	a, _ := dns.Lookup(s, zone, s.Pod("Kubernetes", "third", "client"), "shared.net", false)
	if got := sprint(a); got != "[240.0.0.6]" {
		t.Error(got)
	}
}

func TestParseResolvConf(t *testing.T) {
	u := dns.ParseResolvConf("# written by hand\nnameserver 10.96.0.10 # comment\nnameserver nonsense\nnameserver fd00::a\nsearch old.org\nsearch a.example.ORG. b\noptions ndots:5\nnameserver 1.1.1.1\nnameserver 2.2.2.2\nsearch\n")
	if got := strings.Join(u.Search, " "); got != "a.example.org b" {
		t.Errorf("search = %s", got)
	}
	var servers []string
	for _, s := range u.Servers {
		servers = append(servers, s.String())
	}
	if got := strings.Join(servers, " "); got != "10.96.0.10:53 [fd00::a]:53 1.1.1.1:53" {
		t.Errorf("servers = %s", got)
	}
}
