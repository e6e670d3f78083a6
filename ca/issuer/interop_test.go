package issuer

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/ambit-mesh/ambit/ca/certs"
)

// worlds are the issuers whose certificates strangers must accept.
func worlds(t *testing.T) map[string]*Issuer {
	rotated := open(t, Config{})
	if err := rotated.Rotate(); err != nil {
		t.Fatal(err)
	}
	root := newAuthority(t, "root", nil, nil)
	middle := newAuthority(t, "middle", root, nil)
	mesh := newAuthority(t, "mesh", middle, nil)
	dir := fill(t, t.TempDir(), map[string]string{fileCert: mesh.pem(), fileKey: mesh.keyPEM(t), fileRoots: root.pem(), fileChain: middle.pem()})
	return map[string]*Issuer{
		"self-signed":        open(t, Config{}),
		"rotated":            rotated,
		"with intermediates": open(t, Config{Dir: dir, Plugged: true}),
	}
}

func TestOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl on this machine")
	}
	for name, i := range worlds(t) {
		t.Run(name, func(t *testing.T) {
			svid := sign(t, i, 0)
			dir := t.TempDir()
			write := func(name string, data []byte) string {
				path := filepath.Join(dir, name)
				if err := os.WriteFile(path, data, 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			}
			chain := svid.Chain()
			leaf := write("leaf.pem", certs.EncodeCertificates(chain[0]))
			args := []string{"verify", "-x509_strict", "-purpose", "sslserver"}
			if len(chain) > 1 {
				args = append(args, "-untrusted", write("chain.pem", certs.EncodeCertificates(chain[1:]...)))
			}
			for n, roots := range [][]byte{svid.Bundle().PEM(), certs.EncodeCertificates(svid.RootCerts[len(svid.RootCerts)-1])} {
				// The second time with the oldest root alone, as a peer that has not heard of a rotation.
				file := write("roots.pem", roots)
				if out, err := exec.Command(openssl, append(args, "-CAfile", file, leaf)...).CombinedOutput(); err != nil || !strings.Contains(string(out), ": OK") {
					t.Errorf("openssl verify, bundle %d: %v\n%s", n, err, out)
				}
			}
			out, err := exec.Command(openssl, "x509", "-in", leaf, "-noout", "-text").CombinedOutput()
			if err != nil {
				t.Fatalf("openssl x509: %v\n%s", err, out)
			}
			for _, want := range []string{"URI:spiffe://cluster.local/ns/default/sa/alice", "prime256v1", "CA:FALSE", "TLS Web Server Authentication, TLS Web Client Authentication", "Subject Alternative Name: critical"} {
				if !strings.Contains(string(out), want) {
					t.Errorf("openssl does not show %q:\n%s", want, out)
				}
			}
		})
	}
}

func TestGoSPIFFE(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("cluster.local")
	for name, i := range worlds(t) {
		svid := sign(t, i, time.Hour)
		bundle := x509bundle.FromX509Authorities(td, svid.RootCerts)
		id, _, err := x509svid.Verify(svid.Chain(), bundle)
		if err != nil || id.String() != alice.String() {
			t.Errorf("%s: go-spiffe sees %v, %v", name, id, err)
		}
	}
}
