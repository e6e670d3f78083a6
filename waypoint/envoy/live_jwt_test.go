package envoy_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// issuer signs tokens; it shares no code with what verifies them.
type issuer struct {
	alg, kid string
	key      crypto.Signer
}

func newIssuer(t *testing.T, alg string) issuer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch alg {
	case "RS256":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return issuer{alg, "k-" + alg, key}
}

func (i issuer) jwk() map[string]any {
	out := map[string]any{"kid": i.kid, "alg": i.alg, "use": "sig"}
	switch k := i.key.Public().(type) {
	case *rsa.PublicKey:
		out["kty"], out["n"], out["e"] = "RSA", b64(k.N.Bytes()), b64(big.NewInt(int64(k.E)).Bytes())
	case *ecdsa.PublicKey:
		p, _ := k.Bytes()
		out["kty"], out["crv"], out["x"], out["y"] = "EC", "P-256", b64(p[1:33]), b64(p[33:])
	case ed25519.PublicKey:
		out["kty"], out["crv"], out["x"] = "OKP", "Ed25519", b64(k)
	}
	return out
}

func jwks(t *testing.T, keys ...map[string]any) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func encode(t *testing.T, header, claims map[string]any) string {
	t.Helper()
	h, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	c, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return b64(h) + "." + b64(c)
}

func (i issuer) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	text := encode(t, map[string]any{"alg": i.alg, "kid": i.kid, "typ": "JWT"}, claims)
	sum := sha256.Sum256([]byte(text))
	var sig []byte
	var err error
	switch k := i.key.(type) {
	case *rsa.PrivateKey:
		sig, err = rsa.SignPKCS1v15(nil, k, crypto.SHA256, sum[:])
	case *ecdsa.PrivateKey:
		r, s, e := ecdsa.Sign(rand.Reader, k, sum[:])
		sig, err = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), e
	case ed25519.PrivateKey:
		sig = ed25519.Sign(k, []byte(text))
	}
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + b64(sig)
}

func claims(more ...any) map[string]any {
	out := map[string]any{"iss": "https://issuer.example", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}
	for i := 0; i+1 < len(more); i += 2 {
		out[more[i].(string)] = more[i+1]
	}
	return out
}

func bearer(token string) []string { return []string{"Authorization", "Bearer " + token} }

func authentication(rules ...*waypoint.JWTRule) []*waypoint.Authentication {
	return []*waypoint.Authentication{{Namespace: "default", Name: "jwt", Rules: rules}}
}

// TestTokens: a token may be missing unless a policy wants one; one that is there must be good.
func TestTokens(t *testing.T) {
	s := openShop(t, "127.0.32.1")
	rs, es, ed := newIssuer(t, "RS256"), newIssuer(t, "ES256"), newIssuer(t, "EdDSA")
	thief := newIssuer(t, "RS256")
	set := jwks(t, rs.jwk(), es.jwk(), ed.jwk())
	s.apply(&waypoint.Policies{Authentication: authentication(&waypoint.JWTRule{
		Issuer: "https://issuer.example", Audiences: []string{"shop"}, Jwks: set,
	})})
	client := s.Peer(idClient).Client("10.96.0.1:80")
	for name, c := range map[string]struct {
		status int
		header []string
	}{
		"missing":          {200, nil},
		"RSA":              {200, bearer(rs.token(t, claims("aud", "shop")))},
		"EC":               {200, bearer(es.token(t, claims("aud", []string{"x", "shop"})))},
		"Ed25519":          {200, bearer(ed.token(t, claims("aud", "shop")))},
		"expired":          {401, bearer(rs.token(t, claims("aud", "shop", "exp", time.Now().Add(-time.Hour).Unix())))},
		"not yet":          {401, bearer(rs.token(t, claims("aud", "shop", "nbf", time.Now().Add(time.Hour).Unix())))},
		"another audience": {403, bearer(rs.token(t, claims("aud", "other")))},
		"no audience":      {403, bearer(rs.token(t, claims()))},
		"garbage":          {401, bearer("garbage")},
		"alg none":         {401, bearer(encode(t, map[string]any{"alg": "none", "kid": rs.kid}, claims("aud", "shop")) + ".")},
		"another's key":    {401, bearer(issuer{"RS256", rs.kid, thief.key}.token(t, claims("aud", "shop")))},
		"another issuer":   {401, bearer(rs.token(t, claims("aud", "shop", "iss", "https://evil.example")))},
		"key confusion":    {401, bearer(confused(t, rs))},
		"tampered":         {401, bearer(rs.token(t, claims("aud", "shop")) + "A")},
		"in the query":     {401, nil},
	} {
		path := "/"
		if name == "in the query" {
			path = "/?access_token=garbage"
		}
		if status, body, _ := ask(t, client, "GET", path, c.header...); status != c.status {
			t.Errorf("%s: %d %q, want %d", name, status, body, c.status)
		}
	}

	// A policy that asks for a principal.
	s.svc.Policies.Authorization = []*waypoint.Authorization{policy(waypoint.Authorization_ALLOW, "p",
		from(&waypoint.Source{RequestPrincipals: exact("https://issuer.example/alice")}))}
	s.apply(s.svc.Policies)
	wantStatus(t, client, 403, "GET", "/")
	wantStatus(t, client, 200, "GET", "/", bearer(rs.token(t, claims("aud", "shop")))...)
	wantStatus(t, client, 403, "GET", "/", bearer(rs.token(t, claims("aud", "shop", "sub", "bob")))...)
}

// confused is signed with the public key as a shared secret.
func confused(t *testing.T, i issuer) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(i.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	text := encode(t, map[string]any{"alg": "HS256", "kid": i.kid}, claims("aud", "shop"))
	mac := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	mac.Write([]byte(text))
	return text + "." + b64(mac.Sum(nil))
}

// TestClaims: policies, headers and routes by claims; nobody else sets those headers.
func TestClaims(t *testing.T) {
	s := openShop(t, "127.0.32.2")
	rs := newIssuer(t, "RS256")
	rule := &waypoint.JWTRule{
		Issuer: "https://issuer.example", Jwks: jwks(t, rs.jwk()), ForwardOriginalToken: true,
		OutputClaimsToHeaders: map[string]string{"x-role": "role"}, OutputPayloadToHeader: "x-payload",
		FromHeaders: []*waypoint.JWTRule_FromHeader{{Name: "x-token", Prefix: "T "}}, FromParams: []string{"tok"}, FromCookies: []string{"ck"},
	}
	s.svc.Ports[0].Http = []*waypoint.HTTPRule{
		{
			Matches: []*waypoint.HTTPMatch{{Claims: []*waypoint.ClaimMatch{{Path: []string{"groups"}, Value: exact("beta")[0]}}}},
			Action:  &waypoint.HTTPRule_Direct{Direct: &waypoint.DirectResponse{Status: 299, Body: []byte("beta")}},
		},
		{Action: &waypoint.HTTPRule_Forward{Forward: &waypoint.Forward{Backends: []*waypoint.Backend{
			{Namespace: "default", Hostname: s.svc.GetHostname(), Port: 80, Weight: 1}}}}},
	}
	s.apply(&waypoint.Policies{Authentication: authentication(rule)})
	client := s.Peer(idClient).Client("10.96.0.1:80")
	good := rs.token(t, claims("role", "admin", "groups", []string{"alpha"}))
	status, body, _ := ask(t, client, "GET", "/", "X-Token", "T "+good, "x-role", "evil", "x-payload", "evil")
	var echo struct{ Header map[string][]string }
	if err := json.Unmarshal([]byte(body), &echo); err != nil || status != 200 {
		t.Fatalf("%d %q %v", status, body, err)
	}
	if got := echo.Header["X-Role"]; len(got) != 1 || got[0] != "admin" {
		t.Errorf("x-role: %q", got)
	}
	if got := echo.Header["X-Payload"]; len(got) != 1 || got[0] == "evil" {
		t.Errorf("x-payload: %q", got)
	}
	if got := echo.Header["X-Token"]; len(got) != 1 {
		t.Errorf("the token is not forwarded: %q", got)
	}
	_, body, _ = ask(t, client, "GET", "/", "x-role", "evil", "x-payload", "evil")
	echo.Header = nil
	if err := json.Unmarshal([]byte(body), &echo); err != nil || echo.Header["X-Role"] != nil || echo.Header["X-Payload"] != nil {
		t.Errorf("without a token the application got %q %q", echo.Header["X-Role"], echo.Header["X-Payload"])
	}
	beta := rs.token(t, claims("groups", []string{"beta", "alpha"}))
	wantStatus(t, client, 299, "GET", "/?tok="+beta)
	wantStatus(t, client, 299, "GET", "/", "Cookie", "ck="+beta)
	wantStatus(t, client, 200, "GET", "/?tok="+good)

	when := func(key, value string) *waypoint.AuthorizationRule {
		return &waypoint.AuthorizationRule{When: []*waypoint.Condition{{Key: key, Values: exact(value)}}}
	}
	s.svc.Policies.Authorization = []*waypoint.Authorization{policy(waypoint.Authorization_DENY, "p",
		when("request.auth.claims[realm][roles]", "banned"), when("request.auth.claims[scope]", "write"), when("request.auth.audiences", "a2"), when("request.auth.presenter", "app"))}
	s.apply(s.svc.Policies)
	wantStatus(t, client, 200, "GET", "/?tok="+good)
	for _, bad := range []map[string]any{
		claims("realm", map[string]any{"roles": []string{"x", "banned"}}), claims("scope", "read write"), claims("aud", []string{"a1", "a2"}), claims("azp", "app"),
	} {
		wantStatus(t, client, 403, "GET", "/?tok="+rs.token(t, bad))
	}
}

// TestIssuers: a key set that cannot be used is its issuer's trouble alone.
func TestIssuers(t *testing.T) {
	s := openShop(t, "127.0.32.3")
	a, b := newIssuer(t, "RS256"), newIssuer(t, "ES256")
	rule := func(iss, set string) *waypoint.JWTRule { return &waypoint.JWTRule{Issuer: iss, Jwks: set} }
	missing := &waypoint.JWTRule{Issuer: "c", JwksMissing: "https://c/jwks answered 500"}
	half := a.jwk()
	half["n"] = "AAAA"
	s.svc.Policies = &waypoint.Policies{Authentication: authentication(
		rule("a", jwks(t, map[string]any{"kty": "oct", "k": "c2VjcmV0"}, half, a.jwk())), rule("b", jwks(t, b.jwk())), missing, rule("d", "{}"))}
	problems := s.TryApply(s.world)
	if len(problems) != 4 {
		t.Errorf("problems: %v", problems)
	}
	client := s.Peer(idClient).Client("10.96.0.1:80")
	wantStatus(t, client, 200, "GET", "/")
	wantStatus(t, client, 200, "GET", "/", bearer(a.token(t, claims("iss", "a")))...)
	wantStatus(t, client, 200, "GET", "/", bearer(b.token(t, claims("iss", "b")))...)
	for _, iss := range []string{"b", "c", "d", "e"} {
		wantStatus(t, client, 401, "GET", "/", bearer(a.token(t, claims("iss", iss)))...)
	}
}
