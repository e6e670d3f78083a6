package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/waypoint/agent/process"
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
	w.Add("second.default.svc.cluster.local", "10.96.0.2", []envoytest.Port{{Number: 80, Target: port, Protocol: waypoint.Protocol_HTTP1}},
		envoytest.Pod("second", "127.0.21.2", "second"))
	r.plane.push(w)
	r.expect(r.Peer(idClient).Client("10.96.0.2:80"), "http://second/", 200, "second")

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
	w.Services[0].Ports[0].Http = []*waypoint.HTTPRule{{Timeout: durationpb.New(0)}}
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
	r.Await("Envoy to have its configuration", func() error {
		text, err := r.get("http://" + r.cfg.ToolsAddress + "/clusters")
		if err == nil && !strings.Contains(text, hostEcho) {
			err = errors.New("no cluster yet")
		}
		return err
	})
	resp, err := http.Get("http://" + r.cfg.ToolsAddress + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), "certificate") {
		t.Errorf("/readyz: %s %s", resp.Status, body)
	}
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
