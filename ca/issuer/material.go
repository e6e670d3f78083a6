package issuer

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ca/pemdir"
)

// Names of the files of an issuer. Istio security/pkg/pki/ca, the "cacerts" secret; the second spelling is that of a
// kubernetes.io/tls secret.
const (
	fileCert  = "ca-cert.pem"
	fileKey   = "ca-key.pem"
	fileRoots = "root-cert.pem"
	fileChain = "cert-chain.pem"

	tlsCert  = "tls.crt"
	tlsKey   = "tls.key"
	tlsRoots = "ca.crt"
)

// Material is everything needed to issue, checked and immutable.
type Material struct {
	// Cert signs leaves with key.
	Cert *x509.Certificate
	key  crypto.Signer
	// Intermediates are sent after a leaf, nearest first, roots excluded.
	Intermediates []*x509.Certificate
	// Bundle is what everybody is to trust.
	Bundle *certs.Bundle
	// Until is when the path from Cert to its root ends; no leaf outlives it.
	Until time.Time
	// changes is the next moment at which a root or intermediate expires and the same files would mean something else.
	changes time.Time
	// sum identifies the files.
	sum [32]byte
}

// load reads and checks the files of dir at now. With no file at all it returns nil.
func load(dir string, now time.Time) (*Material, error) {
	files, err := pemdir.Read(dir, fileCert, fileKey, fileRoots, fileChain, tlsCert, tlsKey, tlsRoots)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, nil
	}
	m, err := parse(files, now)
	if err != nil {
		return nil, fmt.Errorf("issuer folder %s: %w", dir, err)
	}
	return m, nil
}

// fingerprint identifies the content of a set of files.
func fingerprint(files map[string]pemdir.File) [32]byte {
	h := sha256.New()
	for _, name := range []string{fileCert, fileKey, fileRoots, fileChain, tlsCert, tlsKey, tlsRoots} {
		fmt.Fprintf(h, "%s %d\n", name, len(files[name].Data))
		h.Write(files[name].Data)
	}
	return [32]byte(h.Sum(nil))
}

// parse checks files as a whole: that they belong together and that what they would issue verifies.
func parse(files map[string]pemdir.File, now time.Time) (*Material, error) {
	certName, keyName, rootsName := fileCert, fileKey, fileRoots
	if _, ok := files[fileCert]; !ok {
		if _, ok := files[tlsCert]; ok {
			certName, keyName, rootsName = tlsCert, tlsKey, tlsRoots
		}
	}
	for _, name := range []string{certName, keyName} {
		if _, ok := files[name]; !ok {
			return nil, fmt.Errorf("%s is missing; %s and %s are both needed", name, certName, keyName)
		}
	}
	chain, err := certs.ParseCertificates(files[certName].Data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certName, err)
	}
	m := &Material{Cert: chain[0], sum: fingerprint(files)}
	if m.key, err = parseKey(files[keyName].Data); err != nil {
		return nil, fmt.Errorf("%s: %w", keyName, err)
	}
	if pub, ok := m.key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(m.Cert.PublicKey) {
		return nil, fmt.Errorf("%s does not belong to %s: the public keys differ; put a matching pair", keyName, certName)
	}
	if err := canSign(m.Cert, certName, now); err != nil {
		return nil, err
	}
	if f, ok := files[fileChain]; ok && len(bytes.TrimSpace(f.Data)) > 0 {
		more, err := certs.ParseCertificates(f.Data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", fileChain, err)
		}
		chain = append(chain, more...)
	}
	roots, err := parseRoots(files, rootsName, certName, m.Cert, now)
	if err != nil {
		return nil, err
	}
	m.Bundle = certs.NewBundle(roots)
	if err := m.resolve(chain, rootsName, now); err != nil {
		return nil, err
	}
	return m, nil
}

// canSign checks that c may issue certificates. RFC 5280 §4.2.1.3, §4.2.1.9.
func canSign(c *x509.Certificate, name string, now time.Time) error {
	switch {
	case !c.BasicConstraintsValid || !c.IsCA:
		return fmt.Errorf("%s (%q) is not a CA certificate (basic constraints CA:TRUE is missing)", name, c.Subject.String())
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("%s (%q) may not sign certificates (key usage keyCertSign is missing)", name, c.Subject.String())
	case now.After(c.NotAfter):
		return fmt.Errorf("%s (%q) expired at %s; put a renewed one", name, c.Subject.String(), stamp(c.NotAfter))
	case now.Before(c.NotBefore):
		return fmt.Errorf("%s (%q) is valid only from %s; compare this machine's clock", name, c.Subject.String(), stamp(c.NotBefore))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// parseRoots reads the trust bundle, without what has expired.
func parseRoots(files map[string]pemdir.File, name, certName string, cert *x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	f, ok := files[name]
	if !ok {
		if bytes.Equal(cert.RawIssuer, cert.RawSubject) {
			return []*x509.Certificate{cert}, nil
		}
		return nil, fmt.Errorf("%s is missing, and %s is not a root itself but issued by %q", name, certName, cert.Issuer.String())
	}
	all, err := certs.ParseCertificates(f.Data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	roots := slices.DeleteFunc(all, func(c *x509.Certificate) bool { return now.After(c.NotAfter) })
	if len(roots) == 0 {
		return nil, fmt.Errorf("%s: every root in it has expired", name)
	}
	for _, c := range roots {
		if !c.IsCA {
			return nil, fmt.Errorf("%s: %q is not a CA certificate", name, c.Subject.String())
		}
	}
	return roots, nil
}

// resolve issues a throw-away leaf and verifies it the way a peer would. That is the check that catches everything at
// once: a missing intermediate, a path length, name constraints, a usage the path does not allow. The paths found are
// what is sent along with leaves.
func (m *Material) resolve(chain []*x509.Certificate, rootsName string, now time.Time) error {
	probe, err := m.probe(now)
	if err != nil {
		return fmt.Errorf("sign a probe certificate: %w", err)
	}
	pool := x509.NewCertPool()
	for _, c := range chain {
		pool.AddCert(c)
	}
	paths, err := probe.Verify(x509.VerifyOptions{Roots: m.Bundle.Pool(), Intermediates: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err == nil {
		_, err = probe.Verify(x509.VerifyOptions{Roots: m.Bundle.Pool(), Intermediates: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	}
	if err != nil {
		var unknown x509.UnknownAuthorityError
		if errors.As(err, &unknown) {
			return fmt.Errorf("no path from %q to a root in %s; the issuer %q must be in %s or %s", m.Cert.Subject.String(), rootsName, m.Cert.Issuer.String(), fileChain, rootsName)
		}
		return fmt.Errorf("certificates issued by %q would not verify: %w", m.Cert.Subject.String(), err)
	}
	// Shortest path first: the nearest certificates come first on the wire.
	slices.SortStableFunc(paths, func(a, b []*x509.Certificate) int { return len(a) - len(b) })
	for _, path := range paths {
		until := path[1].NotAfter
		for i, c := range path[1:] {
			if c.NotAfter.Before(until) {
				until = c.NotAfter
			}
			if m.changes.IsZero() || c.NotAfter.Before(m.changes) {
				m.changes = c.NotAfter
			}
			if i < len(path)-2 && !slices.ContainsFunc(m.Intermediates, c.Equal) {
				m.Intermediates = append(m.Intermediates, c)
			}
		}
		if until.After(m.Until) {
			m.Until = until
		}
	}
	if m.Cert.NotAfter.Before(m.Until) {
		m.Until = m.Cert.NotAfter
	}
	for _, c := range m.Bundle.Certificates() {
		if c.NotAfter.Before(m.changes) {
			m.changes = c.NotAfter
		}
	}
	return nil
}

func (m *Material) probe(now time.Time) (*x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	id := identity.ID{TrustDomain: "probe", Namespace: "probe", ServiceAccount: "probe"}
	tmpl := leafTemplate()
	tmpl.URIs = []*url.URL{id.URL()}
	tmpl.NotBefore, tmpl.NotAfter = now.Add(-time.Second), now.Add(time.Second)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, m.Cert, key.Public(), m.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// parseKey reads the first PEM private key of data.
func parseKey(data []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case "EC PARAMETERS":
			continue // openssl ecparam -genkey writes it before the key
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			if block.Headers["DEK-Info"] != "" {
				return nil, errors.New("the key is encrypted; store it without a passphrase and guard the file instead")
			}
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return nil, errors.New("the key is encrypted; store it without a passphrase and guard the file instead")
		default:
			return nil, fmt.Errorf("PEM block %q where a PRIVATE KEY was expected", block.Type)
		}
		if err != nil {
			return nil, err
		}
		if err := strongEnough(key); err != nil {
			return nil, err
		}
		return key.(crypto.Signer), nil
	}
	return nil, errors.New("no PEM private key in it")
}

// strongEnough bounds the kinds and sizes of keys, public or private, that take part.
func strongEnough(key any) error {
	if s, ok := key.(crypto.Signer); ok {
		key = s.Public()
	}
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P224() {
			return errors.New("elliptic curve P-224 is too weak (P-256, P-384 and P-521 are accepted)")
		}
		return nil
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 8192 {
			return fmt.Errorf("RSA key of %d bits (2048 to 8192 are accepted)", n)
		}
		return nil
	}
	return fmt.Errorf("keys of type %T are not accepted (ECDSA, RSA and Ed25519 are)", key)
}
