package route_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/ztunnel/route"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

func showInbound(d route.InboundDecision, err error) string {
	if err != nil {
		return fmt.Sprintf("%d %s: %v", route.Status(err), telemetry.ReasonOf(err), err)
	}
	parts := []string{d.Addr.String(), "policy " + d.Policy.String()}
	if d.Loopback {
		parts = append(parts, "loopback")
	}
	if d.ProxyProtocol {
		parts = append(parts, "proxy to "+d.Target.String())
	}
	if d.Service != nil {
		parts = append(parts, "service "+d.Service.Name)
	}
	return strings.Join(parts, " ")
}

func TestInbound(t *testing.T) {
	frontedCart := func() []proto.Message {
		return []proto.Message{waypointPod(), waypointService(),
			with(cart(), func(w *workload.Workload) { w.Waypoint = Waypoint("shop", wpHost) }),
			with(cartService(), func(s *workload.Service) { s.Waypoint = Waypoint("shop", wpHost) })}
	}
	sandwich := func(tunnel *workload.ApplicationTunnel) []proto.Message {
		world := frontedCart()
		world[0].(*workload.Workload).ApplicationTunnel = tunnel
		return world
	}
	proxyTunnel := &workload.ApplicationTunnel{Protocol: workload.ApplicationTunnel_PROXY, Port: 15088}
	tests := []struct {
		name                 string
		world                []proto.Message
		pod, local           string
		authority, forwarded string
		want                 string
	}{
		{name: "own address", world: []proto.Message{cart(), cartService()}, authority: "10.0.0.1:8080",
			want: "10.0.0.1:8080 policy 10.0.0.1:8080 service cart"},
		{name: "a port of no service", world: []proto.Message{cart(), cartService()}, authority: "10.0.0.1:22", want: "10.0.0.1:22 policy 10.0.0.1:22"},
		{name: "v4-mapped", world: []proto.Message{cart()}, authority: "[::ffff:10.0.0.1]:8080", want: "10.0.0.1:8080 policy 10.0.0.1:8080"},
		{name: "ipv6", world: []proto.Message{Pod("shop", "cart", "sa", "fd00::1")}, local: "fd00::1", authority: "[fd00::1]:8080",
			want: "[fd00::1]:8080 policy [fd00::1]:8080"},
		{name: "another pod's address", world: []proto.Message{cart()}, authority: "10.0.0.2:8080",
			want: "400 wrong-destination: ip mismatch: asked for 10.0.0.2 on a connection to 10.0.0.1"},
		{name: "another address of the same pod", world: []proto.Message{Pod("shop", "cart", "sa", "10.0.0.1", "fd00::1")}, authority: "[fd00::1]:8080",
			want: "400 wrong-destination: ip mismatch: asked for fd00::1 on a connection to 10.0.0.1"},
		{name: "self call", world: []proto.Message{cart()}, authority: "10.0.0.1:15008",
			want: "503 self-call: attempted recursive call to ourselves: 10.0.0.1:15008"},
		{name: "forwarded host names the service", world: []proto.Message{
			In(In(Pod("shop", "cart", "sa", "10.0.0.1"), "shop/a.shop.svc.cluster.local", 80, 8080), "shop/b.shop.svc.cluster.local", 81, 8080),
			Service("shop", "a", nil, 80, 8080), Service("shop", "b", nil, 81, 8080)},
			authority: "10.0.0.1:8080", forwarded: "b.shop.svc.cluster.local", want: "10.0.0.1:8080 policy 10.0.0.1:8080 service b"},
		{name: "forwarded host with another port is ignored", world: []proto.Message{
			In(In(Pod("shop", "cart", "sa", "10.0.0.1"), "shop/a.shop.svc.cluster.local", 80, 8080), "shop/b.shop.svc.cluster.local", 81, 9090),
			Service("shop", "a", nil, 80, 8080), Service("shop", "b", nil, 81, 9090)},
			authority: "10.0.0.1:8080", forwarded: "b.shop.svc.cluster.local", want: "10.0.0.1:8080 policy 10.0.0.1:8080 service a"},
		{name: "waypoint asked for a service it fronts", world: frontedCart(), pod: "wp-1", local: "10.0.0.20", authority: "10.96.0.1:80",
			want: "10.0.0.20:80 policy 10.0.0.20:80 service cart"},
		{name: "waypoint asked for a workload it fronts", world: frontedCart(), pod: "wp-1", local: "10.0.0.20", authority: "10.0.0.1:8080",
			want: "10.0.0.20:8080 policy 10.0.0.20:8080"},
		{name: "waypoint asked for something else", world: append(frontedCart(), Service("shop", "other", []string{"10.96.0.9"}, 80, 80)), pod: "wp-1", local: "10.0.0.20", authority: "10.96.0.9:80",
			want: "400 wrong-destination: ip mismatch: asked for 10.96.0.9 on a connection to 10.0.0.20"},
		{name: "sandwich", world: sandwich(proxyTunnel), pod: "wp-1", local: "10.0.0.20", authority: "10.96.0.1:80",
			want: "127.0.0.1:15088 policy 10.0.0.20:15088 loopback proxy to 10.96.0.1:80 service cart"},
		{name: "sandwich asked for anything", world: sandwich(proxyTunnel), pod: "wp-1", local: "10.0.0.20", authority: "10.96.0.77:80",
			want: "127.0.0.1:15088 policy 10.0.0.20:15088 loopback proxy to 10.96.0.77:80"},
		{name: "sandwich keeps the port when it has none", world: sandwich(&workload.ApplicationTunnel{Protocol: workload.ApplicationTunnel_PROXY}), pod: "wp-1", local: "10.0.0.20", authority: "10.96.0.1:80",
			want: "127.0.0.1:80 policy 10.0.0.20:80 loopback proxy to 10.96.0.1:80 service cart"},
		{name: "application tunnel without PROXY protocol", world: sandwich(&workload.ApplicationTunnel{Port: 15088}), pod: "wp-1", local: "10.0.0.20", authority: "10.96.0.1:80",
			want: "10.0.0.20:15088 policy 10.0.0.20:15088 service cart"},
		{name: "hostname of a service of this pod", world: []proto.Message{cart(), cartService()}, authority: "cart.shop.svc.cluster.local:80",
			want: "10.0.0.1:8080 policy 10.0.0.1:8080 service cart"},
		{name: "hostname, port of the service", world: []proto.Message{In(Pod("shop", "cart", "sa", "10.0.0.1"), cartKey), cartService()}, authority: "cart.shop.svc.cluster.local:80",
			want: "10.0.0.1:8080 policy 10.0.0.1:8080 service cart"},
		{name: "hostname, port nobody has", world: []proto.Message{cart(), cartService()}, authority: "cart.shop.svc.cluster.local:81",
			want: "503 unknown-destination: service cart.shop.svc.cluster.local has no port 81 on workload shop/cart"},
		{name: "hostname of another service", world: []proto.Message{cart(), Service("shop", "other", nil, 80, 80)}, authority: "other.shop.svc.cluster.local:80",
			want: "503 unknown-destination: workload shop/cart is neither an endpoint nor the waypoint of other.shop.svc.cluster.local"},
		{name: "hostname nobody has", world: []proto.Message{cart()}, authority: "nope:80", want: "503 unknown-destination: unknown service: nope"},
		{name: "hostname of a fronted service", world: sandwich(proxyTunnel), pod: "wp-1", local: "10.0.0.20", authority: "cart.shop.svc.cluster.local:80",
			want: "127.0.0.1:15088 policy 10.0.0.20:15088 loopback proxy to 10.96.0.1:80 service cart"},
		{name: "sandwich asked for our own port", world: sandwich(proxyTunnel), pod: "wp-1", local: "10.0.0.20", authority: "10.96.0.1:15008",
			want: "503 self-call: attempted recursive call to ourselves: 10.0.0.20:15008"},
		{name: "hostname of a fronted service without its own tunnel", world: frontedCart(), pod: "wp-1", local: "10.0.0.20", authority: "cart.shop.svc.cluster.local:80",
			want: "10.0.0.20:8080 policy 10.0.0.20:8080 service cart"},
		{name: "no port", authority: "10.0.0.1", want: `400 bad-authority: invalid authority "10.0.0.1": not host:port`},
		{name: "port zero", authority: "10.0.0.1:0", want: `400 bad-authority: invalid authority "10.0.0.1:0": port "0" is not a port`},
		{name: "port too large", authority: "10.0.0.1:65536", want: `400 bad-authority: invalid authority "10.0.0.1:65536": port "65536" is not a port`},
		{name: "bare ipv6", authority: "fd00::1:80", want: `400 bad-authority: invalid authority "fd00::1:80": not host:port`},
		{name: "empty host", authority: ":80", want: `400 bad-authority: invalid authority ":80": host is missing`},
		{name: "user info", authority: "me@10.0.0.1:80", want: `400 bad-authority: invalid authority "me@10.0.0.1:80": host is neither an address nor a hostname`},
		{name: "zone", authority: "[fe80::1%eth0]:80", want: `400 bad-authority: invalid authority "[fe80::1%eth0]:80": host is not an IPv6 address`},
		{name: "line break", authority: "a\r\nb:80", want: `400 bad-authority: invalid authority "a\r\nb:80": host is neither an address nor a hostname`},
		{name: "endless", authority: strings.Repeat("a", 400) + ":80", want: `400 bad-authority: invalid authority "` + strings.Repeat("a", 80) + `…": 403 bytes is too long`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.world == nil {
				tt.world = []proto.Message{cart()}
			}
			if tt.pod == "" {
				tt.pod = "cart"
			}
			if tt.local == "" {
				tt.local = "10.0.0.1"
			}
			s := World(t, tt.world...).Current()
			req := route.InboundRequest{
				Authority: tt.authority, Local: netip.MustParseAddr(tt.local), Workload: s.Pod("Kubernetes", "shop", tt.pod),
				ForwardedHost: tt.forwarded, LoopbackTunnel: true,
			}
			if got := showInbound(route.Inbound(s, req)); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestInboundTunnelNotOnLoopback(t *testing.T) {
	s := World(t, with(waypointPod(), func(w *workload.Workload) {
		w.ApplicationTunnel = &workload.ApplicationTunnel{Protocol: workload.ApplicationTunnel_PROXY, Port: 15088}
	})).Current()
	got := showInbound(route.Inbound(s, route.InboundRequest{Authority: "10.96.0.1:80", Local: netip.MustParseAddr("10.0.0.20"), Workload: s.Pod("Kubernetes", "shop", "wp-1")}))
	if got != "10.0.0.20:15088 policy 10.0.0.20:15088 proxy to 10.96.0.1:80" {
		t.Error(got)
	}
}

func TestInboundPlaintext(t *testing.T) {
	s := World(t, cart(), cartService()).Current()
	w := s.Pod("Kubernetes", "shop", "cart")
	for dst, want := range map[string]string{
		"10.0.0.1:8080":          "10.0.0.1:8080 policy 10.0.0.1:8080 service cart",
		"[::ffff:10.0.0.1]:8080": "10.0.0.1:8080 policy 10.0.0.1:8080 service cart",
		"10.0.0.1:15006":         "503 self-call: attempted recursive call to ourselves: 10.0.0.1:15006",
	} {
		if got := showInbound(route.InboundPlaintext(s, w, netip.MustParseAddrPort(dst))); got != want {
			t.Errorf("%s: got %s, want %s", dst, got, want)
		}
	}
}

func TestStatus(t *testing.T) {
	want := map[telemetry.Reason]int{
		telemetry.OK: 200, telemetry.BadMethod: 400, telemetry.BadAuthority: 400, telemetry.WrongDestination: 400,
		telemetry.PolicyDenied: 401, telemetry.PolicyNotAllowed: 401, telemetry.PolicyChanged: 401, telemetry.WaypointRequired: 401,
	}
	for _, r := range telemetry.Reasons() {
		var err error
		if r != telemetry.OK {
			err = telemetry.Fail(r, "", nil)
		}
		code := want[r]
		if code == 0 {
			code = 503
		}
		if got := route.Status(err); got != code {
			t.Errorf("Status(%s) = %d, want %d", r, got, code)
		}
	}
}

// Whatever a peer writes into :authority, the answer is a decision about this very pod or a clean refusal.
func FuzzInbound(f *testing.F) {
	for _, seed := range []string{"10.0.0.1:8080", "[fd00::1]:1", "cart.shop.svc.cluster.local:80", "a:b:c", "[::]:0", "%00:1", "😀:80", "*.x:9"} {
		f.Add(seed, "host")
	}
	s := World(f, cart(), cartService()).Current()
	w := s.Pod("Kubernetes", "shop", "cart")
	f.Fuzz(func(t *testing.T, authority, host string) {
		d, err := route.Inbound(s, route.InboundRequest{Authority: authority, Local: w.Addrs[0], Workload: w, ForwardedHost: host})
		if err != nil {
			if code := route.Status(err); code != 400 && code != 503 {
				t.Fatalf("status %d for %q: %v", code, authority, err)
			}
			return
		}
		if d.Addr.Addr() != w.Addrs[0] || d.Addr.Port() == 0 || d.Addr.Port() == 15008 {
			t.Fatalf("%q leads to %s", authority, d.Addr)
		}
	})
}
