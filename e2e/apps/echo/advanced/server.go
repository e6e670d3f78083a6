// Package advanced is the application that the mesh tests of Gateway API's conformance module run in their pods: a server
// that says what arrived, and a client that says what came back, in the lines that the module reads.
//
// It knows no mesh and no Kubernetes. Server.Run and Call.Do run on their caller's goroutine and wait for all they start.
// Start reading at Server, then client.go.
//
// The lines are those of sigs.k8s.io/gateway-api/conformance/utils/echo ParseResponse.
package advanced

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/e2e/apps/echo"
)

// Server serves on ports of all addresses.
type Server struct {
	// HTTP are ports of HTTP/1 and, without TLS, of HTTP/2 too. Those that are also in TLS have TLS.
	HTTP, TLS []int
	// GRPC are ports of the echo service, TCP those that send back what they get.
	GRPC, TCP []int
	// Certificate and Key are files. One that does not exist is replaced by a certificate made up on the spot.
	Certificate, Key string
	// Version is part of every answer.
	Version string
}

// service and method are what a client calls; their messages have one string with the number 1, as StringValue has.
// Istio pkg/test/echo/proto EchoTestService
const (
	service = "proto.EchoTestService"
	method  = "Echo"
)

// Run serves until ctx ends.
func (s Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	serve := func(port int, run func(net.Listener) error) {
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err == nil {
			wg.Go(func() {
				err := run(l)
				cancel()
				mu.Lock()
				defer mu.Unlock()
				failed = errors.Join(failed, err)
			})
			return
		}
		cancel()
		mu.Lock()
		defer mu.Unlock()
		failed = errors.Join(failed, fmt.Errorf("listen: %w", err))
	}
	for _, port := range s.HTTP {
		serve(port, func(l net.Listener) error { return s.http(ctx, port, l) })
	}
	for _, port := range s.GRPC {
		serve(port, func(l net.Listener) error { return s.grpc(ctx, port, l) })
	}
	for _, port := range s.TCP {
		serve(port, func(l net.Listener) error { return echo.Accept(ctx, l, echo.Back) })
	}
	wg.Wait()
	return failed
}

func (s Server) http(ctx context.Context, port int, l net.Listener) error {
	srv := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.answer(w, r, port) }),
		ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols),
	}
	srv.Protocols.SetHTTP1(true)
	if slices.Contains(s.TLS, port) {
		cert, err := s.certificate()
		if err != nil {
			return err
		}
		srv.Protocols.SetHTTP2(true)
		srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	} else {
		srv.Protocols.SetUnencryptedHTTP2(true)
	}
	defer context.AfterFunc(ctx, func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if srv.Shutdown(end) != nil {
			_ = srv.Close()
		}
	})()
	var err error
	if srv.TLSConfig != nil {
		err = srv.ServeTLS(l, "", "")
	} else {
		err = srv.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// answer says what arrived, and with which status that is told: ?codes=503 asks for another one than 200.
func (s Server) answer(w http.ResponseWriter, r *http.Request, port int) {
	code := http.StatusOK
	if c, err := strconv.Atoi(r.URL.Query().Get("codes")); err == nil && c >= 200 && c <= 599 {
		code = c
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(code)
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	_, _ = io.WriteString(w, s.lines(port, map[string]string{
		"Host": r.Host, "URL": r.URL.RequestURI(), "Method": r.Method, "Proto": r.Proto, "IP": host, "StatusCode": strconv.Itoa(code),
	}, r.Header))
}

// lines is an answer's text.
func (s Server) lines(port int, fields map[string]string, headers map[string][]string) string {
	fields["ServiceVersion"], fields["ServicePort"] = s.Version, strconv.Itoa(port)
	fields["Hostname"], _ = os.Hostname()
	out := headerLines("RequestHeader", headers)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		out = append(out, name+"="+fields[name])
	}
	return strings.Join(out, "\n") + "\n"
}

// headerLines lists headers by name; the values of one stay in their order, which means something.
func headerLines(field string, headers map[string][]string) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		for _, v := range headers[name] {
			out = append(out, field+"="+name+":"+v)
		}
	}
	return out
}

func (s Server) grpc(ctx context.Context, port int, l net.Listener) error {
	echo := func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var in wrapperspb.StringValue
		if err := decode(&in); err != nil {
			return nil, err
		}
		md, _ := metadata.FromIncomingContext(ctx)
		fields := map[string]string{"Method": service + "/" + method, "Proto": "GRPC", "StatusCode": "200", "Echo": in.Value, "Host": strings.Join(md[":authority"], ",")}
		if p, ok := peer.FromContext(ctx); ok {
			fields["IP"], _, _ = net.SplitHostPort(p.Addr.String())
		}
		return wrapperspb.String(s.lines(port, fields, md)), nil
	}
	srv := grpc.NewServer()
	srv.RegisterService(&grpc.ServiceDesc{
		ServiceName: service, HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{MethodName: method, Handler: echo}},
	}, struct{}{})
	defer context.AfterFunc(ctx, srv.Stop)()
	return srv.Serve(l)
}

func (s Server) certificate() (tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(s.Certificate, s.Key)
	if s.Certificate == "" || errors.Is(err, os.ErrNotExist) {
		return madeUp()
	}
	return cert, err
}

// madeUp is a certificate nobody has reason to trust.
func madeUp() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0), DNSNames: []string{"echo"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
