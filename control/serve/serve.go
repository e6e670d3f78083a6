// Package serve is the control plane's network side: the gRPC server that node proxies and waypoints take their
// configuration from, over TLS, with bearer tokens or client certificates saying who asks.
//
// It knows certificates on disk, tokens and the identity rule of Istio's xDS. It does not know what is served (package
// push fills the collections) nor how delta xDS works (api/xds). Run starts one goroutine per listener and waits for
// them. Start reading at Server.Run, then auth.go.
package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ca/token"
)

// drainTime bounds how long a stop waits for clients that do not read.
const drainTime = 2 * time.Second

// Config of a Server.
type Config struct {
	// Listen is the address of the TLS listener, Plaintext that of one without TLS: host:port or unix:PATH. Either may
	// be empty. Plaintext is refused on anything but loopback and unix sockets, unless PlaintextAnywhere is set.
	Listen            string
	Plaintext         string
	PlaintextAnywhere bool
	// TLSDir has tls.crt and tls.key, and root-cert.pem when client certificates are to be accepted. Files are read
	// again when they change.
	TLSDir string
	// Tokens verifies bearer tokens. Without it and Review whoever reaches the listener is let in.
	Tokens *token.Verifier
	// Review, instead of Tokens, asks somebody else whose token it is. It may answer with a gRPC status of its own.
	Review func(ctx context.Context, raw string) (token.Claims, error)
	// Register adds services to those of each listener with TLS.
	Register func(grpc.ServiceRegistrar)
	// TrustDomain is that of client certificates.
	TrustDomain string
	// MayReadGateway says why a service account may not read what belongs to a Gateway, given as namespace/name; nil when
	// it may. Nil lets every account in.
	MayReadGateway func(gateway, namespace, account string) error
	// Step is what the collections are changed with; see xds.Step.
	Step       *xds.Step
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Server serves collections to node proxies.
type Server struct {
	cfg Config
	xds *xds.Server
	tls *certificates // nil without TLS
}

// New returns a server of the given collections. It fails when the listeners are not what they may be; certificates are
// read by Run.
func New(cfg Config, cs ...*xds.Collection) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Plaintext != "" && !cfg.PlaintextAnywhere && !Local(cfg.Plaintext) {
		return nil, fmt.Errorf("plaintext listener %s could be reached from other machines: use a loopback address, unix:PATH, or TLS", cfg.Plaintext)
	}
	if cfg.Listen != "" && cfg.TLSDir == "" {
		return nil, fmt.Errorf("listener %s needs a directory with tls.crt and tls.key", cfg.Listen)
	}
	s := &Server{cfg: cfg}
	if cfg.TLSDir != "" {
		s.tls = &certificates{dir: cfg.TLSDir, logger: cfg.Logger}
	}
	s.xds = xds.NewServer(xds.ServerConfig{
		Logger:         cfg.Logger,
		Registerer:     cfg.Registerer,
		Admit:          s.admit,
		Authorize:      s.authorize,
		AuthorizeScope: s.authorizeScope,
		Step:           cfg.Step,
		OnNACK: func(n xds.NACK) {
			cfg.Logger.Warn("a client refused a part of its configuration", "peer", n.NodeID, "type", n.TypeURL, "reason", n.Message)
		},
	}, cs...)
	return s, nil
}

// Clients lists the connected clients.
func (s *Server) Clients() []xds.ClientStatus { return s.xds.Clients() }

// Problem is why the certificate on disk is not the one in use, nil when it is.
func (s *Server) Problem() error {
	if s.tls == nil {
		return nil
	}
	return s.tls.problem()
}

// Run serves until ctx ends. listening is called once all listeners are open.
func (s *Server) Run(ctx context.Context, listening func()) error {
	type open struct {
		net.Listener
		server *grpc.Server
	}
	var all []open
	defer func() {
		for _, o := range all {
			o.server.Stop()
			o.Close()
		}
		s.xds.Wait()
	}()
	add := func(addr string, register func(grpc.ServiceRegistrar), opts ...grpc.ServerOption) error {
		l, err := listen(addr)
		if err != nil {
			return fmt.Errorf("listen on %s: %w", addr, err)
		}
		g := grpc.NewServer(append(s.xds.Options(), opts...)...)
		s.xds.Register(g)
		if register != nil {
			register(g)
		}
		all = append(all, open{l, g})
		return nil
	}
	if s.cfg.Listen != "" {
		if err := s.tls.await(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if err := add(s.cfg.Listen, s.cfg.Register, grpc.Creds(credentials.NewTLS(s.tls.config()))); err != nil {
			return err
		}
	}
	if s.cfg.Plaintext != "" {
		if err := add(s.cfg.Plaintext, nil); err != nil {
			return err
		}
	}
	errs := make(chan error, len(all))
	var wg sync.WaitGroup
	for _, o := range all {
		s.cfg.Logger.Info("serving xds", "addr", o.Addr().String())
		wg.Go(func() { errs <- o.server.Serve(o.Listener) })
	}
	listening()
	var err error
	select {
	case <-ctx.Done():
	case err = <-errs:
	}
	// Streams end in order, so that clients know at once and do not wait for a timeout.
	s.xds.Drain()
	for _, o := range all {
		end := time.AfterFunc(drainTime, o.server.Stop)
		o.server.GracefulStop()
		end.Stop()
	}
	wg.Wait()
	if ctx.Err() != nil || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return fmt.Errorf("serve xds: %w", err)
}

// listen opens host:port, or a unix socket that only its owner may connect to.
func listen(addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, "unix:")
	if !ok {
		return net.Listen("tcp", addr)
	}
	return ListenUnix(path)
}

// ListenUnix opens a unix socket with mode 0600, in place of one that a process which was killed left behind.
func ListenUnix(path string) (net.Listener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("another process listens on %s", path)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() == os.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove stale socket: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// The directory decides who can get here before this line; see --help.
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("restrict %s to its owner: %w", path, err)
	}
	return l, nil
}

// Local reports whether only this machine can reach an address: a loopback one, or unix:PATH.
func Local(addr string) bool {
	if strings.HasPrefix(addr, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}
