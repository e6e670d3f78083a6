package envoy_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

// collector keeps what is posted to it.
type collector struct {
	mu   sync.Mutex
	seen map[string]string
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[r.URL.Path] += string(body)
	if r.ProtoMajor == 2 {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer:Grpc-Status", "0")
	}
}

func (c *collector) has(path string, parts ...string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range parts {
		if !strings.Contains(c.seen[path], p) {
			return fmt.Errorf("%s: no %q in %q", path, p, c.seen[path])
		}
	}
	return nil
}

// addCollector puts one into the world, outside the mesh.
func addCollector(t *testing.T, w *envoytest.World) (*collector, *waypoint.Backend) {
	t.Helper()
	c := &collector{seen: map[string]string{}}
	s := httptest.NewUnstartedServer(c)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	var port uint32
	if _, err := fmt.Sscanf(s.Listener.Addr().String(), "127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	pod := envoytest.Pod("collector", "127.0.0.1", "collector")
	pod.TunnelProtocol = workload.TunnelProtocol_NONE
	svc := w.Add("collector.default.svc.cluster.local", "", []envoytest.Port{{Number: 4317, Target: port, Protocol: waypoint.Protocol_GRPC}, {Number: 9411, Target: port, Protocol: waypoint.Protocol_HTTP1}}, pod)
	w.Services = w.Services[:len(w.Services)-1]
	w.Destinations[len(w.Destinations)-1].ServicePorts = svc.Ports
	return c, &waypoint.Backend{Namespace: "default", Hostname: svc.Hostname, Port: 9411}
}

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// TestTraces: a client's trace goes on at the service, and spans reach the collector, by OTLP over HTTP and gRPC and to
// Zipkin.
func TestTraces(t *testing.T) {
	w, _, _ := echoWorld(t, "127.0.61.1", waypoint.Protocol_HTTP1)
	c, http1 := addCollector(t, w)
	grpc := &waypoint.Backend{Namespace: "default", Hostname: http1.Hostname, Port: 4317}
	p := envoytest.Start(t, w)
	p.Node("127.0.61.1", idEcho)
	tag := []*waypoint.Tracing_Tag{{Name: "team", From: &waypoint.Tracing_Tag_Literal{Literal: "blue"}}}
	for name, try := range map[string]struct {
		tracing *waypoint.Tracing
		check   func() error
	}{
		"OTLP over HTTP": {&waypoint.Tracing{Otlp: http1, HttpPath: "/v1/traces", Tags: tag}, func() error {
			return c.has("/v1/traces", "\x0a\xf7\x65\x19\x16\xcd\x43\xdd\x84\x48\xeb\x21\x1c\x80\x31\x9c", "team", "blue", "waypoint.default", "echo.default.svc.cluster.local:80/*")
		}},
		"OTLP over gRPC": {&waypoint.Tracing{Otlp: grpc, Tags: tag}, func() error {
			return c.has("/opentelemetry.proto.collector.trace.v1.TraceService/Export", "team", "blue")
		}},
		"Zipkin": {&waypoint.Tracing{Zipkin: http1, Tags: tag, Sampling: wrapperspb.Double(100)}, func() error {
			return c.has("/api/v2/spans", `"team":"blue"`)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w.Services[0].Policies = &waypoint.Policies{Telemetry: &waypoint.Telemetry{Tracing: try.tracing}}
			p.Apply(w)
			client := p.Peer(idClient).Client("10.96.0.1:80")
			p.Await("spans", func() error {
				echo := want(t, client, "http://echo/", 200, "echo", "traceparent", traceparent)
				if name != "Zipkin" {
					got := echo.Header.Get("traceparent")
					if !strings.HasPrefix(got, traceparent[:36]) || got == traceparent {
						return fmt.Errorf("traceparent at the service: %q", got)
					}
				}
				return try.check()
			})
		})
	}
	// Without tracing a client's trace passes by untouched.
	w.Services[0].Policies = nil
	p.Apply(w)
	p.Await("no spans", func() error {
		echo := want(t, p.Peer(idClient).Client("10.96.0.1:80"), "http://echo/", 200, "echo", "traceparent", traceparent)
		if got := echo.Header.Get("traceparent"); got != traceparent {
			return fmt.Errorf("traceparent %q", got)
		}
		return nil
	})
}

// TestLogRecords: access logs by OTLP, and a collector nobody knows is a problem of that log.
func TestLogRecords(t *testing.T) {
	w, _, _ := echoWorld(t, "127.0.62.1", waypoint.Protocol_HTTP1)
	c, backend := addCollector(t, w)
	backend.Port = 4317
	w.Services[0].Policies = &waypoint.Policies{Telemetry: &waypoint.Telemetry{AccessLogs: []*waypoint.AccessLog{
		{Name: "otel", Otlp: backend, Attributes: map[string]string{"client": "%FILTER_STATE(io.istio.peer_principal:PLAIN)%"}},
		{Name: "nowhere", Otlp: &waypoint.Backend{Namespace: "default", Hostname: "nowhere"}},
	}}}
	p := envoytest.Start(t, &envoytest.World{})
	if problems := p.TryApply(w); len(problems) != 1 {
		t.Errorf("problems: %v", problems)
	}
	p.Node("127.0.62.1", idEcho)
	want(t, p.Peer(idClient).Client("10.96.0.1:80"), "http://echo/logged", 200, "echo")
	p.Await("records", func() error {
		const path = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
		return errors.Join(c.has(path, "GET /logged HTTP/1.1", "client", idClient))
	})
}
