// Package identity is who a workload is: a trust domain, a namespace and a service account, written as a SPIFFE id.
//
// An ID is a comparable value, so it serves as a map key and is compared with ==; nothing in the mesh compares identities
// as strings. The package knows the spelling and nothing else: not certificates' validity, not keys, not Kubernetes.
// It starts no goroutines. Start reading at Parse.
package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// ID is one workload identity. The zero ID is nobody; it never parses, prints as "" and is in no certificate.
type ID struct {
	TrustDomain    string
	Namespace      string
	ServiceAccount string
}

// Longest accepted spellings: a trust domain is a DNS name at most, the whole id at most 2048 bytes. SPIFFE-ID §2.3.
const (
	maxTrustDomain = 255
	maxURI         = 2048
)

// Parse reads the exact spelling spiffe://<trust domain>/ns/<namespace>/sa/<service account>. Everything a URI may carry
// besides (port, user, query, fragment, escapes, empty or dotted segments) is refused. SPIFFE-ID §2.
func Parse(uri string) (ID, error) {
	if len(uri) > maxURI {
		return ID{}, fmt.Errorf("identity of %d bytes: longer than the %d a SPIFFE id may have", len(uri), maxURI)
	}
	rest, ok := strings.CutPrefix(uri, "spiffe://")
	if !ok {
		return ID{}, fmt.Errorf("identity %q: does not start with spiffe://", uri)
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa" {
		return ID{}, fmt.Errorf("identity %q: want spiffe://<trust domain>/ns/<namespace>/sa/<service account>", uri)
	}
	id := ID{TrustDomain: parts[0], Namespace: parts[2], ServiceAccount: parts[4]}
	if err := id.Validate(); err != nil {
		return ID{}, fmt.Errorf("identity %q: %w", uri, err)
	}
	return id, nil
}

// Validate reports what keeps the parts of id from forming a SPIFFE id that parses back to the same id.
func (id ID) Validate() error {
	if id.TrustDomain == "" || len(id.TrustDomain) > maxTrustDomain {
		return fmt.Errorf("trust domain has %d bytes, want 1 to %d", len(id.TrustDomain), maxTrustDomain)
	}
	for i := 0; i < len(id.TrustDomain); i++ {
		if c := id.TrustDomain[i]; !lowerDigit(c) && c != '.' && c != '-' && c != '_' {
			return fmt.Errorf("trust domain %q: character %q is not allowed (lower-case letters, digits, '.', '-', '_')", id.TrustDomain, c)
		}
	}
	if err := segment("namespace", id.Namespace); err != nil {
		return err
	}
	return segment("service account", id.ServiceAccount)
}

func lowerDigit(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// segment checks one path segment. SPIFFE-ID §2.2.
func segment(what, s string) error {
	switch s {
	case "":
		return fmt.Errorf("%s is empty", what)
	case ".", "..":
		return fmt.Errorf("%s %q is a relative path segment", what, s)
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !lowerDigit(c) && !('A' <= c && c <= 'Z') && c != '.' && c != '-' && c != '_' {
			return fmt.Errorf("%s %q: character %q is not allowed", what, s, c)
		}
	}
	return nil
}

// String is the SPIFFE id, or "" for the zero ID.
func (id ID) String() string {
	if id.IsZero() {
		return ""
	}
	return "spiffe://" + id.Principal()
}

// Principal is the SPIFFE id without its scheme, the form policies are written in.
func (id ID) Principal() string {
	if id.IsZero() {
		return ""
	}
	return id.TrustDomain + "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount
}

// URL is the SPIFFE id as a certificate carries it.
func (id ID) URL() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: id.TrustDomain, Path: "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount}
}

// IsZero reports whether id is nobody.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText and UnmarshalText let an ID stand in JSON and in flags.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (id *ID) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*id = ID{}
		return nil
	}
	parsed, err := Parse(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// ErrNoIdentity says that a certificate carries no SPIFFE id.
var ErrNoIdentity = errors.New("certificate has no SPIFFE id (URI subject alternative name)")

// FromCertificate reads the identity of a leaf certificate. A certificate with several URI names is refused: whichever we
// picked, a policy elsewhere might pick the other. X509-SVID §2. Validity and trust are not looked at.
func FromCertificate(cert *x509.Certificate) (ID, error) {
	switch len(cert.URIs) {
	case 0:
		return ID{}, ErrNoIdentity
	case 1:
		return Parse(cert.URIs[0].String())
	}
	return ID{}, fmt.Errorf("certificate has %d URI names, want exactly one SPIFFE id", len(cert.URIs))
}
