// Package client gets workload certificates and keeps them fresh: Client speaks CreateCertificate to an authority, Manager
// decides when to ask for which identity and holds what was answered.
//
// It knows the wire of the authority and the lifetime of certificates. It does not know which identities matter (its
// callers hold them) nor what they are used for. A Manager's goroutines live in its Run; a Client's belong to its gRPC
// connection and end with Close. Start reading at Manager.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ambit-mesh/ambit/api/auth"
	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/identity"
)

// Config of a Client. Zero fields take the defaults named beside them.
type Config struct {
	// Address is host:port, https://host:port, or http://host:port for plaintext.
	Address string
	// ServerName is the name the authority's certificate must carry.
	ServerName string // the host of Address
	// RootCA returns PEM roots to verify the authority with; it is asked anew at every connect. RootFile names a file.
	RootCA func() ([]byte, error) // RootFile(…) or the system's roots
	// Token returns the bearer token; it is asked anew at every request.
	Token func() (string, error) // none
	// Certificate, if set, is presented to the authority.
	Certificate func() (*tls.Certificate, error)
	// Headers are sent with every request, for example clusterid.
	Headers map[string]string
	// TTL is the lifetime asked for; the authority may give less.
	TTL time.Duration // the authority's default
	// Self is the caller's own identity. A request for any other asks to impersonate it.
	Self   identity.ID
	Logger *slog.Logger // discard
	// DialContext replaces the TCP dial, for tests and for other namespaces.
	DialContext func(ctx context.Context, addr string) (net.Conn, error)
}

// Client asks one authority for certificates.
type Client struct {
	cfg     Config
	bundles certs.Bundles

	mu sync.Mutex
	// guarded by mu: opened by the first Sign.
	conn   *grpc.ClientConn
	closed bool
}

// New connects to nothing yet.
func New(cfg Config) *Client { return &Client{cfg: cfg} }

// RootFile reads a PEM file at each call.
func RootFile(path string) func() ([]byte, error) {
	return func() ([]byte, error) { return os.ReadFile(path) }
}

// TokenFile reads a token file at each call.
func TokenFile(path string) func() (string, error) {
	return func() (string, error) {
		b, err := os.ReadFile(path)
		token := strings.TrimSpace(string(b))
		// RFC 7519 §3: base64url and dots. The error would otherwise be about a header that nobody wrote.
		if i := strings.IndexFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }); err == nil && (token == "" || i >= 0) {
			err = fmt.Errorf("%s holds no token: is it the file that the token is projected to?", path)
		}
		return token, err
	}
}

// RootsFile reads a file with the roots of a control plane's certificates at each call, for connections that verify it by
// them alone. Setting names where the path came from, in errors.
func RootsFile(path, setting string) func() (*tls.Config, error) {
	return func() (*tls.Config, error) {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read roots of the control plane (%s): %w", setting, err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s (%s) contains no certificate", path, setting)
		}
		return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}, nil
	}
}

// Close ends the connection. Requests after it fail.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// Sign makes a fresh key, has it certified for id and checks the answer.
func (c *Client) Sign(ctx context.Context, id identity.ID) (*certs.SVID, error) {
	conn, err := c.connection()
	if err != nil {
		return nil, err
	}
	key, csr, err := certs.NewRequest(id)
	if err != nil {
		return nil, err
	}
	req := &auth.IstioCertificateRequest{Csr: string(csr), ValidityDuration: int64(c.cfg.TTL / time.Second)}
	if id != c.cfg.Self {
		// The authority takes the identity from here, not from the request. Istio security/pkg/nodeagent/caclient.
		req.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{"ImpersonatedIdentity": structpb.NewStringValue(id.String())}}
	}
	ctx, err = c.credentials(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := auth.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("ask certificate authority %s: %w", c.cfg.Address, err)
	}
	svid, err := certs.NewSVID(id, key, resp.CertChain, time.Now(), &c.bundles)
	if err != nil {
		return nil, fmt.Errorf("answer of certificate authority %s: %w", c.cfg.Address, err)
	}
	return svid, nil
}

// credentials adds headers and the current token.
func (c *Client) credentials(ctx context.Context) (context.Context, error) {
	for k, v := range c.cfg.Headers {
		ctx = metadata.AppendToOutgoingContext(ctx, k, v)
	}
	if c.cfg.Token == nil {
		return ctx, nil
	}
	token, err := c.cfg.Token()
	if err != nil {
		return nil, fmt.Errorf("token for certificate authority %s: %w", c.cfg.Address, err)
	}
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	return ctx, nil
}

func (c *Client) connection() (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.New("certificate authority client is closed")
	}
	if c.conn != nil {
		return c.conn, nil
	}
	target, creds, err := c.transport()
	if err != nil {
		return nil, err
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		// A node without certificates cannot serve; an authority that comes back should be found within the second.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: 800 * time.Millisecond},
			MinConnectTimeout: 5 * time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1 << 20)),
		// The environment's HTTP proxy has no business between a node and its authority.
		grpc.WithNoProxy(),
	}
	if c.cfg.DialContext != nil {
		opts = append(opts, grpc.WithContextDialer(c.cfg.DialContext))
	}
	conn, err := grpc.NewClient("passthrough:///"+target, opts...)
	if err != nil {
		return nil, fmt.Errorf("certificate authority address %q: %w", c.cfg.Address, err)
	}
	c.conn = conn
	return conn, nil
}

// transport reads the address.
func (c *Client) transport() (string, credentials.TransportCredentials, error) {
	addr := c.cfg.Address
	if plain, ok := strings.CutPrefix(addr, "http://"); ok {
		return strings.TrimSuffix(plain, "/"), insecure.NewCredentials(), nil
	}
	addr = strings.TrimSuffix(strings.TrimPrefix(addr, "https://"), "/")
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "", nil, fmt.Errorf("certificate authority address %q: want [http[s]://]host:port: %w", c.cfg.Address, err)
	}
	name := c.cfg.ServerName
	if name == "" {
		name = host
	}
	return addr, credentials.NewTLS(c.tls(name)), nil
}

// tls verifies in VerifyConnection, so that roots replaced on disk apply to the next connect without a restart.
func (c *Client) tls(name string) *tls.Config {
	cfg := &tls.Config{
		MinVersion:             tls.VersionTLS12, // a foreign authority may not speak 1.3
		ServerName:             name,
		InsecureSkipVerify:     true,
		SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			opts := x509.VerifyOptions{DNSName: name, Intermediates: x509.NewCertPool()}
			if c.cfg.RootCA != nil {
				data, err := c.cfg.RootCA()
				if err != nil {
					return fmt.Errorf("roots of the certificate authority: %w", err)
				}
				roots, err := certs.ParseCertificates(data)
				if err != nil {
					return fmt.Errorf("roots of the certificate authority: %w", err)
				}
				opts.Roots = certs.NewBundle(roots).Pool()
			}
			for _, cert := range cs.PeerCertificates[1:] {
				opts.Intermediates.AddCert(cert)
			}
			if _, err := cs.PeerCertificates[0].Verify(opts); err != nil {
				return fmt.Errorf("certificate of the certificate authority as %q: %w", name, err)
			}
			return nil
		},
	}
	if c.cfg.Certificate != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.cfg.Certificate() }
	}
	return cfg
}
