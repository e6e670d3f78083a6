package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/cni/enroll"
	"github.com/ambit-mesh/ambit/cni/redirect/bpf"
)

// Config is all the agent is told from outside. Default, then FromEnv, then flags.
type Config struct {
	// Node is the name of the node whose pods are the agent's (NODE_NAME).
	Node string
	// PodsDir is the folder that plays the API server (AMBIT_PODS_DIR). Without it pods come from a real one: that of the
	// cluster the agent runs in (AMBIT_IN_CLUSTER), or by a kubeconfig.
	PodsDir    string
	InCluster  bool
	Kubeconfig string
	// ProcDir is a /proc that shows the node's processes (AMBIT_PROC_DIR), in which pods that run are looked for.
	ProcDir string
	// PodName and PodNamespace are the agent's own pod (POD_NAME, POD_NAMESPACE), and DaemonSet what keeps agents running
	// there (AMBIT_DAEMONSET): whether it will go on tells what an agent that ends has to leave behind.
	PodName, PodNamespace, DaemonSet string
	// Chain is how the plugin is installed on the node.
	Chain Chain
	// Version is the program's, for those who ask.
	Version string
	// HostNetns is the path of the node's network namespace; empty means the agent's own.
	HostNetns string
	// ProxySocket is where node proxies connect (ZTUNNEL_UDS_ADDRESS).
	ProxySocket string
	// RunDir holds pluginevent.sock (CNI_AGENT_RUN_DIR).
	RunDir string

	// ReadyAddr and MonitoringAddr serve /readyz and /healthz, and /metrics. AdminAddr (AMBIT_ADMIN_ADDRESS), which has to be
	// on a loopback address, and AdminSocket serve all of them and what tools ask. Empty means not at all.
	ReadyAddr      string
	MonitoringAddr string
	AdminAddr      string
	AdminSocket    string

	Policy enroll.Policy
	// DNS is the default of DNS capture (AMBIENT_DNS_CAPTURE), IPv6 whether to touch IPv6 at all (AMBIENT_IPV6).
	DNS, IPv6 bool
	// ProbeIPv4 and ProbeIPv6 are where probes come from (HOST_PROBE_SNAT_IP, HOST_PROBE_SNAT_IPV6).
	ProbeIPv4, ProbeIPv6 netip.Addr
	// ProbeUser is the user that probes pods.
	ProbeUser uint32
	// Backend is auto, nftables, iptables or ebpf (AMBIT_REDIRECTION; NATIVE_NFTABLES=true means nftables).
	Backend string
	// BPF is where BPF programs are kept (AMBIT_BPF_DIR) and hang (AMBIT_CGROUP_ROOT).
	BPF bpf.Place
	// ReconcileOnStartup puts rules right in enrolled pods when the agent starts.
	ReconcileOnStartup bool
	// RemoveOnShutdown takes the node's rules away when the agent ends (AMBIENT_DISABLE_SAFE_UPGRADE). Otherwise all
	// stays for the successor.
	RemoveOnShutdown bool

	// AddTimeout bounds how long the plugin's request waits for a node proxy; the plugin itself gives up after 5 s.
	AddTimeout time.Duration
	// LeaveGrace is how long a pod that loses its label is still captured, so that peers learn of it first.
	LeaveGrace time.Duration
	// LeaveLimit is how long such a pod's connections through the proxy may go on (AMBIT_LEAVE_LIMIT). What is open then is
	// cut. With 0 that is at once, as in Istio.
	LeaveLimit time.Duration
	// Resync is how often rules are read back and repaired.
	Resync time.Duration

	LogLevel slog.Level
	// LogJSON has a line of JSON written for each thing that is said (LOG_FORMAT=json).
	LogJSON bool
}

// Default is the configuration without environment or flags.
func Default() Config {
	return Config{
		ProxySocket: "/var/run/ztunnel/ztunnel.sock", RunDir: "/var/run/istio-cni",
		ReadyAddr: ":8000", MonitoringAddr: ":" + strconv.Itoa(mesh.PortMonitoring),
		Policy: enroll.Policy{
			Selectors: enroll.DefaultSelectors(), SystemNamespace: mesh.SystemNamespace, ExcludeNamespaces: []string{"kube-system"},
		},
		DNS: true, IPv6: true, Backend: "auto", BPF: bpf.Place{Dir: bpf.DefaultDir}, ReconcileOnStartup: true,
		ProbeIPv4: netip.MustParseAddr(mesh.ProbeSourceIPv4), ProbeIPv6: netip.MustParseAddr(mesh.ProbeSourceIPv6),
		ProcDir: "/proc", DaemonSet: "ambit-cni-node", Chain: defaultChain(),
		AddTimeout: 4 * time.Second, LeaveGrace: 500 * time.Millisecond, LeaveLimit: time.Hour, Resync: time.Minute,
	}
}

// FromEnv overlays c with the environment, in Istio's names (istio/istio cni/pkg/constants, cni/cmd).
func (c Config) FromEnv(lookup func(string) string) (Config, error) {
	e := env{lookup: lookup}
	e.text("NODE_NAME", &c.Node)
	e.text("ZTUNNEL_UDS_ADDRESS", &c.ProxySocket)
	e.text("CNI_AGENT_RUN_DIR", &c.RunDir)
	e.text("AMBIT_PODS_DIR", &c.PodsDir)
	e.text("AMBIT_HOST_NETNS", &c.HostNetns)
	e.text("AMBIT_ADMIN_SOCKET", &c.AdminSocket)
	e.text("AMBIT_ADMIN_ADDRESS", &c.AdminAddr)
	e.flag("AMBIT_IN_CLUSTER", &c.InCluster)
	e.text("AMBIT_PROC_DIR", &c.ProcDir)
	e.text("POD_NAME", &c.PodName)
	e.text("POD_NAMESPACE", &c.PodNamespace)
	e.text("AMBIT_DAEMONSET", &c.DaemonSet)
	c.Chain.fromEnv(&e)
	e.text("SYSTEM_NAMESPACE", &c.Policy.SystemNamespace)
	if port := ""; e.text("MONITORING_PORT", &port) {
		c.MonitoringAddr = ":" + port
	}
	e.flag("AMBIENT_DNS_CAPTURE", &c.DNS)
	e.flag("AMBIENT_IPV6", &c.IPv6)
	e.flag("AMBIENT_RECONCILE_POD_RULES_ON_STARTUP", &c.ReconcileOnStartup)
	e.flag("AMBIENT_DISABLE_SAFE_UPGRADE", &c.RemoveOnShutdown)
	e.addr("HOST_PROBE_SNAT_IP", &c.ProbeIPv4)
	e.addr("HOST_PROBE_SNAT_IPV6", &c.ProbeIPv6)
	if native := false; e.flag("NATIVE_NFTABLES", &native) && native {
		c.Backend = "nftables"
	}
	e.text("AMBIT_REDIRECTION", &c.Backend)
	e.text("AMBIT_BPF_DIR", &c.BPF.Dir)
	e.text("AMBIT_CGROUP_ROOT", &c.BPF.Cgroup)
	if text := ""; e.text("EXCLUDE_NAMESPACES", &text) {
		c.Policy.ExcludeNamespaces = strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
	}
	if text := ""; e.text("AMBIENT_ENABLEMENT_SELECTOR", &text) {
		selectors, err := enroll.ParseSelectors(text)
		c.Policy.Selectors = selectors
		e.note("AMBIENT_ENABLEMENT_SELECTOR", err)
	}
	if text := ""; e.text("AMBIT_LEAVE_LIMIT", &text) {
		limit, err := time.ParseDuration(text)
		c.LeaveLimit = limit
		e.note("AMBIT_LEAVE_LIMIT", err)
	}
	if text := ""; e.text("LOG_LEVEL", &text) {
		e.note("LOG_LEVEL", c.LogLevel.UnmarshalText([]byte(text)))
	}
	if text := ""; e.text("LOG_FORMAT", &text) {
		c.LogJSON = text == "json"
		if text != "json" && text != "plain" {
			e.note("LOG_FORMAT", fmt.Errorf("%q is neither json nor plain", text))
		}
	}
	return c, errors.Join(e.problems...)
}

// Validate reports what cannot work.
func (c Config) Validate() error {
	var problems []error
	if c.Node == "" {
		problems = append(problems, errors.New("the node's name is missing: set NODE_NAME or --node"))
	}
	if c.PodsDir == "" && !c.InCluster && c.Kubeconfig == "" {
		problems = append(problems, errors.New("no source of pods: run in a cluster with --in-cluster, or set --kubeconfig, or --pods-dir to a folder of Kubernetes YAML"))
	}
	if addr := c.AdminAddr; addr != "" {
		if a, err := netip.ParseAddrPort(addr); err != nil || !a.Addr().IsLoopback() {
			problems = append(problems, fmt.Errorf("admin address %q: it has to be an address and port of the loopback interface, like 127.0.0.1:15005, because it asks nobody who he is", addr))
		}
	}
	if c.LeaveLimit < 0 {
		problems = append(problems, fmt.Errorf("leave limit %s: it has to be 0 or more", c.LeaveLimit))
	}
	problems = append(problems, c.Chain.validate(c.PodNamespace))
	if !c.ProbeIPv4.Is4() || !c.ProbeIPv6.Is6() {
		problems = append(problems, fmt.Errorf("probe addresses have to be one of IPv4 and one of IPv6, not %s and %s", c.ProbeIPv4, c.ProbeIPv6))
	}
	return errors.Join(problems...)
}

// OnCluster reports whether pods come from an API server.
func (c Config) OnCluster() bool { return c.PodsDir == "" }

// PluginSocket is where the plugin announces pods.
func (c Config) PluginSocket() string { return filepath.Join(c.RunDir, "pluginevent.sock") }

// LogSocket is where the plugin's log goes.
func (c Config) LogSocket() string { return filepath.Join(c.RunDir, "log.sock") }

// env reads variables and collects what is wrong with them.
type env struct {
	lookup   func(string) string
	problems []error
}

func (e *env) note(name string, err error) {
	if err != nil {
		e.problems = append(e.problems, fmt.Errorf("environment variable %s: %w", name, err))
	}
}

func (e *env) text(name string, to *string) bool {
	v := e.lookup(name)
	if v == "" {
		return false
	}
	*to = v
	return true
}

func (e *env) flag(name string, to *bool) bool {
	v := e.lookup(name)
	if v == "" {
		return false
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		e.note(name, fmt.Errorf("%q is neither true nor false", v))
		return false
	}
	*to = b
	return true
}

func (e *env) addr(name string, to *netip.Addr) {
	if v := e.lookup(name); v != "" {
		a, err := netip.ParseAddr(v)
		e.note(name, err)
		if err == nil {
			*to = a
		}
	}
}
