package issuer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/pemdir"
)

// newRoot makes a self-signed root and the files that hold it. With a previous root the two overlap: both are in the
// bundle, and a copy of the new root signed by the old one goes along with every leaf, so a peer that has not heard of
// the new root yet accepts new leaves as well. Both stop by themselves when the old root expires.
func newRoot(trustDomain string, lifetime, backdate time.Duration, previous *Material, now time.Time) (map[string]pemdir.File, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		// The serial in the name keeps two generations apart for verifiers that match issuers by name alone.
		Subject:               pkix.Name{Organization: []string{trustDomain}, CommonName: "Ambit root " + hex.EncodeToString(serial.Bytes()[:4])},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(lifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	roots, chain := []*x509.Certificate{root}, []*x509.Certificate(nil)
	if previous != nil && now.Before(previous.Cert.NotAfter) {
		cross, err := crossSign(root, previous)
		if err != nil {
			return nil, err
		}
		roots = append(roots, previous.Bundle.Certificates()...)
		chain = append(append(chain, cross), previous.Intermediates...)
	}
	return map[string]pemdir.File{
		fileKey:   {Data: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), Mode: 0o600},
		fileCert:  {Data: certs.EncodeCertificates(root), Mode: 0o644},
		fileRoots: {Data: certs.EncodeCertificates(roots...), Mode: 0o644},
		fileChain: {Data: certs.EncodeCertificates(chain...), Mode: 0o644},
	}, nil
}

// crossSign certifies the subject and key of root by the root before it.
func crossSign(root *x509.Certificate, by *Material) (*x509.Certificate, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	tmpl := *root
	tmpl.SerialNumber = serial
	tmpl.AuthorityKeyId = nil // that of the signer, filled in by CreateCertificate
	tmpl.SignatureAlgorithm = x509.UnknownSignatureAlgorithm
	if by.Cert.NotBefore.After(tmpl.NotBefore) {
		tmpl.NotBefore = by.Cert.NotBefore
	}
	if by.Until.Before(tmpl.NotAfter) {
		tmpl.NotAfter = by.Until
	}
	der, err := x509.CreateCertificate(rand.Reader, &tmpl, by.Cert, root.PublicKey, by.key)
	if err != nil {
		return nil, fmt.Errorf("cross-sign the new root: %w", err)
	}
	return x509.ParseCertificate(der)
}

// serialNumber is 127 random bits with the highest one set, so it is positive and of one length. RFC 5280 §4.1.2.2.
func serialNumber() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	return n.SetBit(n, 126, 1), nil
}
