package agent

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/waypoint/agent/ads"
	"github.com/ambit-mesh/ambit/waypoint/envoy"
)

// followCertificate hands every new certificate of this pod's identity to Envoy, and every change of who is revoked.
// Connections that are open keep what they were made with.
func (a *agent) followCertificate(ctx context.Context) error {
	a.offerSystemRoots()
	id := a.cfg.self()
	defer a.certs.Hold(id)()
	var revoked revoker
	var tick <-chan time.Time
	if a.cfg.CRLFile != "" {
		revoked.file = &certs.RevocationFile{Path: a.cfg.CRLFile, Keep: true}
		t := time.NewTicker(a.cfg.CRLCheck)
		defer t.Stop()
		tick = t.C
	}
	var last *certs.SVID
	var lists revocations
	for {
		svid, news := a.certs.Watch(id)
		if svid != nil {
			current := a.revocations(&revoked, svid)
			if svid != last || current != lists {
				update, err := secretUpdate(svid, current)
				if err != nil {
					return fmt.Errorf("hand the certificate to Envoy: %w", err)
				}
				a.ads.Apply(update)
			}
			if current != lists {
				a.log.Info("revocation list", "used", current.lists != "", "intermediates", !current.leafOnly)
			}
			if svid != last {
				a.log.Info("certificate", "identity", id.String(), "expires", svid.NotAfter, "first", last == nil)
			}
			if last == nil {
				close(a.certified)
			}
			last, lists = svid, current
		}
		select {
		case <-news:
		case <-tick:
		case <-ctx.Done():
			return nil
		}
	}
}

// revocations is what Envoy is to check peers by now. What is wrong with it is a problem of this instance.
func (a *agent) revocations(r *revoker, svid *certs.SVID) revocations {
	now := time.Now()
	out, err := r.look(svid, now)
	if err != nil {
		a.log.Error("not all that is revoked is refused", "error", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case r.told == "":
		a.unrevoked = nil
	case a.unrevoked == nil || a.unrevoked.text != r.told:
		a.unrevoked = &rejection{r.told, now}
	}
	return out
}

// secretUpdate puts a certificate, the roots that go with it and what is revoked into Envoy's form.
func secretUpdate(svid *certs.SVID, revoked revocations) (ads.Update, error) {
	der, err := x509.MarshalPKCS8PrivateKey(svid.TLS.PrivateKey)
	if err != nil {
		return ads.Update{}, err
	}
	var chain []byte
	for _, c := range svid.TLS.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	peers := &tlsv3.CertificateValidationContext{TrustedCa: inline(certs.EncodeCertificates(svid.RootCerts...))}
	if revoked.lists != "" {
		peers.Crl, peers.OnlyVerifyLeafCertCrl = inline([]byte(revoked.lists)), revoked.leafOnly
	}
	u := ads.Update{Type: ads.TypeSecret}
	for _, s := range []*tlsv3.Secret{
		{Name: envoy.SecretIdentity, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(chain),
			PrivateKey:       inline(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		}}},
		{Name: envoy.SecretRoots, Type: &tlsv3.Secret_ValidationContext{ValidationContext: peers}},
	} {
		body, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
		if err != nil {
			return ads.Update{}, err
		}
		u.Put = append(u.Put, ads.Resource{Name: s.GetName(), Body: body})
	}
	return u, nil
}

// systemRoots are where distributions keep them; crypto/x509 root_linux.go has the same list.
var systemRoots = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
	"/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
}

// offerSystemRoots gives Envoy the machine's roots, for destinations on the Internet. Where there are none it is given
// nothing, and connections that need them fail.
func (a *agent) offerSystemRoots() {
	for _, path := range append([]string{os.Getenv("SSL_CERT_FILE")}, systemRoots...) {
		roots, err := os.ReadFile(path)
		if err != nil || len(roots) == 0 {
			continue
		}
		body, err := proto.MarshalOptions{Deterministic: true}.Marshal(&tlsv3.Secret{
			Name: envoy.SecretSystemRoots, Type: &tlsv3.Secret_ValidationContext{
				ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(roots)},
			},
		})
		if err == nil {
			a.ads.Apply(ads.Update{Type: ads.TypeSecret, Put: []ads.Resource{{Name: envoy.SecretSystemRoots, Body: body}}})
			return
		}
	}
	a.log.Info("this machine has no root certificates: TLS to destinations whose policy names none will fail", "looked", systemRoots)
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}
