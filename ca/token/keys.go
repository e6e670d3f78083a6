package token

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// algorithms are the signatures accepted: asymmetric ones only, so that a public key is never taken for a shared secret.
var algorithms = []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.ES512, jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.EdDSA}

// maxKeys bounds a key file: a token without key id is tried against all of them.
const maxKeys = 32

// Keys is an immutable set of public keys.
type Keys struct{ keys []jose.JSONWebKey }

// ParseKeys reads a JWKS document, or PEM blocks of public keys and certificates. Private and symmetric keys are refused:
// a file that verifies tokens travels to machines that must not be able to mint them.
func ParseKeys(data []byte) (*Keys, error) {
	var keys []jose.JSONWebKey
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && trimmed[0] == '{' {
		var set jose.JSONWebKeySet
		if err := json.Unmarshal(trimmed, &set); err != nil {
			return nil, fmt.Errorf("token keys: not a JWKS document: %w", err)
		}
		keys = set.Keys
	} else {
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			pub, err := publicKey(block)
			if err != nil {
				return nil, fmt.Errorf("token keys: %w", err)
			}
			keys = append(keys, jose.JSONWebKey{Key: pub, KeyID: keyID(pub)})
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("token keys: neither a JWKS document with keys nor PEM public keys")
	}
	if len(keys) > maxKeys {
		return nil, fmt.Errorf("token keys: %d keys, more than the %d that are allowed", len(keys), maxKeys)
	}
	for _, k := range keys {
		if _, err := algorithm(k.Key); err != nil {
			return nil, fmt.Errorf("token keys: key %q: %w", k.KeyID, err)
		}
	}
	return &Keys{keys}, nil
}

func publicKey(block *pem.Block) (crypto.PublicKey, error) {
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return c.PublicKey, nil
	}
	return nil, fmt.Errorf("PEM block %q where a PUBLIC KEY was expected", block.Type)
}

// algorithm is how tokens of a public key are signed; other keys are refused.
func algorithm(pub crypto.PublicKey) (jose.SignatureAlgorithm, error) {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return jose.ES256, nil
		case elliptic.P384():
			return jose.ES384, nil
		case elliptic.P521():
			return jose.ES512, nil
		}
		return "", fmt.Errorf("elliptic curve %s is not supported (P-256, P-384, P-521 are)", k.Curve.Params().Name)
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return "", fmt.Errorf("RSA key of %d bits is too short (2048 at least)", k.N.BitLen())
		}
		return jose.RS256, nil
	case ed25519.PublicKey:
		return jose.EdDSA, nil
	}
	return "", fmt.Errorf("%T is not a public key tokens can be verified with", pub)
}

// keyID is the thumbprint of a public key. RFC 7638.
func keyID(pub crypto.PublicKey) string {
	sum, err := (&jose.JSONWebKey{Key: pub}).Thumbprint(crypto.SHA256)
	if err != nil {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(sum)
}

// open finds the key that signed t. A token that names a key is only ever held against that one.
func (k *Keys) open(t *jwt.JSONWebToken) (*body, error) {
	kid := t.Headers[0].KeyID
	known := false
	for _, key := range k.keys {
		if kid != "" && key.KeyID != kid {
			continue
		}
		known = true
		var b body
		if t.Claims(key.Key, &b) == nil {
			return &b, nil
		}
	}
	if !known {
		return nil, fmt.Errorf("signed by key %q, which is not among the %d trusted token keys", kid, len(k.keys))
	}
	return nil, errors.New("the signature is wrong")
}

// JWKS is the set as a JWKS document.
func (k *Keys) JWKS() ([]byte, error) {
	set := jose.JSONWebKeySet{}
	for _, key := range k.keys {
		alg, err := algorithm(key.Key)
		if err != nil {
			return nil, err
		}
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Key, KeyID: key.KeyID, Algorithm: string(alg), Use: "sig"})
	}
	return json.MarshalIndent(set, "", "  ")
}

// PublicKeys is the set of one signer's public key.
func PublicKeys(pub crypto.PublicKey) *Keys {
	return &Keys{[]jose.JSONWebKey{{Key: pub, KeyID: keyID(pub)}}}
}

// NewKey makes a P-256 key for Mint, as PEM.
func NewKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("token key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("token key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseSigner reads a PEM private key for Mint.
func ParseSigner(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("token key: no PEM block in it")
	}
	var key any
	var err error
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("token key: PEM block %q where a PRIVATE KEY was expected", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("token key: %T cannot sign", key)
	}
	return signer, nil
}

// File is a key file that is read again when it changes. A new content that does not parse is refused: the last good keys
// stay in use, and Err says why.
type File struct {
	Path string

	mu sync.Mutex
	// guarded by mu
	keys    *Keys
	err     error
	modTime time.Time
	size    int64
}

// Keys returns the keys of the file; it is what Verifier.Keys wants.
func (f *File) Keys() (*Keys, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refresh()
	if f.keys == nil {
		return nil, f.err
	}
	return f.keys, nil
}

// Err is why the current content of the file is not in use, nil when it is.
func (f *File) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refresh()
	return f.err
}

func (f *File) refresh() {
	st, err := os.Stat(f.Path)
	if err != nil {
		f.modTime = time.Time{} // so that the same file coming back is read again
		f.err = fmt.Errorf("token keys: %w", err)
		return
	}
	if st.ModTime().Equal(f.modTime) && st.Size() == f.size && (f.keys != nil || f.err != nil) {
		return
	}
	f.modTime, f.size = st.ModTime(), st.Size()
	if st.Size() > 1<<20 {
		f.err = fmt.Errorf("token keys %s: %d bytes is too large", f.Path, st.Size())
		return
	}
	data, err := os.ReadFile(f.Path)
	if err != nil {
		f.err = fmt.Errorf("token keys: %w", err)
		return
	}
	keys, err := ParseKeys(data)
	if err != nil {
		f.err = fmt.Errorf("%s: %w", f.Path, err)
		return
	}
	f.keys, f.err = keys, nil
}
