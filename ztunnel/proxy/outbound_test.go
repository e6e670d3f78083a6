package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/ambit-mesh/ambit/ztunnel/route"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

const payKey = "shop/pay.shop.svc.cluster.local"

// peer is another node's proxy: it runs as an identity, and either answers with a status or echoes.
type peer struct {
	addr   string
	status int
	asked  chan *hbone.Incoming
}

func (w *world) peer(addr, account string, status int) *peer {
	w.t.Helper()
	p := &peer{addr: addr, status: status, asked: make(chan *hbone.Incoming, 16)}
	svid := w.ca.MustSVID("spiffe://cluster.local/ns/shop/sa/" + account)
	cfg := certs.Policy{}.ServerConfig(func() (*certs.SVID, error) { return svid, nil }, "cluster.local")
	a := w.listen(addr)
	ctx, cancel := context.WithCancel(w.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case c := <-a.calls:
				wg.Go(func() {
					defer c.conn.Close()
					_ = hbone.Serve(ctx, tls.Server(c.conn, cfg), hbone.Config{}, p.serve)
				})
			}
		}
	})
	w.t.Cleanup(func() { cancel(); wg.Wait() })
	return p
}

func (p *peer) serve(_ context.Context, in *hbone.Incoming) {
	p.asked <- in
	if p.status != 200 {
		_ = in.Reject(p.status)
		return
	}
	s, err := in.Accept(200)
	if err != nil {
		return
	}
	_, _ = io.Copy(s, s)
	s.Close()
}

func (w *world) reach(dst string) (*way, route.Decision, telemetry.ConnInfo, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), testLimit)
	w.t.Cleanup(cancel)
	return w.pod.reach(ctx, netip.MustParseAddrPort("10.0.0.1:40000"), netip.MustParseAddrPort(dst))
}

func payPod(name, account, addr string) *workload.Workload {
	return In(Pod("shop", name, account, addr), payKey, 80, 8080)
}

func payWorld(t *testing.T, more ...proto.Message) *state.State {
	return cartWorld(t, append(more, Service("shop", "pay", []string{"10.96.0.2"}, 80, 8080))...)
}

func TestOutboundThroughTunnel(t *testing.T) {
	w := start(t, payWorld(t, payPod("pay", "pay-sa", "10.0.0.2")), nil)
	p := w.peer("10.0.0.2:15008", "pay-sa", 200)
	up, d, info, err := w.reach("10.96.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	in := <-p.asked
	if in.Authority() != "10.0.0.2:8080" || d.Kind != route.HBONE {
		t.Errorf("asked for %s", in.Authority())
	}
	for name, want := range map[string]string{
		"baggage":   "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=cart,service.name=cart,service.version=v1",
		"forwarded": `for="10.0.0.1:40000";host=pay.shop.svc.cluster.local`,
	} {
		if got := in.Header(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if trace := in.Header("traceparent"); len(trace) != 55 || !strings.HasPrefix(trace, "00-") {
		t.Errorf("traceparent: %q", trace)
	}
	if in.Header("x-forwarded-network") != "" {
		t.Error("a network is named though nothing leaves it")
	}
	if info.DestID != (identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "pay-sa"}) || info.SourceID != w.pod.id ||
		!info.MutualTLS || info.HBONEAddr != "10.0.0.2:8080" || info.Dst.String() != "10.0.0.2:15008" || info.Service == nil {
		t.Errorf("info = %+v", info)
	}
	if _, err := up.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(up, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
}

func TestOutboundPassthrough(t *testing.T) {
	w := start(t, payWorld(t), nil)
	a := w.listen("10.9.9.9:443")
	up, d, info, err := w.reach("10.9.9.9:443")
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	a.next(t)
	if d.Kind != route.Passthrough || info.MutualTLS || info.Destination != nil || !info.SourceID.IsZero() {
		t.Errorf("info = %+v", info)
	}
}

func TestOutboundErrors(t *testing.T) {
	tests := []struct {
		name  string
		world []proto.Message
		peers map[string]int // address → status; the account is pay-sa
		dst   string
		want  telemetry.Reason
		flags string
	}{
		{"peer denies", []proto.Message{payPod("pay", "pay-sa", "10.0.0.2")}, map[string]int{"10.0.0.2": 401}, "10.96.0.2:80", telemetry.PeerDenied, ""},
		{"peer cannot", []proto.Message{payPod("pay", "pay-sa", "10.0.0.2")}, map[string]int{"10.0.0.2": 503}, "10.96.0.2:80", telemetry.TunnelRefused, "CONNECT"},
		{"peer is someone else", []proto.Message{payPod("pay", "other-sa", "10.0.0.2")}, map[string]int{"10.0.0.2": 200}, "10.96.0.2:80", telemetry.PeerIdentity, "IDENTITY_ERROR"},
		{"no endpoints", nil, nil, "10.96.0.2:80", telemetry.NoHealthyUpstream, "CONNECT"},
		{"own port", nil, nil, "10.0.0.1:15008", telemetry.SelfCall, "CONNECT"},
		{"refused", nil, nil, "10.9.9.9:1", telemetry.ConnectRefused, "CONNECT"},
		{"name cannot be resolved", []proto.Message{func() proto.Message {
			w := payPod("pay", "pay-sa", "10.0.0.2")
			w.Addresses, w.Hostname = nil, "pay.example.com"
			return w
		}()}, nil, "10.96.0.2:80", telemetry.Unresolvable, "CONNECT"},
		{"waypoint is missing", []proto.Message{func() proto.Message {
			w := payPod("pay", "pay-sa", "10.0.0.2")
			w.Waypoint = Waypoint("shop", "gone")
			return w
		}()}, map[string]int{"10.0.0.2": 200}, "10.0.0.2:8080", telemetry.UnknownWaypoint, "CONNECT"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := start(t, payWorld(t, tt.world...), nil)
			for addr, status := range tt.peers {
				w.peer(addr+":15008", "pay-sa", status)
			}
			up, _, _, err := w.reach(tt.dst)
			if err == nil {
				up.Close()
			}
			if got := telemetry.ReasonOf(err); got != tt.want || tt.flags != "" && got.Flags() != tt.flags {
				t.Errorf("err = %v (%s), want %s", err, got, tt.want)
			}
		})
	}
}

// When an endpoint fails before a byte has gone anywhere, another one is tried.
func TestOutboundTriesElsewhere(t *testing.T) {
	w := start(t, payWorld(t, payPod("impostor", "other-sa", "10.0.0.2"), payPod("pay", "pay-sa", "10.0.0.3")), nil)
	w.peer("10.0.0.2:15008", "pay-sa", 200) // not who it should be
	good := w.peer("10.0.0.3:15008", "pay-sa", 200)
	for range 10 {
		up, d, info, err := w.reach("10.96.0.2:80")
		if err != nil {
			t.Fatal(err)
		}
		up.Close()
		if d.Workload.Name != "pay" || info.Destination != d.Workload {
			t.Fatalf("went to %s", d.Workload.Name)
		}
		<-good.asked
	}
}

// A refusal by policy is an answer: no other endpoint is asked for a better one.
func TestOutboundDenialIsFinal(t *testing.T) {
	w := start(t, payWorld(t, payPod("pay-1", "pay-sa", "10.0.0.2"), payPod("pay-2", "pay-sa", "10.0.0.3")), nil)
	one, two := w.peer("10.0.0.2:15008", "pay-sa", 401), w.peer("10.0.0.3:15008", "pay-sa", 401)
	if _, _, _, err := w.reach("10.96.0.2:80"); telemetry.ReasonOf(err) != telemetry.PeerDenied {
		t.Fatal(err)
	}
	if n := len(one.asked) + len(two.asked); n != 1 {
		t.Errorf("%d endpoints were asked", n)
	}
}

// Through a waypoint the authority is what the application dialed, and the certificate is the waypoint's.
func TestOutboundThroughWaypoint(t *testing.T) {
	pay := Service("shop", "pay", []string{"10.96.0.2"}, 80, 8080)
	pay.Waypoint = Waypoint("shop", "waypoint.shop.svc.cluster.local")
	wp := In(Pod("shop", "wp", "wp-sa", "10.0.0.20"), "shop/waypoint.shop.svc.cluster.local", 15008, 15008)
	wp.TunnelProtocol = workload.TunnelProtocol_NONE
	w := start(t, cartWorld(t, pay, wp, Service("shop", "waypoint", []string{"10.96.0.20"}, 15008, 15008), payPod("pay", "pay-sa", "10.0.0.2")), nil)
	p := w.peer("10.0.0.20:15008", "wp-sa", 200)
	up, d, info, err := w.reach("10.96.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	if in := <-p.asked; in.Authority() != "10.96.0.2:80" || !d.Waypoint {
		t.Errorf("asked for %s", in.Authority())
	}
	if info.DestID.ServiceAccount != "wp-sa" || info.Service.Name != "pay" || info.Destination.Name != "wp" {
		t.Errorf("info = %+v", info)
	}
}

// Connections of one pod to one peer share a tunnel; a tunnel to another identity is another one.
func TestOutboundSharesTunnels(t *testing.T) {
	w := start(t, payWorld(t, payPod("pay", "pay-sa", "10.0.0.2")), nil)
	p := w.peer("10.0.0.2:15008", "pay-sa", 200)
	for range 5 {
		up, _, _, err := w.reach("10.96.0.2:80")
		if err != nil {
			t.Fatal(err)
		}
		defer up.Close()
		<-p.asked
	}
	if conns, streams := w.pod.pool.Conns(); conns != 1 || streams != 5 {
		t.Errorf("%d tunnels with %d streams", conns, streams)
	}
}

// Before the control plane has answered everything would look unknown, and go out in plaintext.
func TestOutboundWaitsForControlPlane(t *testing.T) {
	w := start(t, payWorld(t), nil)
	w.proxy.Synced = make(chan struct{})
	a := w.listen("10.9.9.9:443")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, _, err := w.pod.reach(ctx, netip.MustParseAddrPort("10.0.0.1:40000"), netip.MustParseAddrPort("10.9.9.9:443")); err == nil {
		t.Error("connected")
	}
	if len(a.calls) > 0 {
		t.Error("the application was reached")
	}
}
