package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/state"
)

var update = flag.Bool("update", false, "rewrite golden files")

func golden(t *testing.T, file, got string) {
	t.Helper()
	file = "testdata/" + file
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func id(ns, sa string) identity.ID {
	return identity.ID{TrustDomain: "cluster.local", Namespace: ns, ServiceAccount: sa}
}

// full is a connection with everything known.
func full(d Direction) ConnInfo {
	return ConnInfo{
		Direction: d,
		Src:       netip.MustParseAddrPort("10.0.0.9:40000"), Dst: netip.MustParseAddrPort("10.0.0.1:15008"), HBONEAddr: "10.0.0.1:8080",
		Source: &state.Workload{Name: "web-7d-x", Namespace: "shop", WorkloadName: "web", CanonicalName: "web", CanonicalRevision: "v1",
			ClusterID: "c1", Locality: &state.Locality{Region: "r1", Zone: "z1"}},
		Destination: &state.Workload{Name: "cart-5c-y", Namespace: "store", WorkloadName: "cart", CanonicalName: "cart-app", CanonicalRevision: "v2",
			ClusterID: "c2", Locality: &state.Locality{Region: "r2", Zone: "z2"}},
		SourceID: id("shop", "web-sa"), DestID: id("store", "cart-sa"), MutualTLS: true,
		Service: &state.Service{Name: "cart", Namespace: "store", Hostname: "cart.store.svc.cluster.local"},
	}
}

func record(out *bytes.Buffer, asJSON bool, level string) *Recorder {
	levels, err := NewLevels(level)
	if err != nil {
		panic(err)
	}
	return New(Options{Logs: NewLogs(out, asJSON, levels), Version: "1.2.3"})
}

func TestAccessLogGolden(t *testing.T) {
	for _, form := range []string{"text", "json"} {
		t.Run(form, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				rec := record(&out, form == "json", "debug")
				life := func(info ConnInfo, err error) {
					c := rec.Open(info)
					c.AddRequest(100)
					c.AddResponse(2000)
					time.Sleep(12*time.Millisecond + 999*time.Microsecond)
					c.Close(err)
					c.Close(errors.New("only the first counts"))
				}
				life(full(Outbound), nil)
				life(full(Inbound), nil)
				life(full(Outbound), Fail(ConnectRefused, "connect to 10.0.0.1:15008", errors.New("connection refused")))
				life(ConnInfo{Src: netip.MustParseAddrPort("10.0.0.9:1"), Dst: netip.MustParseAddrPort("[2001:db8::1]:443")}, nil)
				life(ConnInfo{Src: netip.MustParseAddrPort("[::ffff:10.0.0.9]:1"), Dst: netip.MustParseAddrPort("1.2.3.4:80"),
					Peer: &Peer{Workload: "far", Namespace: "n", Cluster: "west"}}, errors.New("a \"quoted\"\nline, \t\x01 \xff and 😀"))
				rec.Failed(full(Inbound), Fail(PolicyDenied, "explicitly denied by: store/p", nil))
				rec.Refused(ConnInfo{Direction: Inbound, Src: netip.MustParseAddrPort("10.0.0.9:1"), Dst: netip.MustParseAddrPort("10.0.0.1:15008")},
					Fail(BadAuthority, `invalid authority "x"`, nil))
				golden(t, "access."+form, out.String())
				if form == "json" {
					for line := range strings.Lines(out.String()) {
						if !json.Valid([]byte(line)) {
							t.Errorf("not JSON: %s", line)
						}
					}
				}
			})
		})
	}
}

func TestAccessLogLevels(t *testing.T) {
	for level, want := range map[string]int{"debug": 5, "info": 3, "warn": 2, "error": 1, "off": 0, "info,access=off": 0, "off,access=info": 3} {
		var out bytes.Buffer
		rec := record(&out, false, level)
		rec.Open(full(Outbound)).Close(nil)
		rec.Open(full(Outbound)).Close(errors.New("x"))
		rec.Refused(full(Outbound), errors.New("x"))
		if got := strings.Count(out.String(), "\n"); got != want {
			t.Errorf("%s: %d lines, want %d", level, got, want)
		}
	}
	New(Options{}).Open(full(Outbound)).Close(nil) // no log at all
}

func TestMetricsGolden(t *testing.T) {
	rec := New(Options{Version: "1.2.3"})
	c := rec.Open(full(Outbound))
	c.AddRequest(100)
	c.AddResponse(2000)
	in := rec.Open(full(Inbound))
	in.AddRequest(7)
	in.AddResponse(8)
	in.Close(nil)
	rec.Open(ConnInfo{Direction: Outbound}).Close(Fail(PeerReset, "", nil))
	rec.Refused(full(Inbound), Fail(BadAuthority, "", nil))
	rec.Failed(full(Inbound), Fail(PolicyDenied, "", nil))
	rec.DNS.Request("A", false, full(Outbound).Source)
	rec.DNS.Upstream("MX", true, nil, 3*time.Millisecond, true)
	w := httptest.NewRecorder()
	promhttp.HandlerFor(rec.Registry(), promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	var out strings.Builder
	for line := range strings.Lines(w.Body.String()) {
		if name := strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE "); !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
			out.WriteString(line)
		}
	}
	golden(t, "metrics.txt", out.String())
}

// The exposition sorts labels, so their order is checked where it is defined.
func TestLabelOrder(t *testing.T) {
	want := strings.Fields(`reporter source_workload source_canonical_service source_canonical_revision source_workload_namespace
		source_principal source_app source_version source_cluster destination_service destination_service_namespace
		destination_service_name destination_workload destination_canonical_service destination_canonical_revision
		destination_workload_namespace destination_principal destination_app destination_version destination_cluster
		request_protocol response_flags connection_security_policy source_region source_zone destination_region destination_zone`)
	if diff := cmp.Diff(want, trafficLabels); diff != "" {
		t.Fatal(diff)
	}
	l := labelsOf(new(full(Inbound)), "DENY")
	got := map[string]string{}
	for i, name := range trafficLabels {
		got[name] = l[i]
	}
	if diff := cmp.Diff(map[string]string{
		"reporter": "destination", "source_workload": "web", "source_canonical_service": "web", "source_canonical_revision": "v1",
		"source_workload_namespace": "shop", "source_principal": "spiffe://cluster.local/ns/shop/sa/web-sa", "source_app": "web",
		"source_version": "v1", "source_cluster": "c1", "destination_service": "cart.store.svc.cluster.local",
		"destination_service_namespace": "store", "destination_service_name": "cart", "destination_workload": "cart",
		"destination_canonical_service": "cart-app", "destination_canonical_revision": "v2", "destination_workload_namespace": "store",
		"destination_principal": "spiffe://cluster.local/ns/store/sa/cart-sa", "destination_app": "cart-app", "destination_version": "v2",
		"destination_cluster": "c2", "request_protocol": "tcp", "response_flags": "DENY", "connection_security_policy": "mutual_tls",
		"source_region": "r1", "source_zone": "z1", "destination_region": "r2", "destination_zone": "z2",
	}, got); diff != "" {
		t.Fatal(diff)
	}
}

// Istio's names are what they are; ours must please the linter.
func TestPromlint(t *testing.T) {
	rec := New(Options{})
	rec.Open(full(Outbound)).Close(nil)
	rec.Refused(full(Outbound), Fail(PolicyDenied, "", nil))
	families, err := rec.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if !strings.HasPrefix(p.Metric, "istio_") && !strings.HasPrefix(p.Metric, "workload_manager_") && !strings.HasPrefix(p.Metric, "go_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestIdleSeriesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := New(Options{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- rec.Run(ctx) }()
		open := rec.Open(full(Outbound))
		rec.Open(full(Inbound)).Close(nil)
		for _, step := range []struct {
			after time.Duration
			want  int64
		}{{9 * time.Minute, 2}, {7 * time.Minute, 1}, {time.Hour, 1}} {
			time.Sleep(step.after)
			synctest.Wait()
			if got := rec.traffic.count.Load(); got != step.want {
				t.Errorf("after %s: %d series, want %d", step.after, got, step.want)
			}
		}
		open.Close(nil)
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		if got := rec.traffic.count.Load(); got != 0 {
			t.Errorf("%d series at the end", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestTooManySeries(t *testing.T) {
	rec := New(Options{MaxSeries: 3})
	for i := range 10 {
		info := full(Outbound)
		info.Service = &state.Service{Hostname: fmt.Sprint("s", i)}
		rec.Open(info).AddRequest(1)
	}
	// The cap, and the one series for all above it.
	if got := rec.traffic.count.Load(); got != 4 {
		t.Errorf("%d series", got)
	}
	if got := testutil.ToFloat64(overflowOnly{rec.traffic}); got != 7 {
		t.Errorf("%v connections overflowed", got)
	}
	var l labels
	l[lReporter], l[lProtocol], l[lFlags] = "source", "tcp", "-"
	if s := rec.traffic.acquire(l.overflow()); s.opened.Load() != 7 || s.received.Load() != 7 {
		t.Errorf("overflow series counted %d connections", s.opened.Load())
	}
}

func TestOpenAllocatesLittle(t *testing.T) {
	rec := New(Options{})
	info := full(Outbound)
	rec.Open(info).Close(nil)
	n := testing.AllocsPerRun(100, func() {
		c := rec.Open(info)
		c.AddRequest(1)
		c.Close(nil)
	})
	// The Connection, and the text of two principals.
	if n > 4 {
		t.Errorf("%.0f allocations a connection", n)
	}
}

func BenchmarkConnection(b *testing.B) {
	rec := New(Options{})
	info := full(Outbound)
	b.ReportAllocs()
	for b.Loop() {
		rec.Open(info).Close(nil)
	}
}

func TestReasons(t *testing.T) {
	flags := map[string]bool{"-": true, "DENY": true, "CONNECT": true, "TLS_FAILURE": true, "H2_HANDSHAKE_FAILURE": true,
		"NETWORK_POLICY": true, "IDENTITY_ERROR": true, "CERT_REVOKED": true}
	seen, used := map[string]bool{}, map[string]bool{}
	for _, r := range Reasons() {
		if !flags[r.Flags()] {
			t.Errorf("%s has flags %q, which Istio does not know", r, r.Flags())
		}
		used[r.Flags()] = true
		if r.String() == "" || r.Explain() == "" || seen[r.String()] {
			t.Errorf("reason %d has no code, no text, or the code of another: %q", r, r)
		}
		seen[r.String()] = true
		if got, ok := ParseReason(r.String()); !ok || got != r {
			t.Errorf("ParseReason(%s) = %s", r, got)
		}
	}
	if len(used) != len(flags) {
		t.Errorf("flags used: %v", used)
	}
	if _, ok := ParseReason("nonsense"); ok || Reason(200).String() != "internal" {
		t.Error("unknown reasons")
	}
	wrapped := fmt.Errorf("outer: %w", Fail(TLSFailed, "", context.Canceled))
	if ReasonOf(wrapped) != TLSFailed || ReasonOf(nil) != OK || ReasonOf(errors.New("x")) != Internal || !errors.Is(wrapped, context.Canceled) {
		t.Error("ReasonOf")
	}
}

func TestLevels(t *testing.T) {
	l, err := NewLevels("info,dns=off,ztunnel::proxy=trace")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		target string
		level  slog.Level
		want   bool
	}{
		{"x", slog.LevelInfo, true}, {"x", slog.LevelDebug, false}, {"dns", slog.LevelError, false},
		{"ztunnel::proxy::inbound", LevelTrace, true}, {"ztunnel::proxyish", slog.LevelDebug, false},
	} {
		if got := l.Enabled(tt.target, tt.level); got != tt.want {
			t.Errorf("Enabled(%s, %s) = %v", tt.target, tt.level, got)
		}
	}
	for _, bad := range []string{"loud", "=info", "x=loud", "a,b=", "::info"} {
		before := l.String()
		if err := l.Set(bad); err == nil || l.String() != before {
			t.Errorf("Set(%q): %v, now %s", bad, err, l)
		}
	}
	if err := l.Set("access:debug, warn"); err != nil || l.String() != "access=debug,dns=off,ztunnel::proxy=trace,warn" {
		t.Errorf("%v, %s", err, l)
	}
	l.Reset()
	if l.String() != "dns=off,ztunnel::proxy=trace,info" {
		t.Error(l)
	}
	var none *Levels
	if !none.Enabled("x", slog.LevelInfo) || none.Enabled("x", slog.LevelDebug) {
		t.Error("nil levels")
	}
}

func TestLogger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, form := range []string{"text", "json"} {
			var out bytes.Buffer
			log := NewLogs(&out, form == "json", nil).Logger("xds")
			log.Debug("not wanted")
			log.Info("connected", "peer", "a b", "n", 3, "ok", true, "took", time.Second)
			log.With("pod", "x").WithGroup("g").Warn("line\nbreak", "k", "v", slog.Group("h", "i", 1), slog.Group("", "j", 2))
			log.WithGroup("g").With("a", 1).Error("plain")
			golden(t, "logger."+form, out.String())
		}
	})
}

func TestForeignTextStaysInItsField(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		var out bytes.Buffer
		info := full(Inbound)
		info.HBONEAddr = "x:1 src.identity=\"spiffe://cluster.local/ns/a/sa/admin\""
		info.Source, info.Peer = nil, &Peer{Workload: "a\u009b2Jb\u202ec\u2028d\U000e0001e"}
		record(&out, asJSON, "debug").Refused(info, Fail(BadAuthority, "", nil))
		line := out.String()
		if strings.Contains(line, ` src.identity="spiffe://cluster.local/ns/a/sa/admin"`) {
			t.Errorf("a field was forged: %s", line)
		}
		if want := `"a\u009b2Jb\u202ec\u2028d\udb40\udc01e"`; !strings.Contains(line, want) {
			t.Errorf("want %s in: %s", want, line)
		}
		if asJSON && !json.Valid(out.Bytes()) {
			t.Errorf("not JSON: %s", line)
		}
	}
}
