package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

const idRevoked = "spiffe://cluster.local/ns/default/sa/revoked"

// revocable is a running agent with a file of lists, a client that is going to be revoked and one that is not.
type revocable struct {
	*running
	file       string
	good, poor *envoytest.Peer
}

// write replaces the file at once, as the kubelet does.
func (r *revocable) write(data []byte) {
	r.t.Helper()
	if err := os.WriteFile(r.file+".new", data, 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(r.file+".new", r.file); err != nil {
		r.t.Fatal(err)
	}
}

// admits polls until a new connection of a peer is taken, or refused.
func (r *revocable) admits(p *envoytest.Peer, want bool) {
	r.t.Helper()
	r.Await(fmt.Sprintf("admitted %v", want), func() error {
		p.Close()
		c, err := p.Dial(r.t.Context(), "10.96.0.1:80")
		if err == nil {
			c.Close()
		}
		if (err == nil) != want {
			return fmt.Errorf("%v", err)
		}
		if err != nil && !strings.Contains(err.Error(), "tls: ") {
			return fmt.Errorf("refused for another reason: %w", err)
		}
		return nil
	})
}

// said polls until the agent counts a text among its problems; "" is none.
func (r *revocable) said(text string) {
	r.t.Helper()
	r.Await("a problem with "+text, func() error {
		p := r.tool("/problems")
		if text == "" && strings.TrimSpace(p) != "[]" || !strings.Contains(p, text) {
			return errors.New(p)
		}
		return nil
	})
}

func startRevocable(t *testing.T, w *envoytest.World, before func(*running)) *revocable {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca-crl.pem")
	r := prepare(t, func(c *Config) { c.CRLFile, c.CRLCheck = file, 20*time.Millisecond })
	if before != nil {
		before(r)
	}
	out := &revocable{r, file, r.Peer(idClient), r.Peer(idRevoked)}
	r.plane.push(w)
	r.run()
	r.ready()
	return out
}

// TestRevocation: who is on a list is refused on both sides of the proxy, and nobody else, until the list is taken back.
func TestRevocation(t *testing.T) {
	w := echoWorld(t, "127.0.28.1")
	port := envoytest.App(t, "stolen", "127.0.28.2")
	w.Add("stolen.default.svc.cluster.local", "10.96.0.2", []envoytest.Port{{Number: 80, Target: port, Protocol: waypoint.Protocol_HTTP1}},
		envoytest.Pod("stolen", "127.0.28.2", "stolen"))
	r := startRevocable(t, w, nil)
	r.Node("127.0.28.1", idEcho)
	const idStolen = "spiffe://cluster.local/ns/default/sa/stolen"
	r.Node("127.0.28.2", idStolen)
	later := time.Now().Add(time.Hour)

	r.admits(r.poor, true)
	r.write(r.ca.RevocationList(later, idRevoked, idStolen))
	r.admits(r.poor, false)
	r.admits(r.good, true)
	r.expect(r.good.Client("10.96.0.1:80"), "http://echo/", 200, "echo")
	r.expect(r.good.Client("10.96.0.2:80"), "http://stolen/", 503, "")
	r.said("")

	// Half a file changes nothing.
	whole := r.ca.RevocationList(later)
	r.write(whole[:len(whole)/2])
	r.said("the last good one stays")
	r.admits(r.poor, false)
	r.admits(r.good, true)

	r.write(whole)
	r.admits(r.poor, true)
	r.expect(r.good.Client("10.96.0.2:80"), "http://stolen/", 200, "stolen")
	r.said("")

	// A file that is gone is a list that is taken back, too.
	r.write(r.ca.RevocationList(later, idRevoked))
	r.admits(r.poor, false)
	if err := os.Remove(r.file); err != nil {
		t.Fatal(err)
	}
	r.admits(r.poor, true)
}

// TestRevocationSpares: lists by which Envoy would refuse everybody are not given to it.
func TestRevocationSpares(t *testing.T) {
	var old *envoytest.Peer
	r := startRevocable(t, echoWorld(t, "127.0.28.3"), func(r *running) {
		svid := r.ca.MustSVID(idClient)
		r.ca.Rotate()
		old = r.PeerWith(svid)
	})
	r.Node("127.0.28.3", idEcho)
	later := time.Now().Add(time.Hour)
	// A list by one root of two: the certificates of the other are good.
	r.write(r.ca.RevocationList(later, idRevoked))
	r.said("add a list by it")
	if text := r.tool("/metrics"); !strings.Contains(text, "ambit_waypoint_problems 1") {
		t.Error("the metrics say nothing of it")
	}
	r.admits(r.good, true)
	r.admits(old, true)
	// One that is out of date.
	r.write(r.ca.RevocationList(time.Now().Add(-time.Minute), idRevoked))
	r.said("out of date")
	r.admits(r.good, true)
	r.expect(r.good.Client("10.96.0.1:80"), "http://echo/", 200, "echo")
}

// TestRevocationIntermediate: a list by the intermediate alone is enough, one by the root beside it counts for the intermediate, and
// one that ends ends as it has to.
func TestRevocationIntermediate(t *testing.T) {
	r := startRevocable(t, echoWorld(t, "127.0.28.4"), func(r *running) { r.ca.Intermediate() })
	r.Node("127.0.28.4", idEcho)
	r.write(r.ca.RevocationList(time.Now().Add(time.Hour), idRevoked))
	r.admits(r.poor, false)
	r.admits(r.good, true)
	c := r.good.Client("10.96.0.1:80")
	c.Transport.(*http.Transport).DisableKeepAlives = true
	r.expect(c, "http://echo/", 200, "echo")
	later := time.Now().Add(time.Hour)
	r.write(append(r.ca.RevocationList(later, idRevoked), r.ca.RootRevocationList(later, r.ca.MustSVID(idClient).Chain()[1])...))
	r.admits(r.good, false)
	r.write(append(r.ca.RevocationList(later, idRevoked), r.ca.RootRevocationList(later)...))
	r.admits(r.good, true)
	r.admits(r.poor, false)

	r.write(r.ca.RevocationList(time.Now().Add(envoyTime+4*time.Second), idRevoked))
	r.said("out of date")
	r.admits(r.poor, true)
	r.admits(r.good, true)
}

// authority is a CA that signs certificates and lists as a test wants them.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string, by *authority) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	a.cert = a.signed(t, tmpl, by)
	return a
}

// signed is a certificate for the key of a, by another authority or itself.
func (a *authority) signed(t *testing.T, tmpl *x509.Certificate, by *authority) *x509.Certificate {
	t.Helper()
	parent, key := tmpl, a.key
	if by != nil {
		parent, key = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, a.key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (a *authority) list(t *testing.T, from, until time.Duration, ext ...pkix.Extension) *x509.RevocationList {
	t.Helper()
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(from), NextUpdate: time.Now().Add(until),
		ExtraExtensions: ext}, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestRevocationsFor(t *testing.T) {
	const hour = time.Hour
	root, other := newAuthority(t, "root", nil), newAuthority(t, "other", nil)
	twin := newAuthority(t, "root", nil) // the same name, another key
	high := newAuthority(t, "high", root)
	low := newAuthority(t, "low", high)
	leaf := func(by *authority) *x509.Certificate {
		return newAuthority(t, "leaf", by).cert
	}
	// A root that is new, and known to those who trust the one before.
	crossed := other.signed(t, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: other.cert.Subject, NotBefore: root.cert.NotBefore, NotAfter: root.cert.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: other.cert.KeyUsage, SubjectKeyId: other.cert.SubjectKeyId}, root)
	// The same root, a hundred days later.
	aged := *other
	tmpl := *other.cert
	tmpl.NotBefore = time.Now().Add(-100 * 24 * hour)
	aged.cert = other.signed(t, &tmpl, nil)
	ok := func(a *authority) *x509.RevocationList { return a.list(t, -hour, hour) }
	type list = []*x509.RevocationList
	type chain = []*x509.Certificate
	for name, c := range map[string]struct {
		lists        list
		chain, roots chain
		leafOnly     bool
		err          string
	}{
		"nothing":                        {nil, chain{leaf(root)}, chain{root.cert}, false, ""},
		"the root":                       {list{ok(root)}, chain{leaf(root)}, chain{root.cert}, false, ""},
		"one root of two":                {list{ok(root)}, chain{leaf(root)}, chain{root.cert, other.cert}, false, `none by "CN=other"`},
		"both roots":                     {list{ok(root), ok(other)}, chain{leaf(root)}, chain{root.cert, other.cert}, false, ""},
		"another's only":                 {list{ok(other)}, chain{leaf(root)}, chain{root.cert}, false, `none by "CN=root"`},
		"intermediate only":              {list{ok(high)}, chain{leaf(high), high.cert}, chain{root.cert}, true, ""},
		"intermediate's root only":       {list{ok(root)}, chain{leaf(high), high.cert}, chain{root.cert}, false, `none by "CN=high"`},
		"intermediate and root":          {list{ok(high), ok(root)}, chain{leaf(high), high.cert}, chain{root.cert}, false, ""},
		"lower of two":                   {list{ok(low), ok(root)}, chain{leaf(low), low.cert, high.cert}, chain{root.cert}, true, ""},
		"all of three":                   {list{ok(low), ok(high), ok(root)}, chain{leaf(low), low.cert, high.cert}, chain{root.cert}, false, ""},
		"intermediate, a root beside":    {list{ok(high)}, chain{leaf(high), high.cert}, chain{root.cert, other.cert}, false, `none by "CN=other"`},
		"new root, list of the old":      {list{ok(root)}, chain{leaf(other), crossed}, chain{other.cert, root.cert}, false, `none by "CN=other"`},
		"new root, list of the new":      {list{ok(other)}, chain{leaf(other), crossed}, chain{other.cert, root.cert}, false, `none by "CN=root"`},
		"new root, both":                 {list{ok(other), ok(root)}, chain{leaf(other), crossed}, chain{other.cert, root.cert}, false, ""},
		"new root, long ago":             {list{ok(&aged)}, chain{leaf(&aged), crossed}, chain{aged.cert, root.cert}, false, ""},
		"and its list has ended":         {list{ok(&aged), root.list(t, -2*hour, -hour)}, chain{leaf(&aged), crossed}, chain{aged.cert, root.cert}, false, ""},
		"another root, long ago":         {list{ok(&aged)}, chain{leaf(&aged)}, chain{aged.cert, root.cert}, false, `none by "CN=root"`},
		"twins, one list":                {list{ok(root)}, chain{leaf(root)}, chain{root.cert, twin.cert}, false, `none by "CN=root"`},
		"twins, both":                    {list{ok(root), ok(twin)}, chain{leaf(root)}, chain{root.cert, twin.cert}, false, ""},
		"unknown issuer besides":         {list{ok(root), ok(other)}, chain{leaf(root)}, chain{root.cert}, false, ""},
		"out of date":                    {list{root.list(t, -2*hour, -hour)}, chain{leaf(root)}, chain{root.cert}, false, "out of date"},
		"about to be":                    {list{root.list(t, -hour, envoyTime/2)}, chain{leaf(root)}, chain{root.cert}, false, "out of date"},
		"one that replaces it":           {list{root.list(t, -2*hour, -hour), ok(root)}, chain{leaf(root)}, chain{root.cert}, false, ""},
		"an unknown one's out of date":   {list{ok(root), other.list(t, -2*hour, -hour)}, chain{leaf(root)}, chain{root.cert}, false, `"CN=other" is out of date`},
		"early":                          {list{root.list(t, hour, 2*hour)}, chain{leaf(root)}, chain{root.cert}, false, "not valid before"},
		"a part of a list":               {list{root.list(t, -hour, hour, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0}})}, chain{leaf(root)}, chain{root.cert}, false, "critical extension 2.5.29.28"},
		"a root that is out of date":     {list{ok(root)}, chain{leaf(root)}, chain{root.cert, expired(t)}, false, ""},
		"signed by somebody of the name": {list{forged(t, root, twin)}, chain{leaf(root)}, chain{root.cert}, false, "is not signed by"},
	} {
		got, err := revocationsFor(c.lists, c.chain, c.roots, time.Now())
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) || got.lists != "" {
				t.Errorf("%s: %v %v", name, got, err)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case got.leafOnly != c.leafOnly || (got.lists == "") != (len(c.lists) == 0):
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func expired(t *testing.T) *x509.Certificate {
	t.Helper()
	a := newAuthority(t, "expired", nil)
	tmpl := *a.cert
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	return a.signed(t, &tmpl, nil)
}

// forged is a list that names one authority's key and is signed with another's.
func forged(t *testing.T, name, key *authority) *x509.RevocationList {
	t.Helper()
	cert := *key.cert
	cert.SubjectKeyId = name.cert.SubjectKeyId
	return (&authority{&cert, key.key}).list(t, -time.Hour, time.Hour)
}
