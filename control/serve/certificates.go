package serve

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// certificates is the serving certificate on disk. Handshakes use the last good content: a renewal is picked up within
// a second without a restart, and a half-written or wrong file changes nothing.
type certificates struct {
	dir    string
	logger *slog.Logger

	current atomic.Pointer[tls.Config]

	mu      sync.Mutex
	checked time.Time // guarded by mu
	raw     [3][]byte // certificate, key and roots in use; guarded by mu
	bad     error     // guarded by mu
}

// recheck is how often handshakes look at the files.
const recheck = time.Second

// config is for the listener: each handshake gets the certificate of its time.
func (c *certificates) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c.refresh(time.Now())
			return c.current.Load(), nil
		},
	}
}

// refresh reads the files again when it is time. One handshake does, others go on with what there is.
func (c *certificates) refresh(now time.Time) {
	if !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	if now.Sub(c.checked) < recheck {
		return
	}
	c.checked = now
	err := c.read()
	if err != nil && (c.bad == nil || c.bad.Error() != err.Error()) {
		c.logger.Warn("the serving certificate on disk is not usable; the one before stays in use", "err", err)
	}
	c.bad = err
}

func (c *certificates) problem() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bad
}

// await loads the files as soon as they are there: the authority that writes them may be starting at this moment, too. Files
// that are there and wrong are an error.
func (c *certificates) await(ctx context.Context) error {
	for told := false; ; {
		err := c.load()
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if !told {
			c.logger.Warn("waiting for the serving certificate; the authority has to write it", "dir", c.dir, "err", err)
			told = true
		}
		select {
		case <-time.After(awaitPause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

const awaitPause = 50 * time.Millisecond

// verify says why a client certificate does not lead to the roots there are.
func (c *certificates) verify(chain []*x509.Certificate, now time.Time) error {
	roots := c.current.Load().ClientCAs
	if roots == nil {
		return errors.New("no roots are known any more") // the machine's own would be taken instead
	}
	more := x509.NewCertPool()
	for _, cert := range chain[1:] {
		more.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: more, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}

// load reads the files for the first time.
func (c *certificates) load() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read()
}

// read takes the files in if they changed. Caller holds mu.
func (c *certificates) read() error {
	var raw [3][]byte
	for i, name := range [...]string{"tls.crt", "tls.key", "root-cert.pem"} {
		b, err := os.ReadFile(filepath.Join(c.dir, name))
		if err != nil && !(i == 2 && errors.Is(err, fs.ErrNotExist)) {
			return fmt.Errorf("read serving certificate: %w", err)
		}
		raw[i] = b
	}
	same := c.current.Load() != nil
	for i := range raw {
		same = same && bytes.Equal(raw[i], c.raw[i])
	}
	if same {
		return nil
	}
	pair, err := tls.X509KeyPair(raw[0], raw[1])
	if err != nil {
		return fmt.Errorf("serving certificate in %s: %w", c.dir, err)
	}
	cfg := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2"},
		Certificates: []tls.Certificate{pair},
		// Resumption would carry a client's identity past the rotation of the roots it was checked against.
		SessionTicketsDisabled: true,
	}
	if len(raw[2]) > 0 {
		cfg.ClientCAs = x509.NewCertPool()
		if !cfg.ClientCAs.AppendCertsFromPEM(raw[2]) {
			return fmt.Errorf("%s has no certificate in PEM", filepath.Join(c.dir, "root-cert.pem"))
		}
		// Judged by caller, not by the handshake: who comes with a certificate that has ended may have a good token.
		cfg.ClientAuth = tls.RequestClientCert
	}
	if c.current.Swap(cfg) != nil {
		c.logger.Info("took in the new serving certificate", "not_after", pair.Leaf.NotAfter)
	}
	c.raw = raw
	return nil
}
