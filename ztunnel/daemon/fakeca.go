package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/identity"
)

// fakeCA signs for anybody with a key that everybody can compute (FAKE_CA): proxies on one desk trust each other without an
// authority. Its certificates prove nothing.
type fakeCA struct {
	key     *ecdsa.PrivateKey
	root    *x509.Certificate
	ttl     time.Duration
	bundles certs.Bundles
}

// fakeSeed makes the key the same everywhere. It is no secret, and must not be taken for one.
const fakeSeed = "FAKE_CA of ambit ztunnel: trust nothing that this key signs"

func newFakeCA(ttl time.Duration) (*fakeCA, error) {
	seed := sha256.Sum256([]byte(fakeSeed))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), seed[:])
	if err != nil {
		return nil, fmt.Errorf("key of the fake authority: %w", err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"FAKE_CA"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("certificate of the fake authority: %w", err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate of the fake authority: %w", err)
	}
	return &fakeCA{key: key, root: root, ttl: ttl}, nil
}

// Sign implements client.Signer.
func (ca *fakeCA) Sign(_ context.Context, id identity.ID) (*certs.SVID, error) {
	if err := id.Validate(); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	leaf := &x509.Certificate{
		SerialNumber: serial, URIs: []*url.URL{id.URL()}, NotBefore: now.Add(-time.Minute), NotAfter: earlier(now.Add(ca.ttl), ca.root.NotAfter),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca.root, key.Public(), ca.key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	chain := []string{string(certs.EncodeCertificates(cert)), string(certs.EncodeCertificates(ca.root))}
	return certs.NewSVID(id, key, chain, now, &ca.bundles)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
