package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
)

// RevocationFile is a file of certificate revocation lists, PEM or DER, that is read again when told to. A content that
// does not parse is refused and the last good one stays. Its Revoked method is what Policy.Revoked wants.
type RevocationFile struct {
	// Path of the file. A file that is not there revokes nothing.
	Path string
	// Keep has Lists return what was read.
	Keep bool

	lists atomic.Pointer[revoked]
}

type revoked struct {
	sum     [32]byte
	serials map[string]bool
	lists   []*x509.RevocationList // only if they are to be kept
}

// maxRevocationFile bounds the file; a list entry takes some 40 bytes.
const maxRevocationFile = 16 << 20

// Revoked reports whether c is listed by its issuer.
func (f *RevocationFile) Revoked(c *x509.Certificate) bool {
	lists := f.lists.Load()
	return lists != nil && lists.serials[serialOf(c.RawIssuer, c.SerialNumber.Bytes())]
}

// Lists are those in use, for who checks certificates by other means than Revoked. They are nil without Keep.
func (f *RevocationFile) Lists() []*x509.RevocationList {
	if lists := f.lists.Load(); lists != nil {
		return lists.lists
	}
	return nil
}

func serialOf(issuer, serial []byte) string { return string(issuer) + "\x00" + string(serial) }

// Refresh reads the file and reports whether it says something else than before: open connections should then be looked
// at again.
func (f *RevocationFile) Refresh() (changed bool, err error) {
	st, err := os.Stat(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return f.lists.Swap(nil) != nil, nil
	}
	if err == nil && st.Size() > maxRevocationFile {
		err = fmt.Errorf("%d bytes is too large", st.Size())
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(f.Path)
	}
	if err != nil {
		return false, fmt.Errorf("revocation list %s: %w", f.Path, err)
	}
	sum := sha256.Sum256(data)
	if old := f.lists.Load(); old != nil && old.sum == sum {
		return false, nil
	}
	now, err := parseRevocations(data, f.Keep)
	if err != nil {
		return false, fmt.Errorf("revocation list %s refused, the last good one stays in use: %w", f.Path, err)
	}
	now.sum = sum
	f.lists.Store(now)
	return true, nil
}

// parseRevocations reads all lists in data.
func parseRevocations(data []byte, keep bool) (*revoked, error) {
	lists, err := ParseRevocationLists(data)
	if err != nil {
		return nil, err
	}
	out := &revoked{serials: map[string]bool{}}
	for _, list := range lists {
		for _, e := range list.RevokedCertificateEntries {
			out.serials[serialOf(list.RawIssuer, e.SerialNumber.Bytes())] = true
		}
	}
	if keep {
		out.lists = lists
	}
	return out, nil
}

// ParseRevocationLists reads the lists in data, which are PEM, or one of them DER. RFC 5280 §5.
func ParseRevocationLists(data []byte) ([]*x509.RevocationList, error) {
	begins := bytes.Count(data, []byte("-----BEGIN"))
	if begins == 0 {
		list, err := x509.ParseRevocationList(data)
		if err != nil {
			return nil, err
		}
		return []*x509.RevocationList{list}, nil
	}
	var lists []*x509.RevocationList
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != blockRevocations {
			return nil, fmt.Errorf("PEM block %q where an %s was expected", block.Type, blockRevocations)
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, err
		}
		lists = append(lists, list)
	}
	// pem.Decode goes past what is cut off or damaged, and who is listed there would be let in.
	if len(lists) != begins {
		return nil, fmt.Errorf("of %d PEM blocks %d can be read: is the file complete?", begins, len(lists))
	}
	return lists, nil
}

// EncodeRevocationLists is the lists in PEM.
func EncodeRevocationLists(lists ...*x509.RevocationList) []byte {
	var out []byte
	for _, l := range lists {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: blockRevocations, Bytes: l.Raw})...)
	}
	return out
}

const blockRevocations = "X509 CRL"
