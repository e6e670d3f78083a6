package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, _, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func verifier(keys *Keys) *Verifier {
	return &Verifier{Keys: func() (*Keys, error) { return keys, nil }}
}

var now = time.Unix(1_800_000_000, 0)

func claims() Claims {
	return Claims{Namespace: "ambit-system", ServiceAccount: "ztunnel", ServiceAccountUID: "s-1", PodName: "ztunnel-x", PodUID: "p-1",
		Node: "n1", NodeUID: "n-1", Issuer: DefaultIssuer, Audiences: []string{"istio-ca"}, IssuedAt: now, NotBefore: now, Expiry: now.Add(time.Hour)}
}

func TestRoundTrip(t *testing.T) {
	key := newKey(t)
	raw, err := Mint(key, claims())
	if err != nil {
		t.Fatal(err)
	}
	got, err := verifier(PublicKeys(key.Public())).Verify(raw, now)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(claims(), got, cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })); d != "" {
		t.Error(d)
	}
}

func TestVerifyRefuses(t *testing.T) {
	key, other := newKey(t), newKey(t)
	v := verifier(PublicKeys(key.Public()))
	mint := func(signer *ecdsa.PrivateKey, change func(*Claims)) string {
		c := claims()
		if change != nil {
			change(&c)
		}
		raw, err := Mint(signer, c)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	custom := func(payload any) string {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := jwt.Signed(s).Claims(payload).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	exp := now.Add(time.Hour).Unix()
	good := mint(key, nil)
	parts := strings.Split(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	hs := func() string {
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})}, nil)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := jwt.Signed(s).Claims(map[string]any{"sub": "system:serviceaccount:a:b", "aud": "istio-ca", "exp": exp}).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}()
	for name, c := range map[string]struct{ raw, text string }{
		"nothing":            {"", "not a signed JWT"},
		"huge":               {strings.Repeat("a", maxToken+1), "bytes long"},
		"alg none":           {none, "not a signed JWT"},
		"public key as hmac": {hs, "not a signed JWT"},
		"unknown key":        {mint(other, nil), "not among the 1 trusted token keys"},
		"tampered":           {parts[0] + "." + strings.Split(mint(key, func(c *Claims) { c.Namespace = "x" }), ".")[1] + "." + parts[2], "signature is wrong"},
		"expired": {mint(key, func(c *Claims) {
			c.IssuedAt = now.Add(-2 * time.Hour)
			c.NotBefore = c.IssuedAt
			c.Expiry = now.Add(-time.Hour)
		}), "expired at"},
		"not yet":         {mint(key, func(c *Claims) { c.NotBefore = now.Add(10 * time.Minute) }), "valid only from"},
		"from the future": {mint(key, func(c *Claims) { c.IssuedAt = now.Add(10 * time.Minute); c.NotBefore = now }), "in the future"},
		"audience":        {mint(key, func(c *Claims) { c.Audiences = []string{"api"} }), "audience"},
		"no expiry":       {custom(map[string]any{"sub": "system:serviceaccount:a:b", "aud": "istio-ca"}), "never expires"},
		"a user":          {custom(map[string]any{"sub": "alice", "aud": "istio-ca", "exp": exp}), "not a service account"},
		"three parts":     {custom(map[string]any{"sub": "system:serviceaccount:a:b:c", "aud": "istio-ca", "exp": exp}), "not a service account"},
		"disagreeing": {custom(map[string]any{"sub": "system:serviceaccount:a:b", "aud": "istio-ca", "exp": exp,
			"kubernetes.io": map[string]any{"namespace": "other"}}), "disagrees"},
	} {
		if _, err := v.Verify(c.raw, now); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %q", name, err, c.text)
		}
	}
	if _, err := v.Verify(good, now); err != nil {
		t.Errorf("good: %v", err)
	}
	v.Issuer = "https://elsewhere"
	if _, err := v.Verify(good, now); err == nil {
		t.Error("accepted from another issuer")
	}
}

func TestParseKeysRefuses(t *testing.T) {
	_, private, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	der, _ := x509.MarshalPKIXPublicKey(p224.Public())
	jwk, _ := (&jose.JSONWebKey{Key: newKey(t), KeyID: "k"}).MarshalJSON()
	for name, data := range map[string]string{
		"empty":         "",
		"words":         "hello",
		"private PEM":   string(private),
		"private JWK":   `{"keys":[` + string(jwk) + `]}`,
		"symmetric JWK": `{"keys":[{"kty":"oct","k":"AAAA"}]}`,
		"empty JWKS":    `{"keys":[]}`,
		"broken JWKS":   `{"keys":[{`,
		"odd curve":     string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
	} {
		if _, err := ParseKeys([]byte(data)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestFileKeepsLastGood(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	f := &File{Path: path}
	if _, err := f.Keys(); err == nil {
		t.Fatal("no file, no error")
	}
	key, second := newKey(t), newKey(t)
	write := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	jwks := func(k *ecdsa.PrivateKey) []byte {
		b, err := PublicKeys(k.Public()).JWKS()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	write(jwks(key))
	v := &Verifier{Keys: f.Keys}
	raw, _ := Mint(key, claims())
	if _, err := v.Verify(raw, now); err != nil {
		t.Fatal(err)
	}
	write([]byte("half a fi"))
	if _, err := v.Verify(raw, now); err != nil || f.Err() == nil {
		t.Errorf("bad file: %v, Err %v; want the last good keys and a reason", err, f.Err())
	}
	write(append(jwks(second), '\n', '\n'))
	if _, err := v.Verify(raw, now); err == nil || f.Err() != nil {
		t.Errorf("replaced keys still accept the old token (%v), Err %v", err, f.Err())
	}
}

func FuzzVerify(f *testing.F) {
	key := newKey(f)
	raw, err := Mint(key, claims())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add("a.b.c")
	f.Add(`{"payload":"","signatures":[]}`)
	v := verifier(PublicKeys(newKey(f).Public()))
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := v.Verify(s, now); err == nil {
			t.Fatalf("accepted %q", s)
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"a","y":"b"}]}`))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := ParseKeys(data)
		if err == nil && len(keys.keys) == 0 {
			t.Fatal("no keys and no error")
		}
	})
}
