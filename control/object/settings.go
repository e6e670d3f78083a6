package object

import (
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// Provider is one of the mesh configuration's extensionProviders. One of the pointers is set, unless Unsupported says why
// none is. Backends in them have the hostname, and the namespace where the YAML gives one.
type Provider struct {
	Name       string
	Authorizer *waypoint.ExternalAuthorizer
	AccessLog  *waypoint.AccessLog
	Tracing    *waypoint.Tracing
	Prometheus bool
	// Unsupported names a kind of provider that is not carried out.
	Unsupported string
}

// MeshConfig is what the mesh configuration says that this mesh carries out. Nil pointers are unset.
type MeshConfig struct {
	AccessLogFile   string
	AccessLogFormat string
	AccessLogJSON   bool

	TrustDomain        string // "" when unset
	TrustDomainAliases []string

	PathNormalization waypoint.MeshSettings_PathNormalization
	DefaultRetry      *waypoint.Retry
	ConnectTimeout    *time.Duration
	Locality          *waypoint.Locality
	ConnectionPool    *waypoint.ConnectionPool
	Outliers          *waypoint.OutlierDetection
	// RegistryOnly is outboundTrafficPolicy.mode: REGISTRY_ONLY.
	RegistryOnly bool
	// TrustedProxies is defaultConfig.gatewayTopology.numTrustedProxies.
	TrustedProxies uint32
	// Tracing is enableTracing with what defaultConfig.tracing says of sampling and tags; nil when it is off.
	Tracing *waypoint.Tracing

	Providers            []Provider
	DefaultTracing       []string
	DefaultMetrics       []string
	DefaultAccessLogging []string

	// Defaults of exportTo; empty means "*".
	ServiceExportTo         []string
	VirtualServiceExportTo  []string
	DestinationRuleExportTo []string
}

// Provider finds a provider by name.
func (m *MeshConfig) Provider(name string) (*Provider, bool) {
	if m == nil {
		return nil, false
	}
	for i := range m.Providers {
		if m.Providers[i].Name == name {
			return &m.Providers[i], true
		}
	}
	return nil, false
}

// ConfigMap has only what the mesh reads of it; most have nothing.
type ConfigMap struct {
	Meta
	// CA is key ca.crt: PEM for BackendTLSPolicy and client certificates.
	CA string
	// Mesh is key mesh of the ConfigMap "istio", decoded. Its namespace must be the root one for it to count.
	Mesh *MeshConfig
	// Overlays are YAML for what is deployed for a Gateway, by kind: deployment, service, serviceAccount,
	// horizontalPodAutoscaler, podDisruptionBudget. Named by infrastructure.parametersRef, or by the label
	// gateway.istio.io/defaults-for-class.
	Overlays map[string]string
}

// Key implements Object.
func (c *ConfigMap) Key() Key { return Key{Kind: KindConfigMap, Namespace: c.Namespace, Name: c.Name} }

// Confidential holds bytes that must not reach a log or a dump: every way to print it says only how long it is.
type Confidential struct{ text string }

// MakeConfidential copies the bytes.
func MakeConfidential(b []byte) Confidential { return Confidential{text: string(b)} }

// Reveal returns a copy of the bytes, nil when there are none.
func (c Confidential) Reveal() []byte {
	if c.text == "" {
		return nil
	}
	return []byte(c.text)
}

// Empty reports whether there are no bytes.
func (c Confidential) Empty() bool { return c.text == "" }

// String says nothing of the content.
func (c Confidential) String() string {
	if c.text == "" {
		return "none"
	}
	return "redacted"
}

// Format says nothing of the content, whatever the verb.
func (c Confidential) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// MarshalText says nothing of the content.
func (c Confidential) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// LogValue says nothing of the content.
func (c Confidential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Secret has only the keys that are certificates: kubernetes.io/tls, and the names Istio knows in Opaque ones. Secrets of
// other types have none of them.
type Secret struct {
	Meta
	Type        string
	Certificate string // PEM: tls.crt or cert
	PrivateKey  Confidential
	CA          string // PEM: ca.crt or cacert
}

// Key implements Object.
func (s *Secret) Key() Key { return Key{Kind: KindSecret, Namespace: s.Namespace, Name: s.Name} }
