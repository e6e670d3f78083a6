package daemon

import (
	"crypto/fips140"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/inpod"
)

// A Config is everything a ztunnel can be told. Default fills in what Istio users expect; FromEnv reads the variables
// that Istio's charts set, so a pod template written for either proxy starts the other.
type Config struct {
	// NodeName is the node this proxy serves.
	NodeName string
	// Network is the mesh network of the node; look-ups by address are made within it.
	Network       string
	ClusterID     string
	ClusterDomain string
	TrustDomain   string

	// PodName, PodNamespace, ServiceAccount and InstanceIP describe the proxy's own pod.
	PodName        string
	PodNamespace   string
	ServiceAccount string
	InstanceIP     netip.Addr

	// XDSAddress and CAAddress are URLs; http:// means plaintext. Without CAAddress nothing in the mesh can be reached.
	XDSAddress string
	CAAddress  string
	// XDSRootCA and CARootCA are PEM files, read again for every connection.
	XDSRootCA string
	CARootCA  string
	// AltXDSHostname and AltCAHostname replace the name that the server's certificate is verified against.
	AltXDSHostname string
	AltCAHostname  string
	// TokenFile holds the bearer token, read again for every request; empty sends none.
	TokenFile string
	// XDSHeaders and CAHeaders may be credentials, so they are not shown.
	XDSHeaders map[string]string `json:"-"`
	CAHeaders  map[string]string `json:"-"`
	// Metadata is sent with the xDS node.
	Metadata map[string]string
	OnDemand bool
	// SecretTTL is the lifetime asked for in certificate requests.
	SecretTTL time.Duration

	// Dedicated, if set, names the one pod this proxy runs in and serves, instead of the pods an agent hands over.
	Dedicated inpod.Info
	// WorkerThreads bounds the processors used; 0 leaves it to the runtime, which knows the CPU limit.
	WorkerThreads int
	// InpodUDS is the agent's ZDS socket.
	InpodUDS  string
	PortReuse bool
	Mark      uint32
	// OriginalSource lets applications see the address of the real client.
	OriginalSource bool
	IPv6           bool
	DNSProxy       bool
	// ResponseBaggage answers CONNECT with the attributes of the destination.
	ResponseBaggage bool
	// LoopbackAppTunnel reaches an application that ends tunnels itself over loopback.
	LoopbackAppTunnel bool
	// CRLFile lists revoked certificates; it is read again when it changes.
	CRLFile string
	// PreferredServiceNamespace wins when several services share an address or hostname.
	PreferredServiceNamespace string

	// AdminAddress is loopback only. AdminSocket, if set, is a unix socket of mode 0600 with the same content.
	AdminAddress     string
	AdminSocket      string
	MetricsAddress   string
	ReadinessAddress string

	// TerminationDeadline bounds how long open connections may live after a request to stop.
	TerminationDeadline time.Duration
	LogLevel            string
	LogJSON             bool

	// Limits keep one pod from taking the node down with it.
	MaxConnectionsPerPod int
	MaxTunnelsPerPod     int

	StreamWindow       uint32
	ConnectionWindow   uint32
	FrameSize          uint32
	MaxStreamsPerConn  int
	PoolUnusedRelease  time.Duration
	KeepaliveTime      time.Duration
	KeepaliveInterval  time.Duration
	KeepaliveRetries   int
	SameNodeFastPath   bool
	CompliancePolicy   string
	TLS12              bool
	AuthzPolicyInfoLog bool
}

// Default returns the documented defaults.
func Default() Config {
	return Config{
		ClusterID:            mesh.DefaultClusterID,
		ClusterDomain:        mesh.DefaultClusterDomain,
		TrustDomain:          mesh.DefaultTrustDomain,
		XDSAddress:           "https://ambitd." + mesh.SystemNamespace + ".svc:15012",
		XDSRootCA:            "/var/run/secrets/istio/root-cert.pem",
		CARootCA:             "/var/run/secrets/istio/root-cert.pem",
		TokenFile:            "/var/run/secrets/tokens/istio-token",
		SecretTTL:            24 * time.Hour,
		InpodUDS:             "/var/run/ztunnel/ztunnel.sock",
		PortReuse:            true,
		Mark:                 mesh.MarkProxy,
		OriginalSource:       true,
		IPv6:                 true,
		DNSProxy:             true,
		ResponseBaggage:      true,
		LoopbackAppTunnel:    true,
		AdminAddress:         "localhost:15000",
		MetricsAddress:       ":15020",
		ReadinessAddress:     ":15021",
		TerminationDeadline:  5 * time.Second,
		LogLevel:             "info",
		MaxConnectionsPerPod: 50000,
		MaxTunnelsPerPod:     5000,
		StreamWindow:         4 << 20,
		ConnectionWindow:     16 << 20,
		FrameSize:            1 << 20,
		MaxStreamsPerConn:    100,
		PoolUnusedRelease:    5 * time.Minute,
		KeepaliveTime:        180 * time.Second,
		KeepaliveInterval:    180 * time.Second,
		KeepaliveRetries:     9,
	}
}

// FromEnv returns the defaults changed by the environment. Every variable that cannot be read is reported, not only the
// first one.
func FromEnv(environ []string) (Config, error) {
	c := Default()
	e := env{values: map[string]string{}}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			e.values[k] = v
		}
	}
	e.str("NODE_NAME", &c.NodeName)
	e.str("NETWORK", &c.Network)
	e.str("ISTIO_META_CLUSTER_ID", &c.ClusterID)
	e.str("CLUSTER_ID", &c.ClusterID)
	e.str("CLUSTER_DOMAIN", &c.ClusterDomain)
	e.str("TRUST_DOMAIN", &c.TrustDomain)
	e.str("POD_NAME", &c.PodName)
	e.str("POD_NAMESPACE", &c.PodNamespace)
	e.str("SERVICE_ACCOUNT", &c.ServiceAccount)
	e.addr("INSTANCE_IP", &c.InstanceIP)
	e.set("XDS_ADDRESS", &c.XDSAddress)
	c.CAAddress = c.XDSAddress
	e.set("CA_ADDRESS", &c.CAAddress)
	e.str("XDS_ROOT_CA", &c.XDSRootCA)
	e.str("CA_ROOT_CA", &c.CARootCA)
	e.str("ALT_XDS_HOSTNAME", &c.AltXDSHostname)
	e.str("ALT_CA_HOSTNAME", &c.AltCAHostname)
	e.set("AUTH_TOKEN", &c.TokenFile)
	c.XDSHeaders = e.prefixed("XDS_HEADER_")
	c.CAHeaders = e.prefixed("CA_HEADER_")
	c.Metadata = e.prefixed("ISTIO_META_")
	e.boolean("XDS_ON_DEMAND", &c.OnDemand)
	e.duration("SECRET_TTL", &c.SecretTTL)
	e.dedicated(&c.Dedicated)
	e.threads("ZTUNNEL_WORKER_THREADS", &c.WorkerThreads)
	for _, name := range []string{"LOCAL_XDS", "LOCAL_XDS_PATH", "FAKE_CA", "UNSTABLE_ENABLE_SOCKS5"} {
		e.unsupported(name)
	}
	e.str("INPOD_UDS", &c.InpodUDS)
	e.boolean("INPOD_PORT_REUSE", &c.PortReuse)
	e.u32("PACKET_MARK", &c.Mark)
	e.boolean("ENABLE_ORIG_SRC", &c.OriginalSource)
	e.boolean("IPV6_ENABLED", &c.IPv6)
	e.boolean("DNS_PROXY", &c.DNSProxy)
	e.boolean("ENABLE_RESPONSE_BAGGAGE", &c.ResponseBaggage)
	e.boolean("LOCALHOST_APP_TUNNEL", &c.LoopbackAppTunnel)
	e.str("CRL_PATH", &c.CRLFile)
	e.str("PREFERED_SERVICE_NAMESPACE", &c.PreferredServiceNamespace)
	e.str("ADMIN_ADDR", &c.AdminAddress)
	e.str("AMBIT_ADMIN_SOCKET", &c.AdminSocket)
	e.str("STATS_ADDR", &c.MetricsAddress)
	e.str("READINESS_ADDR", &c.ReadinessAddress)
	e.u32("HTTP2_STREAM_WINDOW_SIZE", &c.StreamWindow)
	e.u32("HTTP2_CONNECTION_WINDOW_SIZE", &c.ConnectionWindow)
	e.u32("HTTP2_FRAME_SIZE", &c.FrameSize)
	e.integer("POOL_MAX_STREAMS_PER_CONNECTION", &c.MaxStreamsPerConn)
	e.duration("POOL_UNUSED_RELEASE_TIMEOUT", &c.PoolUnusedRelease)
	e.duration("KEEPALIVE_TIME", &c.KeepaliveTime)
	e.duration("KEEPALIVE_INTERVAL", &c.KeepaliveInterval)
	e.integer("KEEPALIVE_RETRIES", &c.KeepaliveRetries)
	e.integer("AMBIT_MAX_CONNECTIONS_PER_POD", &c.MaxConnectionsPerPod)
	e.integer("AMBIT_MAX_TUNNELS_PER_POD", &c.MaxTunnelsPerPod)
	e.boolean("AMBIT_SAME_NODE_FAST_PATH", &c.SameNodeFastPath)
	e.str("COMPLIANCE_POLICY", &c.CompliancePolicy)
	e.boolean("TLS12_ENABLED", &c.TLS12)
	e.boolean("AUTHZ_POLICY_INFO_LOGGING", &c.AuthzPolicyInfoLog)
	e.str("RUST_LOG", &c.LogLevel)
	e.str("AMBIT_LOG", &c.LogLevel)
	c.LogJSON = strings.EqualFold(e.values["LOG_FORMAT"], "json")
	c.TerminationDeadline = e.deadline(c.TerminationDeadline)
	return c, errors.Join(append(e.errs, c.Validate())...)
}

// Validate reports settings that cannot work, each with its variable and what to do about it.
func (c Config) Validate() error {
	var errs []error
	for _, u := range []struct{ name, value string }{{"XDS_ADDRESS", c.XDSAddress}, {"CA_ADDRESS", c.CAAddress}} {
		if u.value == "" && u.name == "CA_ADDRESS" {
			continue
		}
		parsed, err := url.Parse(u.value)
		if err != nil || parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https" {
			errs = append(errs, fmt.Errorf("%s=%q is no URL: write https://HOST:PORT, or http://HOST:PORT for plaintext", u.name, u.value))
		}
	}
	if c.NodeName == "" {
		errs = append(errs, errors.New("NODE_NAME is not set: name the node this proxy serves"))
	}
	switch c.CompliancePolicy {
	case "", "pqc":
	case "fips":
		if !fips140.Enabled() {
			errs = append(errs, errors.New("COMPLIANCE_POLICY=fips needs Go's FIPS 140-3 module: start with GODEBUG=fips140=on"))
		}
	default:
		errs = append(errs, fmt.Errorf("COMPLIANCE_POLICY=%q is not known: use pqc, fips, or leave it empty", c.CompliancePolicy))
	}
	if c.OnDemand && c.DNSProxy {
		errs = append(errs, errors.New("XDS_ON_DEMAND and the DNS proxy exclude each other: set DNS_PROXY=false"))
	}
	if c.FrameSize < 1<<14 || c.FrameSize > 1<<24-1 {
		errs = append(errs, fmt.Errorf("HTTP2_FRAME_SIZE=%d is outside 16384 to 16777215", c.FrameSize))
	}
	return errors.Join(errs...)
}

// dedicated reports whether the proxy serves the one pod it runs in.
func (c Config) dedicated() bool { return c.Dedicated != inpod.Info{} }

// self is the identity the proxy's own token proves: in dedicated mode it is the pod's, and nobody is impersonated.
func (c Config) self() identity.ID {
	id := identity.ID{TrustDomain: c.TrustDomain, Namespace: c.PodNamespace, ServiceAccount: c.ServiceAccount}
	if c.dedicated() {
		id.Namespace, id.ServiceAccount = c.Dedicated.Namespace, c.Dedicated.ServiceAccount
	}
	return id
}

// Token reads the bearer token as it is now; tokens are rotated in place.
func (c Config) Token() (string, error) {
	if c.TokenFile == "" {
		return "", nil
	}
	b, err := os.ReadFile(c.TokenFile)
	if err != nil {
		return "", fmt.Errorf("read token (AUTH_TOKEN): %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// env reads typed values and remembers what it could not read.
type env struct {
	values map[string]string
	errs   []error
}

// str keeps the default when the variable is empty; set takes the empty string as a value.
func (e *env) str(name string, to *string) {
	if v := e.values[name]; v != "" {
		*to = v
	}
}

func (e *env) set(name string, to *string) {
	if v, ok := e.values[name]; ok {
		*to = v
	}
}

func (e *env) prefixed(prefix string) map[string]string {
	out := map[string]string{}
	for k, v := range e.values {
		if name, ok := strings.CutPrefix(k, prefix); ok && name != "" {
			out[name] = v
		}
	}
	return out
}

func (e *env) parse(name, want string, set func(string) error) {
	v := e.values[name]
	if v == "" {
		return
	}
	if err := set(v); err != nil {
		e.errs = append(e.errs, fmt.Errorf("%s=%q: want %s", name, v, want))
	}
}

func (e *env) boolean(name string, to *bool) {
	e.parse(name, "true or false", func(v string) (err error) { *to, err = strconv.ParseBool(v); return })
}

func (e *env) integer(name string, to *int) {
	e.parse(name, "a number of at least 1", func(v string) error {
		n, err := strconv.Atoi(v)
		if err == nil && n < 1 {
			err = strconv.ErrRange
		}
		*to = n
		return err
	})
}

func (e *env) u32(name string, to *uint32) {
	e.parse(name, "a number", func(v string) error {
		n, err := strconv.ParseUint(v, 0, 32)
		*to = uint32(n)
		return err
	})
}

// dedicated reads PROXY_MODE and PROXY_WORKLOAD_INFO. istio/ztunnel src/config.rs.
func (e *env) dedicated(to *inpod.Info) {
	switch mode := e.values["PROXY_MODE"]; mode {
	case "", "shared":
		return
	case "dedicated":
	default:
		e.errs = append(e.errs, fmt.Errorf("PROXY_MODE=%q: want shared or dedicated", mode))
		return
	}
	info := e.values["PROXY_WORKLOAD_INFO"]
	parts := strings.Split(info, "/")
	if len(parts) != 3 || slices.Contains(parts, "") {
		e.errs = append(e.errs, fmt.Errorf("PROXY_WORKLOAD_INFO=%q: want NAMESPACE/POD/SERVICEACCOUNT, which PROXY_MODE=dedicated needs", info))
		return
	}
	*to = inpod.Info{Namespace: parts[0], Name: parts[1], ServiceAccount: parts[2]}
}

// threads accepts a number, or a share of the machine's processors such as 25%.
func (e *env) threads(name string, to *int) {
	e.parse(name, "a number of at least 1, or a percentage such as 25%", func(v string) error {
		text, share := strings.CutSuffix(v, "%")
		n, err := strconv.Atoi(text)
		if err == nil && n < 1 {
			err = strconv.ErrRange
		}
		if share {
			n = max(1, (runtime.NumCPU()*n+99)/100)
		}
		*to = n
		return err
	})
}

// unsupported refuses a variable that changes what the proxy does and that this one does not know: ignored, it would run as
// something else than it was told to.
func (e *env) unsupported(name string) {
	switch v := e.values[name]; v {
	case "", "false":
	default:
		e.errs = append(e.errs, fmt.Errorf("%s=%q is not supported by this proxy: unset it", name, v))
	}
}

func (e *env) addr(name string, to *netip.Addr) {
	e.parse(name, "an IP address", func(v string) (err error) { *to, err = netip.ParseAddr(v); return })
}

// duration accepts 90s and 5m, and a bare number of seconds.
func (e *env) duration(name string, to *time.Duration) {
	e.parse(name, "a duration such as 90s or 5m", func(v string) error {
		d, err := time.ParseDuration(v)
		if err != nil {
			d, err = time.ParseDuration(v + "s")
		}
		if err == nil && d <= 0 {
			err = strconv.ErrRange
		}
		*to = d
		return err
	})
}

// deadline leaves the drain a little less than the time after which the pod is killed.
// istio/ztunnel src/config.rs, CONNECTION_TERMINATION_DEADLINE.
func (e *env) deadline(def time.Duration) time.Duration {
	d := def
	if e.values["CONNECTION_TERMINATION_DEADLINE"] != "" {
		e.duration("CONNECTION_TERMINATION_DEADLINE", &d)
		return d
	}
	var grace time.Duration
	e.duration("TERMINATION_GRACE_PERIOD_SECONDS", &grace)
	switch {
	case grace == 0:
		return def
	case grace > 10*time.Second:
		return grace - 5*time.Second
	default:
		return max(grace-time.Second, time.Second)
	}
}
