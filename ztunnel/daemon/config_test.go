package daemon

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ambit-mesh/ambit/ztunnel/inpod"
)

func TestFromEnv(t *testing.T) {
	base := Default()
	base.NodeName = "n1"
	base.CAAddress = base.XDSAddress
	base.XDSHeaders, base.CAHeaders, base.Metadata = map[string]string{}, map[string]string{}, map[string]string{}
	with := func(change func(*Config)) Config { c := base; change(&c); return c }
	for _, tc := range []struct {
		name string
		env  []string
		want Config
	}{
		{"only the node", nil, base},
		{"the authority follows the control plane", []string{"XDS_ADDRESS=https://cp:1"},
			with(func(c *Config) { c.XDSAddress, c.CAAddress = "https://cp:1", "https://cp:1" })},
		{"unless it is named", []string{"XDS_ADDRESS=https://cp:1", "CA_ADDRESS=https://ca:2"},
			with(func(c *Config) { c.XDSAddress, c.CAAddress = "https://cp:1", "https://ca:2" })},
		{"an empty authority means none", []string{"CA_ADDRESS="}, with(func(c *Config) { c.CAAddress = "" })},
		{"headers and metadata", []string{"XDS_HEADER_a=1", "CA_HEADER_b=2", "ISTIO_META_C=3"},
			with(func(c *Config) {
				c.XDSHeaders = map[string]string{"a": "1"}
				c.CAHeaders = map[string]string{"b": "2"}
				c.Metadata = map[string]string{"C": "3"}
			})},
		{"a long grace period leaves five seconds", []string{"TERMINATION_GRACE_PERIOD_SECONDS=30"},
			with(func(c *Config) { c.TerminationDeadline = 25 * time.Second })},
		{"a short one leaves one", []string{"TERMINATION_GRACE_PERIOD_SECONDS=10"},
			with(func(c *Config) { c.TerminationDeadline = 9 * time.Second })},
		{"the deadline itself wins", []string{"TERMINATION_GRACE_PERIOD_SECONDS=30", "CONNECTION_TERMINATION_DEADLINE=2m"},
			with(func(c *Config) { c.TerminationDeadline = 2 * time.Minute })},
		{"dedicated to one pod", []string{"PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=ns/pod/sa"},
			with(func(c *Config) { c.Dedicated = inpod.Info{Namespace: "ns", Name: "pod", ServiceAccount: "sa"} })},
		{"worker threads", []string{"ZTUNNEL_WORKER_THREADS=3"}, with(func(c *Config) { c.WorkerThreads = 3 })},
		{"TLS 1.2 as well", []string{"TLS12_ENABLED=true"}, with(func(c *Config) { c.TLS12 = true })},
		{"a file instead of a control plane", []string{"XDS_ADDRESS=", "LOCAL_XDS_PATH=/x.yaml", "FAKE_CA=true", "UNSTABLE_ENABLE_SOCKS5=true"},
			with(func(c *Config) {
				c.XDSAddress, c.CAAddress, c.LocalXDSPath, c.FakeCA, c.SOCKS5 = "", "", "/x.yaml", true, true
			})},
		{"mark in hexadecimal", []string{"PACKET_MARK=0x53a"}, with(func(c *Config) { c.Mark = 0x53a })},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := FromEnv(append([]string{"NODE_NAME=n1"}, tc.env...))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, got, cmp.Comparer(func(a, b interface{ String() string }) bool { return a.String() == b.String() })); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestFromEnvRefuses wants every mistake named at once, each with its variable.
func TestFromEnvRefuses(t *testing.T) {
	_, err := FromEnv([]string{
		"XDS_ADDRESS=cp:15012", "IPV6_ENABLED=maybe", "SECRET_TTL=-1h", "INSTANCE_IP=10.0.0", "PROXY_MODE=dedicated",
		"COMPLIANCE_POLICY=rot13", "FAKE_CA=perhaps", "UNSTABLE_ENABLE_SOCKS5=y", "ZTUNNEL_WORKER_THREADS=0%", "HTTP2_FRAME_SIZE=1", "POOL_MAX_STREAMS_PER_CONNECTION=0",
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, name := range []string{
		"NODE_NAME", "XDS_ADDRESS", "IPV6_ENABLED", "SECRET_TTL", "INSTANCE_IP", "PROXY_WORKLOAD_INFO", "COMPLIANCE_POLICY",
		"FAKE_CA", "UNSTABLE_ENABLE_SOCKS5", "ZTUNNEL_WORKER_THREADS", "HTTP2_FRAME_SIZE", "POOL_MAX_STREAMS_PER_CONNECTION",
	} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named in:\n%v", name, err)
		}
	}
}

func TestNode(t *testing.T) {
	c := Default()
	c.PodName, c.PodNamespace, c.NodeName = "ztunnel-x", "ambit-system", "n1"
	n := c.node()
	if want := "ztunnel~1.1.1.1~ztunnel-x.ambit-system~ambit-system.svc.cluster.local"; n.Id != want {
		t.Errorf("id %q, want %q", n.Id, want)
	}
	if got := n.Metadata.Fields["NODE_NAME"].GetStringValue(); got != "n1" {
		t.Errorf("NODE_NAME %q", got)
	}
}
