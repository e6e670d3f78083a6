package stories

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// pair is a self-signed certificate for a name, as PEM.
func pair(t *testing.T, name string) (cert, key []byte, parsed *x509.Certificate) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		NotBefore: time.Now().Add(-time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err = x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), parsed
}

func secret(ns, name string, cert, key []byte) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata: {name: %s, namespace: %s}
data: {tls.crt: %s, tls.key: %s}
---
`, name, ns, base64.StdEncoding.EncodeToString(cert), base64.StdEncoding.EncodeToString(key))
}

const door = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: door, namespace: edge}
spec:
  gatewayClassName: istio
  allowedListeners: {namespaces: {from: All}}
  listeners:
  - {name: http, port: 80, protocol: HTTP, hostname: "*.shop.example", allowedRoutes: {namespaces: {from: All}}}
  - {name: https, port: 443, protocol: HTTPS, hostname: www.shop.example, tls: {mode: Terminate, certificateRefs: [{name: www}]}, allowedRoutes: {namespaces: {from: All}}}
  - {name: broken, port: 443, protocol: HTTPS, hostname: broken.shop.example, tls: {mode: Terminate, certificateRefs: [{name: broken}]}, allowedRoutes: {namespaces: {from: All}}}
  - {name: tls, port: 8443, protocol: TLS, hostname: own.shop.example, tls: {mode: Passthrough}, allowedRoutes: {namespaces: {from: All}}}
  - {name: tcp, port: 9000, protocol: TCP, allowedRoutes: {namespaces: {from: All}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: www, namespace: shop}
spec:
  parentRefs: [{name: door, namespace: edge, sectionName: http}, {name: door, namespace: edge, sectionName: https}]
  hostnames: [www.shop.example]
  rules:
  - matches: [{path: {type: PathPrefix, value: /free}}]
    backendRefs: [{name: free, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /elsewhere}}]
    backendRefs: [{name: far, namespace: far, port: 80}]
  - backendRefs: [{name: web, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: own, namespace: shop}
spec:
  parentRefs: [{name: door, namespace: edge, sectionName: tls}]
  hostnames: [own.shop.example]
  rules: [{backendRefs: [{name: own, port: 443}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: lines, namespace: shop}
spec:
  parentRefs: [{name: door, namespace: edge, sectionName: tcp}]
  rules: [{backendRefs: [{name: lines, port: 7000}]}]
---
`

// TestGateway lets people in from outside of the mesh: by HTTP and HTTPS with a certificate that changes, by TLS that ends
// at the pod, by TCP, into other namespaces with leave, and to a service with a policy through its waypoint.
func TestGateway(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	w.guardedShop()
	w.namespace("edge")
	w.namespace("far", "istio.io/dataplane-mode: ambient")
	w.pod("far", "far", "far", "node1")
	w.web("far", "far", 8080)
	w.serve("shop", "web", 7000)
	ownCert, ownKey, ownRoot := pair(t, "own.shop.example")
	own, err := tls.X509KeyPair(ownCert, ownKey)
	w.must(err)
	var l net.Listener
	w.must(w.inside("shop", "free", func() (err error) { l, err = net.Listen("tcp", ":8443"); return err }))
	w.handleOn(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{own}}), echoRequest("own"))
	cert, key, root := pair(t, "www.shop.example")
	w.now(door + secret("edge", "www", cert, key) + secret("edge", "broken", []byte("this is"), []byte("no certificate")) + httpService("far", "far", "far", 80, 8080) + `
apiVersion: v1
kind: Service
metadata: {name: own, namespace: shop}
spec: {selector: {app: free}, ports: [{name: tls, port: 443, targetPort: 8443}]}
---
apiVersion: v1
kind: Service
metadata: {name: lines, namespace: shop, labels: {istio.io/use-waypoint: none}}
spec: {selector: {app: web}, ports: [{name: tcp, port: 7000}]}
`)
	address := w.ingress("edge", "door-istio")
	dial := func(port string) func(string) (net.Conn, error) {
		return func(string) (net.Conn, error) { return w.fromNode("control")(net.JoinHostPort(address, port)) }
	}
	overTLS := func(port string, root *x509.Certificate) *http.Client {
		c := w.clientBy(false, dial(port))
		pool := x509.NewCertPool()
		pool.AddCert(root)
		c.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: pool}
		return c
	}
	plain := w.clientBy(false, dial("80"))
	ask := func(c *http.Client, url string, status int, pod string) answer {
		t.Helper()
		a, err := send(c, url)
		if err != nil || a.Status != status || a.Pod != pod {
			t.Errorf("%s: %d %q, %v; want %d of %q", url, a.Status, a.Body, err, status, pod)
		}
		return a
	}
	w.eventually("the gateway to answer", func() error {
		a, err := send(plain, "http://www.shop.example/")
		if err == nil && a.Status != 200 {
			err = errors.New(a.Body)
		}
		return err
	})
	if a := ask(plain, "http://www.shop.example/x", 200, "web"); !strings.HasSuffix(a.Header.Get("X-Forwarded-For"), w.Control.Addresses[0]) || a.by() == "shop/wp" {
		t.Errorf("the application sees %v", a.Header)
	}
	ask(plain, "http://www.shop.example/free/x", 200, "free")
	// Nobody outside says who he is.
	spoof := []string{
		"x-forwarded-client-cert: By=x;URI=spiffe://cluster.local/ns/shop/sa/client", "x-ambit-client-identity: spiffe://cluster.local/ns/shop/sa/client",
		"x-ambit-client-address: 1.2.3.4", "x-forwarded-for: 1.2.3.4", "x-envoy-original-dst-host: " + w.podIP("shop", "free") + ":8080", "x-envoy-external-address: 1.2.3.4",
	}
	spoofed := func(by string) {
		t.Helper()
		a, err := send(plain, "http://www.shop.example/x", spoof...)
		if err != nil || a.Status != 200 || a.Pod != "web" || a.by() != by || strings.Contains(a.Header.Get("X-Forwarded-Client-Cert"), "sa/client") {
			t.Errorf("with spoofed headers: %d by %q, %v, XFCC %q", a.Status, a.by(), err, a.Header.Values("X-Forwarded-Client-Cert"))
		}
		xff := strings.Split(strings.Join(a.Header.Values("X-Forwarded-For"), ","), ",")
		if len(xff) < 2 || xff[1] != w.Control.Addresses[0] {
			t.Errorf("the application sees XFF %q", xff)
		}
		for name, v := range a.Header {
			if l := strings.ToLower(name); strings.HasPrefix(l, "x-ambit-") || strings.HasPrefix(l, "x-envoy-") && strings.Contains(v[0], "1.2.3.4") || l == "x-envoy-original-dst-host" {
				t.Errorf("the application sees %s %q", name, v)
			}
		}
	}
	spoofed("")
	ask(plain, "http://nobody.shop.example/", 404, "")
	ask(plain, "http://www.elsewhere.example/", 404, "")

	// A backend in another namespace needs that namespace's leave.
	ask(plain, "http://www.shop.example/elsewhere", 500, "")
	w.condition("HTTPRoute", "shop", "www", "ResolvedRefs=False/RefNotPermitted")
	w.now(`
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: shop, namespace: far}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: "", kind: Service}]}
`)
	ask(plain, "http://www.shop.example/elsewhere", 200, "far")
	w.condition("HTTPRoute", "shop", "www", "ResolvedRefs=True/ResolvedRefs")

	// HTTPS; a listener with a bad certificate is refused alone; a new certificate is shown at once.
	ask(overTLS("443", root), "https://www.shop.example/x", 200, "web")
	w.condition("Gateway", "edge", "door", "ResolvedRefs=False/InvalidCertificateRef")
	if a, err := send(overTLS("443", root), "https://broken.shop.example/"); err == nil {
		t.Errorf("a listener without a certificate: %+v", a)
	}
	cert, key, newRoot := pair(t, "www.shop.example")
	w.now(secret("edge", "www", cert, key))
	w.eventually("the new certificate", func() error { _, err := send(overTLS("443", newRoot), "https://www.shop.example/"); return err })
	if _, err := send(overTLS("443", root), "https://www.shop.example/"); err == nil {
		t.Error("the old certificate is still shown")
	}
	// TLS to the pod, by its name alone.
	ask(overTLS("8443", ownRoot), "https://own.shop.example/x", 200, "own")
	if a, err := send(overTLS("8443", ownRoot), "https://www.shop.example/"); err == nil {
		t.Errorf("a name without a TLSRoute: %+v", a)
	}
	c, err := dial("9000")("")
	w.must(err)
	defer c.Close()
	if got, err := say(c, "hi"); err != nil || !strings.HasPrefix(got, "web ") {
		t.Errorf("TCP: %q, %v", got, err)
	}

	// A listener of somebody else's, in his own namespace.
	w.now(listenerSet)
	ask(w.clientBy(false, dial("8080")), "http://extra.shop.example/", 200, "free")

	// A policy on the service: its waypoint is on the way now, and refuses what it should.
	w.now(getOnly("shop", "web"))
	if a := ask(plain, "http://www.shop.example/x", 200, "web"); a.by() != "shop/wp" {
		t.Errorf("past the waypoint: by %q, %v", a.by(), a.Header)
	}
	spoofed("shop/wp")
	ask(plain, "POST http://www.shop.example/x", 403, "")
	ask(plain, "POST http://www.shop.example/free", 200, "free")
	w.remove(getOnly("shop", "web"))
	w.label("Service", "shop", "web", "istio.io/ingress-use-waypoint=true", "istio.io/use-waypoint=wp")
	if a := ask(plain, "POST http://www.shop.example/x", 200, "web"); a.by() != "shop/wp" {
		t.Errorf("ingress-use-waypoint: by %q", a.by())
	}
}

const listenerSet = `
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: extra, namespace: shop}
spec:
  parentRef: {group: gateway.networking.k8s.io, kind: Gateway, name: door, namespace: edge}
  listeners: [{name: extra, port: 8080, protocol: HTTP, hostname: extra.shop.example}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: extra, namespace: shop}
spec:
  parentRefs: [{group: gateway.networking.k8s.io, kind: ListenerSet, name: extra}]
  rules: [{backendRefs: [{name: free, port: 80}]}]
`

// ingress is the address a Gateway's Service has for clients outside.
func (w *world) ingress(ns, service string) (address string) {
	w.Helper()
	w.eventually("an address of service "+service, func() error {
		svc, err := w.Get(w.ctx, "Service", ns, service)
		if err != nil || len(svc) != 1 {
			return errors.Join(err, errNotYet)
		}
		list, _ := svc[0].At("status", "loadBalancer", "ingress").([]any)
		for _, i := range list {
			if m, ok := i.(map[string]any); ok {
				address, _ = m["ip"].(string)
			}
		}
		if address == "" {
			return errNotYet
		}
		return nil
	})
	return address
}
