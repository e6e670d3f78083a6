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
	// inter is what signs in the root's place, if anything does; issued are serial numbers by issuer and identity.
	inter    *x509.Certificate
	interKey *ecdsa.PrivateKey
	issued   map[string][]*big.Int
}

// New is an authority whose certificates last for a day.
func New() *CA {
	ca := &CA{ttl: 24 * time.Hour, issued: map[string][]*big.Int{}}
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
	ca.inter, ca.interKey = nil, nil
	ca.roots = append(ca.roots, root)
}

// Intermediate signs with an intermediate of the root from now on, until the next Rotate.
func (ca *CA) Intermediate() {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	ca.mu.Lock()
	defer ca.mu.Unlock()
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{Organization: []string{"catest"}, CommonName: "intermediate"},
		NotBefore: ca.root.NotBefore, NotAfter: ca.root.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	ca.inter = must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, tmpl, ca.root, key.Public(), ca.key))))
	ca.interKey = key
}

// signer is what signs at present. The lock is held.
func (ca *CA) signer() (*x509.Certificate, *ecdsa.PrivateKey) {
	if ca.inter != nil {
		return ca.inter, ca.interKey
	}
	return ca.root, ca.key
}

// RevocationList is a list, in PEM and good until a time, of what signs at present, with all that it has certified for
// these identities.
func (ca *CA) RevocationList(until time.Time, ids ...string) []byte {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	by, key := ca.signer()
	var serials []*big.Int
	for _, id := range ids {
		serials = append(serials, ca.issued[string(by.RawSubject)+id]...)
	}
	return listBy(by, key, until, serials)
}

// RootRevocationList is one of the root's, with certificates that it has signed.
func (ca *CA) RootRevocationList(until time.Time, revoked ...*x509.Certificate) []byte {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	var serials []*big.Int
	for _, c := range revoked {
		serials = append(serials, c.SerialNumber)
	}
	return listBy(ca.root, ca.key, until, serials)
}

func listBy(by *x509.Certificate, key *ecdsa.PrivateKey, until time.Time, serials []*big.Int) []byte {
	list := &x509.RevocationList{Number: serial(), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: until}
	for _, n := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: time.Now()})
	}
	return certs.EncodeRevocationLists(must(x509.ParseRevocationList(must(x509.CreateRevocationList(rand.Reader, list, by, key)))))
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
	by, key := ca.signer()
	cert := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, &leaf, by, pub, key))))
	for _, u := range leaf.URIs {
		id := string(by.RawSubject) + u.String()
		ca.issued[id] = append(ca.issued[id], leaf.SerialNumber)
	}
	out := []string{string(certs.EncodeCertificates(cert))}
	if ca.inter != nil {
		out = append(out, string(certs.EncodeCertificates(ca.inter)))
	}
	return append(out, string(certs.EncodeCertificates(ca.roots...)))
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
