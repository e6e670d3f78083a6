package stories

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ca/issuer"
	"github.com/ambit-mesh/ambit/e2e/lab"
	"github.com/ambit-mesh/ambit/e2e/lab/sandbox"
	"github.com/ambit-mesh/ambit/e2e/mesh"
)

// certificate is one a ztunnel serves with.
type certificate struct {
	identity     string
	chain, roots []*x509.Certificate
}

func (w *world) certificates(node string) []certificate {
	w.Helper()
	d, err := w.dump(node)
	w.must(err)
	parse := func(text string) *x509.Certificate {
		raw, err := base64.StdEncoding.DecodeString(text)
		w.must(err)
		block, _ := pem.Decode(raw)
		if block == nil {
			w.Fatalf("no PEM in the dump: %q", raw)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		w.must(err)
		return c
	}
	var out []certificate
	for _, c := range d.Certificates {
		cert := certificate{identity: c.Identity}
		for _, p := range c.CertChain {
			cert.chain = append(cert.chain, parse(p.PEM))
		}
		for _, p := range c.RootCerts {
			cert.roots = append(cert.roots, parse(p.PEM))
		}
		if len(cert.chain) > 0 {
			out = append(out, cert)
		}
	}
	return out
}

func writePEM(t *testing.T, file string, certs ...*x509.Certificate) string {
	t.Helper()
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	if err := os.WriteFile(file, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// strangersAgree has openssl and go-spiffe verify a certificate.
func (w *world) strangersAgree(c certificate) {
	w.Helper()
	dir := w.TempDir()
	leaf := writePEM(w.T, filepath.Join(dir, "leaf.pem"), c.chain[0])
	args := []string{"verify", "-x509_strict", "-CAfile", writePEM(w.T, filepath.Join(dir, "roots.pem"), c.roots...)}
	if len(c.chain) > 1 {
		args = append(args, "-untrusted", writePEM(w.T, filepath.Join(dir, "chain.pem"), c.chain[1:]...))
	}
	for _, purpose := range []string{"sslserver", "sslclient"} {
		out, err := exec.CommandContext(w.ctx, "openssl", append(args, "-purpose", purpose, leaf)...).CombinedOutput()
		if errors.Is(err, exec.ErrNotFound) {
			w.Skip("needs openssl")
		}
		if err != nil {
			w.Errorf("openssl does not accept %s as %s: %v\n%s", c.identity, purpose, err, out)
		}
	}
	td := spiffeid.RequireTrustDomainFromString("cluster.local")
	id, _, err := x509svid.Verify(c.chain, x509bundle.FromX509Authorities(td, c.roots))
	if err != nil || id.String() != c.identity {
		w.Errorf("go-spiffe sees %v, %v, the proxy %s", id, err, c.identity)
	}
}

// TestIdentity has strangers look at the certificates of a running mesh and knock on its doors.
func TestIdentity(t *testing.T) {
	w := start(t, options{nodes: 2})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "web", "node2")
	vip := w.service("shop", "web", 80, 8080)
	w.serve("shop", "web", 8080)
	w.protocol("shop", "HBONE")
	w.want("shop", "client", vip, "web "+w.podIP("shop", "client"))

	seen := map[string]bool{}
	for _, node := range []string{"node1", "node2"} {
		for _, c := range w.certificates(node) {
			seen[c.identity] = true
			w.strangersAgree(c)
			if left := time.Until(c.chain[0].NotAfter); left > 25*time.Hour || left < 23*time.Hour {
				t.Errorf("%s ends in %v", c.identity, left)
			}
		}
	}
	for _, sa := range []string{"client", "web"} {
		if !seen["spiffe://cluster.local/ns/shop/sa/"+sa] {
			t.Errorf("no certificate of %s: %v", sa, seen)
		}
	}

	// Somebody with a good certificate, somebody with a forged one, and somebody without.
	good := w.certified(filepath.Join(w.Dir, "mesh", "issuer"), "client")
	forged := w.certified(t.TempDir(), "client")
	addr := net.JoinHostPort(w.podIP("shop", "web"), "15008")
	cache := &tickets{}
	config := func(certs ...tls.Certificate) *tls.Config {
		// It is the server that is looked at here, as a scanner would.
		return &tls.Config{Certificates: certs, NextProtos: []string{"h2"}, InsecureSkipVerify: true, ClientSessionCache: cache}
	}
	for range 2 {
		st, err := w.knock(addr, config(good))
		switch {
		case err != nil:
			t.Errorf("with a good certificate: %v", err)
		case st.Version != tls.VersionTLS13 || st.NegotiatedProtocol != "h2" || st.DidResume:
			t.Errorf("version %x, protocol %q, resumed %v", st.Version, st.NegotiatedProtocol, st.DidResume)
		case len(st.PeerCertificates) == 0 || st.PeerCertificates[0].URIs[0].String() != "spiffe://cluster.local/ns/shop/sa/web":
			t.Errorf("the server shows %v", st.PeerCertificates)
		}
	}
	if cache.n > 0 {
		t.Errorf("%d session tickets", cache.n)
	}
	if _, err := w.knock(addr, config()); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a certificate: %v", err)
	}
	if _, err := w.knock(addr, config(forged)); err == nil || isTimeout(err) {
		t.Errorf("with a forged certificate: %v", err)
	}
	old := config(good)
	old.MaxVersion = tls.VersionTLS12
	if _, err := w.knock(addr, old); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("with TLS 1.2: %v", err)
	}

	for args, want := range map[string]string{
		"-tls1_2":            "alert protocol version",
		"-tls1_3":            "alert certificate required",
		"-tls1_3 -alpn smtp": "alert no application protocol",
		"-tls1_3 -ciphersuites TLS_CHACHA20_POLY1305_SHA256 -curves P-256": "alert certificate required",
	} {
		out := w.openssl("node1", append([]string{"s_client", "-ign_eof", "-connect", addr}, strings.Fields(args)...)...)
		if !strings.Contains(out, want) || strings.Contains(out, "New Session Ticket") {
			t.Errorf("openssl s_client %s: want %q in\n%s", args, want, out)
		}
	}
	w.logged("node2", "connection failed", "reason=\"tls-")
}

// tickets counts what a server would like to resume.
type tickets struct{ n int }

func (*tickets) Get(string) (*tls.ClientSessionState, bool) { return nil, false }
func (c *tickets) Put(_ string, s *tls.ClientSessionState) {
	if s != nil {
		c.n++
	}
}

// certified is a certificate for an account of the shop by the issuer in a folder.
func (w *world) certified(dir, account string) tls.Certificate {
	w.Helper()
	ca, err := issuer.Open(issuer.Config{Dir: dir})
	w.must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	_, leaf, err := ca.Sign(identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: account}, key.Public(), time.Hour)
	w.must(err)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// knock opens TLS from node1 and reads the server's first bytes: only then it has judged the client.
func (w *world) knock(addr string, c *tls.Config) (st tls.ConnectionState, err error) {
	var nc net.Conn
	if err := w.In(w.ctx, "node1", func() (err error) { nc, err = net.DialTimeout("tcp", addr, patience); return err }); err != nil {
		return st, err
	}
	defer nc.Close()
	tc := tls.Client(nc, c)
	_ = tc.SetDeadline(time.Now().Add(patience))
	if err := tc.Handshake(); err != nil {
		return st, err
	}
	// The preface and empty SETTINGS of HTTP/2, which the server answers with its own.
	if _, err := tc.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
		return st, err
	}
	if _, err := tc.Read(make([]byte, 9)); err != nil {
		return st, err
	}
	return tc.ConnectionState(), nil
}

// openssl runs it on a node, with nothing to read.
func (w *world) openssl(node string, args ...string) string {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	out, err := os.Create(filepath.Join(w.TempDir(), "out"))
	w.must(err)
	defer out.Close()
	null, err := os.Open(os.DevNull)
	w.must(err)
	defer null.Close()
	_, err = w.ExecHost(ctx, node, append([]string{"openssl"}, args...), sandbox.Stdio{In: null, Out: out, Err: out})
	w.must(err)
	text, err := os.ReadFile(out.Name())
	w.must(err)
	return string(text)
}

// secretTTL is short enough for a story to see renewals, and long enough for a machine that is busy.
const secretTTL = 8 * time.Second

// TestRotation replaces the root under load: all certificates come to be from the new one without an error. Then the
// authority goes away for longer than it takes certificates to reach their half-life, and nobody notices that either.
func TestRotation(t *testing.T) {
	w := start(t, options{nodes: 2, mesh: mesh.Options{ZtunnelEnv: []string{"SECRET_TTL=" + secretTTL.String()}}})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "web", "node2")
	vip := w.service("shop", "web", 80, 8080)
	w.serve("shop", "web", 8080)
	w.protocol("shop", "HBONE")
	w.want("shop", "client", vip, "web "+w.podIP("shop", "client"))
	load := w.load("shop", "client", vip)
	open := w.held("shop", "client", vip)

	first := w.certificates("node2")[0].roots[0].Subject.String()
	w.must(w.rotate())
	w.eventually("all certificates to be from the new root", func() error {
		for _, node := range []string{"node1", "node2"} {
			for _, c := range w.certificates(node) {
				if c.chain[0].Issuer.String() == first || len(c.roots) != 2 {
					return fmt.Errorf("%s is of %s, with %d roots", c.identity, c.chain[0].Issuer, len(c.roots))
				}
				w.strangersAgree(c)
			}
		}
		return nil
	})
	if got := load(); len(got.Errors) > 0 {
		t.Errorf("during the rotation: %s", got)
	}

	// Renewal is tried at half of the lifetime. Nobody answers, and what there is goes on to be good.
	load = w.load("shop", "client", vip)
	w.must(w.Fail(w.soon(), lab.Fault{Kind: "ca"}))
	w.eventually("a renewal to fail", func() error {
		data, err := w.DaemonLog("ztunnel@node2")
		if err == nil && !strings.Contains(string(data), "15013") {
			err = errNotYet
		}
		return err
	})
	_, err := w.Heal(w.soon(), lab.Fault{Kind: "ca"})
	w.must(err)
	w.must(w.DaemonsReady(w.soon(), nil))
	healed := time.Now()
	w.eventually("fresh certificates", func() error {
		for _, node := range []string{"node1", "node2"} {
			for _, c := range w.certificates(node) {
				if c.chain[0].NotAfter.Before(healed.Add(secretTTL / 2)) {
					return fmt.Errorf("%s ends at %v", c.identity, c.chain[0].NotAfter)
				}
			}
		}
		return nil
	})
	if got := load(); len(got.Errors) > 0 {
		t.Errorf("while the authority was down: %s", got)
	}
	if err := open(); err != nil {
		t.Errorf("the open connection: %v", err)
	}
}

// TestCertificatesExpire keeps the authority away until certificates end: nothing new is opened by them, and what waited is
// served when it is back.
func TestCertificatesExpire(t *testing.T) {
	w := start(t, options{nodes: 2, mesh: mesh.Options{ZtunnelEnv: []string{"SECRET_TTL=3s"}}})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "web", "node2")
	w.pod("shop", "other", "other", "node2")
	w.serve("shop", "other", 8080)
	other := net.JoinHostPort(w.podIP("shop", "other"), "8080")
	vip := w.service("shop", "web", 80, 8080)
	w.serve("shop", "web", 8080)
	w.protocol("shop", "HBONE")
	w.eventually("an answer", func() error { _, err := w.call("shop", "client", vip, "hi"); return err })
	w.must(w.Signal(w.soon(), "ambit-ca", syscall.SIGSTOP))
	w.eventually("certificates to end", func() error {
		for _, node := range []string{"node1", "node2"} {
			for _, c := range w.certificates(node) {
				if time.Now().Before(c.chain[0].NotAfter) {
					return errNotYet
				}
			}
		}
		return nil
	})
	// What is open was opened by who it says. What is new waits for a certificate that is good now.
	c, err := w.dial("shop", "client", other)
	w.must(err)
	defer c.Close()
	_, err = fmt.Fprintln(c, "hi")
	w.must(err)
	w.must(c.SetReadDeadline(time.Now().Add(500 * time.Millisecond)))
	if n, err := c.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("without a certificate: %d bytes, %v", n, err)
	}
	w.must(w.Signal(w.soon(), "ambit-ca", syscall.SIGCONT))
	if got, err := say(c, "hi again"); err != nil || !strings.HasPrefix(got, "other") {
		t.Errorf("with the authority back: %q, %v", got, err)
	}
	w.want("shop", "client", other, "other "+w.podIP("shop", "client"))
}

func (w *world) rotate() error {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", w.Control.CAAdminSocket)
	}}}
	req, err := http.NewRequestWithContext(w.soon(), http.MethodPost, "http://ca/rotate", nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}
