package agent

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func lookup(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i+1 < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestFromEnv(t *testing.T) {
	c, err := Default().FromEnv(lookup(
		"GATEWAY_NAME", "gw", "POD_NAME", "gw-1", "POD_NAMESPACE", "ns", "SERVICE_ACCOUNT", "gw", "INSTANCE_IP", "10.0.0.1",
		"CA_ADDR", "ca:15012", "ISTIO_CPU_LIMIT", "3", "TERMINATION_DRAIN_DURATION_SECONDS", "45", "AMBIT_DRAIN_WAIT", "2s",
		"AMBIT_ENVOY_LOG_LEVEL", "trace", "AMBIT_LOG_LEVEL", "debug", "CRL_PATH", "/lists.pem", "CLUSTER_DOMAIN", "mesh.example"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if c.InstanceIP != netip.MustParseAddr("10.0.0.1") || c.CAAddress != "ca:15012" || c.concurrency() != 3 || c.DrainDuration != 45*time.Second ||
		c.DrainWait != 2*time.Second || c.EnvoyLogLevel >= slog.LevelDebug || c.LogLevel != slog.LevelDebug || c.CRLFile != "/lists.pem" {
		t.Errorf("%+v", c)
	}
	if got := c.nodeID(); got != "waypoint~10.0.0.1~gw-1.ns~ns.svc.mesh.example" {
		t.Errorf("node id %q", got)
	}
	if got := c.self().String(); got != "spiffe://cluster.local/ns/ns/sa/gw" {
		t.Errorf("identity %q", got)
	}
}

// Everything that is wrong is said at once, with the name of the variable.
func TestBadEnvironment(t *testing.T) {
	_, err := Default().FromEnv(lookup("INSTANCE_IP", "x", "ISTIO_CPU_LIMIT", "-1", "AMBIT_DRAIN_WAIT", "-2s", "TERMINATION_DRAIN_DURATION_SECONDS", "soon",
		"AMBIT_INLINE_CHAINS", "maybe", "AMBIT_LOG_LEVEL", "loud"))
	for _, want := range []string{"INSTANCE_IP", "ISTIO_CPU_LIMIT", "AMBIT_DRAIN_WAIT", "TERMINATION_DRAIN_DURATION_SECONDS", "AMBIT_INLINE_CHAINS", "AMBIT_LOG_LEVEL"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
	c := Default()
	c.XDSAddress, c.ToolsAddress = "nonsense", "0.0.0.0:15004"
	err = c.Validate()
	for _, want := range []string{"GATEWAY_NAME", "POD_NAME", "POD_NAMESPACE", "CA_ADDRESS", "XDS_ADDRESS", "loopback"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
}

func TestEndpoint(t *testing.T) {
	for in, want := range map[string]string{
		"https://a:1": "a:1 false", "http://a:1": "a:1 true", "a.b:15012": "a.b:15012 false", "http://[::1]:9": "[::1]:9 true",
		"a": "", "https://a": "", "ftp://a:1": "", "https://:1": "",
	} {
		got, plain, err := endpoint(in)
		if want == "" {
			if err == nil {
				t.Errorf("%s: accepted as %s", in, got)
			}
			continue
		}
		if text := strings.TrimSpace(got + map[bool]string{true: " true", false: " false"}[plain]); err != nil || text != want {
			t.Errorf("%s: %s, %v", in, text, err)
		}
	}
}

func TestCountsForDrain(t *testing.T) {
	for stat, want := range map[string]bool{
		"listener.[__]_15008.downstream_cx_active": true, "listener.0.0.0.0_80.downstream_cx_active": true,
		"listener.[__]_15021.downstream_cx_active": false, "listener.admin.downstream_cx_active": false,
		"listener.envoy_internal_main_internal.downstream_cx_active": false, "listener.0.0.0.0_80.worker_0.downstream_cx_active": false,
		"http.inbound.downstream_cx_active": false,
	} {
		if got := newEnvoyAdmin("", 15000, 15021, 15090).countsForDrain(stat); got != want {
			t.Errorf("%s: %v", stat, got)
		}
	}
}

func TestPodInfo(t *testing.T) {
	c := Default()
	c.PodInfo = t.TempDir()
	if err := c.podStats(); err != nil || c.StatsPrefixes != nil {
		t.Errorf("without a file: %v, %v", c.StatsPrefixes, err)
	}
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(c.PodInfo, "annotations"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`a="b"
proxy.istio.io/config="proxyStatsMatcher:\n  inclusionPrefixes: [x]\n  inclusionRegexps: [\"r.*\"]\n"
sidecar.istio.io/statsInclusionPrefixes="cluster.outbound,listener"
`)
	if err := c.podStats(); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([][]string{{"cluster.outbound", "listener"}, nil, {"r.*"}}, [][]string{c.StatsPrefixes, c.StatsSuffixes, c.StatsRegexps}); d != "" {
		t.Error(d)
	}
	labels := "gateway.networking.k8s.io/gateway-name=\"gw\"\ntopology.kubernetes.io/zone=\"z1\"\n"
	if err := os.WriteFile(filepath.Join(c.PodInfo, "labels"), []byte(labels), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.podLabels(); err != nil || c.GatewayName != "gw" || c.Zone != "z1" {
		t.Errorf("from labels: gateway %q, zone %q, %v", c.GatewayName, c.Zone, err)
	}
	write("proxy.istio.io/config=\"[\"\n")
	if err := c.podStats(); err == nil {
		t.Error("nonsense is not reported")
	}
}
