package authz_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/authz"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

const waypointID = "spiffe://cluster.local/ns/shop/sa/waypoint"

// behind makes shop/waypoint the waypoint of a workload, without anything that has to come through it.
func behind(w *workload.Workload) *workload.Workload {
	return Guarded(w, &waypoint.Guards{Waypoints: []string{waypointID}})
}

// through is a connection that the waypoint makes for a client.
func through(client, addr string) authz.Connection {
	c := conn("shop/waypoint")
	if ns, sa, ok := strings.Cut(client, "/"); ok {
		c.Client = identity.ID{TrustDomain: "cluster.local", Namespace: ns, ServiceAccount: sa}
	}
	if addr != "" {
		c.ClientIP = netip.MustParseAddr(addr)
	}
	return c
}

func TestOriginalClient(t *testing.T) {
	const web, wp = "cluster.local/ns/shop/sa/web", "cluster.local/ns/shop/sa/waypoint"
	only := func(who ...string) *security.Match { return &security.Match{Principals: exact(who...)} }
	but := func(who ...string) *security.Match { return &security.Match{NotPrincipals: exact(who...)} }
	from := func(addr string, bits uint32) []*security.Address {
		return []*security.Address{{Address: netip.MustParseAddr(addr).AsSlice(), Length: bits}}
	}
	allowed, denied, missed := "allow by shop/p", "explicitly denied by: shop/p", "allow policies exist, but none allowed"
	for _, tt := range []struct {
		name   string
		policy *security.Authorization
		client string
		addr   string
		want   string
	}{
		{"allow for the client", policy("p", namespace, allow, only(web)), "shop/web", "", allowed},
		{"allow for the waypoint", policy("p", namespace, allow, only(wp)), "shop/web", "", allowed},
		{"allow for somebody else", policy("p", namespace, allow, only("cluster.local/ns/shop/sa/x")), "shop/web", "", missed},
		{"allow for all but the client", policy("p", namespace, allow, but(web)), "shop/web", "", missed},
		{"allow for all but the waypoint", policy("p", namespace, allow, but(wp)), "shop/web", "", missed},
		{"allow for all but a third", policy("p", namespace, allow, but("x")), "shop/web", "", allowed},
		{"deny for the client", policy("p", namespace, deny, only(web)), "shop/web", "", denied},
		{"deny for the waypoint", policy("p", namespace, deny, only(wp)), "shop/web", "", denied},
		{"deny for all but the client", policy("p", namespace, deny, but(web)), "shop/web", "", denied},
		{"deny for all but the waypoint", policy("p", namespace, deny, but(wp)), "shop/web", "", denied},
		{"deny for all but both", policy("p", namespace, deny, but(web, wp)), "shop/web", "", "allow"},
		{"deny for all but both, another client", policy("p", namespace, deny, but(web, wp)), "shop/x", "", denied},
		{"strict", policy("p", namespace, deny, &security.Match{NotPrincipals: presence()}), "", "10.0.0.77", "allow"},
		{"allow for the client's address", policy("p", namespace, allow, &security.Match{SourceIps: from("10.0.0.77", 32)}), "", "10.0.0.77", allowed},
		{"deny for the client's address", policy("p", namespace, deny, &security.Match{SourceIps: from("10.0.0.77", 32)}), "shop/web", "10.0.0.77", denied},
		{"address of one, identity of the other", policy("p", namespace, allow, &security.Match{Principals: exact(web), SourceIps: from("10.0.0.9", 32)}), "shop/web", "10.0.0.77", missed},
		{"in two clauses as well", &security.Authorization{Name: "p", Namespace: "shop", Scope: namespace, Action: allow, Rules: []*security.Rule{{Clauses: []*security.Clause{
			{Matches: []*security.Match{only(web)}}, {Matches: []*security.Match{{SourceIps: from("10.0.0.9", 32)}}},
		}}}}, "shop/web", "10.0.0.77", missed},
		{"a missing address is the waypoint's", policy("p", namespace, allow, &security.Match{Principals: exact(web), SourceIps: from("10.0.0.9", 32)}), "shop/web", "", allowed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := behind(Pod("shop", "cart", "cart-sa", "10.0.0.1"))
			s := World(t, w, tt.policy).Current()
			if got := show(authz.Check(s, s.Workload(w.Uid), through(tt.client, tt.addr))); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestOnlyABoundWaypointIsBelieved(t *testing.T) {
	p := policy("p", namespace, allow, &security.Match{Principals: exact("cluster.local/ns/shop/sa/web")})
	w := Pod("shop", "cart", "cart-sa", "10.0.0.1")
	s := World(t, w, p).Current()
	if v := authz.Check(s, s.Workload(w.Uid), through("shop/web", "")); v.Allow {
		t.Error("a waypoint of others was believed")
	}
	s = World(t, behind(w), p).Current()
	liar := through("shop/web", "")
	liar.Source.ServiceAccount = "liar"
	plaintext := liar
	plaintext.Source = identity.ID{}
	for _, c := range []authz.Connection{liar, plaintext} {
		if v := authz.Check(s, s.Workload(w.Uid), c); v.Allow {
			t.Errorf("%v was believed", c.Source)
		}
	}
}

// TestTwoSourcesAgreeWithReference draws policies as TestAgreesWithReference does, and asks about connections through a
// waypoint. Besides agreeing with the reference, a waypoint never opens what both of them would find closed.
func TestTwoSourcesAgreeWithReference(t *testing.T) {
	outcomes := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		r := reference{dst: behind(Pod("shop", "cart", "cart-sa", "10.0.0.1"))}
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
		dst := s.Workload(r.dst.Uid)
		for _, client := range []string{"", "shop/web", "shop/other", "web/shop"} {
			for _, addr := range []string{"", "10.0.0.1", "fd00::9"} {
				r.c = through(client, addr)
				r.c.DestPort = rapid.SampledFrom([]uint16{80, 8080, 1}).Draw(rt, "port")
				direct := r.c
				direct.Client, direct.ClientIP = identity.ID{}, netip.Addr{}
				peer := authz.Check(s, dst, direct)
				if client != "" {
					direct.Source = r.c.Client
				}
				if addr != "" {
					direct.SourceIP = r.c.ClientIP
				}
				alone := authz.Check(s, dst, direct)
				r.client = nil
				if client != "" || addr != "" {
					r.client = &direct
				}
				got, want := authz.Check(s, dst, r.c), r.verdict()
				if got.Reason != want || got.Allow != (want == telemetry.OK) {
					rt.Fatalf("%q at %q: %s, want %s", client, addr, show(got), want)
				}
				if got.Allow && (!peer.Allow && !alone.Allow || peer.Reason == telemetry.PolicyDenied || alone.Reason == telemetry.PolicyDenied) {
					rt.Fatalf("%q at %q is let in, though the waypoint alone gets %s and the client alone %s", client, addr, show(peer), show(alone))
				}
				outcomes[fmt.Sprint(got.Allow, peer.Allow, alone.Allow)]++
			}
		}
	})
	t.Log(outcomes)
}
