package xds

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/test/bufconn"
)

// selfSigned is a certificate for a name, and the pool that trusts it.
func selfSigned(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

// TestRootIsReadForEveryConnection starts with a root that does not fit; once the file is right, so is the connection.
func TestRootIsReadForEveryConnection(t *testing.T) {
	cert, right := selfSigned(t, "control.ambit-system.svc")
	_, wrong := selfSigned(t, "control.ambit-system.svc")
	w := &world{t: t, address: NewCollection(addressType)}
	w.server = NewServer(ServerConfig{}, w.address)
	w.listener = bufconn.Listen(1 << 16)
	w.grpc = grpc.NewServer(append(w.server.Options(), grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}})))...)
	w.server.Register(w.grpc)
	w.stopped = make(chan error, 1)
	go func() { w.stopped <- w.grpc.Serve(w.listener) }()
	t.Cleanup(w.stop)
	w.address.Apply([]*Resource{res("a", "1")}, nil)

	var root atomic.Pointer[x509.CertPool]
	root.Store(wrong)
	reg := prometheus.NewRegistry()
	r := newReplica()
	c, _ := w.run(ClientConfig{ServerName: "control.ambit-system.svc", Registerer: reg, TLS: func() (*tls.Config, error) {
		return &tls.Config{RootCAs: root.Load()}, nil
	}}, r, addressType)
	eventually(t, "refused connections are counted", func() bool { return counter(t, reg, "istio_xds_connection_terminations_total") > 0 })
	root.Store(right)
	awaitSynced(t, c)
	if r.get(addressType)["a"] != "1" {
		t.Fatalf("state %v", r.get(addressType))
	}
}
