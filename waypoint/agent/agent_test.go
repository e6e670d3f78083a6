package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/waypoint/agent/ads"
	"github.com/ambit-mesh/ambit/waypoint/agent/process"
	"github.com/ambit-mesh/ambit/waypoint/envoy"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

const (
	idClient = "spiffe://cluster.local/ns/default/sa/client"
	idEcho   = "spiffe://cluster.local/ns/default/sa/echo"
	hostEcho = "echo.default.svc.cluster.local"
)

// echoWorld has one service with one pod at an address of loopback.
func echoWorld(t *testing.T, ip string) *envoytest.World {
	w := &envoytest.World{}
	port := envoytest.App(t, "echo", ip)
	w.Add(hostEcho, "10.96.0.1", []envoytest.Port{{Number: 80, Target: port, Protocol: waypoint.Protocol_HTTP1}},
		envoytest.Pod("echo", ip, "echo"))
	return w
}

// TestRequest is the whole way from facts to an answer, and what tools see of it.
func TestRequest(t *testing.T) {
	w := echoWorld(t, "127.0.21.1")
	r := launch(t, w)
	r.Node("127.0.21.1", idEcho)
	c := r.Peer(idClient).Client("10.96.0.1:80")
	r.expect(c, "http://echo/", 200, "echo")

	// A route takes effect.
	w.Services[0].Ports[0].Http = []*waypoint.HTTPRule{{
		Action: &waypoint.HTTPRule_Direct{Direct: &waypoint.DirectResponse{Status: 418}},
	}}
	r.plane.push(w)
	r.expect(c, "http://echo/", 418, "")
	w.Services[0].Ports[0].Http = nil
	r.plane.push(w)
	r.expect(c, "http://echo/", 200, "echo")

	// A second service comes.
	port := envoytest.App(t, "second", "127.0.21.2")
	r.Node("127.0.21.2", "spiffe://cluster.local/ns/default/sa/second")
	plain := envoytest.TCPApp(t, "plain", "127.0.21.2")
	w.Add("second.default.svc.cluster.local", "10.96.0.2", []envoytest.Port{
		{Number: 80, Target: port, Protocol: waypoint.Protocol_HTTP1}, {Number: 90, Target: plain, Protocol: waypoint.Protocol_TCP}},
		envoytest.Pod("second", "127.0.21.2", "second"))
	r.plane.push(w)
	r.expect(r.Peer(idClient).Client("10.96.0.2:80"), "http://second/", 200, "second")

	// What a drain goes by is there under these names, and knows HTTP from the rest.
	admin := newEnvoyAdmin(filepath.Join(r.cfg.RunDir, "admin.sock"), r.cfg.AdminPort, r.cfg.ReadyPort, r.cfg.StatsPort)
	defer admin.client.CloseIdleConnections()
	idle := func(want bool) {
		t.Helper()
		r.Await(fmt.Sprintf("idle %v", want), func() error {
			open, idle, err := admin.connections(t.Context())
			if err == nil && (open == 0 || (open == idle) != want) {
				err = fmt.Errorf("open %d, idle %d: %s", open, idle, r.tool("/stats?filter=active"))
			}
			return err
		})
	}
	idle(true)
	stream, err := r.Peer(idClient).Dial(t.Context(), "10.96.0.2:90")
	if err != nil {
		t.Fatal(err)
	}
	idle(false)
	stream.Close()
	idle(true)

	for path, want := range map[string]string{
		"/facts": `"hostname":"` + hostEcho + `"`, "/problems": "[]", "/readyz": "ready", "/config_dump": "connect_terminate", "/metrics": "ambit_waypoint_services 2",
	} {
		text := strings.ReplaceAll(r.tool(path), `": "`, `":"`)
		if !strings.Contains(text, want) {
			t.Errorf("%s lacks %q:\n%.2000s", path, want, text)
		}
	}
}

// TestEnvoyKilled: Envoy comes back with everything.
func TestEnvoyKilled(t *testing.T) {
	w := echoWorld(t, "127.0.22.1")
	r := launch(t, w)
	r.Node("127.0.22.1", idEcho)
	r.expect(r.Peer(idClient).Client("10.96.0.1:80"), "http://echo/", 200, "echo")
	first := r.pid()
	start := time.Now()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.Await("a successor", func() error {
		if r.pid() == first {
			return errors.New("the same")
		}
		return nil
	})
	r.ready()
	r.expect(r.Peer(idClient).Client("10.96.0.1:80"), "http://echo/", 200, "echo")
	t.Logf("served again after %v", time.Since(start))
	if text := r.tool("/metrics"); !strings.Contains(text, "ambit_waypoint_envoy_restarts_total 1") {
		t.Error("the restart is not counted")
	}
	if !strings.Contains(r.log.String(), "killed by signal killed") {
		t.Error("the log does not say why Envoy ended")
	}
}

// TestControlPlaneAway: traffic goes on without it, and what changed meanwhile arrives after.
func TestControlPlaneAway(t *testing.T) {
	w := echoWorld(t, "127.0.23.1")
	r := launch(t, w)
	r.Node("127.0.23.1", idEcho)
	c := r.Peer(idClient).Client("10.96.0.1:80")
	r.expect(c, "http://echo/", 200, "echo")
	r.plane.stop()
	for range 20 {
		if status, _, err := envoytest.Get(c, "http://echo/"); status != 200 || err != nil {
			t.Fatalf("without a control plane: %d, %v", status, err)
		}
	}
	w.Services[0].Ports[0].Http = []*waypoint.HTTPRule{{
		Action: &waypoint.HTTPRule_Direct{Direct: &waypoint.DirectResponse{Status: 418}},
	}}
	r.plane.push(w)
	r.plane.start(r.plane.address)
	r.expect(c, "http://echo/", 418, "")
}

// TestCertificateRotation: new certificates are used by new connections, and open ones stay.
func TestCertificateRotation(t *testing.T) {
	w := echoWorld(t, "127.0.24.1")
	r := prepare(t)
	r.ca.SetTTL(4 * time.Second) // renewed every two
	r.plane.push(w)
	r.run()
	r.ready()
	r.Node("127.0.24.1", idEcho)
	peer := r.Peer(idClient)
	conn, err := peer.Dial(t.Context(), "10.96.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &http.Client{Transport: &http.Transport{Dial: func(string, string) (net.Conn, error) { return conn, nil }}}
	serials := func() string { return r.tool("/certs") }
	before := serials()
	for end := time.Now().Add(20 * time.Second); ; {
		if status, _, err := envoytest.Get(c, "http://echo/"); status != 200 || err != nil {
			t.Fatalf("the open connection: %d, %v", status, err)
		}
		if serials() != before {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no new certificate in Envoy")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if status, _, err := envoytest.Get(c, "http://echo/"); status != 200 || err != nil {
		t.Fatalf("the open connection after a rotation: %d, %v", status, err)
	}
}

// TestDrain: from the request to stop until the end, what is open is served and nothing fails.
func TestDrain(t *testing.T) {
	w := echoWorld(t, "127.0.25.1")
	r := launch(t, w, func(c *Config) { c.DrainWait = time.Second })
	r.Node("127.0.25.1", idEcho)
	r.expect(r.Peer(idClient).Client("10.96.0.1:80"), "http://echo/", 200, "echo")

	var wg sync.WaitGroup
	var failed, served atomic.Int32
	wg.Go(func() { // a request that is longer than the wait
		status, _, err := envoytest.Get(r.Peer(idClient).Client("10.96.0.1:80"), "http://echo/?delay=2500ms")
		if status != 200 || err != nil {
			t.Errorf("the long request: %d, %v", status, err)
		}
	})
	stopping := make(chan struct{})
	wg.Go(func() { // clients that have not heard yet
		c := r.Peer(idClient).Client("10.96.0.1:80")
		<-stopping
		for end := time.Now().Add(700 * time.Millisecond); time.Now().Before(end); {
			if status, _, err := envoytest.Get(c, "http://echo/"); status != 200 || err != nil {
				failed.Add(1)
			} else {
				served.Add(1)
			}
		}
	})
	r.Await("the long request to arrive", func() error {
		if text := r.tool("/stats?filter=http.inbound.*downstream_rq_active"); !strings.Contains(text, ": 1") && !strings.Contains(text, ": 2") {
			return errors.New(text)
		}
		return nil
	})
	start := time.Now()
	r.stop()
	close(stopping)
	r.Await("unready", func() error {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/healthz/ready", r.cfg.ReadyPort))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable {
			return errors.New(resp.Status)
		}
		return nil
	})
	wg.Wait()
	if failed.Load() > 0 || served.Load() == 0 {
		t.Errorf("while others still learn of it: %d requests served, %d failed", served.Load(), failed.Load())
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
	t.Logf("drained in %v", time.Since(start))
}

// TestRefused: a resource Envoy does not take is refused alone, the last good version stays, and people can see why.
func TestRefused(t *testing.T) {
	w := echoWorld(t, "127.0.27.1")
	var breaking atomic.Bool
	r := prepare(t)
	r.alter = func(updates []ads.Update) {
		if breaking.Load() {
			breakResources(t, updates)
		}
	}
	r.plane.push(w)
	r.run()
	r.ready()
	r.Node("127.0.27.1", idEcho)
	c := r.Peer(idClient).Client("10.96.0.1:80")
	r.expect(c, "http://echo/", 200, "echo")

	w.Destinations[0].Origin = &waypoint.Origin{Kind: "DestinationRule", Namespace: "default", Name: "broken"}
	w.Destinations[0].Policy = &waypoint.TrafficPolicy{Pool: &waypoint.ConnectionPool{MaxRequests: 7}}
	w.Services[0].Ports[0].Http = []*waypoint.HTTPRule{{
		Origin: &waypoint.Origin{Kind: "VirtualService", Namespace: "default", Name: "broken"},
		Action: &waypoint.HTTPRule_Direct{Direct: &waypoint.DirectResponse{Status: 418}},
	}}
	w.Services[0].Policies = &waypoint.Policies{Telemetry: &waypoint.Telemetry{Metrics: []*waypoint.MetricOverride{
		{Tags: map[string]string{"stray": "1 +"}}, {Tags: map[string]string{"stray": "1 +"}},
	}}}
	breaking.Store(true)
	port := envoytest.App(t, "second", "127.0.27.2")
	r.Node("127.0.27.2", "spiffe://cluster.local/ns/default/sa/second")
	w.Add("second.default.svc.cluster.local", "10.96.0.2", []envoytest.Port{{Number: 80, Target: port, Protocol: waypoint.Protocol_HTTP1}},
		envoytest.Pod("second", "127.0.27.2", "second"))
	r.plane.push(w)
	r.expect(r.Peer(idClient).Client("10.96.0.2:80"), "http://second/", 200, "second")
	r.Await("the problem to be listed", func() error {
		text := r.tool("/problems")
		for _, want := range []string{`"source": "envoy"`, "DestinationRule default/broken", "VirtualService default/broken", "Expected positive duration", `"kept": true`, `"Telemetry of service/`} {
			if !strings.Contains(text, want) {
				return fmt.Errorf("no %s in %s", want, text)
			}
		}
		if n := strings.Count(text, "tag stray"); n != 1 {
			return fmt.Errorf("the tag is told %d times in %s", n, text)
		}
		return nil
	})
	r.expect(c, "http://echo/", 200, "echo")
	if text := r.tool("/metrics"); !strings.Contains(text, `ambit_waypoint_envoy_refusals_total{type="Cluster"}`) {
		t.Error("the refusal is not counted")
	}
	breaking.Store(false)
	w.Destinations[0].Policy = nil
	w.Services[0].Ports[0].Http, w.Services[0].Policies = nil, nil
	r.plane.push(w)
	r.Await("the problem to go", func() error {
		if text := r.tool("/problems"); strings.TrimSpace(text) != "[]" {
			return errors.New(text)
		}
		return nil
	})
	r.expect(c, "http://echo/", 200, "echo")
}

// breakResources makes the cluster and the routes of the echo service something Envoy cannot take.
func breakResources(t *testing.T, updates []ads.Update) {
	change := func(r *ads.Resource, m proto.Message, change func()) {
		if err := proto.Unmarshal(r.Body, m); err != nil {
			t.Error(err)
		}
		change()
		body, err := proto.Marshal(m)
		if err != nil {
			t.Error(err)
		}
		r.Body = body
	}
	for i := range updates {
		for j := range updates[i].Put {
			r := &updates[i].Put[j]
			if !strings.HasSuffix(r.Name, hostEcho) {
				continue
			}
			switch updates[i].Type {
			case ads.TypeCluster:
				var c clusterv3.Cluster
				change(r, &c, func() { c.ConnectTimeout = durationpb.New(-time.Second) })
			case ads.TypeRoute:
				var rc routev3.RouteConfiguration
				change(r, &rc, func() { rc.VirtualHosts[0].Domains = nil })
			}
		}
	}
}

// TestSynced says whether Envoy has what was told.
func TestSynced(t *testing.T) {
	w := echoWorld(t, "127.0.28.1")
	r := launch(t, w)
	r.Node("127.0.28.1", idEcho)
	c := r.Peer(idClient).Client("10.96.0.1:80")
	r.expect(c, "http://echo/", 200, "echo")
	for i := range 20 {
		status := uint32(400 + i)
		w.Services[0].Ports[0].Http = []*waypoint.HTTPRule{{
			Action: &waypoint.HTTPRule_Direct{Direct: &waypoint.DirectResponse{Status: status}},
		}}
		w.Gateway = &waypoint.Gateway{Namespace: "default", Name: "waypoint", Services: true, TrustDomains: []string{"cluster.local", fmt.Sprint("td", i)}}
		r.plane.push(w)
		r.Await("the facts to arrive", func() error {
			if !strings.Contains(r.tool("/facts"), fmt.Sprintf(`"td%d"`, i)) || !strings.Contains(r.tool("/facts"), fmt.Sprint(`"status": `, status)) {
				return errors.New("not yet")
			}
			return nil
		})
		r.Await("synced", func() error {
			_, err := r.get("http://" + r.cfg.ToolsAddress + "/synced")
			return err
		})
		if got, _, err := envoytest.Get(c, "http://echo/"); got != int(status) || err != nil {
			t.Fatalf("synced, but the answer is %d, %v; want %d", got, err, status)
		}
	}
	answer := r.tool("/explain?request=" + url.QueryEscape(`{"service":"default/`+hostEcho+`"}`))
	if !strings.Contains(answer, "{") {
		t.Error(answer)
	}
}

// TestQuit ends an agent over HTTP, as jobs do.
func TestQuit(t *testing.T) {
	r := launch(t, &envoytest.World{})
	resp, err := http.Post("http://"+r.cfg.MetricsAddress+"/quitquitquit", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// TestUnready: without a certificate no probe succeeds and no peer is accepted.
func TestUnready(t *testing.T) {
	r := prepare(t)
	r.ca.SetHook(nil)
	r.plane.push(echoWorld(t, "127.0.26.1"))
	hold := make(chan struct{})
	r.ca.SetHook(waitFor(hold))
	r.run()
	r.Await("nothing but the certificate to be missing", func() error {
		resp, err := http.Get("http://" + r.cfg.ToolsAddress + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if text := string(body); err == nil && (resp.StatusCode != http.StatusServiceUnavailable || text != "not ready: certificate\n") {
			err = errors.New(text)
		}
		return err
	})
	for _, port := range []uint32{r.cfg.ReadyPort, r.cfg.HBONEPort} {
		if port == r.cfg.ReadyPort {
			if _, err := r.get(fmt.Sprintf("http://127.0.0.1:%d/healthz/ready", port)); err == nil {
				t.Error("ready without a certificate")
			}
			continue
		}
		if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			conn.Close()
			t.Error("peers are accepted without a certificate")
		}
	}
	close(hold)
	r.ready()
}

// TestCannotStart: an Envoy that cannot start ends the agent with Envoy's reason.
func TestCannotStart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := prepare(t, func(c *Config) { c.StatsPort = uint32(l.Addr().(*net.TCPAddr).Port) })
	r.plane.push(&envoytest.World{})
	r.run()
	err = r.end()
	var start *process.StartError
	if !errors.As(err, &start) || !strings.Contains(err.Error(), "Address already in use") {
		t.Errorf("Run: %v, want Envoy's reason", err)
	}
}

// TestOnlyEnvoy: nobody else gets keys from the agent, whatever way he found to its socket.
func TestOnlyEnvoy(t *testing.T) {
	r := prepare(t)
	r.plane.push(&envoytest.World{})
	r.run()
	r.ready()
	conn, err := grpc.NewClient("unix:"+filepath.Join(r.cfg.RunDir, "agent.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, guess := range []string{"", "guess"} {
		ctx := t.Context()
		if guess != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, envoy.HeaderAgentToken, guess)
		}
		stream, err := secretv3.NewSecretDiscoveryServiceClient(conn).DeltaSecrets(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: ads.TypeSecret, ResourceNamesSubscribe: []string{envoy.SecretIdentity}})
		if _, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("with %q: %v", guess, err)
		}
	}
}
