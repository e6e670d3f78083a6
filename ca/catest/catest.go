// Package catest is a certificate authority in memory, the twin of the real one for tests that need certificates but no
// network: it signs at once, and can be told to fail, to be slow, or to change its root.
//
// It implements client.Signer. It authenticates nobody. It starts no goroutines. Start reading at New.
package catest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/identity"
)

// CA signs for anybody. Its exported methods are safe for concurrent use.
type CA struct {
	bundles certs.Bundles

	mu sync.Mutex
	// guarded by mu
	key   *ecdsa.PrivateKey
	root  *x509.Certificate
	roots []*x509.Certificate
	ttl   time.Duration
	hook  func(ctx context.Context, id identity.ID) error
	calls []identity.ID
}

// New is an authority whose certificates last for a day.
func New() *CA {
	ca := &CA{ttl: 24 * time.Hour}
	ca.Rotate()
	return ca
}

// SetTTL changes how long certificates signed from now on last.
func (ca *CA) SetTTL(d time.Duration) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.ttl = d
}

// SetHook makes every Sign call fn first, without any lock held: an error fails the request, waiting delays it. A nil fn
// ends that.
func (ca *CA) SetHook(fn func(ctx context.Context, id identity.ID) error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.hook = fn
}

// Calls lists the identities asked for, in order, failed requests included.
func (ca *CA) Calls() []identity.ID {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return append([]identity.ID(nil), ca.calls...)
}

// Rotate signs with a new root from now on; earlier roots stay in the bundle.
func (ca *CA) Rotate() {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	now := time.Now()
	ca.mu.Lock()
	defer ca.mu.Unlock()
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{Organization: []string{"catest"}, CommonName: fmt.Sprintf("root %d", len(ca.roots)+1)},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(10 * 365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	root := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key))))
	ca.key, ca.root = key, root
	ca.roots = append(ca.roots, root)
}

// Forget drops all roots but the newest from the bundle, as an operator who replaces a root without overlap.
func (ca *CA) Forget() {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.roots = ca.roots[len(ca.roots)-1:]
}

// Roots is the trust bundle as PEM.
func (ca *CA) Roots() []byte {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return certs.EncodeCertificates(ca.roots...)
}

// Sign implements client.Signer.
func (ca *CA) Sign(ctx context.Context, id identity.ID) (*certs.SVID, error) {
	ca.mu.Lock()
	ca.calls = append(ca.calls, id)
	hook := ca.hook
	ca.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, id); err != nil {
			return nil, err
		}
	}
	if err := id.Validate(); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return certs.NewSVID(id, key, ca.chain(key.Public(), &x509.Certificate{URIs: []*url.URL{id.URL()}}), time.Now(), &ca.bundles)
}

// MustSVID is Sign for tests that have other things to check; it panics on failure.
func (ca *CA) MustSVID(uri string) *certs.SVID {
	return must(ca.Sign(context.Background(), must(identity.Parse(uri))))
}

// Issue certifies pub with the names and times of tmpl, whatever they are, and returns what an authority would answer;
// zero times become the authority's own. It is how a test makes certificates a real authority would never issue.
func (ca *CA) Issue(pub crypto.PublicKey, tmpl *x509.Certificate) []string {
	return ca.chain(pub, tmpl)
}

func (ca *CA) chain(pub crypto.PublicKey, names *x509.Certificate) []string {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	leaf := *names
	leaf.SerialNumber = serial()
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	leaf.BasicConstraintsValid = true
	if leaf.ExtKeyUsage == nil {
		leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	if leaf.NotBefore.IsZero() {
		leaf.NotBefore = time.Now().Add(-time.Minute)
	}
	if leaf.NotAfter.IsZero() {
		leaf.NotAfter = time.Now().Add(ca.ttl)
	}
	cert := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, &leaf, ca.root, pub, ca.key))))
	return []string{string(certs.EncodeCertificates(cert)), string(certs.EncodeCertificates(ca.roots...))}
}

func serial() *big.Int {
	return must(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
