package stories

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ca/issuer"
)

// TestWaypointDoor knocks at a waypoint's own port with certificates and without, and asks for what it does not serve.
func TestWaypointDoor(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	w.guardedShop()
	w.now(onlyClient)
	door := net.JoinHostPort(w.podIP("shop", w.proxies("shop", "wp")[0]), "15008")
	web := net.JoinHostPort(w.vip("shop", "web"), "80")
	own := filepath.Join(w.Dir, "mesh", "issuer")
	good := w.certificate(own, "cluster.local", "shop", "client")
	config := func(certs ...tls.Certificate) *tls.Config {
		return &tls.Config{Certificates: certs, NextProtos: []string{"h2"}, InsecureSkipVerify: true}
	}
	if a, status, err := w.tunnelled(door, config(good), web, nil, "http://web/"); err != nil || status != 200 || a.Status != 200 || a.by() != "shop/wp" {
		t.Fatalf("with a good certificate: %d, %+v, %v", status, a, err)
	}
	for what, c := range map[string]*tls.Config{
		"no certificate":       config(),
		"another authority":    config(w.certificate(t.TempDir(), "cluster.local", "shop", "client")),
		"another trust domain": config(w.certificate(own, "elsewhere.example", "shop", "client")),
		"TLS 1.2":              {Certificates: []tls.Certificate{good}, NextProtos: []string{"h2"}, InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12},
	} {
		if a, status, err := w.tunnelled(door, c, web, nil, "http://web/"); err == nil && a.Status < 400 {
			t.Errorf("%s: %d, %+v", what, status, a)
		}
	}
	// Plain HTTP, and HTTP inside TLS that is no CONNECT.
	if a, err := send(w.clientBy(false, w.fromNode("node1")), "http://"+door+"/", "Host: web.shop"); err == nil && a.Status < 400 {
		t.Errorf("plain HTTP: %+v", a)
	}
	if status, err := w.request(door, config(good), http.MethodGet, web); err == nil && status < 400 {
		t.Errorf("GET instead of CONNECT: %d", status)
	}

	// It is no relay: what is not a service of its own it does not reach for anybody.
	stranger := net.JoinHostPort(w.podIP("outside", "stranger"), "8080")
	w.web("outside", "stranger", 8080)
	for what, authority := range map[string]string{
		"a pod of the service":         net.JoinHostPort(w.podIP("shop", "web"), "8080"),
		"a pod of nobody":              stranger,
		"an address without a pod":     "10.244.1.250:8080",
		"an address nobody has":        "10.96.200.200:80",
		"a port the service does not":  net.JoinHostPort(w.vip("shop", "web"), "81"),
		"the control plane":            net.JoinHostPort(w.Control.Addresses[0], "15012"),
		"its own administration":       "127.0.0.1:15000",
		"its agent's":                  "localhost:15004",
		"itself":                       door,
		"an unknown name":              "nobody.shop.svc.cluster.local:80",
		"a name without a port":        "web.shop.svc.cluster.local",
		"the metadata of a cloud":      "169.254.169.254:80",
		"nothing":                      ":80",
		"a name with a control letter": "web\x01:80",
	} {
		a, status, err := w.tunnelled(door, config(good), authority, nil, "http://web/")
		if err == nil && (status == 200 && a.Status < 400) {
			t.Errorf("%s (%s): CONNECT %d, then %d from %q", what, authority, status, a.Status, a.Pod)
		}
	}

	// Nothing that a peer or a client writes makes it somebody else. The policy lets only the client in.
	foe := w.certificate(own, "cluster.local", "shop", "foe")
	me := "spiffe://cluster.local/ns/shop/sa/client"
	for _, spoofed := range []string{
		"x-ambit-client-identity: " + me, "x-ambit-client-address: " + w.podIP("shop", "client"),
		"x-forwarded-client-cert: By=spiffe://cluster.local/ns/shop/sa/wp;URI=" + me,
		"x-forwarded-client-cert: URI=" + me, "x-forwarded-for: " + w.podIP("shop", "client"),
		"forwarded: for=" + w.podIP("shop", "client"),
		"baggage: k8s.namespace.name=shop,k8s.pod.name=client,service.name=client,source.principal=" + me,
		"x-envoy-original-dst-host: " + net.JoinHostPort(w.podIP("shop", "free"), "8080"),
		"x-envoy-decorator-operation: x", "x-envoy-upstream-rq-timeout-ms: 1", "x-istio-source: " + me,
	} {
		for _, where := range []string{"outside", "inside"} {
			var outer, inner []string
			if where == "outside" {
				outer = []string{spoofed}
			} else {
				inner = []string{spoofed}
			}
			if a, _, err := w.tunnelled(door, config(foe), web, outer, "http://web/", inner...); err == nil && a.Status != http.StatusForbidden {
				t.Errorf("somebody else with %q %s of the tunnel: %d from %q", spoofed, where, a.Status, a.Pod)
			}
			a, _, err := w.tunnelled(door, config(good), web, outer, "http://web/", inner...)
			if err != nil || a.Status != http.StatusOK || a.Pod != "web" {
				t.Errorf("the client with %q %s of the tunnel: %d from %q, %v", spoofed, where, a.Status, a.Pod, err)
				continue
			}
			xfcc := a.Header["X-Forwarded-Client-Cert"]
			if len(xfcc) != 1 || xfcc[0] != "By=spiffe://cluster.local/ns/shop/sa/wp;URI="+me {
				t.Errorf("with %q %s the application sees XFCC %q", spoofed, where, xfcc)
			}
			if got := a.Header.Values("X-Forwarded-For"); len(got) == 0 || !strings.HasSuffix(got[len(got)-1], a.Local) || where == "outside" && got[0] != a.Local {
				t.Errorf("with %q %s the application sees XFF %q, want %s last", spoofed, where, got, a.Local)
			}
			for name := range a.Header {
				if l := strings.ToLower(name); strings.HasPrefix(l, "x-ambit-") || strings.HasPrefix(l, "x-envoy-original") {
					t.Errorf("with %q %s the application sees %s", spoofed, where, name)
				}
			}
		}
	}

	// A service's own ztunnel believes nobody but its waypoint about clients.
	pod := net.JoinHostPort(w.podIP("shop", "web"), "8080")
	podDoor := net.JoinHostPort(w.podIP("shop", "web"), "15008")
	if a, status, err := w.tunnelled(podDoor, config(good), pod, []string{"x-ambit-client-identity: " + me}, "http://web/"); err == nil && status < 400 && a.Status < 400 {
		t.Errorf("around the waypoint with its header: %d, %+v", status, a)
	}
	w.counted("node2", "ambit_client_headers_ignored_total")
}

const onlyClient = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-client, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]
---
`

// certificate is one of an identity by the issuer in a folder.
func (w *world) certificate(dir, domain, ns, account string) tls.Certificate {
	w.Helper()
	ca, err := issuer.Open(issuer.Config{Dir: dir})
	w.must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	_, leaf, err := ca.Sign(identity.ID{TrustDomain: domain, Namespace: ns, ServiceAccount: account}, key.Public(), time.Hour)
	w.must(err)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// fromNode dials from a node.
func (w *world) fromNode(node string) func(addr string) (net.Conn, error) {
	return func(addr string) (c net.Conn, err error) {
		err = w.In(w.ctx, node, func() (err error) { c, err = net.DialTimeout("tcp", addr, patience); return err })
		return c, err
	}
}

// connect sends a request for an authority over HTTP/2 and TLS from node1, with a body that can be written to.
func (w *world) connect(door string, c *tls.Config, method, authority string, headers []string) (*http.Response, *tunnelEnd, error) {
	nc, err := w.fromNode("node1")(door)
	if err != nil {
		return nil, nil, err
	}
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	tc := tls.Client(nc, c)
	end := func() { nc.Close() }
	if err := tc.Handshake(); err != nil {
		end()
		return nil, nil, err
	}
	cc, err := (&http2.Transport{}).NewClientConn(tc)
	if err != nil {
		end()
		return nil, nil, err
	}
	r, body := io.Pipe()
	req := (&http.Request{Method: method, URL: &url.URL{Scheme: "https", Host: door, Path: "/"}, Host: authority, Header: http.Header{}, Body: r}).WithContext(w.ctx)
	if method == http.MethodConnect {
		req.URL.Path = ""
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Add(k, v)
	}
	resp, err := cc.RoundTrip(req)
	if err != nil {
		body.Close()
		end()
		return nil, nil, err
	}
	local, _, _ := net.SplitHostPort(nc.LocalAddr().String())
	return resp, &tunnelEnd{body, nc, local}, nil
}

// tunnelEnd is where a tunnel's bytes are written to.
type tunnelEnd struct {
	*io.PipeWriter
	nc net.Conn
	// local is the address that the other side sees.
	local string
}

func (e *tunnelEnd) end() {
	e.Close()
	e.nc.Close()
}

func (w *world) request(door string, c *tls.Config, method, authority string) (int, error) {
	resp, tunnel, err := w.connect(door, c, method, authority, nil)
	if err != nil {
		return 0, err
	}
	defer tunnel.end()
	return resp.StatusCode, nil
}

// tunnelled opens a tunnel and sends a request through it. It returns the answer to that and the status of the CONNECT.
func (w *world) tunnelled(door string, c *tls.Config, authority string, outer []string, target string, inner ...string) (a answer, status int, err error) {
	resp, tunnel, err := w.connect(door, c, http.MethodConnect, authority, outer)
	if err != nil {
		return a, 0, err
	}
	defer tunnel.end()
	a.Local = tunnel.local
	if resp.StatusCode != http.StatusOK {
		return a, resp.StatusCode, errors.New(resp.Status)
	}
	req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, target, nil)
	if err != nil {
		return a, 200, err
	}
	for _, h := range inner {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Add(k, v)
	}
	if err := req.Write(tunnel); err != nil {
		return a, 200, err
	}
	got, err := http.ReadResponse(bufio.NewReader(resp.Body), req)
	if err != nil {
		return a, 200, err
	}
	defer got.Body.Close()
	a.Status = got.StatusCode
	data, err := io.ReadAll(got.Body)
	if err == nil && got.StatusCode == http.StatusOK {
		err = json.Unmarshal(data, &a)
	}
	a.Body = string(data)
	return a, 200, err
}

// descendant is the process of a name at or below another; 0 without.
func descendant(root int, name string) int {
	below := []int{root}
	for i := 0; i < len(below) && i < 256; i++ {
		dir := "/proc/" + strconv.Itoa(below[i])
		if args, err := os.ReadFile(dir + "/cmdline"); err == nil {
			if program, _, _ := strings.Cut(string(args), "\x00"); filepath.Base(program) == name {
				return below[i]
			}
		}
		lists, _ := filepath.Glob(dir + "/task/*/children")
		for _, f := range lists {
			data, _ := os.ReadFile(f)
			for _, child := range strings.Fields(string(data)) {
				if pid, err := strconv.Atoi(child); err == nil {
					below = append(below, pid)
				}
			}
		}
	}
	return 0
}
