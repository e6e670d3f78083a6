package envoy_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

// certificate makes a self-signed one.
func certificate(t *testing.T, names ...string) *waypoint.Secret {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &waypoint.Secret{
		Namespace: "default", Name: names[0],
		CertificateChain: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		PrivateKey:       pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}
}

// edgeWorld is a gateway in front of one HTTP and one TCP service of the mesh.
func edgeWorld(t *testing.T, ip string) *envoytest.World {
	t.Helper()
	w, _, _ := echoWorld(t, ip, waypoint.Protocol_HTTP1)
	port := envoytest.TCPApp(t, "hello", ip)
	w.Add("tcp.default.svc.cluster.local", "10.96.0.2", []envoytest.Port{{Number: 90, Target: port, Protocol: waypoint.Protocol_TCP}},
		envoytest.Pod("tcp", ip, "echo"))
	for i, svc := range w.Services { // not behind this gateway
		w.Destinations[i].ServicePorts = svc.Ports
	}
	w.Services = nil
	w.Secrets = map[string]*waypoint.Secret{}
	w.Gateway = &waypoint.Gateway{Namespace: "default", Name: "edge", Kind: waypoint.Gateway_EDGE, TrustDomains: []string{"cluster.local"}}
	return w
}

// listen adds a listener with a host whose requests go to the echo service, or whose connections to the TCP one.
func listen(t *testing.T, w *envoytest.World, l *waypoint.Listener, hosts ...*waypoint.VirtualHost) *waypoint.Listener {
	t.Helper()
	if l.Port == 0 {
		l.Port = envoytest.FreePort(t)
	}
	w.Gateway.Listeners = append(w.Gateway.Listeners, l)
	w.VirtualHosts = append(w.VirtualHosts, hosts...)
	return l
}

func httpHost(listener, hostname string) *waypoint.VirtualHost {
	return &waypoint.VirtualHost{Listener: listener, Hostname: hostname, Http: []*waypoint.HTTPRule{{
		Action: &waypoint.HTTPRule_Forward{Forward: &waypoint.Forward{Backends: []*waypoint.Backend{
			{Namespace: "default", Hostname: "echo.default.svc.cluster.local", Port: 80, Weight: 1},
		}}},
	}}}
}

func tcpHost(listener, hostname string) *waypoint.VirtualHost {
	return &waypoint.VirtualHost{Listener: listener, Hostname: hostname, Stream: []*waypoint.StreamRule{{Backends: []*waypoint.Backend{
		{Namespace: "default", Hostname: "tcp.default.svc.cluster.local", Port: 90, Weight: 1},
	}}}}
}

func secure(port uint32, name string) (*tls.Conn, error) {
	d := &net.Dialer{Timeout: 10 * time.Second}
	return tls.DialWithDialer(d, "tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{ServerName: name, InsecureSkipVerify: true})
}

// greets reads what the TCP service says first.
func greets(t *testing.T, conn net.Conn, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "hello\n" {
		t.Errorf("greeting %q, %v", line, err)
	}
}

// TestEdge: every kind of listener, next to some that cannot be served.
func TestEdge(t *testing.T) {
	const prefix = "default/edge/default/"
	w := edgeWorld(t, "127.0.41.1")
	w.Secrets[prefix+"shop"] = certificate(t, "shop.example.com")
	w.Secrets[prefix+"blog"] = certificate(t, "blog.example.com")
	w.Secrets[prefix+"torn"] = certificate(t, "torn.example.com")
	w.Secrets[prefix+"torn"].PrivateKey = w.Secrets[prefix+"shop"].PrivateKey

	plain := listen(t, w, &waypoint.Listener{Name: "http"}, httpHost("http", "shop.example.com"), httpHost("http", "*.wild.example.com"))
	https := listen(t, w, &waypoint.Listener{Name: "shop", Protocol: waypoint.Listener_HTTPS, Hostname: "shop.example.com", Certificates: []string{prefix + "shop"}},
		httpHost("shop", "shop.example.com"))
	for _, l := range []*waypoint.Listener{
		{Name: "blog", Hostname: "blog.example.com", Certificates: []string{prefix + "blog"}},
		{Name: "missing", Hostname: "missing.example.com", Certificates: []string{prefix + "missing"}},
		{Name: "torn", Hostname: "torn.example.com", Certificates: []string{prefix + "torn"}},
		{Name: "again", Hostname: "shop.example.com", Certificates: []string{prefix + "blog"}},
		{Name: "refused", Hostname: "refused.example.com", Certificates: []string{prefix + "blog"}, Refused: "not permitted"},
	} {
		l.Protocol, l.Port = waypoint.Listener_HTTPS, https.Port
		listen(t, w, l, httpHost(l.Name, l.Hostname))
	}
	terminate := listen(t, w, &waypoint.Listener{Name: "terminate", Protocol: waypoint.Listener_TLS, Hostname: "tcp.example.com", Certificates: []string{prefix + "blog"}},
		tcpHost("terminate", "tcp.example.com"))
	pass := listen(t, w, &waypoint.Listener{Name: "pass", Protocol: waypoint.Listener_TLS_PASSTHROUGH}, tcpHost("pass", "pass.example.com"))
	tcp := listen(t, w, &waypoint.Listener{Name: "tcp", Protocol: waypoint.Listener_TCP}, tcpHost("tcp", ""))

	p := envoytest.Start(t, &envoytest.World{Gateway: &waypoint.Gateway{Kind: waypoint.Gateway_EDGE}})
	problems := p.TryApply(w)
	if len(problems) != 4 {
		t.Errorf("problems: %v; want those of missing, torn, again and refused", problems)
	}
	node := p.Node("127.0.41.1", idEcho)

	at := fmt.Sprintf("http://127.0.0.1:%d/", plain.Port)
	want(t, http.DefaultClient, at, 200, "echo", "Host", "shop.example.com")
	want(t, http.DefaultClient, at, 200, "echo", "Host", fmt.Sprintf("shop.example.com:%d", plain.Port))
	want(t, http.DefaultClient, at, 200, "echo", "Host", "a.wild.example.com")
	want(t, http.DefaultClient, at, 404, "", "Host", "other.example.com")
	for _, a := range node.Arrivals() {
		if a.Peer != envoytest.Identity || len(a.Header.Values("x-ambit-client-identity")) != 0 {
			t.Errorf("a client outside the mesh has an identity: %v", a)
		}
	}

	for name, served := range map[string]bool{"shop": true, "blog": true, "missing": false, "torn": false, "refused": false} {
		host := name + ".example.com"
		conn, err := secure(https.Port, host)
		if (err == nil) != served {
			t.Errorf("TLS to %s: %v, want served %v", host, err, served)
		}
		if err != nil {
			continue
		}
		if got := conn.ConnectionState().PeerCertificates[0].DNSNames[0]; got != host {
			t.Errorf("%s shows the certificate of %s", host, got)
		}
		conn.Close()
		client := &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{ServerName: host, InsecureSkipVerify: true}, ForceAttemptHTTP2: true, DisableKeepAlives: true,
		}}
		echo := want(t, client, fmt.Sprintf("https://127.0.0.1:%d/", https.Port), 200, "echo", "Host", host)
		if echo.Header.Get("X-Forwarded-Proto") != "https" {
			t.Errorf("X-Forwarded-Proto: %v", echo.Header)
		}
	}

	conn, err := secure(terminate.Port, "tcp.example.com")
	greets(t, conn, err)
	if _, err := secure(terminate.Port, "other.example.com"); err == nil {
		t.Error("TLS for a name nobody has")
	}
	raw, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", tcp.Port))
	greets(t, raw, err)

	// What comes out of a passthrough is what went in: the greeting is no TLS, and the service has seen a ClientHello.
	raw, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", pass.Port))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	var seen bytes.Buffer
	err = tls.Client(&recorded{Conn: raw, seen: &seen}, &tls.Config{ServerName: "pass.example.com"}).Handshake()
	if err == nil || !strings.HasPrefix(seen.String(), "hello\n") {
		t.Errorf("through a passthrough: %v, %q", err, seen.String())
	}
}

type recorded struct {
	net.Conn
	seen io.Writer
}

func (r *recorded) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	_, _ = r.seen.Write(b[:n])
	return n, err
}
