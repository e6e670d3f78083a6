package relay

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/ztunnel/hbone"
)

// secured returns what makes both ends of a tunnel speak TLS.
func secured(t testing.TB) (client, server func(net.Conn) net.Conn) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &tls.Config{
		Certificates:       []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		DynamicRecordSizingDisabled: true, SessionTicketsDisabled: true,
	}
	shaken := func(c *tls.Conn) net.Conn {
		if err := c.Handshake(); err != nil {
			t.Error(err)
		}
		return c
	}
	client = func(c net.Conn) net.Conn { return shaken(tls.Client(hbone.NewWire(c.(*net.TCPConn)), cfg)) }
	server = func(c net.Conn) net.Conn { return shaken(tls.Server(hbone.NewWire(c.(*net.TCPConn)), cfg)) }
	return client, server
}

func paths(b *testing.B, f func(b *testing.B, p path)) {
	b.Run("direct", func(b *testing.B) {
		p := path{app: listen(b)}
		p.dial = func() *net.TCPConn { return dial(b, p.app.Addr()) }
		f(b, p)
	})
	b.Run("sockets", func(b *testing.B) { f(b, direct(b)) })
	b.Run("tunnel", func(b *testing.B) { f(b, tunnelPath(b, hbone.Config{})) })
	b.Run("tls", func(b *testing.B) { f(b, securePath(b)) })
}

func cpu() time.Duration {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkBulk moves data one way over several connections. CPU is everything in the process, applications included.
func BenchmarkBulk(b *testing.B) {
	for _, n := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			paths(b, func(b *testing.B, p path) {
				const chunk = 256 << 10
				b.SetBytes(chunk)
				var all sync.WaitGroup
				conns := make([]*net.TCPConn, n)
				for i := range n {
					conns[i] = p.dial()
					up, err := p.app.AcceptTCP()
					if err != nil {
						b.Fatal(err)
					}
					all.Go(func() {
						defer up.Close()
						buf := make([]byte, chunk)
						for {
							if _, err := up.Read(buf); err != nil {
								return
							}
						}
					})
				}
				data := make([]byte, chunk)
				b.ResetTimer()
				start := cpu()
				for i := range n {
					all.Go(func() {
						for j := i; j < b.N; j += n {
							conns[i].Write(data)
						}
						conns[i].CloseWrite()
						io.Copy(io.Discard, conns[i])
						conns[i].Close()
					})
				}
				all.Wait()
				b.ReportMetric((cpu()-start).Seconds()/(float64(b.N)*chunk/1e9), "cpu-s/GB")
			})
		})
	}
}

// BenchmarkRoundTrip sends small messages back and forth.
func BenchmarkRoundTrip(b *testing.B) {
	for _, n := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			paths(b, func(b *testing.B, p path) {
				var all sync.WaitGroup
				conns := make([]*net.TCPConn, n)
				for i := range n {
					conns[i] = p.dial()
					up, err := p.app.AcceptTCP()
					if err != nil {
						b.Fatal(err)
					}
					all.Go(func() {
						defer up.Close()
						buf := make([]byte, 4096)
						for {
							k, err := up.Read(buf)
							if err != nil {
								return
							}
							up.Write(buf[:k])
						}
					})
				}
				b.ResetTimer()
				start := cpu()
				for i := range n {
					all.Go(func() {
						buf := make([]byte, 512)
						for j := i; j < b.N; j += n {
							conns[i].Write(buf)
							io.ReadFull(conns[i], buf)
						}
						conns[i].Close()
					})
				}
				all.Wait()
				b.ReportMetric(float64((cpu()-start).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		})
	}
}

func securePath(b *testing.B) path {
	client, server := secured(b)
	return tunnelOver(b, hbone.Config{}, client, server)
}
