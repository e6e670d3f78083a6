package bugreport

import (
	"bytes"
	"encoding/base64"
	"regexp"
	"unicode"
)

// What stands in place of a secret.
const hidden = "(redacted)"

// Secrets by what they look like, wherever they stand: in logs, dumps and objects.
var (
	// privateKey is a key as PEM, also inside a JSON string and when its end was cut off.
	privateKey = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)`)
	// encodedPEM is PEM in base64, as Secrets and JSON of bytes have it: "-----BEGIN" begins like this.
	encodedPEM = regexp.MustCompile(`LS0tLS1CRUdJTi[A-Za-z0-9+/_-]+=*`)
	// token is a JSON Web Token, RFC 7519: three parts of base64url, the first of which begins with {".
	token = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{6,}\.eyJ[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]*`)
	// header is an Authorization header, credentials are what follows a scheme elsewhere, RFC 9110 11.4. The second must not look
	// like a word.
	header      = regexp.MustCompile(`(?i)(authorization[^a-z0-9]{1,6}(?:bearer|basic|digest|negotiate)(?:\s+|%20))[^\s"',;]+`)
	credentials = regexp.MustCompile(`\b((?i:bearer|basic)(?:\s+|%20))([A-Za-z0-9._~+/=-]{8,})`)
	// named values are secret by their name. What begins with a bracket is a structure that only has such a name.
	named = regexp.MustCompile(`(?i)("?\b(?:[a-z0-9]+[-_.])*(?:password|passwd|passphrase|client[-_]?secret|api[-_]?key|access[-_]?key|secret[-_]?key|access[-_]?token|refresh[-_]?token|set-cookie|cookie)\b\\?"?\s*[:=]\s*)(\\?"(?:[^"\\]|\\[^"])*\\?"|[^\s,;&{}\[\]"]+)`)
	// key of a secret inside a JWK.
	jwk = regexp.MustCompile(`("\\?(?:d|p|q|dp|dq|qi|k)\\?"\s*:\s*\\?")[A-Za-z0-9_-]{20,}`)
)

// Redact replaces what looks like a private key, a token, a password or a cookie.
func Redact(text []byte) []byte {
	text = privateKey.ReplaceAll(text, []byte(hidden+" private key"))
	if bytes.Contains(text, []byte("LS0tLS1CRUdJTi")) {
		text = encodedPEM.ReplaceAllFunc(text, func(m []byte) []byte {
			if secretPEM(m) {
				return []byte(hidden + " private key")
			}
			return m
		})
	}
	text = token.ReplaceAll(text, []byte(hidden+" token"))
	text = header.ReplaceAll(text, []byte("${1}"+hidden))
	text = credentials.ReplaceAllFunc(text, func(m []byte) []byte {
		g := credentials.FindSubmatch(m)
		if !bytes.ContainsFunc(g[2], func(r rune) bool { return !unicode.IsLower(r) }) {
			return m
		}
		return append(bytes.Clone(g[1]), hidden...)
	})
	text = jwk.ReplaceAll(text, []byte("${1}"+hidden))
	return named.ReplaceAllFunc(text, func(m []byte) []byte {
		g := named.FindSubmatch(m)
		quote := ""
		switch {
		case bytes.HasPrefix(g[2], []byte(`\"`)):
			quote = `\"`
		case bytes.HasPrefix(g[2], []byte(`"`)):
			quote = `"`
		}
		return []byte(string(g[1]) + quote + hidden + quote)
	})
}

// secretPEM reports whether base64 holds a private key. What cannot be decoded is taken for one.
func secretPEM(text []byte) bool {
	text = bytes.TrimRight(text, "=")
	enc := base64.RawStdEncoding
	if bytes.ContainsAny(text, "-_") {
		enc = base64.RawURLEncoding
	}
	if n := len(text) % 4; n == 1 {
		text = text[:len(text)-1] // cut off
	}
	data, err := enc.DecodeString(string(text))
	return err != nil || bytes.Contains(data, []byte("PRIVATE KEY"))
}
