package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Bundle is an immutable set of trust roots and a bounded memory of the chains already verified against it. Because the
// memory belongs to one set of roots, a changed bundle forgets everything by itself.
type Bundle struct {
	pool  *x509.CertPool
	roots []*x509.Certificate
	sum   [32]byte

	mu sync.Mutex
	// guarded by mu
	verified map[verifiedKey]window
}

type verifiedKey struct {
	chain [32]byte
	usage x509.ExtKeyUsage
}

// window is when every certificate of at least one verified chain is valid.
type window struct{ from, until time.Time }

// maxVerified bounds the memory of a Bundle; past it a random entry makes room.
const maxVerified = 4096

// NewBundle is the bundle of roots. Duplicates count once.
func NewBundle(roots []*x509.Certificate) *Bundle {
	b := &Bundle{pool: x509.NewCertPool(), verified: map[verifiedKey]window{}}
	seen := map[string]bool{}
	for _, r := range roots {
		if seen[string(r.Raw)] {
			continue
		}
		seen[string(r.Raw)] = true
		b.pool.AddCert(r)
		b.roots = append(b.roots, r)
	}
	b.sum = sum(b.roots)
	return b
}

func sum(certs []*x509.Certificate) [32]byte {
	h := sha256.New()
	for _, c := range certs {
		h.Write(c.Raw)
	}
	return [32]byte(h.Sum(nil))
}

// Pool is the bundle to verify with; the caller must not add to it.
func (b *Bundle) Pool() *x509.CertPool { return b.pool }

// Certificates are the roots, in the order they were given.
func (b *Bundle) Certificates() []*x509.Certificate { return b.roots }

// PEM is the bundle as a file.
func (b *Bundle) PEM() []byte { return EncodeCertificates(b.roots...) }

// Equal reports whether both hold the same roots in the same order.
func (b *Bundle) Equal(o *Bundle) bool { return o != nil && b.sum == o.sum }

// Verify checks that chain (leaf first) leads to a root of b, is valid at now and may be used for usage. A chain verified
// before is only held against the clock.
func (b *Bundle) Verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) error {
	if len(chain) == 0 {
		return errors.New("no certificate was presented")
	}
	key := verifiedKey{sum(chain), usage}
	b.mu.Lock()
	w, known := b.verified[key]
	b.mu.Unlock()
	if known && !now.Before(w.from) && !now.After(w.until) {
		return nil
	}
	opts := x509.VerifyOptions{Roots: b.pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}
	if len(chain) > 1 {
		opts.Intermediates = x509.NewCertPool()
		for _, c := range chain[1:] {
			opts.Intermediates.AddCert(c)
		}
	}
	paths, err := chain[0].Verify(opts)
	if err != nil {
		return b.explain(chain[0], now, err)
	}
	b.remember(key, validity(paths))
	return nil
}

// validity is the window of the path that stays valid longest.
func validity(paths [][]*x509.Certificate) window {
	var best window
	for _, path := range paths {
		w := window{path[0].NotBefore, path[0].NotAfter}
		for _, c := range path[1:] {
			if c.NotBefore.After(w.from) {
				w.from = c.NotBefore
			}
			if c.NotAfter.Before(w.until) {
				w.until = c.NotAfter
			}
		}
		if w.until.After(best.until) {
			best = w
		}
	}
	return best
}

func (b *Bundle) remember(key verifiedKey, w window) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.verified) >= maxVerified {
		for k := range b.verified {
			delete(b.verified, k)
			break
		}
	}
	b.verified[key] = w
}

// explain turns the verifier's verdict into one an operator can act on.
func (b *Bundle) explain(leaf *x509.Certificate, now time.Time, err error) error {
	var unknown x509.UnknownAuthorityError
	switch {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("certificate expired at %s (now %s): %w", stamp(leaf.NotAfter), stamp(now), err)
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("certificate is valid only from %s (now %s; compare the clocks of both nodes): %w", stamp(leaf.NotBefore), stamp(now), err)
	case errors.As(err, &unknown):
		return fmt.Errorf("certificate was issued by %q, which leads to none of the %d trusted roots: %w", leaf.Issuer.String(), len(b.roots), err)
	}
	return fmt.Errorf("certificate does not verify: %w", err)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Bundles makes equal sets of roots one Bundle, so that all certificates of a process share what was verified. The zero
// Bundles is ready; a nil one shares nothing.
type Bundles struct {
	mu sync.Mutex
	// guarded by mu: the last few distinct bundles, newest last.
	recent []*Bundle
}

// maxRecent is how many distinct bundles are worth sharing: a rotation knows old, both, new.
const maxRecent = 4

func (bs *Bundles) intern(roots []*x509.Certificate) *Bundle {
	b := NewBundle(roots)
	if bs == nil {
		return b
	}
	bs.mu.Lock()
	defer bs.mu.Unlock()
	for _, known := range bs.recent {
		if known.Equal(b) {
			return known
		}
	}
	bs.recent = append(bs.recent, b)
	if len(bs.recent) > maxRecent {
		bs.recent = bs.recent[1:]
	}
	return b
}
