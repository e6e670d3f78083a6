// Package certs turns certificates into trust: it makes keys and requests, checks what an authority answered, and builds
// the TLS configurations both ends of a mesh connection use.
//
// It knows X.509, SPIFFE and crypto/tls. It does not know where certificates come from (ca/client), who may talk to whom
// (a policy's business) or what is carried inside. It starts no goroutines; every value is safe for concurrent use.
// Start reading at ClientConfig and ServerConfig.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/ca/identity"
)

// Policy is what an operator may change about mesh TLS. The zero Policy is the default: TLS 1.3 alone, X25519 and P-256.
type Policy struct {
	// TLS12 also admits TLS 1.2, with forward secret AES-GCM suites only.
	TLS12 bool
	// PostQuantum insists on the hybrid X25519MLKEM768 exchange.
	PostQuantum bool
	// FIPS keeps to the P-256 exchange.
	FIPS bool
	// Revoked, if set, is asked about each certificate of a peer's chain.
	Revoked func(*x509.Certificate) bool
}

// Errors a caller may branch on to tell why a peer was refused.
var (
	// ErrRevoked: the peer's certificate is on the revocation list.
	ErrRevoked = errors.New("certificate is revoked")
	// ErrIdentity: the peer proved an identity, but not one that is accepted here.
	ErrIdentity = errors.New("peer identity not accepted")
	// ErrUntrusted: the peer's certificate does not lead to a trusted root, or is not valid now.
	ErrUntrusted = errors.New("peer certificate not trusted")
)

// ClientConfig is Policy{}.ClientConfig.
func ClientConfig(svid *SVID, accept []identity.ID) *tls.Config {
	return Policy{}.ClientConfig(svid, accept)
}

// ServerConfig is Policy{}.ServerConfig.
func ServerConfig(current func() (*SVID, error), trustDomain string) *tls.Config {
	return Policy{}.ServerConfig(current, trustDomain)
}

// ClientConfig dials as svid and accepts only a peer that proves one of accept; an empty accept refuses every peer. There
// is no server name to send or to check: mesh peers are known by identity, not by host (Istio ambient wire contract, HBONE).
func (p Policy) ClientConfig(svid *SVID, accept []identity.ID) *tls.Config {
	accept = slices.Clone(accept)
	bundle := svid.Bundle()
	cfg := p.base()
	// Ours rather than crypto/tls's verification, because the latter needs a host name. VerifyConnection runs on every
	// handshake, resumed ones included, which VerifyPeerCertificate does not.
	cfg.InsecureSkipVerify = true
	cert := svid.TLS
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		id, err := p.verify(bundle, cs, x509.ExtKeyUsageServerAuth)
		if err != nil {
			return err
		}
		if !slices.Contains(accept, id) {
			return fmt.Errorf("%w: %s answered, want %s", ErrIdentity, id, list(accept))
		}
		return nil
	}
	return cfg
}

// ServerConfig serves as whatever current returns at the time of each handshake, so a renewed certificate and changed
// roots apply to the next connection. The peer must present a certificate of trustDomain; with an empty trustDomain any
// trusted identity will do.
func (p Policy) ServerConfig(current func() (*SVID, error), trustDomain string) *tls.Config {
	outer := p.base()
	outer.ClientAuth = tls.RequireAnyClientCert
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		svid, err := current()
		if err != nil {
			return nil, fmt.Errorf("no certificate to serve with: %w", err)
		}
		cfg := p.base()
		cfg.ClientAuth = tls.RequireAnyClientCert
		cfg.Certificates = []tls.Certificate{svid.TLS}
		bundle := svid.Bundle()
		cfg.VerifyConnection = func(cs tls.ConnectionState) error {
			id, err := p.verify(bundle, cs, x509.ExtKeyUsageClientAuth)
			if err != nil {
				return err
			}
			if trustDomain != "" && id.TrustDomain != trustDomain {
				return fmt.Errorf("%w: %s is not of trust domain %s", ErrIdentity, id, trustDomain)
			}
			return nil
		}
		return cfg, nil
	}
	return outer
}

// base is what both directions share.
func (p Policy) base() *tls.Config {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		// A resumed session would carry yesterday's verdict about a peer past a rotation or a revocation.
		SessionTicketsDisabled: true,
		CurvePreferences:       []tls.CurveID{tls.X25519, tls.CurveP256},
	}
	switch {
	case p.PostQuantum:
		cfg.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768}
	case p.FIPS:
		cfg.CurvePreferences = []tls.CurveID{tls.CurveP256}
	}
	if p.TLS12 && !p.PostQuantum {
		cfg.MinVersion = tls.VersionTLS12
		cfg.CipherSuites = []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		}
	}
	return cfg
}

// verify is the whole of mesh peer authentication: chain, time, usage, revocation, identity.
func (p Policy) verify(bundle *Bundle, cs tls.ConnectionState, usage x509.ExtKeyUsage) (identity.ID, error) {
	if err := bundle.Verify(cs.PeerCertificates, usage, time.Now()); err != nil {
		return identity.ID{}, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if p.Revoked != nil {
		for _, c := range cs.PeerCertificates {
			if p.Revoked(c) {
				return identity.ID{}, fmt.Errorf("%w: serial %x of %q", ErrRevoked, c.SerialNumber, c.Issuer.String())
			}
		}
	}
	return PeerID(cs)
}

// PeerID is the identity the peer of an established connection proved.
func PeerID(cs tls.ConnectionState) (identity.ID, error) {
	if len(cs.PeerCertificates) == 0 {
		return identity.ID{}, fmt.Errorf("%w: no certificate was presented", ErrUntrusted)
	}
	id, err := identity.FromCertificate(cs.PeerCertificates[0])
	if err != nil {
		return identity.ID{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	return id, nil
}

func list(ids []identity.ID) string {
	if len(ids) == 0 {
		return "nobody (no identity is accepted for this destination)"
	}
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = id.String()
	}
	return strings.Join(names, " or ")
}
