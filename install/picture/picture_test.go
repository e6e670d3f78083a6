package picture

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ambit-mesh/ambit/install/dump"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const knows = `{
 "workloads": [
  {"uid": "w1", "name": "web-1", "namespace": "shop", "protocol": "HBONE", "workloadIps": ["10.0.0.1"]},
  {"uid": "w2", "name": "web-2", "namespace": "shop", "protocol": "TCP", "status": "Unhealthy", "workloadIps": ["10.0.0.2"]},
  {"uid": "d1", "name": "db-1", "namespace": "shop", "protocol": "TCP", "workloadIps": ["10.0.0.3"]}],
 "services": [
  {"name": "web", "namespace": "shop", "hostname": "web.shop.svc.cluster.local", "vips": ["/10.96.0.1"], "waypoint": {"destination": "shop/wp.shop.svc.cluster.local", "hboneMtlsPort": 15008},
   "endpoints": {"w1": {"workloadUid": "w1"}, "w2": {"workloadUid": "w2", "status": "Unhealthy"}}},
  {"name": "wp", "namespace": "shop", "hostname": "wp.shop.svc.cluster.local", "vips": ["/10.96.0.2"], "endpoints": {}},
  {"name": "db", "namespace": "shop", "hostname": "db.shop.svc.cluster.local", "vips": ["/10.96.0.3"], "endpoints": {"d1": {"workloadUid": "d1"}}},
  {"name": "unused", "namespace": "sys", "hostname": "unused.sys.svc.cluster.local", "vips": [], "endpoints": {}}],
 "certificates": [
  {"identity": "spiffe://x/ns/shop/sa/web", "state": "Available", "certChain": [{"serialNumber": "1", "validFrom": "2026-11-21T00:00:00Z", "expirationTime": "2026-11-22T00:00:00Z"}],
   "rootCerts": [{"serialNumber": "9", "validFrom": "2026-01-01T00:00:00Z", "expirationTime": "2036-01-01T00:00:00Z"}]},
  {"identity": "spiffe://x/ns/shop/sa/db", "state": "Unavailable: the authority is away", "certChain": [], "rootCerts": []}]
}`

// line is a line of metrics between two workloads.
func line(metric, reporter, security, from, to, service, more string, n string) string {
	fns, fwl, _ := strings.Cut(from, "/")
	tns, twl, _ := strings.Cut(to, "/")
	sns, sname, _ := strings.Cut(service, "/")
	return metric + `{connection_security_policy="` + security + `",reporter="` + reporter + `",source_workload="` + fwl + `",source_workload_namespace="` + fns + `",source_canonical_service="` + fwl +
		`",destination_workload="` + twl + `",destination_workload_namespace="` + tns + `",destination_canonical_service="` + twl + `",destination_service_name="` + sname + `",destination_service_namespace="` + sns + `"` + more + "} " + n + "\n"
}

const (
	opened = "istio_tcp_connections_opened_total"
	failed = "istio_tcp_connections_failed_total"
)

func traffic(t *testing.T, lines ...string) Traffic {
	t.Helper()
	out := Traffic{}
	if err := out.Add(strings.NewReader("# HELP x y\n"+strings.Join(lines, "")), func(ns, wl string) string {
		return map[string]string{"shop/wp": "wp"}[ns+"/"+wl]
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestBuild(t *testing.T) {
	d, err := dump.Parse(strings.NewReader(knows))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 21, 23, 0, 0, 0, time.UTC)
	p := Build(Input{
		Mesh: "lab x", Now: now, Known: d, Dumps: map[string]*dump.Dump{"n1": d, "n2": d}, BeforeTime: now.Add(-10 * time.Second),
		Pods:      []Pod{{"shop", "web-2", "n1", "out", "why"}, {"shop", "client-7f-x", "n1", "in", "why"}, {"shop", "web-1", "n1", "in", "why"}},
		Waypoints: []Waypoint{{Namespace: "shop", Name: "wp", Programmed: true, Ready: 1, Instances: 1}},
		Before:    traffic(t, line("istio_requests_total", "waypoint", "mutual_tls", "shop/client", "shop/web", "shop/web", `,response_code="200"`, "10")),
		Traffic: traffic(t,
			// Through the waypoint: the connection, the requests in it, and the waypoint's own connection, which is not shown.
			line(opened, "source", "mutual_tls", "shop/client", "shop/wp", "shop/web", "", "4"),
			line("istio_requests_total", "waypoint", "mutual_tls", "shop/client", "shop/web", "shop/web", `,response_code="200"`, "25"),
			line("istio_requests_total", "waypoint", "mutual_tls", "shop/client", "shop/web", "shop/web", `,response_code="403"`, "3"),
			line("istio_requests_total", "waypoint", "mutual_tls", "shop/client", "shop/web", "shop/web", `,response_code="503"`, "2"),
			line(opened, "destination", "mutual_tls", "shop/wp", "shop/web", "shop/web", "", "30"),
			// Failures count to the connections that were made.
			line(failed, "source", "unknown", "shop/client", "shop/wp", "shop/web", `,response_flags="CONNECT"`, "1"),
			line(failed, "source", "unknown", "shop/client", "shop/wp", "shop/web", `,response_flags="DENY"`, "1"),
			// Past the mesh: only the server's proxy knows.
			line(opened, "destination", "unknown", "unknown/unknown", "shop/web", "unknown/unknown", "", "7"),
			line(opened, "destination", "mutual_tls", "shop/client", "shop/web", "shop/web", "", "99"),
			// Only failures, to a service outside the mesh.
			line(failed, "source", "unknown", "shop/client", "shop/db", "shop/db", `,response_flags="CONNECT"`, "5"),
			// Of ends that are gone.
			line(opened, "source", "mutual_tls", "gone/a", "gone/b", "gone/b", "", "5"),
			"istio_tcp_connections_opened_total{broken\n", opened+" 3\n",
		),
	})
	text, err := json.MarshalIndent(p, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "picture.json")
	if *update {
		if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(text)+"\n"); d != "" {
		t.Error(d)
	}
}

// An empty mesh is drawn, too, and lists are never null.
func TestEmpty(t *testing.T) {
	text, err := json.Marshal(Build(Input{}))
	if err != nil || strings.Contains(string(text), "null") {
		t.Errorf("%s, %v", text, err)
	}
}

func FuzzTraffic(f *testing.F) {
	f.Add(line(opened, "source", "mutual_tls", "a/b", "c/d", "e/f", "", "1"))
	f.Add(`istio_requests_total{a="\"",b="\\\n"} NaN`)
	f.Fuzz(func(t *testing.T, text string) {
		tr := Traffic{}
		_ = tr.Add(strings.NewReader(text), func(string, string) string { return "" })
		Build(Input{Traffic: tr})
	})
}
