package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

func TestOutOfDate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	from := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: from.Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secrets := []*waypoint.Secret{
		{Namespace: "shop", Name: "tls", CertificateChain: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})},
		{Namespace: "shop", Name: "bad", CertificateChain: []byte("no")},
		{Namespace: "shop", Name: "worse", CertificateChain: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der[1:]})},
	}
	for at, want := range map[time.Duration]string{-time.Hour: "not valid before 2026-11-01", time.Hour: "", 25 * time.Hour: "expired at 2026-11-02"} {
		got := outOfDate(secrets, from.Add(at))
		switch {
		case want == "" && len(got) == 0:
		case len(got) != 1 || want == "" || !strings.Contains(got[0].Text, want) || got[0].Objects[0] != "Secret shop/tls":
			t.Errorf("after %v: %+v, want %q", at, got, want)
		}
	}
}
