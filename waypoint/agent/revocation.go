package agent

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/ambit-mesh/ambit/ca/certs"
)

// revocations is what Envoy is to check peers by; the zero value is no check.
type revocations struct {
	// lists are PEM.
	lists string
	// leafOnly leaves out the certificates between a peer's own and its root.
	leafOnly bool
}

// envoyTime is how long before its end a list is no longer given to Envoy: it must be gone before Envoy finds it out of date.
const envoyTime = 15 * time.Second

// revocationsFor is what lists mean for Envoy, on a proxy with this chain and these roots.
//
// Envoy's check is not ours (certs.RevocationFile): where it has any list, it refuses whoever's issuer has none that is in
// date, and no setting changes that (envoy default_validator.cc initializeSslContexts, BoringSSL x509_vfy.c check_cert).
// So lists are used only when they cover all from whom a peer's certificate can come as far as is known here; else one list
// would close the mesh.
func revocationsFor(lists []*x509.RevocationList, chain, roots []*x509.Certificate, now time.Time) (revocations, error) {
	if len(lists) == 0 {
		return revocations{}, nil
	}
	peers, above, gone := issuers(chain, roots, now)
	lists = slices.DeleteFunc(slices.Clone(lists), func(l *x509.RevocationList) bool {
		return slices.ContainsFunc(gone, func(ca *x509.Certificate) bool {
			return bytes.Equal(l.RawIssuer, ca.RawSubject) && bytes.Equal(l.AuthorityKeyId, ca.SubjectKeyId)
		})
	})
	good, err := inDate(lists, now)
	if err != nil {
		return revocations{}, err
	}
	for _, ca := range peers {
		n, err := listsOf(good, ca)
		if err != nil {
			return revocations{}, err
		}
		if n == 0 {
			return revocations{}, fmt.Errorf("there is none by %s, which signs certificates as well, and Envoy would refuse all of them: add a list by it, which may be empty", nameOf(ca))
		}
	}
	var out revocations
	for _, ca := range above {
		n, err := listsOf(good, ca)
		if err != nil {
			return revocations{}, err
		}
		out.leafOnly = out.leafOnly || n == 0
	}
	out.lists = string(certs.EncodeRevocationLists(good...))
	return out, nil
}

// inDate are the lists that Envoy can use now. It is an error if an issuer has none of them: it has certificates out there.
func inDate(lists []*x509.RevocationList, now time.Time) ([]*x509.RevocationList, error) {
	by := func(l *x509.RevocationList) string { return string(l.RawIssuer) + string(l.AuthorityKeyId) }
	var good []*x509.RevocationList
	covered, bad := map[string]bool{}, map[string]error{}
	for _, l := range lists {
		if err := unusable(l, now); err != nil {
			bad[by(l)] = fmt.Errorf("the list by %q %w", l.Issuer, err)
			continue
		}
		covered[by(l)] = true
		good = append(good, l)
	}
	for _, l := range lists {
		if err := bad[by(l)]; err != nil && !covered[by(l)] {
			return nil, err
		}
	}
	return good, nil
}

// unusable says why Envoy would refuse everybody for the sake of a list.
func unusable(l *x509.RevocationList, now time.Time) error {
	switch {
	case now.Before(l.ThisUpdate):
		return fmt.Errorf("is not valid before %s: look at the clocks", l.ThisUpdate.UTC().Format(time.RFC3339))
	case !l.NextUpdate.IsZero() && now.Add(envoyTime).After(l.NextUpdate):
		return fmt.Errorf("is out of date since %s: make a new one", l.NextUpdate.UTC().Format(time.RFC3339))
	}
	for _, e := range l.Extensions {
		// RFC 5280 §5.2.4 and §5.2.5: a list of changes, or of some certificates only, is marked by one.
		if e.Critical {
			return fmt.Errorf("has the critical extension %s: make a complete list without", e.Id)
		}
	}
	for _, e := range l.RevokedCertificateEntries {
		for _, x := range e.Extensions {
			if x.Critical {
				return fmt.Errorf("has the critical extension %s at serial number %x: make one without", x.Id, e.SerialNumber)
			}
		}
	}
	return nil
}

// listsOf counts the lists by ca. One that names it, but is not signed by it, Envoy would take for the list all the same.
func listsOf(lists []*x509.RevocationList, ca *x509.Certificate) (n int, err error) {
	for _, l := range lists {
		if !bytes.Equal(l.RawIssuer, ca.RawSubject) ||
			len(l.AuthorityKeyId) > 0 && len(ca.SubjectKeyId) > 0 && !bytes.Equal(l.AuthorityKeyId, ca.SubjectKeyId) {
			continue
		}
		if err := l.CheckSignatureFrom(ca); err != nil {
			return 0, fmt.Errorf("the list by %q is not signed by %s: %w; make it with that key and with an authorityKeyIdentifier", l.Issuer, nameOf(ca), err)
		}
		n++
	}
	return n, nil
}

func nameOf(ca *x509.Certificate) string {
	return fmt.Sprintf("%q (serial number %x)", ca.Subject, ca.SerialNumber)
}

// issuers are the authorities known here: those that sign certificates of peers, those above them, and roots of which
// nothing can be good any more. What signed our own is of the first, and so is every root but one that is known to sign
// intermediates.
func issuers(chain, roots []*x509.Certificate, now time.Time) (peers, above, gone []*x509.Certificate) {
	signerOf := func(c *x509.Certificate, among []*x509.Certificate) *x509.Certificate {
		for _, ca := range among {
			if bytes.Equal(c.RawIssuer, ca.RawSubject) && c.CheckSignatureFrom(ca) == nil {
				return ca
			}
		}
		return nil
	}
	var over, direct *x509.Certificate
	for c, steps := chain[0], 0; steps < len(chain); steps++ {
		if root := signerOf(c, roots); root != nil {
			if steps > 0 {
				over = root
				above = append(above, root)
			} else {
				direct = root
			}
			break
		}
		if c = signerOf(c, chain[1:]); c == nil {
			break
		}
		if steps == 0 {
			peers = append(peers, c)
		} else {
			above = append(above, c)
		}
	}
	for _, r := range roots {
		switch {
		case r == over:
		case !now.Before(r.NotAfter) || replaced(r, direct, chain[1:], now):
			gone = append(gone, r)
		default:
			peers = append(peers, r)
		}
	}
	return peers, above, gone
}

// longest is how long a certificate of a replaced root may go on: what the authority grants at most unless it is told to
// grant more, which nobody here knows of.
const longest = 90 * 24 * time.Hour

// replaced says whether nothing that r has signed can be good any more, because the root by is in its place for long
// enough: then the chain has that root signed by r. The key of r is gone with it, and there will be no list by it.
func replaced(r, by *x509.Certificate, intermediates []*x509.Certificate, now time.Time) bool {
	if by == nil || r == by || now.Before(by.NotBefore.Add(longest)) {
		return false
	}
	return slices.ContainsFunc(intermediates, func(c *x509.Certificate) bool {
		return bytes.Equal(c.RawSubject, by.RawSubject) && bytes.Equal(c.RawSubjectPublicKeyInfo, by.RawSubjectPublicKeyInfo) && c.CheckSignatureFrom(r) == nil
	})
}

// revoker has the lists that are in use.
type revoker struct {
	file *certs.RevocationFile // nil without CRL_PATH
	good []*x509.RevocationList
	told string // what is wrong, "" for nothing
}

// look reads the file again and says what Envoy is to go by. What is wrong is returned once; until it is mended the lists
// before stay, if they still can.
func (r *revoker) look(svid *certs.SVID, now time.Time) (revocations, error) {
	if r.file == nil {
		return revocations{}, nil
	}
	_, err := r.file.Refresh()
	lists := r.file.Lists()
	out, unfit := revocationsFor(lists, svid.Chain(), svid.RootCerts, now)
	switch {
	case unfit == nil:
		r.good = lists
	case len(r.good) == 0 || slices.Equal(r.good, lists):
		r.good = nil
		unfit = fmt.Errorf("revocation list %s is not used, nobody is refused by it: %w", r.file.Path, unfit)
	default:
		var still error
		if out, still = revocationsFor(r.good, svid.Chain(), svid.RootCerts, now); still != nil {
			r.good = nil
			unfit = fmt.Errorf("revocation list %s is not used, nor is the one before, nobody is refused by it: %w", r.file.Path, unfit)
			break
		}
		unfit = fmt.Errorf("revocation list %s is not used, the one before stays: %w", r.file.Path, unfit)
	}
	if err == nil {
		err = unfit
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == r.told {
		err = nil
	}
	r.told = text
	return out, err
}
