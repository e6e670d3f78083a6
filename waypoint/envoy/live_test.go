package envoy_test

import (
	"net/http"
	"testing"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/waypoint/envoy"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

const (
	idClient = "spiffe://cluster.local/ns/default/sa/client"
	idOther  = "spiffe://cluster.local/ns/other/sa/other"
	idEcho   = "spiffe://cluster.local/ns/default/sa/echo"
)

// want asks and compares status and answering application.
func want(t *testing.T, c *http.Client, url string, status int, app string, header ...string) envoytest.Echo {
	t.Helper()
	got, echo, err := envoytest.Get(c, url, header...)
	if err != nil || got != status || echo.App != app {
		t.Errorf("GET %s: %d from %q (%s), %v; want %d from %q", url, got, echo.App, echo.Body, err, status, app)
	}
	return echo
}

// TestHTTP is the whole way: HBONE in, a service by its virtual address, HBONE out.
func TestHTTP(t *testing.T) {
	w := &envoytest.World{}
	p := envoytest.Start(t, w)
	port := envoytest.App(t, "echo", "127.0.11.1")
	node := p.Node("127.0.11.1", idEcho)
	w.Add("echo.default.svc.cluster.local", "10.96.0.1",
		[]envoytest.Port{{Number: 80, Target: port, Protocol: waypoint.Protocol_HTTP1}}, envoytest.Pod("echo", "127.0.11.1", "echo"))
	p.Apply(w)

	client := p.Peer(idClient).From("127.0.0.7").Client("10.96.0.1:80")
	want(t, client, "http://echo/path", 200, "echo")
	arrivals := node.Arrivals()
	if len(arrivals) != 1 {
		t.Fatalf("arrivals at the node: %v", arrivals)
	}
	a := arrivals[0]
	if a.Peer != envoytest.Identity {
		t.Errorf("the node's peer is %s, want the waypoint", a.Peer)
	}
	if got := a.Header.Get("x-ambit-client-identity"); got != idClient {
		t.Errorf("original client %q, want %q", got, idClient)
	}
	if got := a.Header.Get("x-ambit-client-address"); got != "127.0.0.7" {
		t.Errorf("original address %q, want 127.0.0.7", got)
	}
	t.Log(a)
}

func limitSeries(o *envoy.Options) { o.MaxMetricSeries = 10 }
