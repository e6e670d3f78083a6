package issuer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/pemdir"
)

// Run rotates and reloads until ctx ends, then returns nil.
func (i *Issuer) Run(ctx context.Context) error {
	tick := time.NewTicker(i.cfg.Poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			i.Refresh(time.Now())
		}
	}
}

// Refresh looks at the folder once, and rotates if it is time to. Run calls it; an operator's signal may as well.
func (i *Issuer) Refresh(now time.Time) {
	old := i.current.Load()
	var m *Material
	var err error
	files, readErr := pemdir.Read(i.cfg.Dir, fileCert, fileKey, fileRoots, fileChain, tlsCert, tlsKey, tlsRoots)
	switch {
	case readErr != nil:
		err = readErr
	case !i.cfg.Plugged && i.rotationDue(old, now):
		m, err = i.ensureRoot(now, false)
	case fingerprint(files) == old.sum && now.Before(old.changes):
		i.accept(nil)
		return
	case len(files) == 0:
		err = fmt.Errorf("issuer folder %s: its files are gone", i.cfg.Dir)
	default:
		if m, err = parse(files, now); err != nil {
			err = fmt.Errorf("issuer folder %s: %w", i.cfg.Dir, err)
		}
	}
	if err != nil {
		i.refuse(err, fingerprint(files))
		return
	}
	i.accept(m)
}

// refuse notes that the files are not in use, and says so once for each content.
func (i *Issuer) refuse(err error, sum [32]byte) {
	i.mu.Lock()
	known := i.refused != nil && i.refusedSum == sum && i.refused.Error() == err.Error()
	i.refused, i.refusedSum = err, sum
	i.mu.Unlock()
	if known {
		return
	}
	i.metrics.refused.Inc()
	i.cfg.Logger.Error("issuer files refused, still issuing with the last good ones", "err", err, "issuer", i.Current().Cert.Subject.String())
}

// accept publishes m; nil means that what is in use still is what is on disk.
func (i *Issuer) accept(m *Material) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.refused = nil
	if m == nil {
		return
	}
	old := i.current.Load()
	if old.sum == m.sum && old.Bundle.Equal(m.Bundle) && len(old.Intermediates) == len(m.Intermediates) {
		return
	}
	i.current.Store(m)
	close(i.changed)
	i.changed = make(chan struct{})
	i.metrics.changes.Inc()
	i.cfg.Logger.Info("issuer changed", "issuer", m.Cert.Subject.String(), "expires", m.Until, "roots", len(m.Bundle.Certificates()))
	if !trusts(m.Bundle, old) {
		i.cfg.Logger.Warn("the root of certificates issued so far is no longer trusted: connections of workloads that have not renewed yet will be refused; "+
			"list the old root in "+fileRoots+" as well for a change nobody notices", "old", old.Cert.Subject.String())
	}
}

// trusts reports whether one of the roots old issued under is still in b.
func trusts(b *certs.Bundle, old *Material) bool {
	for _, was := range old.Bundle.Certificates() {
		for _, is := range b.Certificates() {
			if was.Equal(is) {
				return true
			}
		}
	}
	return false
}

// rotationDue is true in the last fifth of a self-signed root's life. Istio security/pkg/pki/ca selfsignedcarootcertrotator.
func (i *Issuer) rotationDue(m *Material, now time.Time) bool {
	life := max(0, m.Cert.NotAfter.Sub(m.Cert.NotBefore)-i.cfg.Backdate)
	return now.After(m.Cert.NotAfter.Add(-life / 5))
}

// Rotate makes a new self-signed root now; the old one stays trusted until it expires.
func (i *Issuer) Rotate() error {
	if i.cfg.Plugged {
		return errors.New("rotate: the issuer's files are plugged in; replace them instead")
	}
	m, err := i.ensureRoot(time.Now(), true)
	if err != nil {
		return err
	}
	i.accept(m)
	return nil
}

// maxRoots is how many generations of roots rotations on demand may pile up.
const maxRoots = 8

// ensureRoot returns the self-signed root of the folder, making or rotating it if need be. Only one process does so at a
// time, and it looks again first: another may have been quicker.
func (i *Issuer) ensureRoot(now time.Time, force bool) (*Material, error) {
	unlock, err := pemdir.Lock(i.cfg.Dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	old, err := load(i.cfg.Dir, now)
	if err != nil && !i.expired(now) {
		// Damaged files are not replaced by a new root: every workload would have to renew before it could talk again.
		return nil, fmt.Errorf("%w; restore the files, or empty the folder to start with a new root (all workloads must then renew)", err)
	}
	if old != nil && !force && !i.rotationDue(old, now) {
		return old, nil
	}
	if force && old != nil && len(old.Bundle.Certificates()) >= maxRoots {
		// Every root stays trusted until it expires, and each one more makes all verification slower; past a hundred
		// signature checks verifiers give up.
		return nil, fmt.Errorf("rotate: %d roots are trusted already, which is the most; rotate again when the first of them has expired, at %s",
			len(old.Bundle.Certificates()), stamp(old.changes))
	}
	files, err := newRoot(i.cfg.TrustDomain, i.cfg.RootTTL, i.cfg.Backdate, old, now)
	if err != nil {
		return nil, err
	}
	m, err := parse(files, now)
	if err != nil {
		return nil, fmt.Errorf("new root: %w", err)
	}
	if err := pemdir.Write(i.cfg.Dir, files); err != nil {
		return nil, err
	}
	i.cfg.Logger.Info("new self-signed root", "dir", i.cfg.Dir, "issuer", m.Cert.Subject.String(), "expires", m.Until, "overlap", old != nil)
	return m, nil
}

// expired tells a root that merely ran out, while nobody was there to rotate it, from damaged files.
func (i *Issuer) expired(now time.Time) bool {
	files, err := pemdir.Read(i.cfg.Dir, fileCert, fileKey)
	if err != nil {
		return false
	}
	cert, err := certs.ParseCertificates(files[fileCert].Data)
	if err != nil || !now.After(cert[0].NotAfter) {
		return false
	}
	_, err = parseKey(files[fileKey].Data)
	return err == nil
}
