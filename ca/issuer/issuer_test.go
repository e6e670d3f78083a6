package issuer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/identity"
)

var alice = identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "alice"}

func open(t *testing.T, cfg Config) *Issuer {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	i, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// sign has a fresh key certified and checks the answer the way a client does.
func sign(t *testing.T, i *Issuer, ttl time.Duration) *certs.SVID {
	t.Helper()
	key, csr, err := certs.NewRequest(alice)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ParseCSR(csr)
	if err != nil {
		t.Fatal(err)
	}
	chain, _, err := i.Sign(alice, pub, ttl)
	if err != nil {
		t.Fatal(err)
	}
	svid, err := certs.NewSVID(alice, key, chain, time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return svid
}

func TestSelfSigned(t *testing.T) {
	dir := t.TempDir()
	i := open(t, Config{Dir: dir})
	svid := sign(t, i, 0)
	leaf := svid.TLS.Leaf
	now := time.Now()
	if life := leaf.NotAfter.Sub(now); life < 24*time.Hour-time.Minute || life > 24*time.Hour {
		t.Errorf("a default certificate lasts %v", life)
	}
	if back := now.Sub(leaf.NotBefore); back < 100*time.Second || back > 3*time.Minute {
		t.Errorf("NotBefore lies %v back, want two minutes", back)
	}
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.Subject.Names) != 0 || len(leaf.DNSNames) != 0 || leaf.PublicKeyAlgorithm != x509.ECDSA {
		t.Errorf("unexpected leaf: CA %v, usage %v, subject %v", leaf.IsCA, leaf.KeyUsage, leaf.Subject)
	}
	st, err := os.Stat(filepath.Join(dir, fileKey))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", st.Mode(), err)
	}
	again := open(t, Config{Dir: dir})
	if !again.Current().Cert.Equal(i.Current().Cert) {
		t.Error("reopened with another root")
	}
}

func TestLifetimes(t *testing.T) {
	i := open(t, Config{RootTTL: 48 * time.Hour})
	until := i.Current().Until
	if leaf := sign(t, i, time.Hour).TLS.Leaf; time.Until(leaf.NotAfter) > time.Hour {
		t.Errorf("an hour asked for, until %v", leaf.NotAfter)
	}
	if leaf := sign(t, i, 89*24*time.Hour).TLS.Leaf; !leaf.NotAfter.Equal(until) {
		t.Errorf("ends at %v, want the issuer's end %v", leaf.NotAfter, until)
	}
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if _, _, err := i.Sign(alice, key.Public(), 91*24*time.Hour); !errors.Is(err, ErrTTL) {
		t.Errorf("91 days: %v, want a refusal", err)
	}
	if _, _, err := i.Sign(identity.ID{}, key.Public(), 0); err == nil {
		t.Error("signed for nobody")
	}
	// The default never asks for more than is granted.
	if got := open(t, Config{Dir: t.TempDir(), MaxTTL: time.Hour}).cfg.DefaultTTL; got != time.Hour {
		t.Errorf("default lifetime %v where an hour is the most", got)
	}
}

// The whole life of a root and its successor, in virtual time: whoever holds either bundle accepts leaves of the other
// generation for as long as the old root lasts.
func TestRotationOverlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := open(t, Config{RootTTL: 100 * time.Hour, DefaultTTL: 10 * time.Hour, Poll: time.Minute})
		changed := i.Changed()
		first := sign(t, i, 0)
		i.Refresh(time.Now().Add(79 * time.Hour))
		if !i.Current().Cert.Equal(first.RootCerts[0]) {
			t.Fatal("rotated too early")
		}
		time.Sleep(81 * time.Hour)
		old := sign(t, i, 0) // the last leaf of the old root
		i.Refresh(time.Now())
		select {
		case <-changed:
		default:
			t.Fatal("not rotated in the last fifth")
		}
		young := sign(t, i, 0)
		if len(young.RootCerts) != 2 || len(young.TLS.Certificate) != 2 {
			t.Fatalf("after rotation: %d roots, %d certificates in the chain, want old and new root and the cross-signed one", len(young.RootCerts), len(young.TLS.Certificate))
		}
		if err := old.Bundle().Verify(young.Chain(), x509.ExtKeyUsageServerAuth, time.Now()); err != nil {
			t.Errorf("who knows the old root alone refuses a new leaf: %v", err)
		}
		if err := young.Bundle().Verify(old.Chain(), x509.ExtKeyUsageServerAuth, time.Now()); err != nil {
			t.Errorf("who knows both refuses an old leaf: %v", err)
		}
		if reopened := open(t, Config{Dir: i.cfg.Dir, RootTTL: 100 * time.Hour}); !reopened.Bundle().Equal(i.Bundle()) {
			t.Error("reopened with another bundle")
		}
		time.Sleep(20 * time.Hour) // the old root has expired
		i.Refresh(time.Now())
		alone := sign(t, i, 0)
		if len(alone.RootCerts) != 1 || len(alone.TLS.Certificate) != 1 {
			t.Errorf("after the old root expired: %d roots, %d certificates in the chain, want one each", len(alone.RootCerts), len(alone.TLS.Certificate))
		}
	})
}

func TestSecondRotationWithinOverlap(t *testing.T) {
	i := open(t, Config{})
	first := sign(t, i, 0)
	for range 2 {
		if err := i.Rotate(); err != nil {
			t.Fatal(err)
		}
	}
	third := sign(t, i, 0)
	if len(third.RootCerts) != 3 {
		t.Errorf("%d roots, want three", len(third.RootCerts))
	}
	if err := first.Bundle().Verify(third.Chain(), x509.ExtKeyUsageServerAuth, time.Now()); err != nil {
		t.Errorf("who knows the first root alone refuses a leaf of the third: %v", err)
	}
}

// Rotations on demand stop before the bundle is so long that verifiers give up on it.
func TestRotationsAreBounded(t *testing.T) {
	i := open(t, Config{})
	first := sign(t, i, 0)
	var err error
	n := 0
	for ; err == nil && n < 20; n++ {
		err = i.Rotate()
	}
	if err == nil || !strings.Contains(err.Error(), "8 roots are trusted already") || n != maxRoots {
		t.Errorf("after %d rotations: %v", n, err)
	}
	last := sign(t, i, 0)
	for name, c := range map[string]struct{ bundle, of *certs.SVID }{"first by last": {last, first}, "last by first": {first, last}, "last by last": {last, last}} {
		if err := c.bundle.Bundle().Verify(c.of.Chain(), x509.ExtKeyUsageServerAuth, time.Now()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := open(t, Config{RootTTL: time.Hour, Poll: time.Minute})
		first := i.Current().Cert
		done := make(chan error, 1)
		ctx, cancel := contextWithCancel(t)
		go func() { done <- i.Run(ctx) }()
		time.Sleep(50 * time.Minute)
		synctest.Wait()
		if i.Current().Cert.Equal(first) {
			t.Error("Run did not rotate")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A root that ran out while nobody was there is replaced; damaged files are not.
func TestOpenExpiredOrDamaged(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		was := open(t, Config{Dir: dir, RootTTL: time.Hour}).Current().Cert
		time.Sleep(2 * time.Hour)
		if open(t, Config{Dir: dir, RootTTL: time.Hour}).Current().Cert.Equal(was) {
			t.Error("opened with an expired root")
		}
	})
	for name, damage := range map[string]func(dir string) error{
		"key missing":  func(dir string) error { return os.Remove(filepath.Join(dir, fileKey)) },
		"cert missing": func(dir string) error { return os.Remove(filepath.Join(dir, fileCert)) },
		"cert cut":     func(dir string) error { return os.Truncate(filepath.Join(dir, fileCert), 100) },
		"key cut":      func(dir string) error { return os.Truncate(filepath.Join(dir, fileKey), 10) },
	} {
		dir := t.TempDir()
		open(t, Config{Dir: dir})
		if err := damage(dir); err != nil {
			t.Fatal(err)
		}
		_, err := Open(Config{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), "restore the files") {
			t.Errorf("%s: %v, want a refusal that says what to do", name, err)
		}
	}
}

func TestParseCSR(t *testing.T) {
	_, good, err := certs.NewRequest(alice)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseCSR(good); err != nil {
		t.Fatal(err)
	}
	csr := func(key crypto.Signer) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		return pemBlock("CERTIFICATE REQUEST", der)
	}
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	forged := []byte(string(good))
	block := decode(t, forged)
	block[len(block)-1] ^= 1
	for name, c := range map[string]struct {
		data []byte
		text string
	}{
		"empty":       {nil, "not PEM"},
		"huge":        {make([]byte, maxCSR+1), "bytes"},
		"certificate": {pemBlock("CERTIFICATE", block), "where a CERTIFICATE REQUEST"},
		"two":         {append(append([]byte{}, good...), good...), "follows"},
		"not ASN.1":   {pemBlock("CERTIFICATE REQUEST", []byte("x")), "certificate request"},
		"forged":      {pemBlock("CERTIFICATE REQUEST", block), "certificate request"},
		"P-224":       {csr(p224), "too weak"},
		"RSA 1024":    {csr(short), "1024 bits"},
	} {
		if _, err := ParseCSR(c.data); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %q", name, err, c.text)
		}
	}
}

func FuzzParseCSR(f *testing.F) {
	_, good, err := certs.NewRequest(alice)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if pub, err := ParseCSR(data); err == nil && pub == nil {
			t.Fatal("no key and no error")
		}
	})
}
