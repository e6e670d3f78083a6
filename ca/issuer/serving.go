package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ca/pemdir"
)

// Serving is a certificate for a server with the roots that were current when it was made.
type Serving struct {
	Certificate tls.Certificate
	roots       []byte
	chain       []byte
	key         []byte
	// material it was made with; another one means it should be made anew.
	material *Material
}

// NewServing makes a key and certifies it for the given names. A ttl of zero means the default.
func (i *Issuer) NewServing(id identity.ID, names []string, ttl time.Duration) (*Serving, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		return nil, fmt.Errorf("serving key: %w", err)
	}
	material := i.Current()
	chain, leaf, err := i.SignServing(id, names, key.Public(), ttl)
	if err != nil {
		return nil, fmt.Errorf("serving certificate for %s: %w", strings.Join(names, ", "), err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("serving key: %w", err)
	}
	s := &Serving{
		material: material,
		roots:    []byte(chain[len(chain)-1]),
		chain:    []byte(strings.Join(chain[:len(chain)-1], "")),
		key:      pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	}
	s.Certificate = tls.Certificate{PrivateKey: key, Leaf: leaf}
	for rest := s.chain; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return s, nil
		}
		s.Certificate.Certificate = append(s.Certificate.Certificate, block.Bytes)
	}
}

// Renewal keeps one serving certificate fresh: in memory, and in a folder if one is given, as tls.crt, tls.key and
// root-cert.pem that change together.
type Renewal struct {
	Issuer *Issuer
	ID     identity.ID // zero for a certificate that is no workload's
	Names  []string
	TTL    time.Duration // the issuer's default
	Dir    string        // none
	Logger *slog.Logger

	current atomic.Pointer[Serving]
}

// Renew makes a new certificate now. It must succeed once before Certificate is used.
func (s *Renewal) Renew() error {
	serving, err := s.Issuer.NewServing(s.ID, s.Names, s.TTL)
	if err != nil {
		return err
	}
	if s.Dir != "" {
		if err := pemdir.Write(s.Dir, map[string]pemdir.File{
			tlsKey:    {Data: serving.key, Mode: 0o600},
			tlsCert:   {Data: serving.chain, Mode: 0o644},
			fileRoots: {Data: serving.roots, Mode: 0o644},
		}); err != nil {
			return err
		}
	}
	s.current.Store(serving)
	return nil
}

// Certificate is the current one.
func (s *Renewal) Certificate() *tls.Certificate {
	return &s.current.Load().Certificate
}

// Run renews at half of the lifetime, and whenever the issuer changes, until ctx ends; it then returns nil.
func (s *Renewal) Run(ctx context.Context) error {
	const retry = 5 * time.Second
	timer := time.NewTimer(s.next())
	defer timer.Stop()
	for {
		changed := s.Issuer.Changed()
		// A change that came before Changed was asked for shows in the material.
		if s.current.Load().material == s.Issuer.Current() {
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			case <-timer.C:
			}
		}
		if err := s.Renew(); err != nil {
			s.Logger.Error("serving certificate not renewed, the current one stays in use", "names", s.Names, "dir", s.Dir, "expires", s.Certificate().Leaf.NotAfter, "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Duration(float64(retry) * (0.8 + 0.4*rand.Float64()))):
			}
			continue
		}
		timer.Reset(s.next())
	}
}

// next is half of what is left, ±10 %, and not less than a second.
func (s *Renewal) next() time.Duration {
	left := time.Until(s.Certificate().Leaf.NotAfter)
	return max(time.Second, time.Duration(float64(left)/2*(0.9+0.2*rand.Float64())))
}
