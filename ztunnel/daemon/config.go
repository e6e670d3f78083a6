package daemon

import (
	"crypto/fips140"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
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
	// LocalXDS and the file LocalXDSPath hold workloads, services and policies as YAML. With them XDSAddress may be empty.
	LocalXDS     string
	LocalXDSPath string
	// FakeCA signs the certificates itself, for trying things out: they prove nothing.
	FakeCA bool
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
	// SOCKS5 listens on loopback port 15080 of every pod.
	SOCKS5 bool
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
	e.str("LOCAL_XDS", &c.LocalXDS)
	e.str("LOCAL_XDS_PATH", &c.LocalXDSPath)
	e.boolean("FAKE_CA", &c.FakeCA)
	e.boolean("UNSTABLE_ENABLE_SOCKS5", &c.SOCKS5)
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
		if u.value == "" && (u.name == "CA_ADDRESS" || c.LocalXDS != "" || c.LocalXDSPath != "") {
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
	if c.OnDemand && c.XDSAddress == "" {
		errs = append(errs, errors.New("XDS_ON_DEMAND without XDS_ADDRESS: there is nobody to ask"))
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
