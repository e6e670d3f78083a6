package authz_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/authz"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

func policy(name string, scope security.Scope, action security.Action, matches ...*security.Match) *security.Authorization {
	p := &security.Authorization{Name: name, Namespace: "shop", Scope: scope, Action: action}
	for _, m := range matches {
		p.Rules = append(p.Rules, &security.Rule{Clauses: []*security.Clause{{Matches: []*security.Match{m}}}})
	}
	return p
}

func exact(v ...string) (out []*security.StringMatch) {
	for _, s := range v {
		out = append(out, &security.StringMatch{MatchType: &security.StringMatch_Exact{Exact: s}})
	}
	return out
}

func presence() []*security.StringMatch {
	return []*security.StringMatch{{MatchType: &security.StringMatch_Presence{Presence: &security.Empty{}}}}
}

func conn(who string) authz.Connection {
	c := authz.Connection{SourceIP: netip.MustParseAddr("10.0.0.9"), DestIP: netip.MustParseAddr("10.0.0.1"), DestPort: 8080}
	if ns, sa, ok := strings.Cut(who, "/"); ok {
		c.Source = identity.ID{TrustDomain: "cluster.local", Namespace: ns, ServiceAccount: sa}
	}
	return c
}

const (
	global    = security.Scope_GLOBAL
	namespace = security.Scope_NAMESPACE
	selector  = security.Scope_WORKLOAD_SELECTOR
	allow     = security.Action_ALLOW
	deny      = security.Action_DENY
)

func dry(p *security.Authorization) *security.Authorization {
	p.DryRun = true
	return p
}

func TestCheck(t *testing.T) {
	any := &security.Match{NotDestinationPorts: []uint32{1}}
	fromWeb := &security.Match{Principals: exact("cluster.local/ns/shop/sa/web")}
	noPlaintext := &security.Match{NotPrincipals: presence()}
	tests := []struct {
		name     string
		policies []proto.Message
		selected []string
		from     string
		want     string
	}{
		{"no policies", nil, nil, "shop/web", "allow"},
		{"allow hit", []proto.Message{policy("p", namespace, allow, fromWeb)}, nil, "shop/web", "allow by shop/p"},
		{"allow miss", []proto.Message{policy("p", namespace, allow, fromWeb)}, nil, "shop/other", "allow policies exist, but none allowed"},
		{"allow nothing", []proto.Message{policy("p", namespace, allow)}, nil, "shop/web", "allow policies exist, but none allowed"},
		{"deny nothing", []proto.Message{policy("p", namespace, deny)}, nil, "shop/web", "allow"},
		{"deny hit", []proto.Message{policy("p", namespace, deny, fromWeb)}, nil, "shop/web", "explicitly denied by: shop/p"},
		{"deny beats allow", []proto.Message{policy("d", namespace, deny, fromWeb), policy("a", namespace, allow, fromWeb)}, nil, "shop/web", "explicitly denied by: shop/d"},
		{"second allow", []proto.Message{policy("a", namespace, allow, fromWeb), policy("b", global, allow, any)}, nil, "shop/other", "allow by shop/b"},
		{"namespace of someone else", []proto.Message{&security.Authorization{Name: "p", Namespace: "other", Scope: namespace, Action: deny, Rules: []*security.Rule{{}}}}, nil, "shop/web", "allow"},
		{"global from any namespace", []proto.Message{&security.Authorization{Name: "p", Namespace: "root", Scope: global, Action: deny, Rules: []*security.Rule{{}}}}, nil, "shop/web", "explicitly denied by: root/p"},
		{"selector not named", []proto.Message{policy("p", selector, deny, any)}, nil, "shop/web", "allow"},
		{"selector named", []proto.Message{policy("p", selector, deny, any)}, []string{"shop/p"}, "shop/web", "explicitly denied by: shop/p"},
		{"unknown name", nil, []string{"shop/gone"}, "shop/web", "allow"},
		{"rule without clauses", []proto.Message{&security.Authorization{Name: "p", Namespace: "shop", Scope: namespace, Action: deny, Rules: []*security.Rule{{}}}}, nil, "", "explicitly denied by: shop/p"},
		{"match with nothing set", []proto.Message{policy("p", namespace, deny, &security.Match{})}, nil, "shop/web", "allow"},
		{"strict, plaintext", []proto.Message{policy("strict", selector, deny, noPlaintext)}, []string{"shop/strict"}, "", "explicitly denied by: shop/strict"},
		{"strict, mesh", []proto.Message{policy("strict", selector, deny, noPlaintext)}, []string{"shop/strict"}, "shop/web", "allow"},
		{"negative matches plaintext", []proto.Message{policy("p", namespace, deny, &security.Match{NotNamespaces: exact("shop")})}, nil, "", "explicitly denied by: shop/p"},
		{"plaintext is nobody, even to an empty pattern", []proto.Message{policy("p", namespace, deny, &security.Match{Namespaces: exact("")})}, nil, "", "allow"},
		{"accounts ignore the trust domain", []proto.Message{policy("p", namespace, deny, &security.Match{ServiceAccounts: []*security.ServiceAccountMatch{{Namespace: "shop", ServiceAccount: "web"}}})}, nil, "shop/web", "explicitly denied by: shop/p"},
		{"port", []proto.Message{policy("p", namespace, deny, &security.Match{DestinationPorts: []uint32{8080}})}, nil, "", "explicitly denied by: shop/p"},
		{"source ip as v4-mapped range", []proto.Message{policy("p", namespace, deny, &security.Match{SourceIps: []*security.Address{{Address: netip.MustParseAddr("::ffff:10.0.0.0").AsSlice(), Length: 120}}})}, nil, "", "explicitly denied by: shop/p"},
		{"dry run decides nothing", []proto.Message{dry(policy("d", namespace, deny, any)), dry(policy("a", namespace, allow, fromWeb))}, nil, "shop/other", "allow, would deny by shop/d"},
		{"dry run allow is told", []proto.Message{dry(policy("a", namespace, allow, fromWeb))}, nil, "shop/web", "allow, would allow by shop/a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := Pod("shop", "cart", "cart-sa", "10.0.0.1")
			w.AuthorizationPolicies = tt.selected
			s := World(t, append(tt.policies, w)...).Current()
			if got := show(authz.Check(s, s.Workload(w.Uid), conn(tt.from))); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func show(v authz.Verdict) string {
	out := "allow"
	if v.Policy != "" {
		out = "allow by " + v.Policy
	}
	if err := v.Error(); err != nil {
		if v.Allow {
			return "allowed with an error"
		}
		out = err.Error()
	}
	for _, m := range v.DryRun {
		out += map[bool]string{true: ", would deny by ", false: ", would allow by "}[m.Deny] + m.Policy
	}
	return out
}

// The reference evaluator reads the protos as they come and follows the text of the rules, with no thought of speed.
type reference struct {
	policies []*security.Authorization
	dst      *workload.Workload
	c        authz.Connection
	client   *authz.Connection // the same connection as if the original client had made it; nil: nobody is believed about one
}

func (r *reference) verdict() telemetry.Reason {
	anyAllow, allowed := false, false
	for _, p := range r.policies {
		if p.DryRun || !r.applies(p) {
			continue
		}
		hit := slices.ContainsFunc(p.Rules, func(rule *security.Rule) bool { return r.hits(p, rule) })
		if p.Action == deny && hit {
			return telemetry.PolicyDenied
		}
		if p.Action == allow {
			anyAllow, allowed = true, allowed || hit
		}
	}
	if anyAllow && !allowed {
		return telemetry.PolicyNotAllowed
	}
	return telemetry.OK
}

func (r *reference) applies(p *security.Authorization) bool {
	return p.Scope == global || p.Scope == namespace && p.Namespace == r.dst.Namespace ||
		slices.Contains(r.dst.AuthorizationPolicies, p.Namespace+"/"+p.Name)
}

// hits asks about the peer and about the client. For an ALLOW rule, each match also has to spare the other of the two.
func (r *reference) hits(p *security.Authorization, rule *security.Rule) bool {
	if r.client == nil {
		return every(rule, func(m *security.Match) bool { return match(m, r.c) })
	}
	spares := func(m *security.Match, c authz.Connection) bool {
		not := &security.Match{
			NotNamespaces: m.NotNamespaces, NotPrincipals: m.NotPrincipals, NotServiceAccounts: m.NotServiceAccounts, NotSourceIps: m.NotSourceIps,
		}
		return p.Action == deny || proto.Size(not) == 0 || match(not, c)
	}
	return every(rule, func(m *security.Match) bool { return match(m, r.c) && spares(m, *r.client) }) ||
		every(rule, func(m *security.Match) bool { return match(m, *r.client) && spares(m, r.c) })
}

func every(rule *security.Rule, match func(*security.Match) bool) bool {
	for _, c := range rule.Clauses {
		if !slices.ContainsFunc(c.Matches, match) {
			return false
		}
	}
	return true
}

func match(m *security.Match, conn authz.Connection) bool {
	if proto.Size(m) == 0 {
		return false
	}
	id := conn.Source
	var ns, principal string
	if !id.IsZero() {
		ns, principal = id.Namespace, strings.TrimPrefix(id.String(), "spiffe://")
	}
	text := func(v string) func(*security.StringMatch) bool {
		return func(s *security.StringMatch) bool {
			if v == "" {
				return false
			}
			switch t := s.MatchType.(type) {
			case *security.StringMatch_Exact:
				return t.Exact == v
			case *security.StringMatch_Prefix:
				return strings.HasPrefix(v, t.Prefix)
			case *security.StringMatch_Suffix:
				return strings.HasSuffix(v, t.Suffix)
			}
			return true
		}
	}
	ip := func(a netip.Addr) func(*security.Address) bool {
		return func(p *security.Address) bool {
			base, _ := netip.AddrFromSlice(p.Address)
			return netip.PrefixFrom(base, int(p.Length)).Contains(a)
		}
	}
	account := func(a *security.ServiceAccountMatch) bool {
		return ns != "" && a.Namespace == ns && a.ServiceAccount == id.ServiceAccount
	}
	port := func(p uint32) bool { return p == uint32(conn.DestPort) }
	return holds(m.Namespaces, m.NotNamespaces, text(ns)) && holds(m.Principals, m.NotPrincipals, text(principal)) &&
		holds(m.ServiceAccounts, m.NotServiceAccounts, account) &&
		holds(m.SourceIps, m.NotSourceIps, ip(conn.SourceIP)) && holds(m.DestinationIps, m.NotDestinationIps, ip(conn.DestIP)) &&
		holds(m.DestinationPorts, m.NotDestinationPorts, port)
}

func holds[T any](positive, negative []T, match func(T) bool) bool {
	return (len(positive) == 0 || slices.ContainsFunc(positive, match)) && !slices.ContainsFunc(negative, match)
}

// Drawing. The pools are small so that matches happen; lists are sometimes long enough for the compiled sets.

var pool = []string{"shop", "web", "cart-sa", "cluster.local/ns/shop/sa/web", "cluster.local/ns/shop", "sa/web", "o"}

func drawStrings(t *rapid.T, name string) (out []*security.StringMatch) {
	if rapid.IntRange(0, 3).Draw(t, name) > 0 {
		return nil
	}
	for range rapid.IntRange(1, 12).Draw(t, "n") {
		v := rapid.SampledFrom(pool).Draw(t, "v")
		switch rapid.IntRange(0, 6).Draw(t, "kind") {
		case 0:
			out = append(out, &security.StringMatch{MatchType: &security.StringMatch_Prefix{Prefix: v}})
		case 1:
			out = append(out, &security.StringMatch{MatchType: &security.StringMatch_Suffix{Suffix: v}})
		case 2:
			out = append(out, presence()...)
		default:
			out = append(out, exact(v)...)
		}
	}
	return out
}

func drawPrefixes(t *rapid.T, name string) (out []*security.Address) {
	if rapid.IntRange(0, 3).Draw(t, name) > 0 {
		return nil
	}
	for range rapid.IntRange(1, 12).Draw(t, "n") {
		a := netip.MustParseAddr(rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.9", "10.9.0.0", "fd00::1", "fd00::9"}).Draw(t, "addr"))
		out = append(out, &security.Address{Address: a.AsSlice(), Length: uint32(rapid.IntRange(0, a.BitLen()).Draw(t, "bits"))})
	}
	return out
}

func drawPorts(t *rapid.T, name string) []uint32 {
	if rapid.IntRange(0, 3).Draw(t, name) > 0 {
		return nil
	}
	return rapid.SliceOfN(rapid.SampledFrom([]uint32{80, 8080, 9090}), 1, 3).Draw(t, "ports")
}

func drawAccounts(t *rapid.T, name string) (out []*security.ServiceAccountMatch) {
	if rapid.IntRange(0, 3).Draw(t, name) > 0 {
		return nil
	}
	for range rapid.IntRange(1, 12).Draw(t, "n") {
		out = append(out, &security.ServiceAccountMatch{Namespace: rapid.SampledFrom(pool).Draw(t, "ns"), ServiceAccount: rapid.SampledFrom(pool).Draw(t, "sa")})
	}
	return out
}

func drawMatch(t *rapid.T) *security.Match {
	return &security.Match{
		Namespaces: drawStrings(t, "ns"), NotNamespaces: drawStrings(t, "notNs"),
		Principals: drawStrings(t, "principals"), NotPrincipals: drawStrings(t, "notPrincipals"),
		SourceIps: drawPrefixes(t, "src"), NotSourceIps: drawPrefixes(t, "notSrc"),
		DestinationIps: drawPrefixes(t, "dst"), NotDestinationIps: drawPrefixes(t, "notDst"),
		DestinationPorts: drawPorts(t, "ports"), NotDestinationPorts: drawPorts(t, "notPorts"),
		ServiceAccounts: drawAccounts(t, "accounts"), NotServiceAccounts: drawAccounts(t, "notAccounts"),
	}
}

func drawPolicy(t *rapid.T, i int) *security.Authorization {
	p := &security.Authorization{
		Name: fmt.Sprint("p", i), Namespace: rapid.SampledFrom([]string{"shop", "other"}).Draw(t, "namespace"),
		Scope: security.Scope(rapid.IntRange(0, 2).Draw(t, "scope")), Action: security.Action(rapid.IntRange(0, 1).Draw(t, "action")),
		DryRun: rapid.IntRange(0, 5).Draw(t, "dry") == 0,
	}
	for range rapid.IntRange(0, 3).Draw(t, "rules") {
		r := &security.Rule{}
		for range rapid.IntRange(0, 2).Draw(t, "clauses") {
			c := &security.Clause{}
			for range rapid.IntRange(0, 2).Draw(t, "matches") {
				c.Matches = append(c.Matches, drawMatch(t))
			}
			r.Clauses = append(r.Clauses, c)
		}
		p.Rules = append(p.Rules, r)
	}
	return p
}

func TestAgreesWithReference(t *testing.T) {
	outcomes := map[telemetry.Reason]int{}
	rapid.Check(t, func(rt *rapid.T) {
		r := reference{dst: Pod("shop", "cart", "cart-sa", "10.0.0.1")}
		world := []proto.Message{r.dst}
		for i := range rapid.IntRange(0, 4).Draw(rt, "policies") {
			p := drawPolicy(rt, i)
			r.policies = append(r.policies, p)
			world = append(world, p)
			if rapid.Bool().Draw(rt, "selected") {
				r.dst.AuthorizationPolicies = append(r.dst.AuthorizationPolicies, p.Namespace+"/"+p.Name)
			}
		}
		s := World(t, world...).Current()
		for _, from := range []string{"", "shop/web", "shop/other", "web/shop"} {
			for _, ip := range []string{"10.0.0.9", "fd00::9"} {
				r.c = conn(from)
				r.c.SourceIP = netip.MustParseAddr(ip)
				r.c.DestPort = rapid.SampledFrom([]uint16{80, 8080, 1}).Draw(rt, "port")
				got, want := authz.Check(s, s.Workload(r.dst.Uid), r.c), r.verdict()
				if got.Reason != want || got.Allow != (want == telemetry.OK) {
					rt.Fatalf("%q from %s: %s, want %s", from, ip, show(got), want)
				}
				outcomes[want]++
			}
		}
	})
	t.Log(outcomes)
}

// A policy is bytes from the network: whatever they are, it is either refused or evaluated.
func FuzzPolicyBytes(f *testing.F) {
	_, raw := Raw(f, policy("p", namespace, allow, &security.Match{Principals: exact("a"), SourceIps: []*security.Address{{Address: []byte{10, 0, 0, 0}, Length: 8}}}))
	f.Add(raw.Body)
	f.Add([]byte{})
	f.Add([]byte{0x2a, 0x00})
	f.Fuzz(func(t *testing.T, body []byte) {
		st := World(t, Pod("shop", "cart", "cart-sa", "10.0.0.1"))
		st.Apply(mesh.TypeAuthorization, []xds.Raw{{Name: "x", Body: body}}, nil)
		s := st.Current()
		for key := range s.Policies() {
			_ = key
			for _, from := range []string{"", "shop/web"} {
				v := authz.Check(s, s.Pod("Kubernetes", "shop", "cart"), conn(from))
				if v.Allow != (v.Error() == nil) {
					t.Fatalf("verdict contradicts itself: %+v", v)
				}
			}
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	world := []proto.Message{Pod("shop", "cart", "cart-sa", "10.0.0.1")}
	for i := range 10 {
		var who []string
		for j := range 20 {
			who = append(who, fmt.Sprintf("cluster.local/ns/n%d/sa/s%d", i, j))
		}
		world = append(world, policy(fmt.Sprint("p", i), namespace, allow, &security.Match{Principals: exact(who...)}))
	}
	s := World(b, world...).Current()
	w := s.Pod("Kubernetes", "shop", "cart")
	c := conn("n9/s19")
	b.ReportAllocs()
	for b.Loop() {
		if v := authz.Check(s, w, c); !v.Allow {
			b.Fatal(v)
		}
	}
}

func TestPlaintextCheckAllocatesNothing(t *testing.T) {
	s := World(t, Pod("shop", "cart", "cart-sa", "10.0.0.1"), policy("p", namespace, deny, &security.Match{NotPrincipals: presence()})).Current()
	w := s.Pod("Kubernetes", "shop", "cart")
	c := conn("")
	if n := testing.AllocsPerRun(100, func() { authz.Check(s, w, c) }); n > 0 {
		t.Errorf("%.0f allocations", n)
	}
}
