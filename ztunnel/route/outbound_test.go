package route_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/ztunnel/route"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

const (
	cartKey = "shop/cart.shop.svc.cluster.local"
	wpHost  = "waypoint.shop.svc.cluster.local"
	wpKey   = "shop/" + wpHost
)

// first is a Rand that always draws 0, so that the first candidate that can win does.
func first(uint64) uint64 { return 0 }

func with[T proto.Message](m T, change func(T)) T {
	change(m)
	return m
}

func client() *workload.Workload { return Pod("shop", "client", "client-sa", "10.0.0.9", "fd00::9") }

func cart() *workload.Workload {
	return In(Pod("shop", "cart", "cart-sa", "10.0.0.1"), cartKey, 80, 8080)
}

func cartService() *workload.Service { return Service("shop", "cart", []string{"10.96.0.1"}, 80, 8080) }

func waypointPod() *workload.Workload {
	return with(In(Pod("shop", "wp-1", "wp-sa", "10.0.0.20"), wpKey, 15008, 15008), func(w *workload.Workload) {
		w.TunnelProtocol = workload.TunnelProtocol_NONE
	})
}

func waypointService() *workload.Service {
	return Service("shop", "waypoint", []string{"10.96.0.20"}, 15008, 15008)
}

// show prints a decision, or the reason there is none, the way the tables below are written.
func show(d route.Decision, err error) string {
	if err != nil {
		return "error " + telemetry.ReasonOf(err).String() + ": " + err.Error()
	}
	parts := []string{d.Kind.String(), d.Addr.String()}
	if d.Resolve != "" {
		parts[1] = fmt.Sprintf("%s:%d", d.Resolve, d.Addr.Port())
	}
	if d.Kind == route.HBONE {
		parts = append(parts, "authority "+d.Authority)
		for _, id := range d.Accept {
			parts = append(parts, id.Namespace+"."+id.ServiceAccount)
		}
	}
	if d.Waypoint {
		parts = append(parts, "waypoint")
	}
	if d.Service != nil {
		parts = append(parts, "service "+d.Service.Name)
	}
	return strings.Join(parts, " ")
}

func request(t *testing.T, s *state.Snapshot, dst string) route.Request {
	t.Helper()
	return route.Request{
		Source:     s.Pod("Kubernetes", "shop", "client"),
		SourceAddr: netip.MustParseAddr("10.0.0.9"),
		Dst:        netip.MustParseAddrPort(dst),
	}
}

func TestOutbound(t *testing.T) {
	useWaypoint := func(s *workload.Service) { s.Waypoint = Waypoint("shop", wpHost) }
	remote := func(w *workload.Workload) { w.Network = "west" }
	unhealthy := func(w *workload.Workload) { w.Status = workload.WorkloadStatus_UNHEALTHY }
	plain := func(w *workload.Workload) { w.TunnelProtocol = workload.TunnelProtocol_NONE }
	tests := []struct {
		name  string
		world []proto.Message
		dst   string
		want  string
	}{
		{"1 service with a waypoint", []proto.Message{cart(), with(cartService(), useWaypoint), waypointPod(), waypointService()},
			"10.96.0.1:80", "hbone 10.0.0.20:15008 authority 10.96.0.1:80 shop.wp-sa waypoint service cart"},
		{"1 waypoint accepted by the names of its service", []proto.Message{cart(), with(cartService(), useWaypoint), waypointPod(),
			with(waypointService(), func(s *workload.Service) {
				s.SubjectAltNames = []string{"spiffe://td/ns/x/sa/y", "not-spiffe"}
			})},
			"10.96.0.1:80", "hbone 10.0.0.20:15008 authority 10.96.0.1:80 shop.wp-sa x.y waypoint service cart"},
		{"1 waypoint by its VIP", []proto.Message{cart(), waypointPod(), waypointService(),
			with(cartService(), func(s *workload.Service) { s.Waypoint = WaypointAt("10.96.0.20") })},
			"10.96.0.1:80", "hbone 10.0.0.20:15008 authority 10.96.0.1:80 shop.wp-sa waypoint service cart"},
		{"1 waypoint by a pod's address", []proto.Message{cart(), waypointPod(),
			with(cartService(), func(s *workload.Service) { s.Waypoint = WaypointAt("10.0.0.20") })},
			"10.96.0.1:80", "hbone 10.0.0.20:15008 authority 10.96.0.1:80 shop.wp-sa waypoint service cart"},
		{"1 waypoint's port is mapped by its service", []proto.Message{cart(), with(cartService(), useWaypoint),
			In(Pod("shop", "wp-1", "wp-sa", "10.0.0.20"), wpKey, 15008, 16008), waypointService()},
			"10.96.0.1:80", "hbone 10.0.0.20:16008 authority 10.96.0.1:80 shop.wp-sa waypoint service cart"},
		{"1 waypoint is not known", []proto.Message{cart(), with(cartService(), useWaypoint)},
			"10.96.0.1:80", "error unknown-waypoint: unknown waypoint: shop/waypoint.shop.svc.cluster.local"},
		{"1 waypoint has no pods", []proto.Message{cart(), with(cartService(), useWaypoint), waypointService()},
			"10.96.0.1:80", "error no-waypoint-endpoint: no healthy upstream: waypoint shop/waypoint.shop.svc.cluster.local: it has no endpoints"},
		{"1 waypoint that is ending is better than none", []proto.Message{cart(), with(cartService(), useWaypoint), with(waypointPod(), unhealthy), waypointService()},
			"10.96.0.1:80", "hbone 10.0.0.20:15008 authority 10.96.0.1:80 shop.wp-sa waypoint service cart"},
		{"1 waypoint that is ending is left when there is another", []proto.Message{cart(), with(cartService(), useWaypoint), with(waypointPod(), unhealthy),
			In(Pod("shop", "wp-2", "wp-sa", "10.0.0.21"), wpKey, 15008, 15008), waypointService()},
			"10.96.0.1:80", "hbone 10.0.0.21:15008 authority 10.96.0.1:80 shop.wp-sa waypoint service cart"},
		{"1 waypoint without weight", []proto.Message{cart(), with(cartService(), useWaypoint), with(with(waypointPod(), unhealthy), func(w *workload.Workload) { w.Capacity = wrapperspb.UInt32(0) }), waypointService()},
			"10.96.0.1:80", "error no-waypoint-endpoint: no healthy upstream: waypoint shop/waypoint.shop.svc.cluster.local: of 1 endpoints none can be used: 1 without weight"},
		{"1 weighted waypoints come before the one", []proto.Message{cart(), waypointPod(), waypointService(),
			with(cartService(), func(s *workload.Service) {
				s.Waypoint = Waypoint("shop", "gone")
				s.WeightedWaypoints = []*workload.WeightedWaypoint{{Destination: Waypoint("shop", "zero")}, {Destination: Waypoint("shop", wpHost), Weight: 1}}
			})},
			"10.96.0.1:80", "hbone 10.0.0.20:15008 authority 10.96.0.1:80 shop.wp-sa waypoint service cart"},
		{"2 waypoint on another network", []proto.Message{cart(), with(cartService(), useWaypoint), with(waypointPod(), remote), waypointService()},
			"10.96.0.1:80", `error other-network: workload shop/wp-1 is on network "west", which is not reachable from here yet`},
		{"3 endpoint on another network", []proto.Message{with(cart(), remote), cartService()},
			"10.96.0.1:80", `error other-network: workload shop/cart is on network "west", which is not reachable from here yet`},
		{"4 passthrough service", []proto.Message{cart(), with(cartService(), func(s *workload.Service) {
			s.LoadBalancing = &workload.LoadBalancing{Mode: workload.LoadBalancing_PASSTHROUGH}
		})}, "10.96.0.1:80", "passthrough 10.96.0.1:80 service cart"},
		{"5 no endpoints", []proto.Message{cartService()},
			"10.96.0.1:80", "error no-healthy-upstream: no healthy upstream: cart.shop.svc.cluster.local: it has no endpoints"},
		{"5 port nobody serves", []proto.Message{cart(), cartService()},
			"10.96.0.1:81", "error no-healthy-upstream: no healthy upstream: cart.shop.svc.cluster.local: of 1 endpoints none can be used: 1 without the port"},
		{"6 unknown address", []proto.Message{cart(), cartService()}, "1.2.3.4:443", "passthrough 1.2.3.4:443"},
		{"6 service of another namespace that hides", []proto.Message{with(Service("other", "secret", []string{"10.96.0.2"}, 80, 80),
			func(s *workload.Service) { s.Visibility = workload.Service_NAMESPACE })}, "10.96.0.2:80", "passthrough 10.96.0.2:80"},
		{"7 workload with a waypoint", []proto.Message{with(cart(), func(w *workload.Workload) { w.Waypoint = Waypoint("shop", wpHost) }), waypointPod(), waypointService()},
			"10.0.0.1:8080", "hbone 10.0.0.20:15008 authority 10.0.0.1:8080 shop.wp-sa waypoint"},
		{"7 not asked when a service was dialed", []proto.Message{with(cart(), func(w *workload.Workload) { w.Waypoint = Waypoint("shop", wpHost) }), cartService(), waypointPod(), waypointService()},
			"10.96.0.1:80", "hbone 10.0.0.1:15008 authority 10.0.0.1:8080 shop.cart-sa service cart"},
		{"8 service to a workload in the mesh", []proto.Message{cart(), cartService()},
			"10.96.0.1:80", "hbone 10.0.0.1:15008 authority 10.0.0.1:8080 shop.cart-sa service cart"},
		{"8 endpoint accepted by the names of its service", []proto.Message{cart(), with(cartService(), func(s *workload.Service) {
			s.SubjectAltNames = []string{"spiffe://td/ns/x/sa/y"}
		})}, "10.96.0.1:80", "hbone 10.0.0.1:15008 authority 10.0.0.1:8080 shop.cart-sa x.y service cart"},
		{"8 workload dialed directly", []proto.Message{cart()}, "10.0.0.1:9999", "hbone 10.0.0.1:15008 authority 10.0.0.1:9999 shop.cart-sa"},
		{"8 service port of the service when the endpoint has none", []proto.Message{In(Pod("shop", "cart", "cart-sa", "10.0.0.1"), cartKey), cartService()},
			"10.96.0.1:80", "hbone 10.0.0.1:15008 authority 10.0.0.1:8080 shop.cart-sa service cart"},
		{"8 port only the endpoint knows", []proto.Message{In(Pod("shop", "cart", "cart-sa", "10.0.0.1"), cartKey, 81, 8081), cartService()},
			"10.96.0.1:81", "error no-healthy-upstream: no healthy upstream: cart.shop.svc.cluster.local: of 1 endpoints none can be used: 1 without the port"},
		{"8 application tunnel needs a port of the service", []proto.Message{
			with(In(Pod("shop", "cart", "cart-sa", "10.0.0.1"), cartKey), func(w *workload.Workload) { w.ApplicationTunnel = &workload.ApplicationTunnel{Port: 15088} }), cartService()},
			"10.96.0.1:443", "error no-healthy-upstream: no healthy upstream: cart.shop.svc.cluster.local: of 1 endpoints none can be used: 1 without the port"},
		{"1 waypoint that ends the tunnel needs no port on its service", []proto.Message{cart(), with(cartService(), useWaypoint),
			with(In(Pod("shop", "wp-1", "wp-sa", "10.0.0.20"), wpKey), func(w *workload.Workload) { w.ApplicationTunnel = &workload.ApplicationTunnel{Port: 15088} }),
			Service("shop", "waypoint", []string{"10.96.0.20"}, 80, 80)},
			"10.96.0.1:80", "hbone 10.0.0.20:15008 authority 10.96.0.1:80 shop.wp-sa waypoint service cart"},
		{"9 service to a workload outside the mesh", []proto.Message{with(cart(), plain), cartService()}, "10.96.0.1:80", "plain 10.0.0.1:8080 service cart"},
		{"9 workload outside the mesh", []proto.Message{with(cart(), plain)}, "10.0.0.1:22", "plain 10.0.0.1:22"},
		{"workload wins over a VIP of the same address", []proto.Message{cart(), Service("shop", "thief", []string{"10.0.0.1"}, 80, 1)},
			"10.0.0.1:80", "hbone 10.0.0.1:15008 authority 10.0.0.1:80 shop.cart-sa"},
		{"v4-mapped destination", []proto.Message{cart()}, "[::ffff:10.0.0.1]:80", "hbone 10.0.0.1:15008 authority 10.0.0.1:80 shop.cart-sa"},
		{"self call on the own address", nil, "10.0.0.9:15008", "error self-call: attempted recursive call to ourselves: 10.0.0.9:15008"},
		{"self call on loopback", nil, "127.0.0.1:15001", "error self-call: attempted recursive call to ourselves: 127.0.0.1:15001"},
		{"own port elsewhere is no self call", []proto.Message{cart()}, "10.0.0.1:15008", "hbone 10.0.0.1:15008 authority 10.0.0.1:15008 shop.cart-sa"},
		{"hostname workload", []proto.Message{with(cart(), func(w *workload.Workload) { w.Addresses, w.Hostname = nil, "db.example.com" }), cartService()},
			"10.96.0.1:80", "hbone db.example.com:15008 authority  shop.cart-sa service cart"},
		{"address-less workload", []proto.Message{with(cart(), func(w *workload.Workload) { w.Addresses = nil }), cartService()},
			"10.96.0.1:80", "error no-healthy-upstream: no healthy upstream: cart.shop.svc.cluster.local: of 1 endpoints none can be used: 1 without an address"},
		{"address-less workload behind another network's gateway", []proto.Message{with(cart(), func(w *workload.Workload) {
			w.Addresses, w.Network, w.NetworkGateway = nil, "west", WaypointAt("1.1.1.1")
		}), cartService()}, "10.96.0.1:80", `error other-network: workload shop/cart is on network "west", which is not reachable from here yet`},
		{"unhealthy", []proto.Message{with(cart(), unhealthy), cartService()},
			"10.96.0.1:80", "error no-healthy-upstream: no healthy upstream: cart.shop.svc.cluster.local: of 1 endpoints none can be used: 1 unhealthy"},
		{"unhealthy allowed", []proto.Message{with(cart(), unhealthy),
			with(cartService(), func(s *workload.Service) {
				s.LoadBalancing = &workload.LoadBalancing{HealthPolicy: workload.LoadBalancing_ALLOW_ALL}
			})}, "10.96.0.1:80", "hbone 10.0.0.1:15008 authority 10.0.0.1:8080 shop.cart-sa service cart"},
		{"capacity zero", []proto.Message{with(cart(), func(w *workload.Workload) { w.Capacity = wrapperspb.UInt32(0) }), cartService()},
			"10.96.0.1:80", "error no-healthy-upstream: no healthy upstream: cart.shop.svc.cluster.local: of 1 endpoints none can be used: 1 without weight"},
		{"family of the VIP that was dialed", []proto.Message{In(Pod("shop", "cart", "cart-sa", "10.0.0.1", "fd00::1"), cartKey, 80, 8080),
			Service("shop", "cart", []string{"10.96.0.1", "fd96::1"}, 80, 8080)}, "[fd96::1]:80", "hbone [fd00::1]:15008 authority [fd00::1]:8080 shop.cart-sa service cart"},
		{"other family when there is no choice", []proto.Message{cart(), Service("shop", "cart", []string{"fd96::1"}, 80, 8080)},
			"[fd96::1]:80", "hbone 10.0.0.1:15008 authority 10.0.0.1:8080 shop.cart-sa service cart"},
		{"family the service forbids", []proto.Message{cart(), with(cartService(), func(s *workload.Service) { s.IpFamilies = workload.IPFamilies_IPV6_ONLY })},
			"10.96.0.1:80", "error no-address: workload shop/cart has no address the service may use"},
		{"dialed address of a dual-stack workload", []proto.Message{Pod("shop", "cart", "cart-sa", "10.0.0.1", "fd00::1")},
			"[fd00::1]:80", "hbone [fd00::1]:15008 authority [fd00::1]:80 shop.cart-sa"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := World(t, append(tt.world, client())...).Current()
			if got := show(route.Outbound(s, request(t, s, tt.dst), first)); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestUnknownSource(t *testing.T) {
	s := World(t).Current()
	_, err := route.Outbound(s, route.Request{SourceAddr: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddrPort("10.0.0.2:80")}, nil)
	if telemetry.ReasonOf(err) != telemetry.UnknownSource || err.Error() != "unknown source: 10.0.0.1" {
		t.Fatalf("err = %v", err)
	}
}

// A waypoint that forwards to the workload it stands in front of must not be sent back to itself; a pod that merely runs
// as the same identity must.
func TestFromWaypoint(t *testing.T) {
	target := with(cart(), func(w *workload.Workload) { w.Waypoint = Waypoint("shop", wpHost) })
	impostor := Pod("shop", "impostor", "wp-sa", "10.0.0.66")
	s := World(t, target, waypointPod(), waypointService(), impostor).Current()
	tests := []struct{ pod, addr, want string }{
		{"wp-1", "10.0.0.20", "hbone 10.0.0.1:15008 authority 10.0.0.1:8080 shop.cart-sa"},
		{"impostor", "10.0.0.66", "hbone 10.0.0.20:15008 authority 10.0.0.1:8080 shop.wp-sa waypoint"},
		{"wp-1", "10.0.0.66", "hbone 10.0.0.20:15008 authority 10.0.0.1:8080 shop.wp-sa waypoint"},
	}
	for _, tt := range tests {
		req := request(t, s, "10.0.0.1:8080")
		req.Source, req.SourceAddr = s.Pod("Kubernetes", "shop", tt.pod), netip.MustParseAddr(tt.addr)
		if got := show(route.Outbound(s, req, first)); got != tt.want {
			t.Errorf("%s from %s: %s, want %s", tt.pod, tt.addr, got, tt.want)
		}
	}
}

func TestResolved(t *testing.T) {
	s := World(t, client(), cartService(), with(cart(), func(w *workload.Workload) { w.Addresses, w.Hostname = nil, "db.example.com" })).Current()
	d, err := route.Outbound(s, request(t, s, "10.96.0.1:80"), first)
	if err != nil {
		t.Fatal(err)
	}
	answers := []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.1")}
	if got := show(d.Resolved(answers, first)); got != "hbone 192.0.2.1:15008 authority 192.0.2.1:8080 shop.cart-sa service cart" {
		t.Error(got)
	}
	if got := show(d.Resolved(nil, first)); got != "error unresolvable: no usable address for db.example.com" {
		t.Error(got)
	}
}

// spread counts how often each of a service's endpoints is chosen.
func spread(t *testing.T, s *state.Snapshot, rounds int) map[string]int {
	t.Helper()
	got := map[string]int{}
	for range rounds {
		d, err := route.Outbound(s, request(t, s, "10.96.0.1:80"), nil)
		if err != nil {
			got[telemetry.ReasonOf(err).String()]++
			continue
		}
		got[d.Workload.Name]++
	}
	return got
}

func TestBalance(t *testing.T) {
	type where = workload.Locality
	ep := func(name, addr, node, network, cluster string, l *where) proto.Message {
		return with(In(Pod("shop", name, "cart-sa", addr), cartKey, 80, 80), func(w *workload.Workload) {
			w.Node, w.Network, w.ClusterId, w.Locality = node, network, cluster, l
		})
	}
	home := &where{Region: "r1", Zone: "z1", Subzone: "s1"}
	world := []proto.Message{
		with(client(), func(w *workload.Workload) { w.Locality = home }),
		ep("same-node", "10.0.1.1", "node1", "", "", home),
		ep("same-zone", "10.0.1.2", "node2", "", "", &where{Region: "r1", Zone: "z1", Subzone: "s2"}),
		ep("same-region", "10.0.1.3", "node3", "", "", &where{Region: "r1", Zone: "z2", Subzone: "s1"}),
		ep("far", "10.0.1.4", "node4", "", "c2", &where{Region: "r2", Zone: "z1", Subzone: "s1"}),
	}
	const (
		region  = workload.LoadBalancing_REGION
		zone    = workload.LoadBalancing_ZONE
		subzone = workload.LoadBalancing_SUBZONE
		node    = workload.LoadBalancing_NODE
		cluster = workload.LoadBalancing_CLUSTER
		network = workload.LoadBalancing_NETWORK
	)
	tests := []struct {
		name    string
		mode    workload.LoadBalancing_Mode
		prefs   []workload.LoadBalancing_Scope
		without string // comma list of endpoints that are not there
		want    string
	}{
		{"unspecified", workload.LoadBalancing_UNSPECIFIED_MODE, nil, "", "far same-node same-region same-zone"},
		{"unspecified ignores preferences", workload.LoadBalancing_UNSPECIFIED_MODE, []workload.LoadBalancing_Scope{node}, "", "far same-node same-region same-zone"},
		{"strict node", workload.LoadBalancing_STRICT, []workload.LoadBalancing_Scope{node}, "", "same-node"},
		{"strict node, none there", workload.LoadBalancing_STRICT, []workload.LoadBalancing_Scope{node}, "same-node", "no-healthy-upstream"},
		{"strict needs all", workload.LoadBalancing_STRICT, []workload.LoadBalancing_Scope{region, zone}, "", "same-node same-zone"},
		{"strict network first needs all", workload.LoadBalancing_STRICT, []workload.LoadBalancing_Scope{network, zone, region}, "same-node,same-zone", "no-healthy-upstream"},
		{"strict cluster", workload.LoadBalancing_STRICT, []workload.LoadBalancing_Scope{cluster}, "", "same-node same-region same-zone"},
		{"failover best", workload.LoadBalancing_FAILOVER, []workload.LoadBalancing_Scope{region, zone, subzone}, "", "same-node"},
		{"failover second", workload.LoadBalancing_FAILOVER, []workload.LoadBalancing_Scope{region, zone, subzone}, "same-node", "same-zone"},
		{"failover third", workload.LoadBalancing_FAILOVER, []workload.LoadBalancing_Scope{region, zone, subzone}, "same-node,same-zone", "same-region"},
		{"failover stops counting at the first difference", workload.LoadBalancing_FAILOVER, []workload.LoadBalancing_Scope{region, zone}, "same-node,same-zone,same-region", "far"},
		{"failover node", workload.LoadBalancing_FAILOVER, []workload.LoadBalancing_Scope{node}, "", "same-node"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			st := World(t, world...)
			Put(t, st, with(cartService(), func(s *workload.Service) {
				s.LoadBalancing = &workload.LoadBalancing{Mode: tt.mode, RoutingPreference: tt.prefs}
			}))
			for _, name := range strings.Split(tt.without, ",") {
				if name != "" {
					Put(t, st, Pod("shop", name, "sa"))
				}
			}
			var got []string
			for name := range spread(t, st.Current(), 200) {
				got = append(got, name)
			}
			slices.Sort(got)
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("chose %s, want %s", s, tt.want)
			}
		})
	}
}

// The own network is left only when it has nothing, and endpoints elsewhere are still compared with each other.
func TestNetworkPreference(t *testing.T) {
	svc := with(cartService(), func(s *workload.Service) {
		s.LoadBalancing = &workload.LoadBalancing{Mode: workload.LoadBalancing_FAILOVER, RoutingPreference: []workload.LoadBalancing_Scope{
			workload.LoadBalancing_NETWORK, workload.LoadBalancing_REGION, workload.LoadBalancing_ZONE}}
	})
	src := with(client(), func(w *workload.Workload) { w.Locality = &workload.Locality{Region: "r1", Zone: "z1"} })
	here := with(In(Pod("shop", "here-but-far", "sa", "10.0.1.1"), cartKey, 80, 80), func(w *workload.Workload) { w.Locality = &workload.Locality{Region: "r9"} })
	there := with(In(Pod("shop", "there-but-near", "sa", "10.0.1.2"), cartKey, 80, 80), func(w *workload.Workload) {
		w.Network, w.Locality = "west", &workload.Locality{Region: "r1", Zone: "z1"}
	})
	if got := spread(t, World(t, svc, src, here, there).Current(), 50); got["here-but-far"] != 50 {
		t.Errorf("chose %v", got)
	}
	if got := spread(t, World(t, svc, src, there).Current(), 50); got["other-network"] != 50 {
		t.Errorf("chose %v", got)
	}
}

func TestCapacityIsWeight(t *testing.T) {
	for _, mode := range []workload.LoadBalancing_Mode{workload.LoadBalancing_UNSPECIFIED_MODE, workload.LoadBalancing_FAILOVER} {
		world := []proto.Message{client(), with(cartService(), func(s *workload.Service) {
			s.LoadBalancing = &workload.LoadBalancing{Mode: mode, RoutingPreference: []workload.LoadBalancing_Scope{workload.LoadBalancing_NETWORK}}
		})}
		for i, capacity := range []uint32{0, 1, 3, 6} {
			world = append(world, with(In(Pod("shop", fmt.Sprint("c", capacity), "sa", fmt.Sprintf("10.0.1.%d", i)), cartKey, 80, 80), func(w *workload.Workload) {
				w.Capacity = wrapperspb.UInt32(capacity)
			}))
		}
		const rounds = 20000
		got := spread(t, World(t, world...).Current(), rounds)
		for capacity, want := range map[string]float64{"c0": 0, "c1": .1, "c3": .3, "c6": .6} {
			if share := float64(got[capacity]) / rounds; share < want-.02 || share > want+.02 {
				t.Errorf("mode %v: %s was chosen %.3f of the time, want %.1f", mode, capacity, share, want)
			}
		}
	}
}
