package proxy

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/ambit-mesh/ambit/ztunnel/route"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

const waypointID = "spiffe://cluster.local/ns/shop/sa/wp-sa"

// guardedCart is shop/cart, whose port 8080 is behind shop/wp.
func guardedCart(change func(*waypoint.Guard)) *workload.Workload {
	g := &waypoint.Guard{
		Ports: []uint32{8080}, Waypoints: []string{waypointID}, Gateway: "shop/wp", Service: cartKey, Policies: []string{"AuthorizationPolicy shop/readers"},
	}
	if change != nil {
		change(g)
	}
	return Guarded(In(Pod("shop", "cart", "cart-sa", "10.0.0.1"), cartKey, 80, 8080), &waypoint.Guards{Guards: []*waypoint.Guard{g}, Waypoints: []string{waypointID}})
}

const mustComeThrough = "service " + cartKey + " must be reached through waypoint shop/wp: it enforces AuthorizationPolicy shop/readers"

// counted reads a counter from the registry.
func (w *world) counted(name string, labels ...string) float64 {
	w.t.Helper()
	families, err := w.proxy.Recorder.Registry().Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var values []string
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if f.GetName() == name && strings.Join(values, " ") == strings.Join(labels, " ") {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func TestGuardKeepsOutWhatGoesAround(t *testing.T) {
	w := start(t, cartWorld(t, guardedCart(nil)), nil)
	a := w.listen("10.0.0.1:8080")
	_, err := w.open(w.tunnel("10.0.0.9", "shop", "web-sa"), "10.0.0.1:8080")
	var se *hbone.StatusError
	if !errors.As(err, &se) || se.Code != 401 || refusal(se) != mustComeThrough {
		t.Fatalf("err = %v with %+v", err, se)
	}
	// That is what a client's proxy logs.
	if err := tunnelError(route.Decision{}, err); telemetry.ReasonOf(err) != telemetry.WaypointRequired || !strings.Contains(err.Error(), mustComeThrough) {
		t.Fatalf("the client says %v", err)
	}
	w.logged("\terror\taccess\tconnection complete\t", `error="`+mustComeThrough+`" reason="waypoint-required"`, `src.identity="spiffe://cluster.local/ns/shop/sa/web-sa"`)
	if n := w.counted("ambit_waypoint_bypass_total", "shop/wp", "refused", cartKey); n != 1 {
		t.Errorf("counted %v", n)
	}
	if len(a.calls) != 0 {
		t.Error("the application was reached")
	}
	// The waypoint gets in, and on another port everybody does.
	s, err := w.open(w.tunnel("10.0.0.20", "shop", "wp-sa"), "10.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	a.next(t)
	s.Close()
	b := w.listen("10.0.0.1:9090")
	if s, err = w.open(w.tunnel("10.0.0.9", "shop", "web-sa"), "10.0.0.1:9090"); err != nil {
		t.Fatal(err)
	}
	b.next(t)
	s.Close()
}

// plain makes a connection that looks redirected to 15006: its original destination is where the test listens.
func (w *world) plain(a *app, at string) (client net.Conn, served chan struct{}) {
	w.t.Helper()
	client = w.dial("10.0.0.9", at)
	c := a.next(w.t)
	served = make(chan struct{})
	go func() { defer close(served); w.pod.plaintext(w.t.Context(), c.conn.(*net.TCPConn)) }()
	return client, served
}

func TestGuardKeepsOutPlaintext(t *testing.T) {
	st := cartWorld(t, guardedCart(nil))
	w := start(t, st, nil)
	a := w.listen("10.0.0.1:8080")
	c, served := w.plain(a, "10.0.0.1:8080")
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("ended with %v, not with a reset", err)
	}
	<-served
	w.logged("\terror\taccess\tconnection complete\t", `reason="waypoint-required"`, `src.workload="web"`)

	// Once the owner accepts it, it is carried, told and counted.
	Put(t, st, guardedCart(func(g *waypoint.Guard) { g.Open = true }))
	c, served = w.plain(a, "10.0.0.1:8080")
	atApp := a.next(t)
	w.logged("\twarn\taccess\tconnection goes around a waypoint\t", `because="`+mustComeThrough+`" reason="waypoint-required"`)
	if n := w.counted("ambit_waypoint_bypass_total", "shop/wp", "open", cartKey); n != 1 {
		t.Errorf("counted %v", n)
	}
	c.Close()
	atApp.conn.Close()
	<-served
}

func TestGuardKeepsOutWhatIsHandedOver(t *testing.T) {
	st := cartWorld(t, guardedCart(nil))
	w := start(t, st, nil)
	w.listen("10.0.0.1:8080")
	s := st.Current()
	d := route.Decision{Kind: route.HBONE, Addr: netip.MustParseAddrPort("10.0.0.1:15008"), Authority: "10.0.0.1:8080", Workload: s.Pod("Kubernetes", "shop", "cart")}
	_, err := w.pod.handOver(t.Context(), s, d, w.pod, netip.MustParseAddrPort("10.0.0.1:40000"))
	if telemetry.ReasonOf(err) != telemetry.WaypointRequired {
		t.Fatalf("err = %v", err)
	}
	w.logged(`reason="waypoint-required"`, `direction="inbound"`)
}

// A guard that appears ends what goes around, a waypoint that is no longer the guard's ends what came through it.
func TestGuardEndsOpenConnections(t *testing.T) {
	st := cartWorld(t)
	w := start(t, st, nil)
	a := w.listen("10.0.0.1:8080")
	around, err := w.open(w.tunnel("10.0.0.9", "shop", "web-sa"), "10.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	go echo(a.next(t))
	through, err := w.open(w.tunnel("10.0.0.20", "shop", "wp-sa"), "10.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	go echo(a.next(t))
	Put(t, st, guardedCart(nil))
	if _, err := around.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("ended with %v, not with a reset", err)
	}
	w.logged("\terror\taccess\tconnection complete\t", `error="policy changed while the connection was open: `+mustComeThrough+`" reason="waypoint-required"`)
	if _, err := through.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(through, make([]byte, 1)); err != nil {
		t.Errorf("the waypoint's connection: %v", err)
	}
	Put(t, st, guardedCart(func(g *waypoint.Guard) { g.Waypoints = nil }))
	if _, err := through.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("ended with %v, not with a reset", err)
	}
}

// What is outside the mesh cannot keep anybody out: the client's proxy does not go around its waypoint.
func TestOutboundGuards(t *testing.T) {
	const partner = "shop/partner.shop.svc.cluster.local"
	guards := func(open bool) *waypoint.Guards {
		return &waypoint.Guards{Guards: []*waypoint.Guard{{Waypoints: []string{waypointID}, Gateway: "shop/wp", Service: partner, Open: open}}}
	}
	outside := func() *workload.Workload {
		w := In(Pod("shop", "vm", "vm-sa", "10.0.0.30"), partner, 80, 8080)
		w.TunnelProtocol = workload.TunnelProtocol_NONE
		return w
	}
	service := func() *workload.Service { return Service("shop", "partner", []string{"10.96.0.30"}, 80, 8080) }
	for _, tt := range []struct {
		name    string
		service *workload.Service
		vm      *workload.Workload
		dst     string
		want    telemetry.Reason
		outcome string
	}{
		{"service", Guarded(service(), guards(false)), outside(), "10.96.0.30:80", telemetry.WaypointRequired, "refused"},
		{"service, open", Guarded(service(), guards(true)), outside(), "10.96.0.30:80", telemetry.OK, "open"},
		{"its endpoint", service(), Guarded(outside(), guards(false)), "10.96.0.30:80", telemetry.WaypointRequired, "refused"},
		{"workload", service(), Guarded(outside(), guards(false)), "10.0.0.30:8080", telemetry.WaypointRequired, "refused"},
		{"workload, open", service(), Guarded(outside(), guards(true)), "10.0.0.30:8080", telemetry.OK, "open"},
		{"nothing", service(), outside(), "10.96.0.30:80", telemetry.OK, ""},
		{"from the waypoint itself", Guarded(service(), &waypoint.Guards{Guards: []*waypoint.Guard{{Waypoints: []string{"spiffe://cluster.local/ns/shop/sa/cart-sa"}}}}), outside(), "10.96.0.30:80", telemetry.OK, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := start(t, cartWorld(t, tt.service, tt.vm), nil)
			w.listen("10.0.0.30:8080")
			up, _, _, err := w.reach(tt.dst)
			if err == nil {
				up.Close()
			}
			if got := telemetry.ReasonOf(err); got != tt.want {
				t.Fatalf("err = %v", err)
			}
			if tt.outcome != "" && w.counted("ambit_waypoint_bypass_total", "shop/wp", tt.outcome, partner) != 1 {
				t.Errorf("not counted as %s", tt.outcome)
			}
		})
	}
	// With its waypoint it is reached, and without it not.
	t.Run("waypoint", func(t *testing.T) {
		svc := Guarded(service(), guards(false))
		svc.Waypoint = Waypoint("shop", "waypoint.shop.svc.cluster.local")
		st := cartWorld(t, svc, outside(), Service("shop", "waypoint", []string{"10.96.0.20"}, 15008, 15008))
		w := start(t, st, nil)
		if _, _, _, err := w.reach("10.96.0.30:80"); telemetry.ReasonOf(err) != telemetry.NoWaypointEndpoint {
			t.Fatalf("err = %v", err)
		}
		wp := In(Pod("shop", "wp", "wp-sa", "10.0.0.20"), "shop/waypoint.shop.svc.cluster.local", 15008, 15008)
		wp.TunnelProtocol = workload.TunnelProtocol_NONE
		Put(t, st, wp)
		w.peer("10.0.0.20:15008", "wp-sa", 200)
		up, _, _, err := w.reach("10.96.0.30:80")
		if err != nil {
			t.Fatal(err)
		}
		up.Close()
	})
}

// The original client counts for policies and is in the log, if a waypoint of this pod says so.
func TestOriginalClientHeaders(t *testing.T) {
	onlyWeb := &security.Authorization{Name: "only-web", Namespace: "shop", Scope: security.Scope_NAMESPACE, Action: security.Action_ALLOW, Rules: []*security.Rule{{
		Clauses: []*security.Clause{{Matches: []*security.Match{{ServiceAccounts: []*security.ServiceAccountMatch{{Namespace: "shop", ServiceAccount: "web-sa"}}}}}},
	}}}
	id := func(v string) hbone.Header { return hbone.Header{Name: mesh.HeaderClientIdentity, Value: v} }
	ip := func(v string) hbone.Header { return hbone.Header{Name: mesh.HeaderClientAddress, Value: v} }
	const web = "spiffe://cluster.local/ns/shop/sa/web-sa"
	for _, tt := range []struct {
		name    string
		account string
		headers []hbone.Header
		status  int
		log     []string
		ignored float64
	}{
		{"client", "wp-sa", []hbone.Header{id(web), ip("10.0.0.9")}, 200, []string{`src.client.addr="10.0.0.9" src.client.identity="` + web + `" dst.addr=`}, 0},
		{"another client", "wp-sa", []hbone.Header{id("spiffe://cluster.local/ns/shop/sa/x")}, 401, []string{`src.client.identity="spiffe://cluster.local/ns/shop/sa/x"`, `reason="policy-not-allowed"`}, 0},
		{"nobody named", "wp-sa", nil, 401, []string{`reason="policy-not-allowed"`}, 0},
		{"without a value", "wp-sa", []hbone.Header{id("-"), ip("")}, 401, []string{`reason="policy-not-allowed"`}, 0},
		{"nonsense", "wp-sa", []hbone.Header{id("web")}, 400, []string{`reason="bad-authority"`, "header x-ambit-client-identity of waypoint"}, 0},
		{"nonsense address", "wp-sa", []hbone.Header{id(web), ip("10.0.0.9:80")}, 400, []string{`reason="bad-authority"`}, 0},
		{"two clients", "wp-sa", []hbone.Header{id(web), id(web)}, 400, []string{`reason="bad-authority"`}, 0},
		{"a liar", "liar-sa", []hbone.Header{id(web), ip("10.0.0.9")}, 401, []string{`reason="policy-not-allowed"`}, 1},
		{"a liar whose lie does not parse", "liar-sa", []hbone.Header{id("web")}, 401, []string{`reason="policy-not-allowed"`}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cart := Guarded(In(Pod("shop", "cart", "cart-sa", "10.0.0.1"), cartKey, 80, 8080), &waypoint.Guards{Waypoints: []string{waypointID}})
			w := start(t, cartWorld(t, cart, onlyWeb), nil)
			a := w.listen("10.0.0.1:8080")
			s, err := w.open(w.tunnel("10.0.0.20", "shop", tt.account), "10.0.0.1:8080", tt.headers...)
			status := 200
			var se *hbone.StatusError
			if errors.As(err, &se) {
				status = se.Code
			} else if err != nil {
				t.Fatal(err)
			} else {
				// The application still sees the peer's address.
				if c := a.next(t); c.from.Addr() != netip.MustParseAddr("10.0.0.20") {
					t.Errorf("the application sees %s", c.from)
				}
				s.Close()
			}
			if status != tt.status {
				t.Fatalf("status %d, want %d", status, tt.status)
			}
			line := w.logged(append(tt.log, `direction="inbound"`)...)
			if tt.account == "liar-sa" && strings.Contains(line, "src.client") {
				t.Errorf("a lie in the log: %s", line)
			}
			if n := w.counted("ambit_client_headers_ignored_total"); n != tt.ignored {
				t.Errorf("%v ignored", n)
			}
		})
	}
}

// A waypoint that is no longer one is not believed any more, for connections that are open either.
func TestOriginalClientIsForgottenWithItsWaypoint(t *testing.T) {
	bound := func(ids ...string) *workload.Workload {
		return Guarded(In(Pod("shop", "cart", "cart-sa", "10.0.0.1"), cartKey, 80, 8080), &waypoint.Guards{Waypoints: ids})
	}
	onlyWeb := &security.Authorization{Name: "only-web", Namespace: "shop", Scope: security.Scope_NAMESPACE, Action: security.Action_ALLOW, Rules: []*security.Rule{{
		Clauses: []*security.Clause{{Matches: []*security.Match{{ServiceAccounts: []*security.ServiceAccountMatch{{Namespace: "shop", ServiceAccount: "web-sa"}}}}}},
	}}}
	st := cartWorld(t, bound(waypointID), onlyWeb)
	w := start(t, st, nil)
	a := w.listen("10.0.0.1:8080")
	s, err := w.open(w.tunnel("10.0.0.20", "shop", "wp-sa"), "10.0.0.1:8080", hbone.Header{Name: mesh.HeaderClientIdentity, Value: "spiffe://cluster.local/ns/shop/sa/web-sa"})
	if err != nil {
		t.Fatal(err)
	}
	a.next(t)
	Put(t, st, bound())
	if _, err := s.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("ended with %v, not with a reset", err)
	}
	w.logged(`reason="policy-changed"`)
}
