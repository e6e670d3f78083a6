package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// Config of the daemon. Default fills it; every field can be set by a flag of cmd/ambit-ca, those with an Istio name also
// by environment.
type Config struct {
	// Listen is the TLS address CreateCertificate is served on.
	Listen string
	// Admin serves /readyz, /metrics and the like: a loopback address, or unix:PATH. Empty means none.
	Admin string

	// Issuer is the folder of the self-signed root. CACerts, if set, is a folder of plugged-in files used instead.
	Issuer  string
	CACerts string
	// TrustDomain of all identities.
	TrustDomain string
	// DefaultTTL and MaxTTL of workload certificates, RootTTL of the self-signed root.
	DefaultTTL, MaxTTL, RootTTL time.Duration

	// ServingNames are the names of the daemon's own serving certificate.
	ServingNames []string
	// Serving certificates to keep in folders for other daemons.
	Serving []ServingDir
	// RootsFile is kept equal to the trust bundle, for clients of this authority.
	RootsFile string

	// TokenKeys is a file of public keys that verify callers' tokens. Empty means that tokens are not accepted.
	TokenKeys      string
	TokenIssuer    string
	TokenAudiences []string
	// TrustedNodeAccounts may ask for the identities of the pods of their node.
	TrustedNodeAccounts []string

	// XDSAddress is the control plane to learn the placement of pods from. Empty means that nobody is impersonated.
	XDSAddress string
	// XDSServerName is the name its certificate must carry, by default the host of XDSAddress.
	XDSServerName string
	// XDSRoots verifies it; by default the authority's own roots do.
	XDSRoots string
	// XDSToken is a file with the token to present to it.
	XDSToken string
}

// ServingDir is a folder to keep a serving certificate in.
type ServingDir struct {
	Dir   string
	Names []string
}

// ParseServingDir reads DIR=name,name.
func ParseServingDir(s string) (ServingDir, error) {
	dir, names, ok := strings.Cut(s, "=")
	if !ok || dir == "" || names == "" {
		return ServingDir{}, fmt.Errorf("%q: want DIR=name[,name…]", s)
	}
	return ServingDir{dir, split(names)}, nil
}

// Default is the configuration of a daemon that was told nothing but its folder.
func Default() Config {
	return Config{
		Listen:              fmt.Sprintf(":%d", mesh.PortXDS),
		Admin:               fmt.Sprintf("127.0.0.1:%d", mesh.PortMonitoring),
		TrustDomain:         mesh.DefaultTrustDomain,
		DefaultTTL:          24 * time.Hour,
		MaxTTL:              90 * 24 * time.Hour,
		RootTTL:             10 * 365 * 24 * time.Hour,
		ServingNames:        []string{"localhost", "127.0.0.1", "::1", "ambit-ca." + mesh.SystemNamespace + ".svc"},
		TokenAudiences:      []string{mesh.TokenAudience},
		TrustedNodeAccounts: []string{mesh.SystemNamespace + "/ztunnel"},
	}
}

// FromEnv overrides c by the variables Istio's authority reads.
func (c *Config) FromEnv(lookup func(string) string) error {
	var errs []error
	duration := func(name string, to *time.Duration) {
		if v := lookup(name); v != "" {
			d, err := time.ParseDuration(v)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s=%s: %w", name, v, err))
				return
			}
			*to = d
		}
	}
	list := func(name string, to *[]string) {
		if v := lookup(name); v != "" {
			*to = split(v)
		}
	}
	text := func(name string, to *string) {
		if v := lookup(name); v != "" {
			*to = v
		}
	}
	duration("DEFAULT_WORKLOAD_CERT_TTL", &c.DefaultTTL)
	duration("MAX_WORKLOAD_CERT_TTL", &c.MaxTTL)
	duration("CITADEL_SELF_SIGNED_CA_CERT_TTL", &c.RootTTL)
	list("CA_TRUSTED_NODE_ACCOUNTS", &c.TrustedNodeAccounts)
	list("TOKEN_AUDIENCES", &c.TokenAudiences)
	text("TOKEN_ISSUER", &c.TokenIssuer)
	text("TRUST_DOMAIN", &c.TrustDomain)
	text("XDS_ADDRESS", &c.XDSAddress)
	text("XDS_ROOT_CA", &c.XDSRoots)
	return errors.Join(errs...)
}

func split(s string) []string {
	var out []string
	for _, part := range strings.Split(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// Validate reports what the daemon could not run with.
func (c *Config) Validate() error {
	switch {
	case c.Issuer == "" && c.CACerts == "":
		return errors.New("no issuer: --issuer DIR keeps a self-signed root, --cacerts DIR takes files you bring")
	case c.Listen == "":
		return errors.New("no address to listen on: --listen")
	case len(c.ServingNames) == 0:
		return errors.New("no name to serve under: --serving-dns")
	case c.DefaultTTL <= 0 || c.MaxTTL <= 0 || c.RootTTL <= 0:
		return errors.New("lifetimes must be positive")
	}
	return adminAddress(c.Admin)
}

// adminAddress refuses addresses others can reach: the admin endpoint authenticates nobody.
func adminAddress(s string) error {
	if s == "" || strings.HasPrefix(s, "unix:") {
		return nil
	}
	addr, err := netip.ParseAddrPort(s)
	if err != nil {
		return fmt.Errorf("admin address %q: want a loopback address with port, or unix:PATH", s)
	}
	if !addr.Addr().IsLoopback() {
		return fmt.Errorf("admin address %s: not a loopback address; the admin endpoint authenticates nobody", s)
	}
	return nil
}
