package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/ambit-mesh/ambit/ca/identity"
)

// SVID is one identity's certificate and key together with the roots that go with it. It is immutable: a renewal is a new
// SVID, and whoever holds the old one may go on using it until NotAfter.
type SVID struct {
	ID identity.ID
	// TLS is leaf first, then intermediates; Leaf is set.
	TLS tls.Certificate
	// Roots and RootCerts are the same trust anchors, to verify with and to show.
	Roots     *x509.CertPool
	RootCerts []*x509.Certificate
	NotBefore time.Time
	NotAfter  time.Time
	// Generation counts the certificates of this identity seen by the process that made the SVID.
	Generation uint64

	bundle *Bundle
}

// NewRequest makes a P-256 key and a PEM certificate request that carries id as its only name, without a subject.
func NewRequest(id identity.ID) (*ecdsa.PrivateKey, []byte, error) {
	if err := id.Validate(); err != nil {
		return nil, nil, fmt.Errorf("certificate request: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generate key for %s: %w", id, err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		URIs:               []*url.URL{id.URL()},
		SignatureAlgorithm: x509.ECDSAWithSHA256,
	}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate request for %s: %w", id, err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// NewSVID puts together what a certificate authority answered: leaf first, then intermediates, then the roots in the last
// element, each element PEM (Istio ambient wire contract, CreateCertificate response). It refuses an answer that is not
// for id, not for key, or not verifiable with the roots it came with: a certificate peers would refuse must not replace
// a good one. bundles may be nil; with it, SVIDs of equal roots share one Bundle and its verification cache.
func NewSVID(id identity.ID, key crypto.Signer, chain []string, now time.Time, bundles *Bundles) (*SVID, error) {
	if len(chain) < 2 {
		return nil, fmt.Errorf("certificate for %s: answer has %d chain elements, want the leaf and the roots at least", id, len(chain))
	}
	var certs []*x509.Certificate
	for _, element := range chain[:len(chain)-1] {
		parsed, err := ParseCertificates([]byte(element))
		if err != nil {
			return nil, fmt.Errorf("certificate for %s: %w", id, err)
		}
		certs = append(certs, parsed...)
	}
	roots, err := ParseCertificates([]byte(chain[len(chain)-1]))
	if err != nil {
		return nil, fmt.Errorf("certificate for %s: roots: %w", id, err)
	}
	leaf := certs[0]
	got, err := identity.FromCertificate(leaf)
	if err != nil {
		return nil, fmt.Errorf("certificate for %s: %w", id, err)
	}
	if got != id {
		return nil, fmt.Errorf("certificate for %s: the authority answered for %s instead", id, got)
	}
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(leaf.PublicKey) {
		return nil, fmt.Errorf("certificate for %s: does not belong to the key it was asked for", id)
	}
	bundle := bundles.intern(roots)
	svid := &SVID{ID: id, Roots: bundle.Pool(), RootCerts: bundle.Certificates(), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, bundle: bundle}
	svid.TLS = tls.Certificate{PrivateKey: key, Leaf: leaf}
	for _, c := range certs {
		svid.TLS.Certificate = append(svid.TLS.Certificate, c.Raw)
	}
	if err := bundle.Verify(certs, x509.ExtKeyUsageAny, now); err != nil {
		return nil, fmt.Errorf("certificate for %s: %w", id, err)
	}
	return svid, nil
}

// Bundle is the trust bundle of s.
func (s *SVID) Bundle() *Bundle {
	if s.bundle != nil {
		return s.bundle
	}
	return NewBundle(s.RootCerts)
}

// WithBundle is s with other trust roots: the same certificate, held by somebody who has learnt whom to trust anew.
func (s *SVID) WithBundle(b *Bundle) *SVID {
	out := *s
	out.bundle, out.Roots, out.RootCerts = b, b.Pool(), b.Certificates()
	return &out
}

// Chain is the leaf and its intermediates, parsed.
func (s *SVID) Chain() []*x509.Certificate {
	chain := []*x509.Certificate{s.TLS.Leaf}
	for _, der := range s.TLS.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			chain = append(chain, c)
		}
	}
	return chain
}

// ParseCertificates reads the PEM certificates in data. Blocks of other kinds are refused: they are a sign that the
// wrong file was given, and a key must not travel further.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for len(data) > 0 {
		var block *pem.Block
		block, data = pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %q where a CERTIFICATE was expected", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("no PEM certificate in it")
	}
	return certs, nil
}

// EncodeCertificates is the PEM form of certs, one after the other.
func EncodeCertificates(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}
