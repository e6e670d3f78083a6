package daemon

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/issuer"
)

// authorityCertificate is a certificate as the stand-alone authority's config_dump has it.
type authorityCertificate struct {
	Subject   string    `json:"subject"`
	Serial    string    `json:"serialNumber"`
	NotBefore time.Time `json:"validFrom"`
	NotAfter  time.Time `json:"expirationTime"`
	PEM       string    `json:"pem"`
}

// authorityDump is what the authority signs with and for whom.
type authorityDump struct {
	TrustDomain         string                 `json:"trustDomain"`
	Issuer              authorityCertificate   `json:"issuer"`
	Until               time.Time              `json:"until"`
	Intermediates       []authorityCertificate `json:"intermediates"`
	Roots               []authorityCertificate `json:"roots"`
	Serving             []authorityCertificate `json:"serving"`
	TrustedNodeAccounts []string               `json:"trustedNodeAccounts"`
	Warnings            []string               `json:"warnings"`
}

// authority answers about the authority inside, in the words of the stand-alone one.
func (d *Daemon) authority() http.Handler {
	mux := http.NewServeMux()
	open := func(h func(http.ResponseWriter, *http.Request, *issuer.Issuer)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if d.cluster == nil || d.cluster.authority == nil {
				http.Error(w, "this control plane issues no certificates: its own come from --tls-dir, those of proxies from an authority of their own", http.StatusNotFound)
				return
			}
			iss := d.cluster.issuer.Load()
			if iss == nil {
				http.Error(w, "the authority is not open yet", http.StatusServiceUnavailable)
				return
			}
			h(w, r, iss)
		}
	}
	mux.HandleFunc("GET /ca/config_dump", open(func(w http.ResponseWriter, _ *http.Request, iss *issuer.Issuer) { reply(w, d.authorityDump(iss)) }))
	mux.HandleFunc("GET /ca/roots", open(func(w http.ResponseWriter, _ *http.Request, iss *issuer.Issuer) {
		w.Header().Set("Content-Type", "application/x-pem-file")
		_, _ = w.Write(iss.Bundle().PEM())
	}))
	mux.HandleFunc("POST /ca/rotate", open(func(w http.ResponseWriter, r *http.Request, _ *issuer.Issuer) {
		// A loopback port is open to every user of a machine; in a pod there is nobody else.
		if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); !d.cfg.InCluster && (!ok || addr.Network() != "unix") {
			http.Error(w, "only over --admin-socket, or in a pod", http.StatusForbidden)
			return
		}
		if err := d.cluster.authority.RotateNow(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		fmt.Fprintln(w, "rotated")
	}))
	// A page in the browser of somebody who forwards the port must not rotate the root.
	return http.NewCrossOriginProtection().Handler(mux)
}

func (d *Daemon) authorityDump(iss *issuer.Issuer) authorityDump {
	show := func(c *x509.Certificate) authorityCertificate {
		return authorityCertificate{c.Subject.String(), fmt.Sprintf("%x", c.SerialNumber), c.NotBefore, c.NotAfter, string(certs.EncodeCertificates(c))}
	}
	m := iss.Current()
	out := authorityDump{TrustDomain: iss.TrustDomain(), Issuer: show(m.Cert), Until: m.Until, TrustedNodeAccounts: d.cfg.TrustedNodeAccounts}
	for _, c := range m.Intermediates {
		out.Intermediates = append(out.Intermediates, show(c))
	}
	for _, c := range m.Bundle.Certificates() {
		out.Roots = append(out.Roots, show(c))
	}
	if err := iss.Refused(); err != nil {
		out.Warnings = append(out.Warnings, err.Error())
	}
	return out
}
