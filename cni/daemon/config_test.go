package daemon

import (
	"encoding/json"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ambit-mesh/ambit/cni/chain"
	"github.com/ambit-mesh/ambit/cni/enroll"
	"github.com/ambit-mesh/ambit/cni/plugin"
)

func lookup(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func TestFromEnv(t *testing.T) {
	got, err := Default().FromEnv(lookup(map[string]string{
		"NODE_NAME": "n", "ZTUNNEL_UDS_ADDRESS": "/z", "CNI_AGENT_RUN_DIR": "/r", "AMBIENT_DNS_CAPTURE": "false", "AMBIENT_IPV6": "0",
		"HOST_PROBE_SNAT_IP": "169.254.9.9", "EXCLUDE_NAMESPACES": "a, b", "NATIVE_NFTABLES": "true", "MONITORING_PORT": "9",
		"AMBIENT_ENABLEMENT_SELECTOR": "- podSelector: {matchLabels: {a: b}}", "SYSTEM_NAMESPACE": "sys", "LOG_LEVEL": "debug",
		"AMBIT_LEAVE_LIMIT": "10m", "LOG_FORMAT": "json",
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Node, want.ProxySocket, want.RunDir, want.DNS, want.IPv6 = "n", "/z", "/r", false, false
	want.ProbeIPv4, want.Backend, want.MonitoringAddr, want.LogLevel = netip.MustParseAddr("169.254.9.9"), "nftables", ":9", -4
	want.LogJSON = true
	want.LeaveLimit = 10 * time.Minute
	want.Policy = enroll.Policy{
		Selectors:       []enroll.Selector{{Pod: enroll.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}},
		SystemNamespace: "sys", ExcludeNamespaces: []string{"a", "b"},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}

func TestInstallation(t *testing.T) {
	vars := map[string]string{
		"AMBIT_IN_CLUSTER": "true", "NODE_NAME": "n", "POD_NAMESPACE": "ambit-system", "MOUNTED_CNI_NET_DIR": "/host/etc/cni/net.d", "AMBIT_CNI_PLUGIN": "/plugin",
		"CNI_AGENT_RUN_DIR": "/r", "KUBECONFIG_MODE": "0640", "CNI_CONF_NAME": "10-a.conflist", "AMBIT_ADMIN_ADDRESS": "127.0.0.1:15005",
	}
	keeper := func(more ...string) (chain.Config, error) {
		all := maps.Clone(vars)
		for i := 0; i < len(more); i += 2 {
			all[more[i]] = more[i+1]
		}
		c, err := Default().FromEnv(lookup(all))
		if err == nil {
			err = c.Validate()
		}
		if err != nil {
			return chain.Config{}, err
		}
		return c.Keeper(nil)
	}
	k, err := keeper()
	if err != nil || k.ConfDir != "/host/etc/cni/net.d" || k.BinDir != "/host/opt/cni/bin" || k.Program != "/plugin" || k.Kubeconfig != "/r/ambit-cni-kubeconfig" ||
		k.KubeconfigMode != 0o640 || k.Mode != chain.Chained || k.Name != "10-a.conflist" || !strings.Contains(string(k.Entry), `"pod_namespace":"ambit-system"`) {
		t.Errorf("%v %+v %s", err, k, k.Entry)
	}
	// The plugin understands what it is told.
	var conf plugin.Conf
	if err := json.Unmarshal(k.Entry, &conf); err != nil || len(conf.EnablementSelectors) != 2 || conf.AgentRunDir != "/r" ||
		conf.Kubernetes.Kubeconfig != k.Kubeconfig || conf.ExcludeNamespaces[0] != "kube-system" || conf.PodNamespace != "ambit-system" || conf.LogLevel != "info" {
		t.Errorf("%v %+v", err, conf)
	}
	if k, err = keeper("ISTIO_OWNED_CNI_CONFIG", "true", "ISTIO_OWNED_CNI_CONF_FILENAME", "00-x.conflist"); err != nil || k.Mode != chain.Owned || k.Own != "00-x.conflist" {
		t.Errorf("%v %+v", err, k)
	}
	if k, err = keeper("CHAINED_CNI_PLUGIN", "false", "CNI_CONF_NAME", ""); err != nil || k.Mode != chain.Standalone || k.Own != "YYY-ambit-cni.conf" {
		t.Errorf("%v %+v", err, k)
	}
	if k, err = keeper("CHAINED_CNI_PLUGIN", "false", "CNI_CONF_NAME", "istio-cni.conf"); err != nil || k.Mode != chain.Standalone || k.Own != "istio-cni.conf" {
		t.Errorf("%v %+v", err, k)
	}
	for name, bad := range map[string][]string{
		"KUBECONFIG_MODE":                    {"KUBECONFIG_MODE", "9"},
		"CNI_CONF_NAME":                      {"CNI_CONF_NAME", "../x.conflist"},
		"has a .conf of its own":             {"CHAINED_CNI_PLUGIN", "false"},
		"ISTIO_OWNED_CNI_CONFIG_FILENAME":    {"ISTIO_OWNED_CNI_CONFIG", "true", "ISTIO_OWNED_CNI_CONFIG_FILENAME", "x.conf"},
		"set POD_NAMESPACE":                  {"AMBIT_CNI_PLUGIN_ACCOUNT", "reader", "POD_NAMESPACE", ""},
		"has to be an address and port of t": {"AMBIT_ADMIN_ADDRESS", "0.0.0.0:15005"},
	} {
		if _, err := keeper(bad...); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named in %v", name, err)
		}
	}
}

func TestBadSettingsAreNamed(t *testing.T) {
	_, err := Default().FromEnv(lookup(map[string]string{
		"AMBIENT_IPV6": "maybe", "HOST_PROBE_SNAT_IP": "x", "AMBIENT_ENABLEMENT_SELECTOR": "{}", "LOG_LEVEL": "loud", "LOG_FORMAT": "xml",
	}))
	for _, name := range []string{"AMBIENT_IPV6", "HOST_PROBE_SNAT_IP", "AMBIENT_ENABLEMENT_SELECTOR", "LOG_LEVEL", "LOG_FORMAT"} {
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
