package certs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/ca/certs"
)

func TestRevocationFile(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if root, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	list := func(serials ...int64) []byte {
		l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
		for _, s := range serials {
			l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: time.Now()})
		}
		der, err := x509.CreateRevocationList(rand.Reader, l, root, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	f := &certs.RevocationFile{Path: filepath.Join(t.TempDir(), "crl.pem"), Keep: true}
	kept := func(want int) {
		t.Helper()
		if got := f.Lists(); len(got) != want {
			t.Errorf("%d lists are kept, not %d", len(got), want)
		}
	}
	leaf := func(serial int64) *x509.Certificate {
		return &x509.Certificate{RawIssuer: root.RawSubject, SerialNumber: big.NewInt(serial)}
	}
	step := func(name string, data []byte, changed, ok bool, revoked ...int64) {
		t.Helper()
		if data != nil {
			if err := os.WriteFile(f.Path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := f.Refresh()
		if got != changed || (err == nil) != ok {
			t.Errorf("%s: changed %v, %v", name, got, err)
		}
		is := map[int64]bool{}
		for _, s := range revoked {
			is[s] = true
		}
		for s := int64(5); s < 9; s++ {
			if f.Revoked(leaf(s)) != is[s] {
				t.Errorf("%s: serial %d revoked %v", name, s, !is[s])
			}
		}
		if f.Revoked(&x509.Certificate{RawIssuer: []byte("other"), SerialNumber: big.NewInt(5)}) {
			t.Errorf("%s: another issuer's serial 5 is revoked", name)
		}
	}
	asPEM := func(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}) }
	step("no file", nil, false, true)
	step("PEM", asPEM(list(5)), true, true, 5)
	step("again", nil, false, true, 5)
	step("DER", list(6, 7), true, true, 6, 7)
	step("cut in half", list(6, 7)[:30], false, false, 6, 7)
	step("a certificate", certs.EncodeCertificates(root), false, false, 6, 7)
	kept(1)
	step("two lists", append(asPEM(list(5)), asPEM(list(8))...), true, true, 5, 8)
	kept(2)
	whole := append(asPEM(list(5)), asPEM(list(6))...)
	step("PEM cut in half", whole[:len(whole)-40], false, false, 5, 8)
	if err := os.Remove(f.Path); err != nil {
		t.Fatal(err)
	}
	step("removed", nil, true, true)
	kept(0)
}

func FuzzRevocations(f *testing.F) {
	f.Add([]byte("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"))
	f.Add([]byte{0x30, 0x03, 0x02, 0x01, 0x01})
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		file := &certs.RevocationFile{Path: filepath.Join(dir, "crl")}
		if err := os.WriteFile(file.Path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = file.Refresh()
	})
}
