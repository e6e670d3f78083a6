package explain

import (
	"strconv"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/state/statetest"
)

const domain = "cluster.local"

func world(t *testing.T) *state.Snapshot {
	t.Helper()
	const pay = "shop/pay.shop.svc.cluster.local"
	behind := statetest.Service("shop", "behind", []string{"10.96.0.2"}, 80, 8080)
	behind.Waypoint = statetest.Waypoint("shop", "waypoint.shop.svc.cluster.local")
	guarded := statetest.Pod("shop", "guarded", "guarded", "10.0.0.5")
	statetest.Guarded(guarded, &waypoint.Guards{Guards: []*waypoint.Guard{{Gateway: "shop/waypoint", Waypoints: []string{"spiffe://cluster.local/ns/shop/sa/waypoint"}}}})
	pods := []*workload.Workload{
		statetest.Pod("shop", "web", "web", "10.0.0.1"),
		statetest.In(statetest.Pod("shop", "pay-1", "pay", "10.0.0.2"), pay, 80, 8080),
		statetest.In(statetest.Pod("shop", "pay-2", "pay", "10.0.0.3"), pay, 80, 8080),
		statetest.In(statetest.Pod("shop", "waypoint-1", "waypoint", "10.0.0.4"), "shop/waypoint.shop.svc.cluster.local", 15008, 15008),
	}
	pods[2].AuthorizationPolicies = []string{"shop/no-web"}
	no := &security.Authorization{Namespace: "shop", Name: "no-web", Scope: security.Scope_WORKLOAD_SELECTOR, Action: security.Action_DENY, Rules: []*security.Rule{{
		Clauses: []*security.Clause{{Matches: []*security.Match{{Principals: []*security.StringMatch{{MatchType: &security.StringMatch_Exact{Exact: "cluster.local/ns/shop/sa/web"}}}}}}},
	}}}
	return statetest.World(t,
		statetest.Service("shop", "pay", []string{"10.96.0.1"}, 80, 8080), behind, statetest.Service("shop", "waypoint", []string{"10.96.0.3"}, 15008, 15008),
		statetest.Service("shop", "empty", []string{"10.96.0.4"}, 80, 8080),
		pods[0], pods[1], pods[2], pods[3], guarded, no,
	).Current()
}

func TestOutbound(t *testing.T) {
	s := world(t)
	for name, tc := range map[string]struct {
		host, kind, hops, waypoint, reason, err string
		port                                    uint16
	}{
		"service by short name": {host: "pay", port: 80, kind: "hbone", hops: "pay-1:8080 pay-2:8080"},
		"service by long name":  {host: "pay.shop.svc.cluster.local.", port: 80, kind: "hbone", hops: "pay-1:8080 pay-2:8080"},
		"service by address":    {host: "10.96.0.1", port: 80, kind: "hbone", hops: "pay-1:8080 pay-2:8080"},
		"pod by address":        {host: "10.0.0.2", port: 9, kind: "hbone", hops: "pay-1:9"},
		"behind a waypoint":     {host: "behind", port: 80, kind: "hbone", hops: "waypoint-1:0", waypoint: "shop/"},
		"nothing there":         {host: "empty", port: 80, reason: "no-healthy-upstream"},
		"unknown address":       {host: "192.0.2.1", port: 80, kind: "passthrough", hops: ":80"},
		"unknown name":          {host: "nosuch", port: 80, err: "knows no"},
	} {
		t.Run(name, func(t *testing.T) {
			way, err := Outbound(s, Mesh{Domain: domain}, Question{Workload: "shop/web", Host: tc.host, Port: tc.port})
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var hops []string
			for _, h := range way.Hops {
				hops = append(hops, h.Name+":"+strconv.Itoa(int(h.Port)))
			}
			if way.Kind != tc.kind || strings.Join(hops, " ") != tc.hops || !strings.HasPrefix(way.Waypoint, tc.waypoint) || !strings.HasPrefix(way.Reason, tc.reason) {
				t.Errorf("got %+v", way)
			}
		})
	}
	if _, err := Outbound(s, Mesh{}, Question{Workload: "shop/nobody", Host: "pay", Port: 80}); err == nil {
		t.Error("a pod nobody knows was explained")
	}
}

func TestInbound(t *testing.T) {
	s := world(t)
	const web, waypoint = "spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/waypoint"
	for name, tc := range map[string]struct {
		arrival Arrival
		allow   bool
		policy  string
		reason  string
	}{
		"no policy":          {arrival: Arrival{Workload: "shop/pay-1", Port: 8080, Peer: web}, allow: true},
		"denied":             {arrival: Arrival{Workload: "shop/pay-2", Port: 8080, Peer: web}, policy: "shop/no-web", reason: "policy-denied"},
		"plaintext":          {arrival: Arrival{Workload: "shop/pay-2", Port: 8080}, allow: true},
		"by service port":    {arrival: Arrival{Workload: "shop/pay-1", Port: 80, Service: "shop/pay.shop.svc.cluster.local", Peer: web}, allow: true},
		"around a waypoint":  {arrival: Arrival{Workload: "shop/guarded", Port: 1, Peer: web}, reason: "waypoint-required"},
		"through a waypoint": {arrival: Arrival{Workload: "shop/guarded", Port: 1, Peer: waypoint, Client: web}, allow: true},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := Inbound(s, Mesh{Domain: domain}, tc.arrival)
			if err != nil {
				t.Fatal(err)
			}
			if v.Allow != tc.allow || v.Policy != tc.policy || v.Reason != tc.reason {
				t.Errorf("got %+v", v)
			}
		})
	}
	for _, bad := range []Arrival{{Workload: "shop/nobody"}, {Workload: "shop/pay-1", Peer: "web"}, {Workload: "shop/pay-1", Service: "shop/x", Port: 1}, {Workload: "shop/pay-1", Service: "shop/pay.shop.svc.cluster.local", Port: 81}} {
		if v, err := Inbound(s, Mesh{Domain: domain}, bad); err == nil {
			t.Errorf("%+v was answered: %+v", bad, v)
		}
	}
}
