package envoy_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

const baggage = "k8s.cluster.name=c1,k8s.namespace.name=default,k8s.deployment.name=client,service.name=client,service.version=v7"

// series finds a metric with all of the labels, written as key="value".
func series(metrics, name string, labels ...string) error {
	for line := range strings.Lines(metrics) {
		if !strings.HasPrefix(line, name+"{") {
			continue
		}
		missing := ""
		for _, l := range labels {
			if !strings.Contains(line, l) {
				missing = l
			}
		}
		if missing == "" {
			return nil
		}
	}
	return fmt.Errorf("no %s with %v", name, labels)
}

func linesOf(metrics, part string) string {
	var out []string
	for line := range strings.Lines(metrics) {
		if strings.Contains(line, part) && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// TestMetrics: Istio's metrics with Istio's labels, for HTTP and TCP.
func TestMetrics(t *testing.T) {
	w, _, _ := echoWorld(t, "127.0.31.1", waypoint.Protocol_HTTP1)
	port := envoytest.TCPApp(t, "hello", "127.0.31.1")
	w.Add("tcp.default.svc.cluster.local", "10.96.0.2", []envoytest.Port{{Number: 90, Target: port, Protocol: waypoint.Protocol_TCP}},
		envoytest.Pod("tcp", "127.0.31.1", "echo"))
	w.Services[0].Policies = &waypoint.Policies{Telemetry: &waypoint.Telemetry{Metrics: []*waypoint.MetricOverride{
		{Metric: "REQUEST_COUNT", Tags: map[string]string{
			"method": "%REQ(:METHOD)%", "source_version": "REMOVE", "request_host": "request.host", "absent": "request.headers['absent']",
			"destination_port": "string(destination.port)", "kind": "request.url_path.startsWith('/x') ? 'x' : 'other'", "stray": "request.host)",
		}},
		{Metric: "REQUEST_SIZE", Disabled: wrapperspb.Bool(true)},
	}}}
	p := envoytest.Start(t, &envoytest.World{})
	if problems := p.TryApply(w); len(problems) != 1 || !strings.Contains(problems[0].Text, "tag stray: ") {
		t.Errorf("problems: %v", problems)
	}
	p.Node("127.0.31.1", idEcho)
	peer := p.Peer(idClient)
	peer.Header.Set("baggage", baggage)
	want(t, peer.Client("10.96.0.1:80"), "http://echo/?status=418", 418, "echo")
	conn, err := dial(t, peer, "10.96.0.2:90")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	common := []string{
		`reporter="waypoint"`, `source_workload="client"`, `source_workload_namespace="default"`, `source_principal="` + idClient + `"`,
		`source_app="client"`, `source_canonical_service="client"`, `source_cluster="c1"`, `destination_workload_namespace="default"`,
		`destination_principal="` + idEcho + `"`, `destination_service_namespace="default"`, `destination_canonical_revision="v1"`,
		`destination_cluster="Kubernetes"`, `response_flags="-"`, `connection_security_policy="mutual_tls"`,
	}
	p.Await("metrics", func() error {
		m := p.Metrics()
		return errors.Join(
			series(m, "envoy_istio_requests_total", append(common, `request_protocol="http"`, `response_code="418"`, `method="GET"`,
				`request_host="echo"`, `destination_port="80"`, `kind="other"`,
				`destination_service="echo.default.svc.cluster.local"`, `destination_workload="echo"`)...),
			series(m, "envoy_istio_request_duration_milliseconds_bucket", append(common, `source_version="v7"`, `le="0.5"`)...),
			series(m, "envoy_istio_response_bytes_sum", common...),
			series(m, "envoy_istio_tcp_connections_opened_total", append(common, `request_protocol="tcp"`)...),
			series(m, "envoy_istio_tcp_connections_closed_total", append(common, `destination_workload="tcp"`)...),
			series(m, "envoy_istio_tcp_sent_bytes_total", common...),
			series(m, "envoy_istio_tcp_received_bytes_total", common...),
		)
	})
	m := p.Metrics()
	if strings.Contains(m, "istio_request_bytes") {
		t.Error("a metric that was switched off is there")
	}
	if l := linesOf(m, "istio_requests_total"); strings.Contains(l, "source_version") {
		t.Errorf("a tag that was removed is there: %s", l)
	}
}

// TestOwnAnswers: what the proxy answers itself is counted for the service that was asked.
func TestOwnAnswers(t *testing.T) {
	w, _, _ := echoWorld(t, "127.0.31.2", waypoint.Protocol_HTTP1)
	port := w.Services[0].Ports[0]
	w.Services[0].Name, port.Routed = "echo", true
	path := func(s string) []*waypoint.HTTPMatch {
		return []*waypoint.HTTPMatch{{Path: &waypoint.PathMatch{Kind: &waypoint.PathMatch_Exact{Exact: s}}}}
	}
	port.Http = []*waypoint.HTTPRule{
		{Matches: path("/moved"), Action: &waypoint.HTTPRule_Redirect{Redirect: &waypoint.Redirect{Path: "/", Status: 301}}},
		{Matches: path("/teapot"), Action: &waypoint.HTTPRule_Direct{Direct: &waypoint.DirectResponse{Status: 418}}},
	}
	w.Services[0].Policies = authorization(policy(waypoint.Authorization_DENY, "p", to(&waypoint.Operation{Paths: exact("/secret")})))
	p := envoytest.Start(t, w)
	p.Node("127.0.31.2", idEcho)
	client := p.Peer(idClient).Client("10.96.0.1:80")
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for path, status := range map[string]int{"/moved": 301, "/teapot": 418, "/secret": 403, "/else": 404} {
		wantStatus(t, client, status, "GET", path)
	}
	p.Await("metrics", func() (err error) {
		for _, code := range []string{"301", "418", "403", "404"} {
			err = errors.Join(err, series(p.Metrics(), "envoy_istio_requests_total", `response_code="`+code+`"`,
				`destination_service="echo.default.svc.cluster.local"`, `destination_service_name="echo"`, `destination_service_namespace="default"`))
		}
		if err != nil {
			err = fmt.Errorf("%w in\n%s", err, linesOf(p.Metrics(), "istio_requests_total"))
		}
		return err
	})
}

// TestGRPCMetrics: gRPC is told from other HTTP by its content type, and has its own status.
func TestGRPCMetrics(t *testing.T) {
	w, _, _ := echoWorld(t, "127.0.32.1", waypoint.Protocol_GRPC)
	p := envoytest.Start(t, w)
	p.Node("127.0.32.1", idEcho)
	client := p.Peer(idClient).Client2("10.96.0.1:80")
	resp, err := client.Post("http://echo/", "application/grpc", strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	_, _, _ = envoytest.Get(client, "http://echo/")
	p.Await("metrics", func() error {
		m := p.Metrics()
		return errors.Join(
			series(m, "envoy_istio_requests_total", `request_protocol="grpc"`),
			series(m, "envoy_istio_requests_total", `request_protocol="http"`),
		)
	})
}

// TestSeriesLimit: labels that peers choose cannot fill the memory.
func TestSeriesLimit(t *testing.T) {
	w, _, _ := echoWorld(t, "127.0.33.1", waypoint.Protocol_HTTP1)
	p := envoytest.Start(t, w, limitSeries)
	p.Node("127.0.33.1", idEcho)
	client := p.Peer(idClient).Client("10.96.0.1:80")
	for status := 200; status < 240; status++ {
		if status == 204 {
			continue
		}
		_, _, _ = envoytest.Get(client, fmt.Sprintf("http://echo/?status=%d", status))
	}
	n := 0
	for line := range strings.Lines(p.Metrics()) {
		if strings.HasPrefix(line, "envoy_istio_requests_total{") {
			n++
		}
	}
	if n == 0 || n > 10 {
		t.Errorf("%d series of 39 with a limit of 10", n)
	}
}

// TestAccessLogs: text as Istio's, JSON, and a filter.
func TestAccessLogs(t *testing.T) {
	dir := t.TempDir()
	text, object, peer := filepath.Join(dir, "text"), filepath.Join(dir, "json"), filepath.Join(dir, "peer")
	w, _, _ := echoWorld(t, "127.0.34.1", waypoint.Protocol_HTTP1)
	w.Services[0].Policies = &waypoint.Policies{Telemetry: &waypoint.Telemetry{AccessLogs: []*waypoint.AccessLog{
		{Name: "text", File: text},
		{Name: "json", File: object, JsonDefault: true, Filter: `response.code >= 500 && request.url_path.startsWith("/bad")`},
		{Name: "peer", File: peer, Text: "%REQ(:PATH)% of %DOWNSTREAM_PEER_URI_SAN%"},
		{Name: "broken", Text: "%NO_SUCH_THING%"},
		{Name: "filtered", Filter: "response.code >="},
	}}}
	p := envoytest.Start(t, &envoytest.World{})
	problems := p.TryApply(w)
	if len(problems) != 2 {
		t.Errorf("problems: %v, want one for each log that cannot be written", problems)
	}
	p.Node("127.0.34.1", idEcho)
	client := p.Peer(idClient).Client("10.96.0.1:80")
	want(t, client, "http://echo/good", 200, "echo")
	want(t, client, "http://echo/bad?status=500", 500, "echo")
	line := regexp.MustCompile(`(?m)^\[[0-9T:.Z-]+\] "GET /good HTTP/1.1" 200 - via_upstream - "-" 0 \d+ \d+ \d+ ".*" "Go-http-client/1.1" "[0-9a-f-]{36}" "echo" "envoy://connect_originate/127.0.34.1:\d+" inbound-vip\|80\|http\|echo.default.svc.cluster.local `)
	p.Await("logs", func() error {
		plain, _ := os.ReadFile(text)
		fields, _ := os.ReadFile(object)
		if !line.Match(plain) {
			return fmt.Errorf("text log: %s", plain)
		}
		if who, _ := os.ReadFile(peer); !strings.Contains(string(who), "/good of "+idClient+"\n") {
			return fmt.Errorf("the peer's log: %s", who)
		}
		if strings.Contains(string(fields), "/good") || !strings.Contains(string(fields), `"source_principal":"`+idClient+`"`) {
			return fmt.Errorf("JSON log: %s", fields)
		}
		return nil
	})
}
