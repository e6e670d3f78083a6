package envoy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/ca/catest"
	"github.com/ambit-mesh/ambit/waypoint/envoy"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

// echoWorld is one HTTP service with one pod in the mesh.
func echoWorld(t *testing.T, ip string, protocol waypoint.Protocol) (*envoytest.World, *workload.Workload, uint32) {
	t.Helper()
	w := &envoytest.World{}
	port := envoytest.App(t, "echo", ip)
	pod := envoytest.Pod("echo", ip, "echo")
	w.Add("echo.default.svc.cluster.local", "10.96.0.1", []envoytest.Port{{Number: 80, Target: port, Protocol: protocol}}, pod)
	return w, pod, port
}

func dial(t *testing.T, p *envoytest.Peer, authority string) (io.ReadWriteCloser, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return p.Dial(ctx, authority)
}

// TestPeers: only a certificate of our roots for an identity of our trust domains opens a connection.
func TestPeers(t *testing.T) {
	w, _, _ := echoWorld(t, "127.0.12.1", waypoint.Protocol_HTTP1)
	w.Gateway = &waypoint.Gateway{Namespace: "default", Name: "waypoint", Services: true, TrustDomains: []string{"cluster.local", "old.example"}}
	p := envoytest.Start(t, w)
	p.Node("127.0.12.1", idEcho)
	want(t, p.Peer(idClient).Client("10.96.0.1:80"), "http://echo/", 200, "echo")
	want(t, p.Peer("spiffe://old.example/ns/default/sa/client").Client("10.96.0.1:80"), "http://echo/", 200, "echo")
	for name, peer := range map[string]*envoytest.Peer{
		"another trust domain":             p.Peer("spiffe://evil.example/ns/default/sa/client"),
		"a trust domain that begins alike": p.Peer("spiffe://cluster.local.evil/ns/default/sa/client"),
		"another authority":                p.PeerOf(catest.New(), idClient),
		"no certificate":                   p.Stranger(),
	} {
		if _, err := dial(t, peer, "10.96.0.1:80"); err == nil || errors.As(err, new(envoytest.StatusError)) {
			t.Errorf("%s: got as far as %v", name, err)
		}
	}
}

// TestNowhere: a waypoint is no relay to addresses it was not told to serve.
func TestNowhere(t *testing.T) {
	w, _, port := echoWorld(t, "127.0.13.1", waypoint.Protocol_HTTP1)
	p := envoytest.Start(t, w)
	node := p.Node("127.0.13.1", idEcho)
	for _, authority := range []string{
		"10.96.0.9:80", "10.96.0.1:81", "[fd00::1]:80", "echo.default.svc.cluster.local:81", "www.example.com:80", "nonsense",
		fmt.Sprintf("127.0.13.1:%d", port), // the pod itself: not bound to this waypoint
		fmt.Sprintf("127.0.0.1:%d", p.Options.AdminPort),
	} {
		conn, err := dial(t, p.Peer(idClient), authority)
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		var status envoytest.StatusError
		if !errors.As(err, &status) || status != 503 {
			t.Errorf("%s: %v, want 503", authority, err)
		}
	}
	if a := node.Arrivals(); len(a) > 0 {
		t.Errorf("arrived nonetheless: %v", a)
	}
}

// TestWrongEndpoint: whoever answers at a pod's address must be that pod.
func TestWrongEndpoint(t *testing.T) {
	w, _, _ := echoWorld(t, "127.0.14.1", waypoint.Protocol_HTTP1)
	p := envoytest.Start(t, w)
	node := p.Node("127.0.14.1", "spiffe://cluster.local/ns/default/sa/somebody-else")
	want(t, p.Peer(idClient).Client("10.96.0.1:80"), "http://echo/", 503, "")
	if a := node.Arrivals(); len(a) > 0 {
		t.Errorf("arrived nonetheless: %v", a)
	}
	// The service may accept others in its place.
	w.Addresses[0].SubjectAltNames = []string{"spiffe://cluster.local/ns/default/sa/somebody-else"}
	p.Apply(w)
	want(t, p.Peer(idClient).Client("10.96.0.1:80"), "http://echo/", 200, "echo")
}

// TestHostname: services without an address are asked for by name; the name of one service leads to no other's port.
func TestHostname(t *testing.T) {
	w, _, _ := echoWorld(t, "127.0.15.1", waypoint.Protocol_HTTP1)
	w.Addresses[0].Addresses = nil
	p := envoytest.Start(t, w)
	p.Node("127.0.15.1", idEcho)
	want(t, p.Peer(idClient).Client("echo.default.svc.cluster.local:80"), "http://echo/", 200, "echo")
}

// TestOutside: endpoints that are not in the mesh are dialed without a tunnel.
func TestOutside(t *testing.T) {
	w, pod, _ := echoWorld(t, "127.0.16.1", waypoint.Protocol_HTTP1)
	pod.TunnelProtocol = workload.TunnelProtocol_NONE
	p := envoytest.Start(t, w)
	want(t, p.Peer(idClient).Client("10.96.0.1:80"), "http://echo/", 200, "echo")
}

func tcpWorld(t *testing.T, ip string, protocol waypoint.Protocol) *envoytest.World {
	t.Helper()
	w := &envoytest.World{}
	port := envoytest.TCPApp(t, "hello", ip)
	w.Add("tcp.default.svc.cluster.local", "10.96.0.1", []envoytest.Port{{Number: 90, Target: port, Protocol: protocol}},
		envoytest.Pod("tcp", ip, "echo"))
	return w
}

// TestTCP: the server speaks first, either side may be done before the other, and the node learns who the client is.
func TestTCP(t *testing.T) {
	w := tcpWorld(t, "127.0.17.1", waypoint.Protocol_TCP)
	// A waypoint that serves pods by address too must not make such servers wait.
	w.Gateway = &waypoint.Gateway{Namespace: "default", Name: "waypoint", Services: true, Workloads: true, TrustDomains: []string{"cluster.local"}}
	w.Bound = w.Workloads
	p := envoytest.Start(t, w)
	node := p.Node("127.0.17.1", idEcho)
	begin := time.Now()
	conn, err := dial(t, p.Peer(idClient), "10.96.0.1:90")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	if line, err := r.ReadString('\n'); line != "hello\n" || time.Since(begin) > 4*time.Second {
		t.Fatalf("greeting %q, %v, after %v", line, err, time.Since(begin))
	}
	if _, err := io.WriteString(conn, "payload"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(r); string(rest) != "payload" || err != nil {
		t.Errorf("echo %q, %v", rest, err)
	}
	if a := node.Arrivals(); len(a) != 1 || a[0].Header.Get("x-ambit-client-identity") != idClient {
		t.Errorf("arrivals: %v", a)
	}
}

// TestUnknownProtocol: where nobody said what is spoken, HTTP is seen and all else goes through as it is.
func TestUnknownProtocol(t *testing.T) {
	w, _, _ := echoWorld(t, "127.0.18.1", waypoint.Protocol_AUTO)
	port := envoytest.TCPApp(t, "hello", "127.0.18.1")
	w.Add("tcp.default.svc.cluster.local", "10.96.0.2", []envoytest.Port{{Number: 90, Target: port}}, envoytest.Pod("tcp", "127.0.18.1", "echo"))
	p := envoytest.Start(t, w)
	node := p.Node("127.0.18.1", idEcho)
	defer func() {
		for _, a := range node.Arrivals() {
			if a.Header.Get("x-ambit-client-identity") != idClient || a.Header.Get("x-ambit-client-address") != "127.0.0.1" {
				t.Errorf("a tunnel was opened for %v", a.Header)
			}
		}
	}()
	if e := want(t, p.Peer(idClient).Client("10.96.0.1:80"), "http://echo/", 200, "echo"); e.Header.Get("X-Request-Id") == "" {
		t.Error("HTTP/1.1 was not seen as HTTP")
	}
	if e := want(t, p.Peer(idClient).Client2("10.96.0.1:80"), "http://echo/", 200, "echo"); e.Header.Get("X-Request-Id") == "" {
		t.Error("HTTP/2 was not seen as HTTP")
	}
	conn, err := dial(t, p.Peer(idClient), "10.96.0.2:90")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "\x00\x01binary"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("hello\n\x00\x01binary"))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello\n\x00\x01binary" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestHTTP2: what is HTTP/2 on one side is HTTP/2 on the other, request by request to all endpoints.
func TestHTTP2(t *testing.T) {
	w := &envoytest.World{}
	one, two := envoytest.Pod("one", "127.0.19.1", "echo"), envoytest.Pod("two", "127.0.19.2", "echo")
	port := envoytest.App(t, "one", "127.0.19.1")
	w.Add("echo.default.svc.cluster.local", "10.96.0.1", []envoytest.Port{{Number: 80, Target: port, Protocol: waypoint.Protocol_GRPC}}, one, two)
	p := envoytest.Start(t, w)
	p.Node("127.0.19.1", idEcho)
	other := envoytest.App(t, "two", "127.0.19.2")
	p.Node("127.0.19.2", idEcho, func(string) string { return fmt.Sprintf("127.0.19.2:%d", other) })
	client, seen := p.Peer(idClient).Client2("10.96.0.1:80"), map[string]int{}
	for range 40 {
		_, echo, err := envoytest.Get(client, "http://echo/")
		if err != nil || echo.Proto != "HTTP/2.0" {
			t.Fatalf("%+v, %v", echo, err)
		}
		seen[echo.App]++
	}
	if len(seen) != 2 {
		t.Errorf("40 requests of one connection went to %v", seen)
	}
}

// TestWebSocket: an upgrade goes through and bytes flow both ways.
func TestWebSocket(t *testing.T) {
	w, _, _ := echoWorld(t, "127.0.20.1", waypoint.Protocol_HTTP1)
	p := envoytest.Start(t, w)
	p.Node("127.0.20.1", idEcho)
	conn, err := dial(t, p.Peer(idClient), "10.96.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /upgrade HTTP/1.1\r\nHost: echo\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	_, _ = io.WriteString(conn, "over and back\n")
	if line, err := r.ReadString('\n'); line != "over and back\n" {
		t.Errorf("%q, %v", line, err)
	}
}

// TestPodAddressed: pods bound to the waypoint are served at their own address, HTTP or not, and held to their identity.
func TestPodAddressed(t *testing.T) {
	w := &envoytest.World{Gateway: &waypoint.Gateway{Namespace: "default", Name: "waypoint", Workloads: true, TrustDomains: []string{"cluster.local"}}}
	var pods []*workload.Workload
	ports := map[string]uint32{}
	for i, account := range []string{"one", "two", "three"} {
		ip := fmt.Sprintf("127.0.21.%d", i+1)
		pods = append(pods, envoytest.Pod(account, ip, account))
		ports[account] = envoytest.App(t, account, ip)
	}
	pods[2].TunnelProtocol = workload.TunnelProtocol_NONE
	stream := envoytest.TCPApp(t, "hello", "127.0.21.1")
	w.Bound = pods
	p := envoytest.Start(t, w)
	p.Node("127.0.21.1", "spiffe://cluster.local/ns/default/sa/one")
	p.Node("127.0.21.2", "spiffe://cluster.local/ns/default/sa/two")
	peer := p.Peer(idClient)
	var all sync.WaitGroup
	for i, account := range []string{"one", "two", "three"} {
		client := peer.Client(fmt.Sprintf("127.0.21.%d:%d", i+1, ports[account]))
		all.Go(func() {
			for range 20 {
				want(t, client, "http://pod/", 200, account)
			}
		})
	}
	all.Wait()
	conn, err := dial(t, peer, fmt.Sprintf("127.0.21.1:%d", stream))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "\x00")
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "hello\n" {
		t.Errorf("%q, %v", line, err)
	}
	// The same address with somebody else behind it.
	w.Bound[1].ServiceAccount = "two-no-more"
	p.Apply(w)
	want(t, p.Peer(idClient).Client(fmt.Sprintf("127.0.21.2:%d", ports["two"])), "http://pod/", 503, "")
}

// TestClientsApart: requests of different clients never share a tunnel to an endpoint.
func TestClientsApart(t *testing.T) {
	w, _, _ := echoWorld(t, "127.0.22.1", waypoint.Protocol_HTTP1)
	p := envoytest.Start(t, w)
	node := p.Node("127.0.22.1", idEcho)
	node.Tap(func(a envoytest.Arrival, b []byte) {
		for id, other := range map[string]string{idClient: idOther, idOther: idClient} {
			if a.Header.Get("x-ambit-client-identity") == id && strings.Contains(string(b), "?from="+other) {
				t.Errorf("a request of %s in a tunnel opened for %s", other, id)
			}
		}
	})
	peers := map[string]*envoytest.Peer{idClient: p.Peer(idClient), idOther: p.Peer(idOther)}
	var all sync.WaitGroup
	for id, peer := range peers {
		client := peer.Client("10.96.0.1:80")
		for range 4 {
			all.Go(func() {
				for range 25 {
					want(t, client, "http://echo/?from="+id, 200, "echo", "x-ambit-client-identity", "spiffe://forged", "baggage", "forged=1")
				}
			})
		}
	}
	all.Wait()
	for _, a := range node.Arrivals() {
		if id := a.Header.Get("x-ambit-client-identity"); id != idClient && id != idOther || len(a.Header.Values("x-ambit-client-identity")) != 1 {
			t.Errorf("a tunnel was opened for %q", a.Header.Values("x-ambit-client-identity"))
		}
		if strings.Contains(a.Header.Get("baggage"), "forged") {
			t.Errorf("baggage %q", a.Header.Get("baggage"))
		}
	}
}

// TestInlineChains: the same without FCDS.
func TestInlineChains(t *testing.T) {
	w, _, _ := echoWorld(t, "127.0.23.1", waypoint.Protocol_HTTP1)
	p := envoytest.Start(t, w, func(o *envoy.Options) { o.InlineChains = true })
	p.Node("127.0.23.1", idEcho)
	want(t, p.Peer(idClient).Client("10.96.0.1:80"), "http://echo/", 200, "echo")
}
