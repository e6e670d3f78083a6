package agent

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/waypoint/envoy"
)

// Config is everything an agent can be told. Default fills in what Istio users expect; FromEnv reads the variables that
// Istio's gateway templates set.
type Config struct {
	// GatewayName and PodNamespace name the Gateway this process is an instance of.
	GatewayName string
	// PodName, PodNamespace, ServiceAccount and InstanceIP describe the pod; they also make the identity.
	PodName        string
	PodNamespace   string
	ServiceAccount string
	InstanceIP     netip.Addr
	NodeName       string
	WorkloadName   string
	// Region, Zone and Subzone say what is near.
	Region, Zone, Subzone string

	TrustDomain   string
	ClusterID     string
	ClusterDomain string
	Network       string

	// XDSAddress and CAAddress are URLs, or host:port for https; http:// means plaintext.
	XDSAddress string
	CAAddress  string
	// XDSRootCA and CARootCA are PEM files, read again for every connection. TokenFile holds the bearer token, read again
	// for every request.
	XDSRootCA string
	CARootCA  string
	TokenFile string
	// AltXDSHostname and AltCAHostname replace the name that the server's certificate is verified against.
	AltXDSHostname string
	AltCAHostname  string
	// SecretTTL is the lifetime asked for in certificate requests.
	SecretTTL time.Duration
	// CRLFile lists revoked certificates; it is looked at every CRLCheck.
	CRLFile  string
	CRLCheck time.Duration

	// EnvoyPath is the binary; empty looks for one and fetches it if there is none.
	EnvoyPath string
	// EnvoyConcurrency is its number of worker threads; 0 follows the CPU limit.
	EnvoyConcurrency int
	EnvoyLogLevel    slog.Level
	// RunDir is a private folder for sockets and the bootstrap; empty makes a temporary one.
	RunDir string
	// InlineChains puts filter chains into the listener instead of delivering them one by one.
	InlineChains bool
	// Bind is the address of Envoy's listeners for others. Ports of Envoy; 0 means the mesh's own.
	Bind          netip.Addr
	HBONEPort     uint32
	PeerHBONEPort uint32
	ReadyPort     uint32
	StatsPort     uint32
	AdminPort     uint32
	// StatsPrefixes, StatsSuffixes and StatsRegexps are statistics of Envoy's own to keep besides a short list.
	StatsPrefixes, StatsSuffixes, StatsRegexps []string
	// PodInfo is the folder with the pod's annotations, where the same can be said.
	PodInfo string
	// MaxConnections and MaxHeap bound Envoy; 0 takes the defaults.
	MaxConnections uint64
	MaxHeap        uint64

	// MetricsAddress is for scrapes and lifecycle hooks, ToolsAddress (loopback) and AdminSocket for people and tools. Empty
	// switches one off.
	MetricsAddress string
	ToolsAddress   string
	AdminSocket    string

	// DrainWait is how long to wait after a request to stop, while others still learn that this instance ends; DrainDuration
	// is how long open connections may then take.
	DrainWait     time.Duration
	DrainDuration time.Duration
	// ChainDrain is how long connections of a replaced filter chain may go on.
	ChainDrain time.Duration
	// Coalesce is the least time between two expansions; the first after a quiet time is made at once.
	Coalesce time.Duration

	LogLevel slog.Level
}

// portEnvoyStats is where Envoy's metrics can be read as they are; Istio's port for it.
const portEnvoyStats = 15090

// Default returns the documented defaults.
func Default() Config {
	return Config{
		TrustDomain:    mesh.DefaultTrustDomain,
		ClusterID:      mesh.DefaultClusterID,
		ClusterDomain:  mesh.DefaultClusterDomain,
		ServiceAccount: mesh.DefaultServiceAccount,
		XDSAddress:     "https://ambitd." + mesh.SystemNamespace + ".svc:15012",
		XDSRootCA:      "/var/run/secrets/istio/root-cert.pem",
		CARootCA:       "/var/run/secrets/istio/root-cert.pem",
		TokenFile:      "/var/run/secrets/tokens/istio-token",
		SecretTTL:      24 * time.Hour,
		CRLCheck:       5 * time.Second,
		EnvoyLogLevel:  slog.LevelWarn,
		PodInfo:        "/etc/istio/pod",
		MetricsAddress: ":15020",
		ToolsAddress:   "127.0.0.1:15004",
		DrainWait:      5 * time.Second,
		DrainDuration:  30 * time.Second,
		ChainDrain:     10 * time.Second,
		Coalesce:       20 * time.Millisecond,
		LogLevel:       slog.LevelInfo,
	}
}

// FromEnv returns the configuration changed by the environment. Every variable that cannot be read is reported, not only
// the first one.
func (c Config) FromEnv(getenv func(string) string) (Config, error) {
	e := env{get: getenv}
	e.text(&c.GatewayName, "GATEWAY_NAME")
	e.text(&c.PodName, "POD_NAME")
	e.text(&c.PodNamespace, "POD_NAMESPACE")
	e.text(&c.ServiceAccount, "SERVICE_ACCOUNT")
	e.address(&c.InstanceIP, "INSTANCE_IP")
	e.text(&c.NodeName, "ISTIO_META_NODE_NAME")
	e.text(&c.WorkloadName, "ISTIO_META_WORKLOAD_NAME")
	e.text(&c.Region, "AMBIT_REGION")
	e.text(&c.Zone, "AMBIT_ZONE")
	e.text(&c.Subzone, "AMBIT_SUBZONE")
	e.text(&c.TrustDomain, "TRUST_DOMAIN")
	e.text(&c.ClusterID, "ISTIO_META_CLUSTER_ID")
	e.text(&c.ClusterDomain, "CLUSTER_DOMAIN", "ISTIO_META_DNS_DOMAIN")
	e.text(&c.Network, "ISTIO_META_NETWORK")
	e.text(&c.XDSAddress, "XDS_ADDRESS")
	e.text(&c.CAAddress, "CA_ADDRESS", "CA_ADDR")
	e.text(&c.XDSRootCA, "XDS_ROOT_CA")
	e.text(&c.CARootCA, "CA_ROOT_CA")
	e.text(&c.TokenFile, "AUTH_TOKEN")
	e.text(&c.AltXDSHostname, "ALT_XDS_HOSTNAME")
	e.text(&c.AltCAHostname, "ALT_CA_HOSTNAME")
	e.duration(&c.SecretTTL, "SECRET_TTL")
	e.text(&c.CRLFile, "CRL_PATH")
	e.text(&c.EnvoyPath, "AMBIT_ENVOY")
	e.cpus(&c.EnvoyConcurrency, "ISTIO_CPU_LIMIT")
	e.level(&c.EnvoyLogLevel, "AMBIT_ENVOY_LOG_LEVEL")
	e.text(&c.RunDir, "AMBIT_RUN_DIR")
	e.flag(&c.InlineChains, "AMBIT_INLINE_CHAINS")
	e.text(&c.AdminSocket, "AMBIT_ADMIN_SOCKET")
	e.duration(&c.DrainWait, "AMBIT_DRAIN_WAIT")
	e.seconds(&c.DrainDuration, "TERMINATION_DRAIN_DURATION_SECONDS")
	e.level(&c.LogLevel, "AMBIT_LOG_LEVEL")
	return c, errors.Join(e.errs...)
}

// Validate reports everything that keeps the agent from starting.
func (c *Config) Validate() error {
	var errs []error
	need := func(value, name, why string) {
		if value == "" {
			errs = append(errs, fmt.Errorf("%s is not set: %s", name, why))
		}
	}
	need(c.GatewayName, "GATEWAY_NAME (--gateway)", "the name of the Gateway this process is an instance of")
	need(c.PodNamespace, "POD_NAMESPACE", "the namespace of the pod and its Gateway")
	need(c.PodName, "POD_NAME", "the name of the pod")
	need(c.CAAddress, "CA_ADDRESS", "where certificates come from, as https://HOST:PORT; without one no peer can be spoken to")
	if _, _, err := endpoint(c.XDSAddress); err != nil {
		errs = append(errs, fmt.Errorf("XDS_ADDRESS: %w", err))
	}
	if err := c.self().Validate(); err != nil {
		errs = append(errs, fmt.Errorf("own identity from TRUST_DOMAIN, POD_NAMESPACE and SERVICE_ACCOUNT: %w", err))
	}
	if c.ToolsAddress != "" {
		host, _, err := net.SplitHostPort(c.ToolsAddress)
		if ip, ipErr := netip.ParseAddr(host); err != nil || host != "localhost" && (ipErr != nil || !ip.IsLoopback() || !ip.Is4()) {
			errs = append(errs, fmt.Errorf("--tools-address %q: must be on loopback, at 127.0.0.1, for it can change how Envoy logs and stop it", c.ToolsAddress))
		}
	}
	return errors.Join(errs...)
}

// self is the identity of the pod.
func (c *Config) self() identity.ID {
	return identity.ID{TrustDomain: c.TrustDomain, Namespace: c.PodNamespace, ServiceAccount: c.ServiceAccount}
}

// endpoint reads the address of a server.
func endpoint(s string) (hostport string, plaintext bool, err error) {
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" {
		return "", false, fmt.Errorf("%q is no address: write https://HOST:PORT", s)
	}
	if _, _, err := net.SplitHostPort(u.Host); err != nil || u.Hostname() == "" {
		return "", false, fmt.Errorf("%q has no host and port: write https://HOST:PORT", s)
	}
	return u.Host, u.Scheme == "http", nil
}

// concurrency is the number of Envoy's workers: what was said, or the processors this process may use, which follow the
// limit of its cgroup.
func (c *Config) concurrency() int {
	if c.EnvoyConcurrency > 0 {
		return c.EnvoyConcurrency
	}
	return runtime.GOMAXPROCS(0)
}

// nodeID is Istio's form. Istio pkg/model Node.id.
func (c *Config) nodeID() string {
	ip := "127.0.0.1"
	if c.InstanceIP.IsValid() {
		ip = c.InstanceIP.String()
	}
	return fmt.Sprintf("waypoint~%s~%s.%s~%s.svc.%s", ip, c.PodName, c.PodNamespace, c.PodNamespace, c.ClusterDomain)
}

// options is what Envoy's configuration depends on besides facts.
func (c *Config) options(socket string) envoy.Options {
	return envoy.Options{
		NodeID: c.nodeID(), NodeCluster: c.GatewayName + "." + c.PodNamespace,
		Namespace: c.PodNamespace, Pod: c.PodName, Workload: cmp.Or(c.WorkloadName, c.GatewayName),
		ServiceAccount: c.ServiceAccount, TrustDomain: c.TrustDomain, Cluster: c.ClusterID, Network: c.Network,
		Address: c.InstanceIP, Node: c.NodeName, Region: c.Region, Zone: c.Zone, Subzone: c.Subzone,
		Bind: c.Bind, HBONEPort: c.HBONEPort, PeerHBONEPort: c.PeerHBONEPort, ReadyPort: c.ReadyPort,
		StatsPort: c.StatsPort, AdminPort: cmp.Or(c.AdminPort, mesh.PortAdmin),
		XDSSocket: socket, SDSSocket: socket,
		StatsPrefixes: c.StatsPrefixes, StatsSuffixes: c.StatsSuffixes, StatsRegexps: c.StatsRegexps,
		InlineChains: c.InlineChains, MaxConnections: c.MaxConnections, MaxHeap: c.MaxHeap, LogLevel: c.EnvoyLogLevel,
	}
}

// env reads variables and collects what is wrong with them.
type env struct {
	get  func(string) string
	errs []error
}

func (e *env) text(to *string, names ...string) {
	for _, name := range names {
		if v := e.get(name); v != "" {
			*to = v
			return
		}
	}
}

func parse[T any](e *env, to *T, name, form string, parse func(string) (T, error)) {
	v := e.get(name)
	if v == "" {
		return
	}
	got, err := parse(v)
	if err != nil {
		e.errs = append(e.errs, fmt.Errorf("%s=%q: write %s", name, v, form))
		return
	}
	*to = got
}

func (e *env) address(to *netip.Addr, name string) {
	parse(e, to, name, "an IP address", netip.ParseAddr)
}

func (e *env) duration(to *time.Duration, name string) {
	parse(e, to, name, "a duration such as 30s", positive)
}

func positive(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err == nil && d < 0 {
		err = errors.New("negative")
	}
	return d, err
}

// seconds reads a number of seconds, as Istio writes it, or a duration.
func (e *env) seconds(to *time.Duration, name string) {
	parse(e, to, name, "a number of seconds or a duration", func(s string) (time.Duration, error) {
		if n, err := strconv.ParseUint(s, 10, 31); err == nil {
			return time.Duration(n) * time.Second, nil
		}
		return positive(s)
	})
}

func (e *env) cpus(to *int, name string) {
	parse(e, to, name, "a whole number of processors", func(s string) (int, error) {
		n, err := strconv.ParseUint(s, 10, 16)
		return int(n), err
	})
}

func (e *env) flag(to *bool, name string) { parse(e, to, name, "true or false", strconv.ParseBool) }

func (e *env) level(to *slog.Level, name string) {
	parse(e, to, name, "debug, info, warn or error", ParseLevel)
}

// ParseLevel reads a log level by its usual names.
func ParseLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "trace":
		return slog.LevelDebug - 4, nil
	case "warning":
		return slog.LevelWarn, nil
	case "critical":
		return slog.LevelError, nil
	}
	var l slog.Level
	err := l.UnmarshalText([]byte(s))
	return l, err
}
