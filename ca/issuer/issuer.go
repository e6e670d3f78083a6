// Package issuer signs certificates: workload leaves for CreateCertificate and serving certificates for the mesh's own
// daemons. Its key is either a self-signed root it makes, persists and rotates in a folder, or files an operator plugs in
// and replaces at will.
//
// It knows keys, lifetimes and what makes a chain verify. It does not know who asks (ca/server decides that) nor how
// answers travel. Open starts nothing; Run rotates and reloads until its context ends. Start reading at Issuer.Sign.
package issuer

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/identity"
)

// Config of an Issuer. Zero fields take the defaults named beside them.
type Config struct {
	// Dir holds the files. They are Istio's cacerts: ca-cert.pem, ca-key.pem, root-cert.pem, cert-chain.pem.
	Dir string
	// Plugged means that the files are the operator's: they are read and followed, never made or rotated.
	Plugged     bool
	TrustDomain string // mesh.DefaultTrustDomain
	// DefaultTTL is for requests that name no lifetime, MaxTTL the longest that may be asked for.
	DefaultTTL time.Duration // 24 h, or MaxTTL if that is less
	MaxTTL     time.Duration // 90 days
	// Backdate is how far NotBefore lies before the moment of issue, for clocks that are slow.
	Backdate time.Duration // 2 min
	// RootTTL is the lifetime of a self-signed root; a new one is made when a fifth of it is left.
	RootTTL time.Duration // 10 years
	// Poll is how often the folder is looked at.
	Poll       time.Duration         // 2 s
	Logger     *slog.Logger          // discard
	Registerer prometheus.Registerer // none
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&c.MaxTTL, 90*24*time.Hour)
	def(&c.DefaultTTL, min(24*time.Hour, c.MaxTTL))
	def(&c.Backdate, 2*time.Minute)
	def(&c.RootTTL, 10*365*24*time.Hour)
	def(&c.Poll, 2*time.Second)
	if c.TrustDomain == "" {
		c.TrustDomain = mesh.DefaultTrustDomain
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Issuer signs with the material of the moment. Safe for concurrent use.
type Issuer struct {
	cfg     Config
	current atomic.Pointer[Material]
	metrics *metrics

	mu sync.Mutex
	// guarded by mu
	refused    error         // why the files there now are not in use
	refusedSum [32]byte      // which files that was said of
	changed    chan struct{} // closed and replaced when the material changes
}

// Open loads the issuer, making a new self-signed root if the folder is empty and not plugged in.
func Open(cfg Config) (*Issuer, error) {
	i := &Issuer{cfg: cfg.withDefaults(), changed: make(chan struct{})}
	if cfg.Dir == "" {
		return nil, errors.New("issuer: no folder given")
	}
	if i.cfg.DefaultTTL > i.cfg.MaxTTL {
		return nil, fmt.Errorf("issuer: the default lifetime %v exceeds the longest allowed one, %v", i.cfg.DefaultTTL, i.cfg.MaxTTL)
	}
	var m *Material
	var err error
	if i.cfg.Plugged {
		if m, err = load(cfg.Dir, time.Now()); err == nil && m == nil {
			err = fmt.Errorf("issuer folder %s: empty; put %s, %s, %s and, with intermediates, %s there", cfg.Dir, fileCert, fileKey, fileRoots, fileChain)
		}
	} else {
		m, err = i.ensureRoot(time.Now(), false)
	}
	if err != nil {
		return nil, err
	}
	i.current.Store(m)
	i.metrics = newMetrics(i.cfg.Registerer, i)
	return i, nil
}

// TrustDomain is the trust domain leaves are issued in.
func (i *Issuer) TrustDomain() string { return i.cfg.TrustDomain }

// Current is the material in use.
func (i *Issuer) Current() *Material { return i.current.Load() }

// Bundle is what everybody is to trust at the moment.
func (i *Issuer) Bundle() *certs.Bundle { return i.current.Load().Bundle }

// Changed returns a channel that is closed when the material changes.
func (i *Issuer) Changed() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.changed
}

// Refused is why the files in the folder are not in use, nil when they are.
func (i *Issuer) Refused() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.refused
}

// ErrTTL is wrapped by the refusal of a lifetime that may not be asked for.
var ErrTTL = errors.New("requested lifetime is too long")

// Sign certifies pub for id. A ttl of zero or less means the default. The lifetime never passes that of the issuer itself;
// the answer is leaf, intermediates one by one, and all roots in the last element (Istio ambient wire contract,
// CreateCertificate response).
func (i *Issuer) Sign(id identity.ID, pub crypto.PublicKey, ttl time.Duration) ([]string, *x509.Certificate, error) {
	if err := id.Validate(); err != nil {
		return nil, nil, fmt.Errorf("sign: %w", err)
	}
	if ttl > i.cfg.MaxTTL {
		// Refused rather than cut: a caller that asks for a year plans with a year. Istio security/pkg/pki/ca.
		return nil, nil, fmt.Errorf("%w: %v, the longest is %v", ErrTTL, ttl, i.cfg.MaxTTL)
	}
	tmpl := leafTemplate()
	tmpl.URIs = []*url.URL{id.URL()}
	return i.issue(tmpl, pub, ttl)
}

// SignServing certifies pub as a server of the given DNS names and IP addresses, and as a workload if id is not zero.
func (i *Issuer) SignServing(id identity.ID, names []string, pub crypto.PublicKey, ttl time.Duration) ([]string, *x509.Certificate, error) {
	tmpl := leafTemplate()
	if !id.IsZero() {
		tmpl.URIs = []*url.URL{id.URL()}
	}
	for _, name := range names {
		if ip, err := netip.ParseAddr(name); err == nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip.Unmap().AsSlice())
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, name)
		}
	}
	return i.issue(tmpl, pub, ttl)
}

// leafTemplate is what all leaves have in common: no subject, so the names are critical; both ends of TLS; never a CA.
// X509-SVID §3, §4.
func leafTemplate() *x509.Certificate {
	return &x509.Certificate{
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

func (i *Issuer) issue(tmpl *x509.Certificate, pub crypto.PublicKey, ttl time.Duration) ([]string, *x509.Certificate, error) {
	if err := strongEnough(pub); err != nil {
		return nil, nil, fmt.Errorf("sign: %w", err)
	}
	if ttl <= 0 {
		ttl = i.cfg.DefaultTTL
	}
	m := i.current.Load()
	now := time.Now()
	if !now.Before(m.Until) {
		return nil, nil, fmt.Errorf("sign: the issuer itself expired at %s; renew the files in %s", stamp(m.Until), i.cfg.Dir)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, nil, err
	}
	tmpl.SerialNumber = serial
	if _, ok := pub.(*rsa.PublicKey); ok {
		tmpl.KeyUsage |= x509.KeyUsageKeyEncipherment // TLS 1.2 without forward secrecy; harmless, and expected by linters
	}
	tmpl.NotBefore, tmpl.NotAfter = now.Add(-i.cfg.Backdate), now.Add(ttl)
	if tmpl.NotBefore.Before(m.Cert.NotBefore) {
		tmpl.NotBefore = m.Cert.NotBefore
	}
	if tmpl.NotAfter.After(m.Until) {
		tmpl.NotAfter = m.Until
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, m.Cert, pub, m.key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("sign: %w", err)
	}
	chain := []string{string(certs.EncodeCertificates(leaf))}
	for _, c := range m.Intermediates {
		chain = append(chain, string(certs.EncodeCertificates(c)))
	}
	i.metrics.issued.Inc()
	return append(chain, string(m.Bundle.PEM())), leaf, nil
}
