package daemon

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ambit-mesh/ambit/cni/enroll"
)

func lookup(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func TestFromEnv(t *testing.T) {
	got, err := Default().FromEnv(lookup(map[string]string{
		"NODE_NAME": "n", "ZTUNNEL_UDS_ADDRESS": "/z", "CNI_AGENT_RUN_DIR": "/r", "AMBIENT_DNS_CAPTURE": "false", "AMBIENT_IPV6": "0",
		"HOST_PROBE_SNAT_IP": "169.254.9.9", "EXCLUDE_NAMESPACES": "a, b", "NATIVE_NFTABLES": "true", "MONITORING_PORT": "9",
		"AMBIENT_ENABLEMENT_SELECTOR": "- podSelector: {matchLabels: {a: b}}", "SYSTEM_NAMESPACE": "sys", "LOG_LEVEL": "debug",
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Node, want.ProxySocket, want.RunDir, want.DNS, want.IPv6 = "n", "/z", "/r", false, false
	want.ProbeIPv4, want.Backend, want.MonitoringAddr, want.LogLevel = netip.MustParseAddr("169.254.9.9"), "nftables", ":9", -4
	want.Policy = enroll.Policy{
		Selectors:       []enroll.Selector{{Pod: enroll.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}},
		SystemNamespace: "sys", ExcludeNamespaces: []string{"a", "b"},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}

func TestBadSettingsAreNamed(t *testing.T) {
	_, err := Default().FromEnv(lookup(map[string]string{
		"AMBIENT_IPV6": "maybe", "HOST_PROBE_SNAT_IP": "x", "AMBIENT_ENABLEMENT_SELECTOR": "{}", "LOG_LEVEL": "loud",
	}))
	for _, name := range []string{"AMBIENT_IPV6", "HOST_PROBE_SNAT_IP", "AMBIENT_ENABLEMENT_SELECTOR", "LOG_LEVEL"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named in %v", name, err)
		}
	}
	c := Default()
	c.ProbeIPv4, c.ProbeIPv6 = c.ProbeIPv6, c.ProbeIPv4
	for _, text := range []string{"NODE_NAME", "--pods-dir", "probe addresses"} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q is not in %v", text, err)
		}
	}
}
