package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/control/jwks"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/push"
	"github.com/ambit-mesh/ambit/control/serve"
	"github.com/ambit-mesh/ambit/waypoint/deploy"
)

// Config of the control plane. Default gives the values an empty environment stands for.
type Config struct {
	// ConfigDir is the folder of Kubernetes YAML that describes the mesh.
	ConfigDir string
	// InCluster, or Kubeconfig with KubeContext, take the mesh from a cluster's API server instead, with its service
	// accounts' tokens. Without a TLSDir the control plane is the certificate authority as well, with its key in a Secret of
	// the root namespace.
	InCluster               bool
	Kubeconfig, KubeContext string
	// TrustedNodeAccounts, as namespace/name, may ask for the certificates of pods on their node.
	TrustedNodeAccounts []string
	// GatewayImage is what runs for Gateways, in a cluster. GatewayPullPolicy is its imagePullPolicy, empty for IfNotPresent, and
	// GatewayPullSecrets are Secrets of the Gateways' namespaces with credentials for its registry.
	GatewayImage       string
	GatewayPullPolicy  string
	GatewayPullSecrets []string
	// GatewayXDS and GatewayCA are where what runs for Gateways finds the control plane and the authority, as URLs; empty means
	// this installation's Service, and the authority where the control plane is.
	GatewayXDS, GatewayCA string
	// GatewayLogLevel is how much what runs for Gateways logs, empty for its own default, and GatewayLogJSON how.
	GatewayLogLevel string
	GatewayLogJSON  bool
	// Waypoints is how many pods a waypoint has that does not say so itself.
	Waypoints Waypoints
	// UntaintFor selects the pods of the CNI agent; nodes on which one is ready lose the taint cni.istio.io/not-ready. Empty
	// leaves taints alone.
	UntaintFor string
	// ServingNames are further names of the authority's own certificate.
	ServingNames []string
	// StateDir is where the last good versions of policies are kept over a restart; empty keeps none.
	StateDir string
	// GatewaysFolder is where in ConfigDir the objects that run Gateways are written; empty means that none are made.
	GatewaysFolder string
	// GatewayOverlays is what, in a cluster, the ConfigMap that a Gateway names may change of what runs for it.
	GatewayOverlays string
	// Revisions are this control plane's own and its tags: Gateways whose label istio.io/rev, or else their namespace's, is one of
	// them are run, and those without one.
	Revisions []string
	// GatewayNamespaces are where, in a cluster, Gateways are run and roots are written, and SecretNamespaces those whose Secrets
	// are read; empty is everywhere.
	GatewayNamespaces, SecretNamespaces []string

	// CRLConfigMap has, in a cluster, revocation lists in this installation's own namespace, beside those of the Secret cacerts.
	CRLConfigMap string

	// Listen is where node proxies connect over TLS, with the certificate in TLSDir (tls.crt, tls.key, and root-cert.pem
	// to accept client certificates). Plaintext is a listener without TLS, for this machine only unless PlaintextAnywhere.
	Listen            string
	TLSDir            string
	Plaintext         string
	PlaintextAnywhere bool
	// TokenKeys is a file of public keys (JWKS or PEM) that bearer tokens must be signed with. Empty lets everyone in.
	TokenKeys string

	// AdminSocket and AdminAddress are where operators look in. The address must be a loopback one.
	AdminSocket  string
	AdminAddress string
	// MonitoringAddress serves only what anybody may see: /metrics, /readyz and /healthz.
	MonitoringAddress string

	TrustDomain   string
	ClusterID     string
	ClusterDomain string
	// RootNamespace is where what is about the whole mesh is read from: policies, telemetry, the mesh configuration. Namespace is
	// this installation's own, with its keys, its Lease and its Services; empty means the root namespace.
	RootNamespace, Namespace string
	Network                  string

	// Lifetimes of the certificates that the authority signs in a cluster: what requests get that name none, the longest they
	// may ask for, and a root that it makes. Zero means ca/issuer's.
	DefaultTTL, MaxTTL, RootTTL time.Duration

	// Window is how long changes after a push are collected before the next.
	Window time.Duration
	// DryRunPolicies accepts AuthorizationPolicies annotated istio.io/dry-run.
	DryRunPolicies bool
	// AllowWaypoints adds policies that let waypoints through to what is behind them.
	AllowWaypoints bool
	// NetworkPolicies has node proxies enforce Kubernetes NetworkPolicies.
	NetworkPolicies bool
	// ServiceEntryVisibility says who sees ServiceEntries, in the whole mesh. Empty is VisibilityPublic, of which nothing is said.
	ServiceEntryVisibility string
	// AutoAllocate gives ServiceEntries without addresses some.
	AutoAllocate bool

	// KeysHTTP lets key sets of RequestAuthentications be fetched over plain HTTP, KeysPrivate from private addresses.
	KeysHTTP, KeysPrivate bool
	// KeysRefresh is how often they are fetched again.
	KeysRefresh time.Duration

	LogLevel slog.Level
	LogJSON  bool

	// Version is this release's. Instance (POD_NAME) tells replicas apart for people who look.
	Version, Instance string
}

// What overlays of Gateways may change.
const (
	// OverlaysConfined is how much of a gateway runs and where, but not what runs, nor as whom.
	OverlaysConfined = "confined"
	// OverlaysAny is everything: whoever may make Gateways and ConfigMaps in a namespace may run any pod there.
	OverlaysAny = "any"
)

// Waypoints is how many pods a waypoint has.
type Waypoints struct {
	// MinReplicas and MaxReplicas are an autoscaler's, which there is if MaxReplicas is more than 0, and CPU the percentage of the
	// request that it aims at. A MinReplicas of 0 means 1, a CPU of 0 means 80.
	MinReplicas, MaxReplicas, CPU int
	// Budget lets one of several pods be evicted at a time.
	Budget bool
}

// Who sees ServiceEntries.
const (
	// VisibilityPublic is every namespace, VisibilityNamespace that of the ServiceEntry.
	VisibilityPublic    = "public"
	VisibilityNamespace = "namespace"
)

// Default is the configuration without flags and environment.
func Default() Config {
	return Config{
		Listen:              ":" + strconv.Itoa(mesh.PortXDS),
		AdminAddress:        "127.0.0.1:8080",
		GatewayOverlays:     OverlaysConfined,
		Revisions:           []string{mesh.DefaultRevision},
		TrustDomain:         mesh.DefaultTrustDomain,
		ClusterID:           mesh.DefaultClusterID,
		ClusterDomain:       mesh.DefaultClusterDomain,
		RootNamespace:       mesh.SystemNamespace,
		TrustedNodeAccounts: []string{mesh.SystemNamespace + "/ztunnel"},
		Window:              push.MaxWindow,
		AutoAllocate:        true,
		KeysPrivate:         true,
		KeysRefresh:         jwks.DefaultRefresh,
	}
}

// FromEnv takes the environment in, over what the Config has. Names are Istio's where Istio has them.
func (c Config) FromEnv(lookup func(string) string) (Config, error) {
	for name, v := range map[string]*string{
		"AMBIT_CONFIG_DIR":       &c.ConfigDir,
		"AMBIT_KUBECONFIG":       &c.Kubeconfig,
		"AMBIT_STATE_DIR":        &c.StateDir,
		"AMBIT_GATEWAYS":         &c.GatewaysFolder,
		"AMBIT_LISTEN":           &c.Listen,
		"AMBIT_PLAINTEXT":        &c.Plaintext,
		"AMBIT_TLS_DIR":          &c.TLSDir,
		"AMBIT_TOKEN_KEYS":       &c.TokenKeys,
		"AMBIT_ADMIN_SOCKET":     &c.AdminSocket,
		"AMBIT_ADMIN_ADDRESS":    &c.AdminAddress,
		"AMBIT_GATEWAY_IMAGE":    &c.GatewayImage,
		"AMBIT_GATEWAY_OVERLAYS": &c.GatewayOverlays,
		"AMBIT_UNTAINT_FOR":      &c.UntaintFor,
		"AMBIT_CRL_CONFIG_MAP":   &c.CRLConfigMap,
		"AMBIT_MONITORING":       &c.MonitoringAddress,
		"TRUST_DOMAIN":           &c.TrustDomain,
		"CLUSTER_ID":             &c.ClusterID,
		"NETWORK":                &c.Network,
		"ROOT_NAMESPACE":         &c.RootNamespace,
		"POD_NAMESPACE":          &c.Namespace,
		"CLUSTER_DOMAIN":         &c.ClusterDomain,
		"POD_NAME":               &c.Instance,

		"AMBIT_SERVICE_ENTRY_VISIBILITY": &c.ServiceEntryVisibility,
	} {
		if s := lookup(name); s != "" {
			*v = s
		}
	}
	var errs []error
	for name, v := range map[string]*time.Duration{
		"DEFAULT_WORKLOAD_CERT_TTL": &c.DefaultTTL, "MAX_WORKLOAD_CERT_TTL": &c.MaxTTL, "CITADEL_SELF_SIGNED_CA_CERT_TTL": &c.RootTTL,
	} {
		if s := lookup(name); s != "" {
			d, err := time.ParseDuration(s)
			if err != nil || d <= 0 {
				errs = append(errs, fmt.Errorf("%s is %q: write a duration, like 24h", name, s))
				continue
			}
			*v = d
		}
	}
	if s := lookup("CA_TRUSTED_NODE_ACCOUNTS"); s != "" {
		c.TrustedNodeAccounts = strings.Split(s, ",")
	}
	if s := lookup("REVISION"); s != "" {
		c.Revisions = strings.Split(s, ",")
	}
	for name, v := range map[string]*bool{
		"AMBIT_IN_CLUSTER": &c.InCluster,
		"AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY": &c.DryRunPolicies,
		"PILOT_AUTO_ALLOW_WAYPOINT_POLICY":            &c.AllowWaypoints,
		"AMBIT_NETWORK_POLICIES":                      &c.NetworkPolicies,
		"PILOT_ENABLE_IP_AUTOALLOCATE":                &c.AutoAllocate,
		"AMBIT_JWKS_ALLOW_HTTP":                       &c.KeysHTTP,
		"AMBIT_JWKS_ALLOW_PRIVATE":                    &c.KeysPrivate,
	} {
		if s := lookup(name); s != "" {
			b, err := strconv.ParseBool(s)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s is %q, neither true nor false", name, s))
				continue
			}
			*v = b
		}
	}
	return c, errors.Join(errs...)
}

// Validate says everything that is wrong with the configuration, each with what to do.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.inCluster() {
		c.validateCluster(bad)
	} else if c.ConfigDir == "" {
		bad("--config-dir is missing: name the folder of YAML that describes the mesh, or take it from a cluster with --in-cluster or --kubeconfig")
	} else if st, err := os.Stat(c.ConfigDir); err != nil {
		bad("--config-dir: %w", err)
	} else if !st.IsDir() {
		bad("--config-dir %s is not a folder", c.ConfigDir)
	}
	if inside(c.StateDir, c.ConfigDir) {
		bad("--state-dir %s is within --config-dir, and would be read as configuration: name a folder elsewhere", c.StateDir)
	}
	if c.GatewaysFolder != "" && !filepath.IsLocal(c.GatewaysFolder) {
		bad("--gateways-folder %s must be a folder within --config-dir, like gateways", c.GatewaysFolder)
	}
	if c.Listen == "" && c.Plaintext == "" {
		bad("nothing to serve on: give --listen or --plaintext")
	}
	if c.Listen != "" && c.TLSDir == "" && !c.inCluster() {
		bad("--listen %s needs --tls-dir; for trials on one machine use --listen= --plaintext 127.0.0.1:15010", c.Listen)
	}
	if c.Plaintext != "" && !c.PlaintextAnywhere && !serve.Local(c.Plaintext) {
		bad("--plaintext %s could be reached from other machines: use a loopback address or unix:PATH, or say --plaintext-anywhere", c.Plaintext)
	}
	if c.AdminAddress != "" && !serve.Local(c.AdminAddress) {
		bad("--admin-address %s must be a loopback address: whoever reaches it sees the whole mesh", c.AdminAddress)
	}
	for flag, v := range map[string]string{
		"--trust-domain": c.TrustDomain, "--cluster-id": c.ClusterID, "--root-namespace": c.RootNamespace, "--cluster-domain": c.ClusterDomain,
	} {
		if v == "" {
			bad("%s is empty", flag)
		}
	}
	if len(c.Revisions) == 0 {
		bad("--revisions (REVISION) is empty: write the control plane's own revision, %s if it has no other", mesh.DefaultRevision)
	}
	for _, r := range c.Revisions {
		if !isRevision(r) {
			bad("--revisions (REVISION) has %q, which cannot be the value of label %s: use letters, digits, dashes, dots and underscores, at most 63", r, mesh.LabelRevision)
		}
	}
	switch c.ServiceEntryVisibility {
	case "", VisibilityPublic, VisibilityNamespace:
	default:
		bad("--service-entry-visibility %q is neither %s nor %s", c.ServiceEntryVisibility, VisibilityPublic, VisibilityNamespace)
	}
	c.validateGateways(bad)
	if c.MaxTTL > 0 && c.DefaultTTL > c.MaxTTL {
		bad("DEFAULT_WORKLOAD_CERT_TTL %s is longer than MAX_WORKLOAD_CERT_TTL %s: a request that names no lifetime could not be granted", c.DefaultTTL, c.MaxTTL)
	}
	if c.Window < 0 || c.Window > push.MaxWindow {
		bad("--window %s is not between 0 and %s", c.Window, push.MaxWindow)
	}
	return errors.Join(errs...)
}

// isRevision reports whether a label can have the value.
func isRevision(s string) bool {
	alnum := func(r byte) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' }
	if s == "" || len(s) > 63 || !alnum(s[0]) || !alnum(s[len(s)-1]) {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r > 127 || !alnum(byte(r)) && !strings.ContainsRune("-._", r) })
}

// validateGateways says what is wrong with what runs for Gateways.
func (c Config) validateGateways(bad func(string, ...any)) {
	switch c.GatewayPullPolicy {
	case "", "Always", "IfNotPresent", "Never":
	default:
		bad("--gateway-pull-policy %q is none of Always, IfNotPresent, Never", c.GatewayPullPolicy)
	}
	for flag, v := range map[string]string{"--gateway-xds-address": c.GatewayXDS, "--gateway-ca-address": c.GatewayCA} {
		if v == "" {
			continue
		}
		u, err := url.Parse(v)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Port() == "" {
			bad("%s %q is no address: write https://HOST:PORT", flag, v)
		}
	}
	if s := c.GatewayLogLevel; s != "" {
		var l slog.Level
		if l.UnmarshalText([]byte(s)) != nil {
			bad("--gateway-log-level %q is none of debug, info, warn, error", s)
		}
	}
	w := c.Waypoints
	switch {
	case w.MinReplicas < 0 || w.MaxReplicas < 0 || w.CPU < 0:
		bad("--waypoint-min-replicas, --waypoint-max-replicas and --waypoint-cpu cannot be negative")
	case w.MaxReplicas > 0 && w.MinReplicas > w.MaxReplicas:
		bad("--waypoint-min-replicas %d is more than --waypoint-max-replicas %d", w.MinReplicas, w.MaxReplicas)
	case w.MaxReplicas == 0 && w.MinReplicas > 1:
		bad("--waypoint-min-replicas %d is an autoscaler's, and there is one only with --waypoint-max-replicas: write that, too", w.MinReplicas)
	}
}

// visibility is ServiceEntryVisibility as the model has it.
func (c Config) visibility() []model.VisibilityRule {
	switch c.ServiceEntryVisibility {
	case VisibilityPublic:
		return []model.VisibilityRule{{Visibility: model.Public}}
	case VisibilityNamespace:
		return []model.VisibilityRule{{Visibility: model.NamespaceOnly}}
	}
	return nil
}

// deploy is what is rendered for every Gateway.
func (c Config) deploy() deploy.Config {
	d := deploy.Config{
		TrustDomain: c.TrustDomain, ClusterID: c.ClusterID, ClusterDomain: c.ClusterDomain,
		SystemNamespace: c.own(), Network: c.Network, XDSAddress: c.GatewayXDS, CAAddress: c.GatewayCA,
		Image: c.GatewayImage, PullPolicy: c.GatewayPullPolicy, PullSecrets: c.GatewayPullSecrets,
		LogLevel: c.GatewayLogLevel, LogJSON: c.GatewayLogJSON, Budget: c.Waypoints.Budget,
	}
	if w := c.Waypoints; w.MaxReplicas > 0 {
		d.Autoscaling = &deploy.Autoscaling{Min: w.MinReplicas, Max: w.MaxReplicas, CPUPercent: w.CPU}
	}
	return d
}

// validateCluster says what does not go together with a cluster.
func (c Config) validateCluster(bad func(string, ...any)) {
	if c.InCluster && c.Kubeconfig+c.KubeContext != "" {
		bad("--in-cluster excludes --kubeconfig and --kube-context: choose one")
	}
	if c.GatewayOverlays != OverlaysConfined && c.GatewayOverlays != OverlaysAny {
		bad("--gateway-overlays %q is neither %s nor %s", c.GatewayOverlays, OverlaysConfined, OverlaysAny)
	}
	for flag, v := range map[string]string{"--config-dir": c.ConfigDir, "--gateways-folder": c.GatewaysFolder, "--token-keys": c.TokenKeys} {
		if v != "" {
			bad("%s is for a folder, and the mesh is read from a cluster: leave one of the two out", flag)
		}
	}
}

// inside reports whether a folder is another one or a part of it.
func inside(dir, of string) bool {
	if dir == "" || of == "" {
		return false
	}
	d, err1 := filepath.Abs(dir)
	o, err2 := filepath.Abs(of)
	return err1 == nil && err2 == nil && (d == o || strings.HasPrefix(d, o+string(filepath.Separator)))
}
