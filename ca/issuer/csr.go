package issuer

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// maxCSR bounds a certificate request; a P-256 one is about 500 bytes, an RSA-4096 one about 1.7 KiB.
const maxCSR = 64 << 10

// ParseCSR reads one PEM certificate request and checks that its sender holds the key. The names it asks for are not
// looked at: a certificate's identity is that of the caller, not what the caller wrote.
func ParseCSR(data []byte) (crypto.PublicKey, error) {
	if len(data) > maxCSR {
		return nil, fmt.Errorf("certificate request of %d bytes, more than the %d that are accepted", len(data), maxCSR)
	}
	block, rest := pem.Decode(data)
	switch {
	case block == nil:
		return nil, errors.New("certificate request: not PEM")
	case block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST":
		return nil, fmt.Errorf("certificate request: PEM block %q where a CERTIFICATE REQUEST was expected", block.Type)
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("certificate request: something follows the PEM block")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if err := strongEnough(csr.PublicKey); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: its signature is not by its own key: %w", err)
	}
	return csr.PublicKey, nil
}
