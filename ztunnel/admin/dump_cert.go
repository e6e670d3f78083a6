package admin

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/ca/client"
)

type certJSON struct {
	PEM            string `json:"pem"`
	SerialNumber   string `json:"serialNumber"`
	ValidFrom      string `json:"validFrom"`
	ExpirationTime string `json:"expirationTime"`
}

type identityJSON struct {
	Identity  string     `json:"identity"`
	State     string     `json:"state"`
	CertChain []certJSON `json:"certChain"`
	RootCerts []certJSON `json:"rootCerts"`
}

func (s Sources) dumpCertificates() []identityJSON {
	out := []identityJSON{}
	if s.Certificates == nil {
		return out
	}
	for _, st := range s.Certificates() {
		out = append(out, dumpCertificate(st))
	}
	slices.SortFunc(out, func(a, b identityJSON) int { return strings.Compare(a.Identity, b.Identity) })
	return out
}

func dumpCertificate(st client.Status) identityJSON {
	j := identityJSON{Identity: st.ID.String(), State: string(st.State), CertChain: []certJSON{}, RootCerts: []certJSON{}}
	if st.State == client.StateUnavailable && st.Err != "" {
		j.State += ": " + st.Err
	}
	if st.SVID == nil {
		return j
	}
	for _, der := range st.SVID.TLS.Certificate {
		if c, err := x509.ParseCertificate(der); err == nil {
			j.CertChain = append(j.CertChain, dumpCert(c))
		}
	}
	for _, c := range st.SVID.RootCerts {
		j.RootCerts = append(j.RootCerts, dumpCert(c))
	}
	return j
}

func dumpCert(c *x509.Certificate) certJSON {
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	return certJSON{
		PEM:            base64.StdEncoding.EncodeToString(text),
		SerialNumber:   c.SerialNumber.String(),
		ValidFrom:      c.NotBefore.UTC().Format(time.RFC3339),
		ExpirationTime: c.NotAfter.UTC().Format(time.RFC3339),
	}
}
