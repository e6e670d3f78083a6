package envoy_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/waypoint/envoy"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

// TestLookedUp: a host outside the mesh found by DNS, with workloads that have hostnames and with none.
func TestLookedUp(t *testing.T) {
	w := &envoytest.World{}
	port := envoytest.App(t, "outside", "127.0.0.1")
	ports := []envoytest.Port{{Number: 80, Target: port, Protocol: waypoint.Protocol_HTTP1}}
	w.Add("api.example.com", "10.96.0.1", ports, &workload.Workload{Uid: "entry", Hostname: "localhost"})
	own := []envoytest.Port{{Number: port, Target: port, Protocol: waypoint.Protocol_HTTP1}}
	w.Add("localhost", "10.96.0.2", own)
	for _, d := range w.Destinations {
		d.Resolution = waypoint.Destination_DNS
	}
	p := envoytest.Start(t, w)
	want(t, p.Peer(idClient).Client("10.96.0.1:80"), "http://api.example.com/", 200, "outside")
	want(t, p.Peer(idClient).Client(fmt.Sprintf("10.96.0.2:%d", port)), "http://localhost/", 200, "outside")
}

// TestRange: addresses without an end, each reached as it was dialed, and a service inside the range that has its own way.
func TestRange(t *testing.T) {
	w, _, _ := echoWorld(t, "127.0.51.1", waypoint.Protocol_HTTP1)
	port := envoytest.App(t, "original", "127.0.51.2")
	w.Add("range.example.com", "127.0.51.0", []envoytest.Port{{Number: port, Target: port, Protocol: waypoint.Protocol_HTTP1}})
	w.Addresses[1].Addresses[0].Length = new(uint32)
	*w.Addresses[1].Addresses[0].Length = 24
	w.Destinations[1].Resolution = waypoint.Destination_ORIGINAL
	w.Addresses[0].Addresses[0].Address = netip.MustParseAddr("127.0.51.77").AsSlice()
	p := envoytest.Start(t, w)
	p.Node("127.0.51.1", idEcho)
	want(t, p.Peer(idClient).Client(fmt.Sprintf("127.0.51.2:%d", port)), "http://x/", 200, "original")
	want(t, p.Peer(idClient).Client("127.0.51.77:80"), "http://echo/", 200, "echo")
	if conn, err := dial(t, p.Peer(idClient), "127.0.51.77:81"); err == nil {
		conn.Close()
		t.Error("a port the service does not have was taken for one of the range")
	}
}

// TestEverything: a service for all addresses there are leads to none of the proxy's own.
func TestEverything(t *testing.T) {
	w := &envoytest.World{}
	p := envoytest.Start(t, w)
	all := []envoytest.Port{{Number: p.Options.AdminPort, Target: p.Options.AdminPort, Protocol: waypoint.Protocol_TCP}}
	for i, any := range []string{"0.0.0.0", "::"} {
		w.Add(fmt.Sprintf("all%d.example.com", i), any, all)
		w.Addresses[i].Addresses[0].Length = new(uint32)
		w.Destinations[i].Resolution = waypoint.Destination_ORIGINAL
	}
	p.Apply(w)
	for _, own := range []string{"127.0.0.1", "127.1.2.3", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "169.254.169.254"} {
		conn, err := dial(t, p.Peer(idClient), fmt.Sprintf("%s:%d", own, p.Options.AdminPort))
		if err == nil {
			fmt.Fprint(conn, "GET /server_info HTTP/1.0\r\n\r\n")
			var n int
			n, err = conn.Read(make([]byte, 100))
			conn.Close()
			if n > 0 {
				t.Errorf("%s: the admin port answers", own)
			}
		}
		if err == nil {
			t.Errorf("%s: a connection", own)
		}
	}
}

// TestIPv6: a service and a pod with IPv6 addresses.
func TestIPv6(t *testing.T) {
	w, _, _ := echoWorld(t, "127.0.52.1", waypoint.Protocol_HTTP1)
	w.Addresses[0].Addresses[0].Address = netip.MustParseAddr("fd00::1").AsSlice()
	p := envoytest.Start(t, w)
	p.Node("127.0.52.1", idEcho)
	want(t, p.Peer(idClient).Client("[fd00::1]:80"), "http://echo/", 200, "echo")
}

// TestDynamic: names below a wildcard are looked up when asked for, and no others.
func TestDynamic(t *testing.T) {
	w := &envoytest.World{}
	port := envoytest.App(t, "dynamic", "127.0.0.1")
	w.Add("*.localhost", "10.96.0.1", []envoytest.Port{{Number: port, Target: port, Protocol: waypoint.Protocol_HTTP1}})
	w.Destinations[0].Resolution = waypoint.Destination_DYNAMIC
	p := envoytest.Start(t, w)
	client := p.Peer(idClient).Client(fmt.Sprintf("10.96.0.1:%d", port))
	want(t, client, fmt.Sprintf("http://app.localhost:%d/", port), 200, "dynamic")
	want(t, client, "http://elsewhere.example.com/", 404, "")
	want(t, client, fmt.Sprintf("http://app.localhost:%d/", p.Options.AdminPort), 404, "") // not a port of the service
}

// TestDynamicTLS is TestDynamic by the server name of TLS that is passed through.
func TestDynamicTLS(t *testing.T) {
	w := &envoytest.World{}
	port := envoytest.TCPApp(t, "hello", "127.0.0.1")
	w.Add("*.in.localhost", "10.96.0.1", []envoytest.Port{{Number: port, Target: port, Protocol: waypoint.Protocol_TLS}})
	w.Destinations[0].Resolution = waypoint.Destination_DYNAMIC
	p := envoytest.Start(t, w)
	reached := func(name string) bool {
		conn, err := dial(t, p.Peer(idClient), fmt.Sprintf("10.96.0.1:%d", port))
		if err != nil {
			return false
		}
		defer conn.Close()
		var seen bytes.Buffer
		// The service is no TLS server: this fails in either case, but has seen its greeting or not.
		_ = tls.Client(&recorded{Conn: conn.(net.Conn), seen: &seen}, &tls.Config{ServerName: name}).Handshake()
		return strings.HasPrefix(seen.String(), "hello\n")
	}
	if !reached("app.in.localhost") {
		t.Error("app.in.localhost was not reached")
	}
	if reached("app.localhost") {
		t.Error("a name outside the wildcard was reached")
	}
}

// TestAnotherWaypoint: an edge gateway that is told so brings requests to the service's waypoint, asking for the service.
func TestAnotherWaypoint(t *testing.T) {
	w := edgeWorld(t, "127.0.53.1")
	const host = "waypoint.default.svc.cluster.local"
	through := envoytest.Pod("other", "127.0.53.9", "other-waypoint")
	w.Add(host, "10.96.0.9", []envoytest.Port{{Number: 15008, Target: 15008, Protocol: waypoint.Protocol_TCP}}, through)
	w.Services = nil
	w.Addresses[0].Waypoint = &workload.GatewayAddress{Destination: &workload.GatewayAddress_Hostname{
		Hostname: &workload.NamespacedHostname{Namespace: "default", Hostname: host},
	}}
	l := listen(t, w, &waypoint.Listener{Name: "http"}, httpHost("http", ""))
	p := envoytest.Start(t, &envoytest.World{Gateway: &waypoint.Gateway{Kind: waypoint.Gateway_EDGE}})
	p.Apply(w)
	pod := p.Node("127.0.53.1", idEcho)
	app := envoytest.App(t, "through", "127.0.53.9")
	node := p.Node("127.0.53.9", "spiffe://cluster.local/ns/default/sa/other-waypoint", func(string) string { return fmt.Sprintf("127.0.53.9:%d", app) })
	at := fmt.Sprintf("http://127.0.0.1:%d/", l.Port)
	want(t, http.DefaultClient, at, 200, "echo") // not told so
	w.Addresses[0].IngressUseWaypoint = true
	p.Apply(w)
	before := len(pod.Arrivals())
	want(t, http.DefaultClient, at, 200, "through")
	if a := node.Arrivals(); len(a) != 1 || a[0].Authority != "10.96.0.1:80" || len(pod.Arrivals()) != before {
		t.Errorf("arrivals at the waypoint: %v", a)
	}
	// The last one of a waypoint is used while it ends.
	through.Status = workload.WorkloadStatus_UNHEALTHY
	p.Apply(w)
	want(t, http.DefaultClient, at, 200, "through")
}

// TestWhoIsChosen: workloads that are unhealthy or weigh nothing get nothing, and the near before the far.
func TestWhoIsChosen(t *testing.T) {
	w := &envoytest.World{}
	port := envoytest.App(t, "near", "127.0.54.1")
	near := envoytest.Pod("near", "127.0.54.1", "echo")
	near.Locality = &workload.Locality{Region: "r1", Zone: "z1"}
	far := envoytest.Pod("far", "127.0.54.2", "echo")
	far.Locality = &workload.Locality{Region: "r2"}
	sick, idle := envoytest.Pod("sick", "127.0.54.3", "echo"), envoytest.Pod("idle", "127.0.54.4", "echo")
	sick.Status = workload.WorkloadStatus_UNHEALTHY
	idle.Capacity = wrapperspb.UInt32(0)
	w.Add("echo.default.svc.cluster.local", "10.96.0.1", []envoytest.Port{{Number: 80, Target: port, Protocol: waypoint.Protocol_HTTP1}}, near, far, sick, idle)
	w.Addresses[0].LoadBalancing = &workload.LoadBalancing{
		Mode:              workload.LoadBalancing_FAILOVER,
		RoutingPreference: []workload.LoadBalancing_Scope{workload.LoadBalancing_REGION, workload.LoadBalancing_ZONE},
	}
	p := envoytest.Start(t, w)
	for i, name := range []string{"near", "far", "sick", "idle"} {
		ip := fmt.Sprintf("127.0.54.%d", i+1)
		app := port
		if i > 0 {
			app = envoytest.App(t, name, ip)
		}
		p.Node(ip, idEcho, func(string) string { return fmt.Sprintf("%s:%d", ip, app) })
	}
	for range 20 {
		want(t, p.Peer(idClient).Client("10.96.0.1:80"), "http://echo/", 200, "near")
	}
	near.Status = workload.WorkloadStatus_UNHEALTHY
	p.Apply(w)
	for range 20 {
		want(t, p.Peer(idClient).Client("10.96.0.1:80"), "http://echo/", 200, "far")
	}
}

// TestOwnSource: names that lead to loopback lead to nobody who believes in it: the proxy comes from its own address.
func TestOwnSource(t *testing.T) {
	var own netip.Addr
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
			own = p.Addr()
		}
	}
	if !own.IsValid() {
		t.Skip("this network namespace has loopback addresses alone")
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		w.Header().Set("From", host)
	}))
	defer srv.Close()
	port := uint32(srv.Listener.Addr().(*net.TCPAddr).Port)
	w := &envoytest.World{}
	ports := []envoytest.Port{{Number: port, Target: port, Protocol: waypoint.Protocol_HTTP1}}
	w.Add("api.example.com", "10.96.0.1", ports, &workload.Workload{Uid: "entry", Hostname: "localhost"})
	w.Add("*.localhost", "10.96.0.2", ports)
	w.Destinations[0].Resolution, w.Destinations[1].Resolution = waypoint.Destination_DNS, waypoint.Destination_DYNAMIC
	p := envoytest.Start(t, w, func(o *envoy.Options) { o.Address = own })
	for authority, host := range map[string]string{"10.96.0.1": "api.example.com", "10.96.0.2": fmt.Sprintf("x.localhost:%d", port)} {
		client := p.Peer(idClient).Client(fmt.Sprintf("%s:%d", authority, port))
		resp, err := client.Get("http://" + host + "/")
		if err != nil {
			t.Error(err)
			continue
		}
		resp.Body.Close()
		if from := resp.Header.Get("From"); resp.StatusCode != 200 || from != own.String() {
			t.Errorf("%s: %d, from %q, want %s", host, resp.StatusCode, from, own)
		}
	}
}
