package explain

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
)

var theMesh = Mesh{Domain: "cluster.local"}

const (
	webKey     = "shop/web.shop.svc.cluster.local"
	clientID   = "spiffe://cluster.local/ns/shop/sa/client"
	waypointID = "spiffe://cluster.local/ns/shop/sa/waypoint"
)

// with changes a resource on its way into a call.
func with[R any](r R, change func(R)) R {
	change(r)
	return r
}

func TestOutbound(t *testing.T) {
	behind := with(Service("shop", "api", []string{"10.96.0.2"}, 80, 8080), func(s *workload.Service) {
		s.Waypoint = Waypoint("shop", "waypoint.shop.svc.cluster.local")
	})
	s := World(t,
		Pod("shop", "client", "client", "10.0.0.1"),
		In(Pod("shop", "web-1", "web", "10.0.0.2"), webKey, 80, 8080), In(Pod("shop", "web-2", "web", "10.0.0.3"), webKey, 80, 8080),
		In(Pod("shop", "api", "api", "10.0.0.4"), "shop/api.shop.svc.cluster.local", 80, 8080),
		In(Pod("shop", "waypoint", "waypoint", "10.0.0.5"), "shop/waypoint.shop.svc.cluster.local", 15008, 15008),
		Service("shop", "web", []string{"10.96.0.1"}, 80, 8080), behind,
		Service("shop", "none", []string{"10.96.0.3"}, 80, 8080), Service("shop", "waypoint", []string{"10.96.0.4"}, 15008, 15008),
	).Current()
	for name, tc := range map[string]struct {
		host         string
		port         uint16
		unredirected bool
		kind         string
		to           []string
		waypoint     string
		reason, err  string
	}{
		"service":                      {host: "web", port: 80, kind: "hbone", to: []string{"web-1", "web-2"}},
		"service by its whole name":    {host: "web.shop.svc.cluster.local.", port: 80, kind: "hbone", to: []string{"web-1", "web-2"}},
		"pod":                          {host: "10.0.0.3", port: 8080, kind: "hbone", to: []string{"web-2"}},
		"behind a waypoint":            {host: "api.shop", port: 80, kind: "hbone", to: []string{"waypoint"}, waypoint: "shop/waypoint"},
		"outside":                      {host: "192.0.2.1", port: 443, kind: "passthrough", to: []string{""}},
		"no endpoint":                  {host: "none", port: 80, reason: "no-healthy-upstream"},
		"unknown name":                 {host: "nowhere.example", port: 80, err: "the mesh knows no"},
		"unredirected":                 {host: "web", port: 80, unredirected: true, kind: "plain", to: []string{"web-1", "web-2"}},
		"unredirected past a waypoint": {host: "api.shop", port: 80, unredirected: true, kind: "plain", to: []string{"api"}},
		"unredirected to a pod":        {host: "10.0.0.4", port: 8080, unredirected: true, kind: "plain", to: []string{"api"}},
		"unredirected, no endpoint":    {host: "none", port: 80, unredirected: true, kind: "plain", reason: "no-healthy-upstream"},
		"unredirected outside":         {host: "192.0.2.1", port: 443, unredirected: true, kind: "passthrough"},
	} {
		t.Run(name, func(t *testing.T) {
			way, err := Outbound(s, theMesh, Question{Workload: "shop/client", Host: tc.host, Port: tc.port, Unredirected: tc.unredirected})
			if tc.err != "" || err != nil {
				if err == nil || tc.err == "" || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want %q", err, tc.err)
				}
				return
			}
			var to []string
			for _, h := range way.Hops {
				to = append(to, h.Name)
				if h.Name != "" && h.Name != "waypoint" && h.Port != 8080 {
					t.Errorf("hop %+v should be to port 8080", h)
				}
			}
			if diff := cmp.Diff(tc.to, to); diff != "" || way.Kind != tc.kind || way.Waypoint != tc.waypoint || way.Reason != tc.reason {
				t.Errorf("%+v, hops (-want +got):\n%s", way, diff)
			}
			if (way.Identity == "") != tc.unredirected || way.Captured == tc.unredirected {
				t.Errorf("identity %q", way.Identity)
			}
		})
	}
	if _, err := Outbound(s, theMesh, Question{Workload: "shop/nobody", Host: "web", Port: 80}); err == nil {
		t.Error("an unknown pod was explained")
	}
}

func TestInbound(t *testing.T) {
	exact := func(v string) []*security.StringMatch {
		return []*security.StringMatch{{MatchType: &security.StringMatch_Exact{Exact: v}}}
	}
	policy := func(name string, action security.Action, dry bool, m *security.Match) *security.Authorization {
		return &security.Authorization{Name: name, Namespace: "shop", Scope: security.Scope_WORKLOAD_SELECTOR, Action: action, DryRun: dry,
			Rules: []*security.Rule{{Clauses: []*security.Clause{{Matches: []*security.Match{m}}}}}}
	}
	names := func(w *workload.Workload, policies ...string) *workload.Workload {
		w.AuthorizationPolicies = policies
		return w
	}
	guarded := Guarded(Pod("shop", "guarded", "g", "10.0.0.4"), &waypoint.Guards{
		Guards:    []*waypoint.Guard{{Ports: []uint32{8080}, Waypoints: []string{waypointID}, Gateway: "shop/waypoint"}},
		Waypoints: []string{waypointID},
	})
	trusting := Guarded(names(Pod("shop", "trusting", "t", "10.0.0.5"), "shop/only-client"), &waypoint.Guards{Waypoints: []string{waypointID}})
	s := World(t,
		names(In(Pod("shop", "web", "web", "10.0.0.2"), webKey, 80, 8080), "shop/only-client", "shop/no-9000", "shop/try"),
		Pod("shop", "open", "open", "10.0.0.3"), guarded, trusting,
		Service("shop", "web", []string{"10.96.0.1"}, 80, 8080),
		policy("only-client", security.Action_ALLOW, false, &security.Match{Principals: exact("cluster.local/ns/shop/sa/client")}),
		policy("no-9000", security.Action_DENY, false, &security.Match{DestinationPorts: []uint32{9000}}),
		policy("try", security.Action_DENY, true, &security.Match{DestinationPorts: []uint32{8080}}),
	).Current()
	ip := netip.MustParseAddr
	for name, tc := range map[string]struct {
		arrival Arrival
		want    Verdict
		err     string
	}{
		"no policy":       {Arrival{Workload: "shop/open", Port: 80, PeerIP: ip("10.0.0.1")}, Verdict{Captured: true, Workload: "shop/open", Allow: true}, ""},
		"allowed":         {Arrival{Workload: "shop/web", Port: 80, Service: webKey, Peer: clientID}, Verdict{Captured: true, Workload: "shop/web", Allow: true, Policy: "shop/only-client", DryRun: []string{"shop/try"}}, ""},
		"denied":          {Arrival{Workload: "10.0.0.2", Port: 9000, Peer: clientID}, Verdict{Captured: true, Workload: "shop/web", Policy: "shop/no-9000", Reason: "policy-denied"}, ""},
		"plaintext":       {Arrival{Workload: "shop/web", Port: 80, PeerIP: ip("10.0.0.1")}, Verdict{Captured: true, Workload: "shop/web", Reason: "policy-not-allowed", Asked: []string{"shop/only-client"}}, ""},
		"around":          {Arrival{Workload: "shop/guarded", Port: 8080, Peer: clientID}, Verdict{Captured: true, Workload: "shop/guarded", Reason: "waypoint-required"}, ""},
		"through":         {Arrival{Workload: "shop/guarded", Port: 8080, Peer: waypointID, Client: clientID}, Verdict{Captured: true, Workload: "shop/guarded", Allow: true}, ""},
		"unguarded port":  {Arrival{Workload: "shop/guarded", Port: 9090, Peer: clientID}, Verdict{Captured: true, Workload: "shop/guarded", Allow: true}, ""},
		"client behind":   {Arrival{Workload: "shop/trusting", Port: 80, Peer: waypointID, Client: clientID}, Verdict{Captured: true, Workload: "shop/trusting", Allow: true, Policy: "shop/only-client"}, ""},
		"stranger behind": {Arrival{Workload: "shop/trusting", Port: 80, Peer: waypointID, Client: waypointID}, Verdict{Captured: true, Workload: "shop/trusting", Reason: "policy-not-allowed", Asked: []string{"shop/only-client"}}, ""},
		"not captured":    {Arrival{Workload: "shop/guarded", Port: 8080, Unredirected: true}, Verdict{Workload: "shop/guarded", Allow: true}, ""},
		"unknown pod":     {arrival: Arrival{Workload: "shop/nobody"}, err: "knows no workload"},
		"unknown service": {arrival: Arrival{Workload: "shop/web", Service: "shop/x"}, err: "knows no service"},
		"unknown port":    {arrival: Arrival{Workload: "shop/web", Service: webKey, Port: 81}, err: "leads nowhere"},
		"no identity":     {arrival: Arrival{Workload: "shop/web", Port: 80, Peer: "client"}, err: "client"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Inbound(s, theMesh, tc.arrival)
			if tc.err != "" || err != nil {
				if err == nil || tc.err == "" || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want %q", err, tc.err)
				}
				return
			}
			if (got.Error == "") != got.Allow {
				t.Errorf("allowed %t with error %q", got.Allow, got.Error)
			}
			got.Error = ""
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
