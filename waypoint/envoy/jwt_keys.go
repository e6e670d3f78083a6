package envoy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// Envoy refuses the configuration of all issuers for one key set it cannot use. So keys are checked here, and only what
// Envoy needs of each good one is passed on; never the private half of a key somebody published by mistake.
const (
	maxKeys = 64
	// RFC 7518 §3.3: 2048 bits or more. BoringSSL takes no more than 16384.
	minRSABits, maxRSABits = 2048, 16384
)

// jwk is the public part of a key, RFC 7517 §4 and RFC 7518 §6, RFC 8037 §2.
type jwk struct {
	Kty string `json:"kty"`
	Kid string `json:"kid,omitempty"`
	Alg string `json:"alg,omitempty"`
	Use string `json:"use,omitempty"`
	N   string `json:"n,omitempty"`
	E   string `json:"e,omitempty"`
	Crv string `json:"crv,omitempty"`
	X   string `json:"x,omitempty"`
	Y   string `json:"y,omitempty"`
}

// verificationKeys are the usable keys of a key set, as a key set. Bad says which keys were left out and why; an error
// means that none is left.
func verificationKeys(text string) (keys string, bad []string, err error) {
	if strings.TrimSpace(text) == "" {
		return "", nil, errors.New("there is no key set: set jwks or jwksUri")
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal([]byte(text), &set); err != nil {
		return "", nil, fmt.Errorf("the key set is no JSON Web Key Set: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return "", nil, fmt.Errorf("the key set has %d keys: at most %d are taken", len(set.Keys), maxKeys)
	}
	var good []jwk
	for i, raw := range set.Keys {
		var k jwk
		err := json.Unmarshal(raw, &k)
		if err == nil {
			err = k.check()
		}
		if err != nil {
			bad = append(bad, fmt.Sprintf("key %d (kid %q) is left out: %v", i, k.Kid, err))
			continue
		}
		good = append(good, k)
	}
	if len(good) == 0 {
		return "", bad, errors.New("its key set has no key to verify signatures with")
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(map[string][]jwk{"keys": good}); err != nil {
		return "", bad, fmt.Errorf("write the key set: %w", err)
	}
	return strings.TrimSpace(out.String()), bad, nil
}

var (
	rsaAlgorithms = []string{"", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	ecCurves      = map[string]struct {
		curve elliptic.Curve
		alg   string
	}{
		"P-256": {elliptic.P256(), "ES256"},
		"P-384": {elliptic.P384(), "ES384"},
		"P-521": {elliptic.P521(), "ES512"},
	}
)

func (k jwk) check() error {
	if k.Use != "" && k.Use != "sig" {
		return fmt.Errorf("its use is %q, not sig", k.Use)
	}
	switch k.Kty {
	case "RSA":
		return k.checkRSA()
	case "EC":
		return k.checkEC()
	case "OKP":
		return k.checkOKP()
	case "oct":
		return errors.New("it is symmetric: whoever can verify with it can sign with it")
	}
	return fmt.Errorf("its kty %q is none of RSA, EC, OKP", k.Kty)
}

func (k jwk) checkRSA() error {
	if !slices.Contains(rsaAlgorithms, k.Alg) {
		return fmt.Errorf("its alg %q is none for RSA", k.Alg)
	}
	n, err := field64(k.N)
	if err != nil {
		return fmt.Errorf("n: %w", err)
	}
	e, err := field64(k.E)
	if err != nil {
		return fmt.Errorf("e: %w", err)
	}
	bits := new(big.Int).SetBytes(n).BitLen()
	if bits < minRSABits || bits > maxRSABits {
		return fmt.Errorf("it has %d bits: %d to %d are needed", bits, minRSABits, maxRSABits)
	}
	if n[len(n)-1]&1 == 0 {
		return errors.New("its modulus is even")
	}
	exponent := new(big.Int).SetBytes(e)
	if exponent.BitLen() > 32 || exponent.Bit(0) == 0 || exponent.Cmp(big.NewInt(3)) < 0 {
		return errors.New("its exponent is no odd number of 3 to 32 bits")
	}
	return nil
}

func (k jwk) checkEC() error {
	c, ok := ecCurves[k.Crv]
	if !ok {
		return fmt.Errorf("its curve %q is none of P-256, P-384, P-521", k.Crv)
	}
	if k.Alg != "" && k.Alg != c.alg {
		return fmt.Errorf("its alg %q does not fit the curve %s", k.Alg, k.Crv)
	}
	size := (c.curve.Params().BitSize + 7) / 8
	point := []byte{4} // uncompressed, SEC 1 §2.3.3
	for _, part := range []string{k.X, k.Y} {
		b, err := field64(part)
		if err != nil {
			return err
		}
		if len(b) != size { // RFC 7518 §6.2.1.2
			return fmt.Errorf("a coordinate has %d bytes, not %d", len(b), size)
		}
		point = append(point, b...)
	}
	if _, err := ecdsa.ParseUncompressedPublicKey(c.curve, point); err != nil {
		return fmt.Errorf("it is no point of %s", k.Crv)
	}
	return nil
}

func (k jwk) checkOKP() error {
	if k.Crv != "Ed25519" {
		return fmt.Errorf("its curve %q is not Ed25519", k.Crv)
	}
	if k.Alg != "" && k.Alg != "EdDSA" {
		return fmt.Errorf("its alg %q is not EdDSA", k.Alg)
	}
	b, err := field64(k.X)
	if err == nil && len(b) != 32 {
		err = fmt.Errorf("x has %d bytes, not 32", len(b))
	}
	return err
}

// field64 reads base64url without padding, RFC 7515 §2, which is all Envoy reads.
func field64(s string) ([]byte, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil, errors.New("it is not base64url without padding")
	}
	if len(b) == 0 {
		return nil, errors.New("it is empty")
	}
	return b, nil
}

// unusableKeys is a key set that verifies nothing: its only key is a point of P-256 whose x is SHA-256 of "ambit: a key
// nobody has, 2", with the even y, so that nobody has ever known the private half. Envoy takes no empty key set.
const unusableKeys = `{"keys":[{"kty":"EC","kid":"nobody","alg":"ES256","use":"sig","crv":"P-256",` +
	`"x":"V0LW2YJPbdc-xevVyvvY5Bv8UzMCEhi4TsvG44ZFcio","y":"WWB9tb07uUBsl7etBeBxULJT3os6xqGf4uD8tkvik04"}]}`
