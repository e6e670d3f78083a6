package certs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/ca/catest"
	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/identity"
)

const (
	aliceURI = "spiffe://cluster.local/ns/default/sa/alice"
	bobURI   = "spiffe://cluster.local/ns/default/sa/bob"
)

func mustParse(uri string) identity.ID {
	id, err := identity.Parse(uri)
	if err != nil {
		panic(err)
	}
	return id
}

// handshake connects both ends over a pipe and returns what each of them thinks of it.
func handshake(t *testing.T, client, server *tls.Config) (cs, ss tls.ConnectionState, cerr, serr error) {
	t.Helper()
	cn, sn := pipe(t)
	deadline := time.Now().Add(10 * time.Second)
	_ = cn.SetDeadline(deadline)
	_ = sn.SetDeadline(deadline)
	done := make(chan struct{})
	s := tls.Server(sn, server)
	go func() {
		defer close(done)
		if serr = s.Handshake(); serr == nil {
			_, serr = s.Write([]byte("x"))
		}
		if serr != nil {
			sn.Close()
		}
	}()
	c := tls.Client(cn, client)
	if cerr = c.Handshake(); cerr == nil {
		// In TLS 1.3 the client learns of a refused certificate only when it reads.
		_, cerr = c.Read(make([]byte, 1))
	}
	cn.Close()
	<-done
	return c.ConnectionState(), s.ConnectionState(), cerr, serr
}

// pipe is a loopback connection; net.Pipe has no buffer, so both ends sending an alert at once would wait for each other.
func pipe(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func serve(svid *certs.SVID) func() (*certs.SVID, error) {
	return func() (*certs.SVID, error) { return svid, nil }
}

func TestMutualTLS(t *testing.T) {
	ca, other := catest.New(), catest.New()
	alice, bob := ca.MustSVID(aliceURI), ca.MustSVID(bobURI)
	foreign := ca.MustSVID("spiffe://other.domain/ns/default/sa/alice")
	impostor := other.MustSVID(bobURI)
	ids := func(uris ...string) (out []identity.ID) {
		for _, u := range uris {
			out = append(out, mustParse(u))
		}
		return out
	}
	for _, c := range []struct {
		name           string
		client, server *tls.Config
		clientWants    error  // the client's own reason
		serverWants    error  // the server's own reason
		text           string // in whichever of them
	}{
		{name: "both known", client: certs.ClientConfig(alice, ids(bobURI)), server: certs.ServerConfig(serve(bob), "cluster.local")},
		{name: "one of several", client: certs.ClientConfig(alice, ids(aliceURI, bobURI)), server: certs.ServerConfig(serve(bob), "")},
		{name: "wrong server", client: certs.ClientConfig(alice, ids(aliceURI)), server: certs.ServerConfig(serve(bob), "cluster.local"),
			clientWants: certs.ErrIdentity, text: bobURI + " answered, want " + aliceURI},
		{name: "nobody accepted", client: certs.ClientConfig(alice, nil), server: certs.ServerConfig(serve(bob), "cluster.local"),
			clientWants: certs.ErrIdentity, text: "nobody"},
		{name: "foreign trust domain", client: certs.ClientConfig(foreign, ids(bobURI)), server: certs.ServerConfig(serve(bob), "cluster.local"),
			serverWants: certs.ErrIdentity, text: "not of trust domain cluster.local"},
		{name: "own trust domain unknown", client: certs.ClientConfig(foreign, ids(bobURI)), server: certs.ServerConfig(serve(bob), "")},
		{name: "server of another authority", client: certs.ClientConfig(alice, ids(bobURI)), server: certs.ServerConfig(serve(impostor), "cluster.local"),
			clientWants: certs.ErrUntrusted, text: "none of the 1 trusted roots"},
		{name: "client of another authority", client: certs.ClientConfig(impostor, ids(bobURI)), server: certs.ServerConfig(serve(bob), "cluster.local"),
			clientWants: certs.ErrUntrusted},
		{name: "client without certificate", client: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}, server: certs.ServerConfig(serve(bob), "cluster.local"),
			serverWants: errAny},
		{name: "TLS 1.2", client: &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}, server: certs.ServerConfig(serve(bob), "cluster.local"),
			serverWants: errAny},
	} {
		t.Run(c.name, func(t *testing.T) {
			cs, ss, cerr, serr := handshake(t, c.client, c.server)
			want(t, "client", cerr, c.clientWants)
			want(t, "server", serr, c.serverWants)
			if c.clientWants == nil && c.serverWants == nil {
				if cerr != nil || serr != nil {
					t.Fatalf("client: %v, server: %v", cerr, serr)
				}
				if cs.Version != tls.VersionTLS13 || cs.NegotiatedProtocol != "h2" || ss.ServerName != "" {
					t.Errorf("version %x, ALPN %q, server name %q", cs.Version, cs.NegotiatedProtocol, ss.ServerName)
				}
				if id, err := certs.PeerID(cs); err != nil || id != bob.ID {
					t.Errorf("the client sees %v, %v", id, err)
				}
			} else if cerr == nil && serr == nil {
				t.Fatal("the connection was accepted")
			}
			if got := join(cerr, serr); !strings.Contains(got, c.text) {
				t.Errorf("%q does not say %q", got, c.text)
			}
		})
	}
}

var errAny = errors.New("any error")

func want(t *testing.T, who string, got, want error) {
	t.Helper()
	if want == errAny && got == nil || want != nil && want != errAny && !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", who, got, want)
	}
}

func join(errs ...error) string {
	if err := errors.Join(errs...); err != nil {
		return err.Error()
	}
	return ""
}

// A renewal and a changed root apply to the next connection of a running server.
func TestServerFollowsRotation(t *testing.T) {
	ca := catest.New()
	current := ca.MustSVID(bobURI)
	server := certs.ServerConfig(func() (*certs.SVID, error) { return current, nil }, "cluster.local")
	old := ca.MustSVID(aliceURI)
	ca.Rotate()
	young := ca.MustSVID(aliceURI)
	accept := []identity.ID{mustParse(bobURI)}
	if _, _, cerr, serr := handshake(t, certs.ClientConfig(young, accept), server); cerr == nil && serr == nil {
		t.Error("a server that has not seen the new root accepts it")
	}
	current = ca.MustSVID(bobURI)
	for name, svid := range map[string]*certs.SVID{"new": young} {
		if _, _, cerr, serr := handshake(t, certs.ClientConfig(svid, accept), server); cerr != nil || serr != nil {
			t.Errorf("%s root: client %v, server %v", name, cerr, serr)
		}
	}
	// The server trusts both roots; that the old client does not trust the server's new one is the client's to say.
	if _, _, _, serr := handshake(t, certs.ClientConfig(old, accept), server); errors.Is(serr, certs.ErrUntrusted) {
		t.Errorf("the old root is no longer trusted: %v", serr)
	}
}

func TestRevoked(t *testing.T) {
	ca := catest.New()
	alice, bob := ca.MustSVID(aliceURI), ca.MustSVID(bobURI)
	p := certs.Policy{Revoked: func(c *x509.Certificate) bool { return c.SerialNumber.Cmp(alice.TLS.Leaf.SerialNumber) == 0 }}
	_, _, _, serr := handshake(t, certs.ClientConfig(alice, []identity.ID{bob.ID}), p.ServerConfig(serve(bob), "cluster.local"))
	if !errors.Is(serr, certs.ErrRevoked) {
		t.Errorf("revoked client: %v", serr)
	}
}

func TestPolicies(t *testing.T) {
	ca := catest.New()
	alice, bob := ca.MustSVID(aliceURI), ca.MustSVID(bobURI)
	accept := []identity.ID{bob.ID}
	for name, c := range map[string]struct {
		client, server certs.Policy
		group          tls.CurveID
		ok             bool
	}{
		"default":            {group: tls.X25519, ok: true},
		"post-quantum":       {client: certs.Policy{PostQuantum: true}, server: certs.Policy{PostQuantum: true}, group: tls.X25519MLKEM768, ok: true},
		"only one insists":   {client: certs.Policy{PostQuantum: true}},
		"fips meets default": {client: certs.Policy{FIPS: true}, group: tls.CurveP256, ok: true},
	} {
		cs, _, cerr, serr := handshake(t, c.client.ClientConfig(alice, accept), c.server.ServerConfig(serve(bob), "cluster.local"))
		if ok := cerr == nil && serr == nil; ok != c.ok || ok && cs.CurveID != c.group {
			t.Errorf("%s: ok %v with %v (client %v, server %v), want %v with %v", name, ok, cs.CurveID, cerr, serr, c.ok, c.group)
		}
	}
}

// What a hostile peer could present, signed by a trusted authority or not.
func TestVerifyRefuses(t *testing.T) {
	ca := catest.New()
	bob := ca.MustSVID(bobURI)
	alice := mustParse(aliceURI)
	for name, tmpl := range map[string]*x509.Certificate{
		"expired":        {URIs: []*url.URL{alice.URL()}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)},
		"from tomorrow":  {URIs: []*url.URL{alice.URL()}, NotBefore: time.Now().Add(24 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour)},
		"server only":    {URIs: []*url.URL{alice.URL()}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
		"two identities": {URIs: []*url.URL{alice.URL(), bob.ID.URL()}},
		"no identity":    {DNSNames: []string{"alice"}},
	} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		chain, err := certs.ParseCertificates([]byte(ca.Issue(key.Public(), tmpl)[0]))
		if err != nil {
			t.Fatal(err)
		}
		svid := &certs.SVID{ID: alice, TLS: tls.Certificate{Certificate: [][]byte{chain[0].Raw}, PrivateKey: key, Leaf: chain[0]}, Roots: bob.Roots, RootCerts: bob.RootCerts}
		if _, _, cerr, serr := handshake(t, certs.ClientConfig(svid, []identity.ID{bob.ID}), certs.ServerConfig(serve(bob), "cluster.local")); serr == nil {
			t.Errorf("%s: accepted (client: %v)", name, cerr)
		}
	}
}

// The memory of verified chains must not outlive the certificate.
func TestVerifyRemembersNoLongerThanValid(t *testing.T) {
	ca := catest.New()
	alice := ca.MustSVID(aliceURI)
	b := alice.Bundle()
	now := time.Now()
	for _, c := range []struct {
		at time.Time
		ok bool
	}{{now, true}, {now, true}, {now.Add(23 * time.Hour), true}, {now.Add(25 * time.Hour), false}, {now.Add(-48 * time.Hour), false}, {now, true}} {
		if err := b.Verify(alice.Chain(), x509.ExtKeyUsageClientAuth, c.at); (err == nil) != c.ok {
			t.Errorf("at %v: %v, want ok %v", c.at.Sub(now), err, c.ok)
		}
	}
	if err := b.Verify(alice.Chain(), x509.ExtKeyUsageCodeSigning, now); err == nil {
		t.Error("remembered for another usage")
	}
}

func TestNewSVIDRefuses(t *testing.T) {
	ca, other := catest.New(), catest.New()
	alice := mustParse(aliceURI)
	key, _, err := certs.NewRequest(alice)
	if err != nil {
		t.Fatal(err)
	}
	strange, _, _ := certs.NewRequest(alice)
	names := &x509.Certificate{URIs: []*url.URL{alice.URL()}}
	good := ca.Issue(key.Public(), names)
	for name, c := range map[string]struct {
		chain []string
		text  string
	}{
		"nothing":          {nil, "0 chain elements"},
		"leaf alone":       {good[:1], "1 chain elements"},
		"garbage":          {[]string{"x", good[1]}, "no PEM"},
		"key inside":       {[]string{"-----BEGIN EC PRIVATE KEY-----\n-----END EC PRIVATE KEY-----\n", good[1]}, "EC PRIVATE KEY"},
		"another identity": {ca.Issue(key.Public(), &x509.Certificate{URIs: []*url.URL{mustParse(bobURI).URL()}}), "bob instead"},
		"another key":      {ca.Issue(strange.Public(), names), "does not belong to the key"},
		"foreign roots":    {[]string{good[0], string(other.Roots())}, "trusted roots"},
		"expired":          {ca.Issue(key.Public(), &x509.Certificate{URIs: names.URIs, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}), "expired at"},
	} {
		if _, err := certs.NewSVID(alice, key, c.chain, time.Now(), nil); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %q", name, err, c.text)
		}
	}
	if _, err := certs.NewSVID(alice, key, good, time.Now(), nil); err != nil {
		t.Errorf("good: %v", err)
	}
}

func BenchmarkVerify(b *testing.B) {
	ca := catest.New()
	alice := ca.MustSVID(aliceURI)
	chain := alice.Chain()
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			if err := certs.NewBundle(alice.RootCerts).Verify(chain, x509.ExtKeyUsageClientAuth, time.Now()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("again", func(b *testing.B) {
		for b.Loop() {
			if err := alice.Bundle().Verify(chain, x509.ExtKeyUsageClientAuth, time.Now()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
