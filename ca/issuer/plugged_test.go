package issuer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/ca/certs"
)

func contextWithCancel(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func decode(t *testing.T, data []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatal("no PEM")
	}
	return block.Bytes
}

// authority is one certificate of an operator's own hierarchy.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newAuthority(t *testing.T, name string, parent *authority, change func(*x509.Certificate)) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return certify(t, name, key, parent, change)
}

func certify(t *testing.T, name string, key crypto.Signer, parent *authority, change func(*x509.Certificate)) *authority {
	t.Helper()
	serial, err := serialNumber()
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if change != nil {
		change(tmpl)
	}
	signer := parent
	if signer == nil {
		signer = &authority{tmpl, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, signer.cert, key.Public(), signer.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) pem() string { return string(certs.EncodeCertificates(a.cert)) }

func (a *authority) keyPEM(t *testing.T) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pemBlock("PRIVATE KEY", der))
}

func fill(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPlugged(t *testing.T) {
	root := newAuthority(t, "corporate root", nil, nil)
	middle := newAuthority(t, "division", root, nil)
	mesh := newAuthority(t, "mesh", middle, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Hour) })
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaRoot := certify(t, "rsa root", rsaKey, nil, nil)
	for _, c := range []struct {
		name  string
		files map[string]string
		chain int // certificates on the wire with a leaf, itself included
	}{
		{"a root alone", map[string]string{fileCert: root.pem(), fileKey: root.keyPEM(t), fileRoots: root.pem()}, 1},
		{"a root without a bundle", map[string]string{fileCert: root.pem(), fileKey: root.keyPEM(t)}, 1},
		{"RSA", map[string]string{fileCert: rsaRoot.pem(), fileKey: rsaRoot.keyPEM(t), fileRoots: rsaRoot.pem()}, 1},
		{"two levels", map[string]string{fileCert: mesh.pem(), fileKey: mesh.keyPEM(t), fileRoots: root.pem(), fileChain: middle.pem()}, 3},
		{"chain repeats certificate and root", map[string]string{fileCert: mesh.pem(), fileKey: mesh.keyPEM(t), fileRoots: root.pem(), fileChain: mesh.pem() + middle.pem() + root.pem()}, 3},
		{"a stranger in the chain", map[string]string{fileCert: mesh.pem(), fileKey: mesh.keyPEM(t), fileRoots: root.pem(), fileChain: rsaRoot.pem() + middle.pem()}, 3},
		{"two roots", map[string]string{fileCert: mesh.pem(), fileKey: mesh.keyPEM(t), fileRoots: rsaRoot.pem() + root.pem(), fileChain: middle.pem()}, 3},
		{"tls secret", map[string]string{tlsCert: mesh.pem() + middle.pem(), tlsKey: mesh.keyPEM(t), tlsRoots: root.pem()}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := open(t, Config{Dir: fill(t, t.TempDir(), c.files), Plugged: true})
			svid := sign(t, i, 0)
			if len(svid.TLS.Certificate) != c.chain {
				t.Errorf("%d certificates on the wire, want %d", len(svid.TLS.Certificate), c.chain)
			}
			if svid.NotAfter.After(i.Current().Cert.NotAfter) {
				t.Error("the leaf outlives its issuer")
			}
		})
	}
}

func TestPluggedRefuses(t *testing.T) {
	root := newAuthority(t, "root", nil, nil)
	other := newAuthority(t, "other", nil, nil)
	middle := newAuthority(t, "middle", root, nil)
	mesh := newAuthority(t, "mesh", middle, nil)
	short := newAuthority(t, "no depth", root, func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true })
	deep := newAuthority(t, "too deep", short, nil)
	leafOnly := newAuthority(t, "leaf", root, func(c *x509.Certificate) { c.IsCA = false })
	noSign := newAuthority(t, "no sign", root, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
	expired := newAuthority(t, "expired", root, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	future := newAuthority(t, "future", root, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })
	oldRoot := newAuthority(t, "old root", nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	constrained := newAuthority(t, "constrained", root, func(c *x509.Certificate) { c.PermittedURIDomains = []string{"example.org"} })
	clientOnly := newAuthority(t, "client only", root, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	set := func(a *authority, roots, chain string) map[string]string {
		return map[string]string{fileCert: a.pem(), fileKey: a.keyPEM(t), fileRoots: roots, fileChain: chain}
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		text  string
	}{
		{"empty folder", nil, "put ca-cert.pem"},
		{"no key", map[string]string{fileCert: root.pem()}, "ca-key.pem is missing"},
		{"no certificate", map[string]string{fileKey: root.keyPEM(t)}, "ca-cert.pem is missing"},
		{"key of another", map[string]string{fileCert: root.pem(), fileKey: other.keyPEM(t)}, "does not belong"},
		{"certificate in the key's place", map[string]string{fileCert: root.pem(), fileKey: root.pem()}, `"CERTIFICATE" where a PRIVATE KEY`},
		{"key in the certificate's place", map[string]string{fileCert: root.keyPEM(t), fileKey: root.keyPEM(t)}, `"PRIVATE KEY" where a CERTIFICATE`},
		{"encrypted key", map[string]string{fileCert: root.pem(), fileKey: string(pemBlock("ENCRYPTED PRIVATE KEY", []byte("x")))}, "encrypted"},
		{"words", map[string]string{fileCert: "hello", fileKey: "hello"}, "no PEM certificate"},
		{"intermediate without roots", map[string]string{fileCert: middle.pem(), fileKey: middle.keyPEM(t)}, "root-cert.pem is missing"},
		{"missing intermediate", set(mesh, root.pem(), ""), `no path from "CN=mesh"`},
		{"wrong root", set(middle, other.pem(), ""), `no path from "CN=middle"`},
		{"broken chain file", set(mesh, root.pem(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "cert-chain.pem"},
		{"not a CA", set(leafOnly, root.pem(), ""), "not a CA certificate"},
		{"may not sign", set(noSign, root.pem(), ""), "keyCertSign"},
		{"expired", set(expired, root.pem(), ""), "expired at"},
		{"from the future", set(future, root.pem(), ""), "valid only from"},
		{"roots expired", set(oldRoot, oldRoot.pem(), ""), "expired"},
		{"path too deep", set(deep, root.pem(), short.pem()), "would not verify"},
		{"name constraints", set(constrained, root.pem(), ""), "would not verify"},
		{"clients only", set(clientOnly, root.pem(), ""), "would not verify"},
	} {
		_, err := Open(Config{Dir: fill(t, t.TempDir(), c.files), Plugged: true})
		if err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %q", c.name, err, c.text)
		}
	}
}

func TestHotReload(t *testing.T) {
	root := newAuthority(t, "root", nil, nil)
	first, second := newAuthority(t, "first", root, nil), newAuthority(t, "second", root, nil)
	dir := fill(t, t.TempDir(), map[string]string{fileCert: first.pem(), fileKey: first.keyPEM(t), fileRoots: root.pem()})
	i := open(t, Config{Dir: dir, Plugged: true})
	step := func(name string, issuer *authority, refused string) {
		t.Helper()
		i.Refresh(time.Now())
		if got := sign(t, i, 0).TLS.Leaf.Issuer.CommonName; got != issuer.cert.Subject.CommonName {
			t.Errorf("%s: issued by %q, want %q", name, got, issuer.cert.Subject.CommonName)
		}
		err := i.Refused()
		if (err == nil) != (refused == "") || err != nil && !strings.Contains(err.Error(), refused) {
			t.Errorf("%s: refused %v, want %q", name, err, refused)
		}
	}
	step("untouched", first, "")
	fill(t, dir, map[string]string{fileCert: second.pem()})
	step("half replaced", first, "does not belong")
	fill(t, dir, map[string]string{fileKey: second.keyPEM(t)})
	step("replaced", second, "")
	fill(t, dir, map[string]string{fileKey: second.keyPEM(t)[:40]})
	step("cut in half", second, "ca-key.pem")
	fill(t, dir, map[string]string{fileKey: second.keyPEM(t)})
	step("repaired", second, "")
	for _, name := range []string{fileCert, fileKey, fileRoots} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	step("gone", second, "gone")
}
