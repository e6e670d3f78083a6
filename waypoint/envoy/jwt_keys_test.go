package envoy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"
)

func rsaKey(t testing.TB, bits int) string {
	t.Helper()
	n := make([]byte, bits/8)
	if _, err := rand.Read(n); err != nil {
		t.Fatal(err)
	}
	n[0], n[len(n)-1] = n[0]|0x80, n[len(n)-1]|1
	return base64.RawURLEncoding.EncodeToString((&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}).N.Bytes())
}

func TestKeys(t *testing.T) {
	const ecX, ecY = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
	for name, c := range map[string]struct {
		key string
		bad string // part of the reason
	}{
		"RSA":                 {`{"kty":"RSA","e":"AQAB","n":"` + rsaKey(t, 2048) + `"}`, ""},
		"RSA, PSS":            {`{"kty":"RSA","alg":"PS256","e":"AQAB","n":"` + rsaKey(t, 3072) + `"}`, ""},
		"EC":                  {`{"kty":"EC","crv":"P-256","alg":"ES256","x":"` + ecX + `","y":"` + ecY + `"}`, ""},
		"Ed25519":             {`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`, ""},
		"weak RSA":            {`{"kty":"RSA","e":"AQAB","n":"` + rsaKey(t, 1024) + `"}`, "1024 bits"},
		"exponent 1":          {`{"kty":"RSA","e":"AQ","n":"` + rsaKey(t, 2048) + `"}`, "exponent"},
		"even exponent":       {`{"kty":"RSA","e":"Ag","n":"` + rsaKey(t, 2048) + `"}`, "exponent"},
		"RSA for HMAC":        {`{"kty":"RSA","alg":"HS256","e":"AQAB","n":"` + rsaKey(t, 2048) + `"}`, "alg"},
		"padding":             {`{"kty":"RSA","e":"AQAB==","n":"AA"}`, "base64url"},
		"no modulus":          {`{"kty":"RSA","e":"AQAB"}`, "n:"},
		"not on the curve":    {`{"kty":"EC","crv":"P-256","x":"` + ecY + `","y":"` + ecX + `"}`, "no point"},
		"short coordinate":    {`{"kty":"EC","crv":"P-256","x":"AQ","y":"` + ecY + `"}`, "bytes"},
		"curve and algorithm": {`{"kty":"EC","crv":"P-256","alg":"ES384","x":"` + ecX + `","y":"` + ecY + `"}`, "does not fit"},
		"another curve":       {`{"kty":"EC","crv":"secp256k1","x":"` + ecX + `","y":"` + ecY + `"}`, "curve"},
		"X25519":              {`{"kty":"OKP","crv":"X25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`, "curve"},
		"for encryption":      {`{"kty":"EC","use":"enc","crv":"P-256","x":"` + ecX + `","y":"` + ecY + `"}`, "use"},
		"shared secret":       {`{"kty":"oct","k":"c2VjcmV0"}`, "symmetric"},
		"no kind":             {`{}`, "kty"},
		"no object":           {`7`, "unmarshal"},
	} {
		keys, bad, err := verificationKeys(`{"keys":[` + c.key + `]}`)
		if c.bad == "" {
			if err != nil || len(bad) != 0 || strings.Contains(keys, `"d"`) {
				t.Errorf("%s: %q %v %v", name, keys, bad, err)
			}
			continue
		}
		if err == nil || len(bad) != 1 || !strings.Contains(bad[0], c.bad) {
			t.Errorf("%s: %q, %v; want a reason with %q", name, bad, err, c.bad)
		}
	}
	for _, text := range []string{"", " ", "{}", "[]", "null", `{"keys":{}}`, `{"keys":[]}`, "<html>", `{"keys":[` + strings.Repeat(`{},`, maxKeys) + `{}]}`} {
		if _, _, err := verificationKeys(text); err == nil {
			t.Errorf("%.40q is taken for a key set", text)
		}
	}
}

// TestUnusableKeys derives the key nobody has again.
func TestUnusableKeys(t *testing.T) {
	curve := elliptic.P256().Params()
	for i := 0; ; i++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "ambit: a key nobody has, %d", i))
		x := new(big.Int).SetBytes(sum[:])
		square := new(big.Int).Exp(x, big.NewInt(3), nil)
		square.Sub(square, new(big.Int).Mul(x, big.NewInt(3))).Add(square, curve.B).Mod(square, curve.P)
		y := new(big.Int).ModSqrt(square, curve.P)
		if x.Cmp(curve.P) >= 0 || y == nil {
			continue
		}
		if y.Bit(0) == 1 {
			y.Sub(curve.P, y)
		}
		point := append([]byte{4}, append(sum[:], y.FillBytes(make([]byte, 32))...)...)
		if _, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point); err != nil {
			t.Fatal(err)
		}
		var set struct{ Keys []jwk }
		if err := json.Unmarshal([]byte(unusableKeys), &set); err != nil {
			t.Fatal(err)
		}
		gotX, _ := field64(set.Keys[0].X)
		gotY, _ := field64(set.Keys[0].Y)
		if !bytes.Equal(gotX, point[1:33]) || !bytes.Equal(gotY, point[33:]) {
			t.Error("unusableKeys is not the key its comment says")
		}
		return
	}
}

func FuzzKeys(f *testing.F) {
	f.Add(`{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`)
	f.Add(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		keys, _, err := verificationKeys(text)
		if err != nil {
			return
		}
		again, bad, err := verificationKeys(keys)
		if err != nil || len(bad) > 0 || again != keys {
			t.Errorf("%q is taken, and what is made of it is not: %q %v %v", text, keys, bad, err)
		}
	})
}

func TestTemplates(t *testing.T) {
	for _, good := range []string{"/", "/a", "/{*}", "/{**}", "/a/{*}/b/{**}", "/a/{**}/c", "/a/", "/a.b-c_~/%20", "/{*}/{*}/{*}/{*}/{*}/{*}"} {
		if err := checkTemplate(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "a", "{*}", "/a//b", "/a{*}", "/{*}b", "/{**}/{*}", "/{**}/{**}", "/*", "/a*", "/{x}", "/{x=*}", "/a?b", "/a#b", "/é", "/a b", "/{***}", "/\x00"} {
		if checkTemplate(bad) == nil {
			t.Errorf("%q is taken for a template", bad)
		}
	}
}

func TestCheckScript(t *testing.T) {
	for source, good := range map[string]bool{"x = 1": true, "": false, "\x1bLJ\x02": false, "#!\n\x1bLJ\x02": false, "\xef\xbb\xbf\x1bLJ\x02": false} {
		if err := checkScript(source); (err == nil) != good {
			t.Errorf("%q: %v", source, err)
		}
	}
}

// FuzzGuardedScript: whatever a script is, it stays inside its string.
func FuzzGuardedScript(f *testing.F) {
	for _, s := range []string{"", "]]", "]=]", "]==]]=]", "x]", "x]=", "\n", "]=]\nos.exit()--"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, source string) {
		script := guardedScript("ExtensionPolicy a/b", source, false)
		_, rest, ok := strings.Cut(script, "local source = [")
		if !ok {
			t.Fatal("no string")
		}
		level, rest, _ := strings.Cut(rest, "[")
		body, after, ok := strings.Cut(rest, "]"+level+"]")
		if !ok || strings.Trim(level, "=") != "" || body != "\n"+source+"\n" || !strings.HasPrefix(after, "\nlocal metatable") {
			t.Errorf("the string ends elsewhere: %q", script)
		}
	})
}
