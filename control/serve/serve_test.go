package serve

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ca/token"
)

// authority signs the certificates of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue returns a leaf for a server name or a SPIFFE id.
func (a *authority) issue(t *testing.T, serial int64, name string) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if u, err := url.Parse(name); err == nil && u.Scheme == "spiffe" {
		tmpl.URIs = []*url.URL{u}
	} else {
		tmpl.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

func write(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// freePort returns a loopback address nobody listens on at the moment.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// run serves three empty collections until the test ends.
func run(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := New(cfg, xds.NewCollection(mesh.TypeAddress), xds.NewCollection(mesh.TypeAuthorization), xds.NewCollection(mesh.TypeWaypointSecret))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	listening, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.Run(ctx, func() { close(listening) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-listening:
	case err := <-done:
		done <- nil
		t.Fatal(err)
	}
	return s
}

// ask opens a stream and returns what its first request comes to.
func ask(t *testing.T, addr string, creds credentials.TransportCredentials, bearer, id string, meta map[string]any) error {
	t.Helper()
	return askFor(t, addr, creds, bearer, id, meta, mesh.TypeAddress)
}

func askFor(t *testing.T, addr string, creds credentials.TransportCredentials, bearer, id string, meta map[string]any, typ string, names ...string) error {
	t.Helper()
	c, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if bearer != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+bearer)
	}
	st, err := discoveryv3.NewAggregatedDiscoveryServiceClient(c).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	m, _ := structpb.NewStruct(meta)
	if err := st.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: id, Metadata: m}, TypeUrl: typ, ResourceNamesSubscribe: names}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	// After an EOF of Send too: it says no more than that the stream has ended, and Recv says why.
	_, err = st.Recv()
	return err
}

const goodID = "ztunnel~10.0.0.1~zt.ambit-system~ambit-system.svc.cluster.local"

func TestWhoMayAsk(t *testing.T) {
	ca, dir := newAuthority(t), t.TempDir()
	crt, key := ca.issue(t, 2, "control.test")
	write(t, dir, map[string][]byte{"tls.crt": crt, "tls.key": key, "root-cert.pem": ca.pem})
	signer, _, err := token.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	keys := token.PublicKeys(signer.Public())
	mint := func(c token.Claims) string {
		c.Expiry = time.Now().Add(time.Hour)
		raw, err := token.Mint(signer, c)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	addr := freePort(t)
	run(t, Config{Listen: addr, TLSDir: dir, TrustDomain: "cluster.local", Tokens: &token.Verifier{Keys: func() (*token.Keys, error) { return keys, nil }}})

	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	plain := credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "control.test"})
	from := func(ca *authority, id string) credentials.TransportCredentials {
		c, k := ca.issue(t, 3, id)
		pair, err := tls.X509KeyPair(c, k)
		if err != nil {
			t.Fatal(err)
		}
		return credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "control.test", Certificates: []tls.Certificate{pair}})
	}
	withCert := func(id string) credentials.TransportCredentials { return from(ca, id) }
	strange := from(newAuthority(t), "spiffe://cluster.local/ns/ambit-system/sa/ztunnel")
	zt := mint(token.Claims{Namespace: "ambit-system", ServiceAccount: "ztunnel"})
	own := map[string]any{"NAMESPACE": "ambit-system", "SERVICE_ACCOUNT": "ztunnel"}
	for _, c := range []struct {
		name   string
		creds  credentials.TransportCredentials
		bearer string
		id     string
		meta   map[string]any
		want   codes.Code
	}{
		{"a token and what it says", plain, zt, goodID, own, codes.OK},
		{"the account may be left out", plain, zt, goodID, map[string]any{"NAMESPACE": "ambit-system"}, codes.OK},
		{"a client certificate instead", withCert("spiffe://cluster.local/ns/ambit-system/sa/ztunnel"), "", goodID, own, codes.OK},
		{"nothing at all", plain, "", goodID, own, codes.Unauthenticated},
		{"a token nobody signed", plain, zt[:len(zt)-4] + "AAAA", goodID, own, codes.Unauthenticated},
		{"a token for somebody else", plain, mint(token.Claims{Namespace: "a", ServiceAccount: "b", Audiences: []string{"other"}}), goodID, map[string]any{"NAMESPACE": "a"}, codes.Unauthenticated},
		{"another namespace", plain, zt, goodID, map[string]any{"NAMESPACE": "kube-system"}, codes.PermissionDenied},
		{"another account", plain, zt, goodID, map[string]any{"NAMESPACE": "ambit-system", "SERVICE_ACCOUNT": "root"}, codes.PermissionDenied},
		{"no namespace", plain, zt, goodID, nil, codes.PermissionDenied},
		{"a certificate of another trust domain", withCert("spiffe://evil/ns/ambit-system/sa/ztunnel"), "", goodID, own, codes.Unauthenticated},
		{"a certificate of another account", withCert("spiffe://cluster.local/ns/ambit-system/sa/x"), "", goodID, own, codes.PermissionDenied},
		{"a certificate of another root", strange, "", goodID, own, codes.Unauthenticated},
		{"a certificate of another root and a token", strange, zt, goodID, own, codes.OK},
		{"an id of no known form", plain, zt, "somebody", own, codes.InvalidArgument},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := ask(t, addr, c.creds, c.bearer, c.id, c.meta)
			if got := status.Code(err); got != c.want {
				t.Errorf("%v: %v, want %v", got, err, c.want)
			}
		})
	}
}

// What belongs to a Gateway, certificates among it, is for its own proxies alone.
func TestWhoMayReadAGateway(t *testing.T) {
	ca, dir := newAuthority(t), t.TempDir()
	crt, key := ca.issue(t, 2, "control.test")
	write(t, dir, map[string][]byte{"tls.crt": crt, "tls.key": key})
	signer, _, err := token.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	keys := token.PublicKeys(signer.Public())
	addr := freePort(t)
	run(t, Config{
		Listen: addr, TLSDir: dir, Tokens: &token.Verifier{Keys: func() (*token.Keys, error) { return keys, nil }},
		MayReadGateway: func(gateway, ns, account string) error {
			if gateway == "shop/wp" && ns == "shop" && account == "wp" {
				return nil
			}
			return errors.New("not yours")
		},
	})
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	creds := credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "control.test"})
	for _, c := range []struct {
		account, name, typ string
		want               codes.Code
	}{
		{"wp", "shop/wp/*", mesh.TypeAddress, codes.OK},
		{"other", "shop/wp/*", mesh.TypeAddress, codes.PermissionDenied},
		{"wp", "shop/edge/*", mesh.TypeAddress, codes.PermissionDenied},
		{"other", "shop/wp/*", mesh.TypeWaypointSecret, codes.PermissionDenied},
		{"other", "shop/wp/shop/cert", mesh.TypeWaypointSecret, codes.PermissionDenied},
		{"wp", "shop/wp/shop/cert", mesh.TypeWaypointSecret, codes.OK},
	} {
		raw, err := token.Mint(signer, token.Claims{Namespace: "shop", ServiceAccount: c.account, Expiry: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		err = askFor(t, addr, creds, raw, "waypoint~10.0.0.1~wp.shop~shop.svc.cluster.local", map[string]any{"NAMESPACE": "shop"}, c.typ, c.name)
		if got := status.Code(err); got != c.want {
			t.Errorf("%s asks for %s of %s: %v, want %v", c.account, c.name, c.typ, err, c.want)
		}
	}
}

func TestCertificateIsReloaded(t *testing.T) {
	ca, dir := newAuthority(t), t.TempDir()
	crt, key := ca.issue(t, 10, "control.test")
	write(t, dir, map[string][]byte{"tls.crt": crt, "tls.key": key})
	addr := freePort(t)
	s := run(t, Config{Listen: addr, TLSDir: dir})

	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	serial := func() int64 {
		c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, ServerName: "control.test", NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	await := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !ok(); {
			if time.Now().After(deadline) {
				t.Fatalf("%s did not happen", what)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	if n := serial(); n != 10 {
		t.Fatalf("serial %d", n)
	}
	write(t, dir, map[string][]byte{"tls.crt": []byte("half a file")})
	await("the complaint", func() bool { serial(); return s.Problem() != nil })
	if n := serial(); n != 10 {
		t.Errorf("serial %d while the file is broken", n)
	}
	crt, key = ca.issue(t, 11, "control.test")
	write(t, dir, map[string][]byte{"tls.crt": crt, "tls.key": key})
	await("the renewal", func() bool { return serial() == 11 })
	if err := s.Problem(); err != nil {
		t.Errorf("still complains: %v", err)
	}
}

func TestListeners(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"plaintext for everyone", Config{Plaintext: ":15010"}, "could be reached from other machines"},
		{"plaintext on an address of the machine", Config{Plaintext: "192.0.2.1:15010"}, "could be reached from other machines"},
		{"plaintext where it was allowed", Config{Plaintext: ":15010", PlaintextAnywhere: true}, ""},
		{"plaintext on loopback", Config{Plaintext: "[::1]:15010"}, ""},
		{"plaintext on a socket", Config{Plaintext: "unix:/tmp/x.sock"}, ""},
		{"TLS without a certificate", Config{Listen: ":15012"}, "tls.crt"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := New(c.cfg)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xds.sock")
	left, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	left.Close() // as a killed process leaves it
	run(t, Config{Plaintext: "unix:" + path})
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	if err := ask(t, "unix:"+path, insecure.NewCredentials(), "", goodID, nil); err != nil {
		t.Error(err)
	}
	if _, err := ListenUnix(path); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a socket in use was taken over: %v", err)
	}
}
