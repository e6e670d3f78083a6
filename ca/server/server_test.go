package server_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/ambit-mesh/ambit/api/auth"
	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/client"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ca/issuer"
	"github.com/ambit-mesh/ambit/ca/server"
	"github.com/ambit-mesh/ambit/ca/token"
)

// world is an authority behind gRPC, in memory.
type world struct {
	issuer *issuer.Issuer
	key    crypto.Signer
	listen *bufconn.Listener
}

// nodes is a Placement: service account → node.
type nodes map[string]string

func (n nodes) Node(_ context.Context, _ identity.ID, pod server.Pod) (string, error) {
	if pod.UID == "stale" {
		return "", errors.New("its uid is another now")
	}
	return pod.Node, nil
}

func (n nodes) Runs(_ context.Context, node, ns, sa string) (bool, error) {
	if node == "dark" {
		return false, errors.New("the control plane has not been reached")
	}
	return n[ns+"/"+sa] == node, nil
}

func newWorld(t *testing.T, placement server.Placement) *world {
	t.Helper()
	iss, err := issuer.Open(issuer.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := token.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	keys := token.PublicKeys(key.Public())
	srv, err := server.New(server.Config{
		Signer: iss,
		Authenticators: []server.Authenticator{
			server.TokenAuthenticator{Verifier: &token.Verifier{Keys: func() (*token.Keys, error) { return keys, nil }}, TrustDomain: "cluster.local"},
			server.CertificateAuthenticator{Bundle: iss.Bundle},
		},
		TrustedNodeAccounts: []string{"ambit-system/ztunnel"},
		Placement:           placement,
		Registerer:          prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	serving, err := iss.NewServing(identity.ID{}, []string{"ca.test"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{issuer: iss, key: key, listen: bufconn.Listen(1 << 16)}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{serving.Certificate}, ClientAuth: tls.RequestClientCert, NextProtos: []string{"h2"}})))
	auth.RegisterIstioCertificateServiceServer(g, srv)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(w.listen) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return w
}

func (w *world) mint(t *testing.T, c token.Claims) string {
	t.Helper()
	if c.Expiry.IsZero() {
		c.Expiry = time.Now().Add(time.Hour)
	}
	raw, err := token.Mint(w.key, c)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (w *world) client(t *testing.T, change func(*client.Config)) *client.Client {
	t.Helper()
	cfg := client.Config{
		Address:     "https://ca.test:15012",
		RootCA:      func() ([]byte, error) { return w.issuer.Bundle().PEM(), nil },
		DialContext: func(ctx context.Context, _ string) (net.Conn, error) { return w.listen.DialContext(ctx) },
	}
	change(&cfg)
	c := client.New(cfg)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func id(ns, sa string) identity.ID {
	return identity.ID{TrustDomain: "cluster.local", Namespace: ns, ServiceAccount: sa}
}

func TestCreateCertificate(t *testing.T) {
	w := newWorld(t, nodes{"default/alice": "n1"})
	zt := token.Claims{Namespace: "ambit-system", ServiceAccount: "ztunnel", PodName: "zt", PodUID: "u", Node: "n1"}
	with := func(change func(*token.Claims)) token.Claims {
		c := zt
		change(&c)
		return c
	}
	alice := id("default", "alice")
	foreign := alice
	foreign.TrustDomain = "other"
	for _, c := range []struct {
		name string
		as   token.Claims
		want identity.ID
		self bool // asks for its own identity
		code codes.Code
		text string
	}{
		{name: "own identity", as: token.Claims{Namespace: "default", ServiceAccount: "alice"}, want: alice, self: true},
		{name: "own identity, spelt out", as: token.Claims{Namespace: "default", ServiceAccount: "alice"}, want: alice},
		{name: "a pod on its node", as: zt, want: alice},
		{name: "a pod elsewhere", as: with(func(c *token.Claims) { c.Node = "n2" }), want: alice, code: codes.Unauthenticated, text: "no pod of service account default/alice runs on node n2"},
		{name: "nobody's account", as: zt, want: id("default", "bob"), code: codes.Unauthenticated, text: "default/bob"},
		{name: "not trusted", as: token.Claims{Namespace: "default", ServiceAccount: "mallory", PodName: "m", PodUID: "u", Node: "n1"}, want: alice, code: codes.Unauthenticated, text: "not a trusted node account"},
		{name: "same name elsewhere", as: with(func(c *token.Claims) { c.Namespace = "default" }), want: alice, code: codes.Unauthenticated, text: "not a trusted node account"},
		{name: "not bound to a pod", as: with(func(c *token.Claims) { c.PodName, c.PodUID = "", "" }), want: alice, code: codes.Unauthenticated, text: "not bound to a pod"},
		{name: "pod replaced", as: with(func(c *token.Claims) { c.PodUID = "stale" }), want: alice, code: codes.Unauthenticated, text: "uid is another now"},
		{name: "no node", as: with(func(c *token.Claims) { c.Node = "" }), want: alice, code: codes.Unauthenticated, text: "no known node"},
		{name: "placement unknown", as: with(func(c *token.Claims) { c.Node = "dark" }), want: alice, code: codes.Unauthenticated, text: "has not been reached"},
		{name: "foreign trust domain", as: zt, want: foreign, code: codes.Unauthenticated, text: "trust domain"},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := w.mint(t, c.as)
			cl := w.client(t, func(cfg *client.Config) {
				cfg.Token = func() (string, error) { return raw, nil }
				if c.self {
					cfg.Self = c.want
				}
			})
			svid, err := cl.Sign(t.Context(), c.want)
			check(t, err, c.code, c.text)
			if c.code == codes.OK && err == nil && svid.ID != c.want {
				t.Errorf("got %s", svid.ID)
			}
			if c.code != codes.OK && c.text != "" && !strings.Contains(err.Error(), "request impersonation authentication failure") {
				t.Errorf("%v lacks the text other authorities use", err)
			}
		})
	}
}

func check(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if got := status.Code(errors.Unwrap(err)); err != nil && got != code || err == nil && code != codes.OK || err != nil && !strings.Contains(err.Error(), text) {
		t.Errorf("%v (code %v), want %v with %q", err, got, code, text)
	}
}

func TestCredentials(t *testing.T) {
	w := newWorld(t, nil)
	alice := id("default", "alice")
	good := w.mint(t, token.Claims{Namespace: "default", ServiceAccount: "alice"})
	expired := w.mint(t, token.Claims{Namespace: "default", ServiceAccount: "alice", IssuedAt: time.Now().Add(-2 * time.Hour), Expiry: time.Now().Add(-time.Hour)})
	first, err := w.client(t, func(cfg *client.Config) {
		cfg.Self = alice
		cfg.Token = func() (string, error) { return good, nil }
	}).Sign(t.Context(), alice)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := issuer.Open(issuer.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := certs.NewRequest(alice)
	if err != nil {
		t.Fatal(err)
	}
	chain, leaf, err := stranger.Sign(alice, key.Public(), 0)
	if err != nil || len(chain) == 0 {
		t.Fatal(err)
	}
	forged := tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	for _, c := range []struct {
		name  string
		token string
		cert  *tls.Certificate
		code  codes.Code
		text  string
	}{
		{"nothing", "", nil, codes.Unauthenticated, "neither a bearer token nor a client certificate"},
		{"token", good, nil, codes.OK, ""},
		{"certificate", "", &first.TLS, codes.OK, ""},
		{"expired token", expired, nil, codes.Unauthenticated, "expired at"},
		{"garbage token", "x.y.z", nil, codes.Unauthenticated, "request authenticate failure"},
		{"foreign certificate", "", &forged, codes.Unauthenticated, "trusted roots"},
		{"foreign certificate and good token", good, &forged, codes.OK, ""},
		{"good certificate and expired token", expired, &first.TLS, codes.OK, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			cl := w.client(t, func(cfg *client.Config) {
				cfg.Self = alice
				cfg.Token = func() (string, error) { return c.token, nil }
				if c.cert != nil {
					cfg.Certificate = func() (*tls.Certificate, error) { return c.cert, nil }
				}
			})
			_, err := cl.Sign(t.Context(), alice)
			check(t, err, c.code, c.text)
		})
	}
	t.Run("no placement", func(t *testing.T) {
		raw := w.mint(t, token.Claims{Namespace: "ambit-system", ServiceAccount: "ztunnel", PodName: "zt", PodUID: "u", Node: "n1"})
		_, err := w.client(t, func(cfg *client.Config) { cfg.Token = func() (string, error) { return raw, nil } }).Sign(t.Context(), alice)
		check(t, err, codes.Unauthenticated, "no control plane is configured")
	})
	t.Run("token file missing", func(t *testing.T) {
		_, err := w.client(t, func(cfg *client.Config) { cfg.Token = client.TokenFile("/nonexistent/token") }).Sign(t.Context(), alice)
		if err == nil || !strings.Contains(err.Error(), "token for certificate authority") {
			t.Error(err)
		}
	})
}

// away is an authenticator that cannot ask whom it has to ask.
type away struct{}

func (away) Authenticate(context.Context) (server.Caller, error) {
	return server.Caller{}, status.Error(codes.Unavailable, "the API server cannot be asked about the token")
}

// A caller about whom nobody could be asked is not one that was refused: it shall come again.
func TestNobodyCanBeAsked(t *testing.T) {
	iss, err := issuer.Open(issuer.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := server.New(server.Config{Signer: iss, Authenticators: []server.Authenticator{away{}, server.CertificateAuthenticator{Bundle: iss.Bundle}}, Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = srv.CreateCertificate(t.Context(), &auth.IstioCertificateRequest{})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "cannot be asked") {
		t.Error(err)
	}
}

func TestBadRequests(t *testing.T) {
	w := newWorld(t, nil)
	raw := w.mint(t, token.Claims{Namespace: "default", ServiceAccount: "alice"})
	conn, err := grpc.NewClient("passthrough:///ca", grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return w.listen.DialContext(ctx) }),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: w.issuer.Bundle().Pool(), ServerName: "ca.test"})), grpc.WithPerRPCCredentials(bearer(raw)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, csr, err := certs.NewRequest(id("default", "somebody-else"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		req  *auth.IstioCertificateRequest
		code codes.Code
	}{
		{"no CSR", &auth.IstioCertificateRequest{}, codes.InvalidArgument},
		{"garbage CSR", &auth.IstioCertificateRequest{Csr: "hello"}, codes.InvalidArgument},
		{"too long", &auth.IstioCertificateRequest{Csr: string(csr), ValidityDuration: int64(91 * 24 * time.Hour / time.Second)}, codes.InvalidArgument},
		{"overflowing", &auth.IstioCertificateRequest{Csr: string(csr), ValidityDuration: 1 << 62}, codes.InvalidArgument},
		{"negative", &auth.IstioCertificateRequest{Csr: string(csr), ValidityDuration: -1 << 62}, codes.OK},
	} {
		resp, err := auth.NewIstioCertificateServiceClient(conn).CreateCertificate(t.Context(), c.req)
		if status.Code(err) != c.code {
			t.Errorf("%s: %v, want %v", c.name, err, c.code)
		}
		if err == nil {
			// The request was for somebody else; the answer is for the caller.
			leaf, err := certs.ParseCertificates([]byte(resp.CertChain[0]))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := identity.FromCertificate(leaf[0]); err != nil || got != id("default", "alice") {
				t.Errorf("%s: certificate for %v, %v", c.name, got, err)
			}
		}
	}
}

type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}
func (bearer) RequireTransportSecurity() bool { return true }
