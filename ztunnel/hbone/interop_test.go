package hbone

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// connect returns two ends of a loopback connection, with TLS if secure.
func connect(t testing.TB, secure bool) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	if !secure {
		return client, server
	}
	cfg := tlsConfig(t)
	ts, tc := tls.Server(NewWire(server.(*net.TCPConn)), cfg), tls.Client(NewWire(client.(*net.TCPConn)), cfg)
	errs := make(chan error, 1)
	go func() { errs <- ts.Handshake() }()
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-errs; err != nil {
		t.Fatal(err)
	}
	return tc, ts
}

func tlsConfig(t testing.TB) *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		Certificates:       []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		DynamicRecordSizingDisabled: true, SessionTicketsDisabled: true,
		CurvePreferences: []tls.CurveID{tls.CurveP256, tls.X25519},
	}
}

func bothTransports(t *testing.T, f func(t *testing.T, client, server net.Conn)) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", secure), func(t *testing.T) {
			c, s := connect(t, secure)
			f(t, c, s)
		})
	}
}

// TestNetHTTP2Client lets x/net/http2 open tunnels to our server.
func TestNetHTTP2Client(t *testing.T) {
	bothTransports(t, func(t *testing.T, c, s net.Conn) {
		var running sync.WaitGroup
		running.Go(func() { Serve(context.Background(), s, Config{}, echo) })
		defer running.Wait()
		defer c.Close()
		cc, err := (&http2.Transport{AllowHTTP: true}).NewClientConn(c)
		if err != nil {
			t.Fatal(err)
		}
		eachStream(t, func(i int, data []byte) ([]byte, error) {
			pr, pw := io.Pipe()
			req := &http.Request{
				Method: http.MethodConnect, URL: &url.URL{Host: "10.0.0.1:80"}, Host: "10.0.0.1:80", Body: pr,
				Header: http.Header{"Baggage": {"k8s.namespace.name=x"}},
			}
			res, err := cc.RoundTrip(req)
			if err != nil {
				return nil, err
			}
			defer res.Body.Close()
			if res.StatusCode != 200 {
				return nil, fmt.Errorf("status %s", res.Status)
			}
			go func() {
				pw.Write(data)
				pw.Close()
			}()
			return io.ReadAll(res.Body)
		})
		if res, err := cc.RoundTrip(&http.Request{Method: "GET", URL: &url.URL{Scheme: "https", Host: "x", Path: "/"}}); err != nil {
			t.Error(err)
		} else {
			res.Body.Close()
		}
	})
}

// TestNetHTTP2Server lets our client open tunnels to an x/net/http2 server.
func TestNetHTTP2Server(t *testing.T) {
	bothTransports(t, func(t *testing.T, c, s net.Conn) {
		var running sync.WaitGroup
		running.Go(func() {
			(&http2.Server{}).ServeConn(s, &http2.ServeConnOpts{
				BaseConfig: &http.Server{},
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method != http.MethodConnect || r.Host != "10.0.0.1:80" {
						w.WriteHeader(400)
						return
					}
					w.WriteHeader(200)
					w.(http.Flusher).Flush()
					b := make([]byte, 64<<10)
					for {
						n, err := r.Body.Read(b)
						w.Write(b[:n])
						w.(http.Flusher).Flush()
						if err != nil {
							return
						}
					}
				}),
			})
		})
		cc := Client(c, Config{})
		running.Go(func() { cc.Run(context.Background()) })
		defer running.Wait()
		defer cc.Close()
		eachStream(t, func(i int, data []byte) ([]byte, error) {
			st, err := cc.Open(t.Context(), "10.0.0.1:80", []Header{{"baggage", "k8s.namespace.name=x"}})
			if err != nil {
				return nil, err
			}
			defer st.Close()
			go func() {
				st.Write(data)
				st.CloseWrite()
			}()
			return io.ReadAll(st)
		})
	})
}

// eachStream echoes differently sized data on many streams at once.
func eachStream(t *testing.T, echoed func(i int, data []byte) ([]byte, error)) {
	t.Helper()
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			data := bytes.Repeat([]byte{byte(i)}, 1<<i)
			got, err := echoed(i, data)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("stream %d: %d of %d bytes, %v", i, len(got), len(data), err)
			}
		})
	}
	all.Wait()
}
