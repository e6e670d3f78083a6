package issuer

import (
	"crypto/x509"
	"fmt"
	"time"

	"github.com/ambit-mesh/ambit/ca/certs"
)

// Certificate is one as people look at it.
type Certificate struct {
	Subject   string    `json:"subject"`
	Serial    string    `json:"serialNumber"`
	NotBefore time.Time `json:"validFrom"`
	NotAfter  time.Time `json:"expirationTime"`
	PEM       string    `json:"pem"`
}

// Show returns what people look at of a certificate.
func Show(c *x509.Certificate) Certificate {
	return Certificate{c.Subject.String(), fmt.Sprintf("%x", c.SerialNumber), c.NotBefore, c.NotAfter, string(certs.EncodeCertificates(c))}
}

// Dump is what an issuer signs with, and until when; a part of config_dump wherever there is one.
type Dump struct {
	TrustDomain   string        `json:"trustDomain"`
	Issuer        Certificate   `json:"issuer"`
	Until         time.Time     `json:"until"`
	Intermediates []Certificate `json:"intermediates"`
	Roots         []Certificate `json:"roots"`
}

// Dump shows what certificates are signed with now. No key is in it.
func (i *Issuer) Dump() Dump {
	m := i.Current()
	out := Dump{TrustDomain: i.TrustDomain(), Issuer: Show(m.Cert), Until: m.Until}
	for _, c := range m.Intermediates {
		out.Intermediates = append(out.Intermediates, Show(c))
	}
	for _, c := range m.Bundle.Certificates() {
		out.Roots = append(out.Roots, Show(c))
	}
	return out
}
