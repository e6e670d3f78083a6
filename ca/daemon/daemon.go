// Package daemon is the stand-alone certificate authority: it wires the issuer, the certificate server, the placement
// learnt from the control plane and the admin endpoint, and runs them until its context ends.
//
// It knows how the parts go together and nothing of their work. All goroutines live in Run, which waits for them. Start
// reading at Run.
package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/ambit-mesh/ambit/api/auth"
	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ca/issuer"
	"github.com/ambit-mesh/ambit/ca/placement"
	"github.com/ambit-mesh/ambit/ca/server"
	"github.com/ambit-mesh/ambit/ca/token"
)

// Limits that keep one misbehaving client from starving the others.
const (
	maxConnections = 4096
	maxStreams     = 256
	maxMessage     = 128 << 10
	// drain is how long requests under way may take to end after a stop was asked for.
	drain = 5 * time.Second
)

// Daemon is a configured authority.
type Daemon struct {
	cfg      Config
	log      *slog.Logger
	registry *prometheus.Registry
	issuer   *issuer.Issuer
	serving  []*issuer.Renewal // the first is the daemon's own
	keys     *token.File       // nil without tokens
	table    *placement.Table  // nil without a control plane
	grpc     *grpc.Server
	ready    chan struct{} // closed once listening
	addr     net.Addr      // valid once ready
}

// New opens the issuer and makes the first serving certificates; it starts nothing.
func New(cfg Config, log *slog.Logger) (*Daemon, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d := &Daemon{cfg: cfg, log: log, registry: prometheus.NewRegistry(), ready: make(chan struct{})}
	d.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	ic := issuer.Config{Dir: cfg.Issuer, TrustDomain: cfg.TrustDomain, DefaultTTL: cfg.DefaultTTL, MaxTTL: cfg.MaxTTL, RootTTL: cfg.RootTTL, Logger: log, Registerer: d.registry}
	if cfg.CACerts != "" {
		ic.Dir, ic.Plugged = cfg.CACerts, true
	}
	var err error
	if d.issuer, err = issuer.Open(ic); err != nil {
		return nil, err
	}
	if err := d.makeServing(); err != nil {
		return nil, err
	}
	return d, d.makeServer()
}

// self is the identity of the authority's own client connections.
func (d *Daemon) self() identity.ID {
	return identity.ID{TrustDomain: d.cfg.TrustDomain, Namespace: mesh.SystemNamespace, ServiceAccount: "ambit-ca"}
}

func (d *Daemon) makeServing() error {
	d.serving = []*issuer.Renewal{{Issuer: d.issuer, ID: d.self(), Names: d.cfg.ServingNames, Logger: d.log}}
	for _, s := range d.cfg.Serving {
		d.serving = append(d.serving, &issuer.Renewal{Issuer: d.issuer, Names: s.Names, Dir: s.Dir, Logger: d.log})
	}
	for _, s := range d.serving {
		if err := s.Renew(); err != nil {
			return err
		}
	}
	return d.writeRoots()
}

func (d *Daemon) makeServer() error {
	auths := []server.Authenticator{server.CertificateAuthenticator{Bundle: d.issuer.Bundle}}
	if d.cfg.TokenKeys != "" {
		d.keys = &token.File{Path: d.cfg.TokenKeys}
		if _, err := d.keys.Keys(); err != nil {
			return err
		}
		v := &token.Verifier{Keys: d.keys.Keys, Audiences: d.cfg.TokenAudiences, Issuer: d.cfg.TokenIssuer}
		auths = append([]server.Authenticator{server.TokenAuthenticator{Verifier: v, TrustDomain: d.cfg.TrustDomain}}, auths...)
	}
	cfg := server.Config{Signer: d.issuer, Authenticators: auths, TrustedNodeAccounts: d.cfg.TrustedNodeAccounts, Logger: d.log, Registerer: d.registry}
	if d.cfg.XDSAddress != "" {
		d.table = placement.New(d.cfg.XDSAddress)
		cfg.Placement = d.table
	}
	srv, err := server.New(cfg)
	if err != nil {
		return err
	}
	d.grpc = grpc.NewServer(
		grpc.Creds(credentials.NewTLS(d.tls())),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second, MaxConnectionAge: 30 * time.Minute, MaxConnectionAgeGrace: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.ConnectionTimeout(10*time.Second),
	)
	auth.RegisterIstioCertificateServiceServer(d.grpc, srv)
	return nil
}

// tls serves the current certificate. A client certificate is asked for but judged by the authenticator: a proxy whose
// certificate has expired must still be able to come in with its token.
func (d *Daemon) tls() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2"},
		SessionTicketsDisabled: true,
		ClientAuth:             tls.RequestClientCert,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return d.serving[0].Certificate(), nil },
	}
}

// Ready is closed once the daemon listens; Addr is valid then.
func (d *Daemon) Ready() <-chan struct{} { return d.ready }

// Addr is what the daemon listens on.
func (d *Daemon) Addr() net.Addr { return d.addr }

// Run serves until ctx ends, lets requests under way finish, and returns nil; or the error that keeps it from serving.
func (d *Daemon) Run(ctx context.Context) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", d.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for certificate requests: %w", err)
	}
	d.addr = listener.Addr()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.serve(ctx, netutil.LimitListener(listener, maxConnections)) })
	group.Go(func() error { return d.issuer.Run(ctx) })
	group.Go(func() error { return d.followRoots(ctx) })
	for _, s := range d.serving {
		group.Go(func() error { return s.Run(ctx) })
	}
	if d.cfg.Admin != "" {
		group.Go(func() error { return d.runAdmin(ctx) })
	}
	if d.table != nil {
		client := d.controlPlane()
		group.Go(func() error { return client.Run(ctx) })
		group.Go(func() error { return d.followPlacement(ctx, client) })
	}
	close(d.ready)
	m := d.issuer.Current()
	d.log.Info("certificate authority serving", "addr", d.addr.String(), "trust_domain", d.cfg.TrustDomain, "issuer", m.Cert.Subject.String(), "expires", m.Until)
	return group.Wait()
}

// serve runs gRPC and stops it in two steps: first no new requests, then, after drain, none at all.
func (d *Daemon) serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var stopper sync.WaitGroup
	stopper.Go(func() {
		<-ctx.Done()
		hard := time.AfterFunc(drain, d.grpc.Stop)
		defer hard.Stop()
		d.grpc.GracefulStop()
	})
	err := d.grpc.Serve(l)
	asked := ctx.Err() != nil
	cancel()
	stopper.Wait()
	if asked {
		return nil
	}
	return fmt.Errorf("serve certificate requests: %w", err)
}

// controlPlane is the client that fills the placement table.
func (d *Daemon) controlPlane() *xds.Client {
	roots := func() ([]byte, error) { return d.issuer.Bundle().PEM(), nil }
	if d.cfg.XDSRoots != "" {
		roots = func() ([]byte, error) { return os.ReadFile(d.cfg.XDSRoots) }
	}
	return xds.NewClient(xdsConfig(d, roots), d.table, mesh.TypeAddress)
}

func (d *Daemon) followPlacement(ctx context.Context, c *xds.Client) error {
	select {
	case <-c.Synced():
		d.table.Synced()
		d.log.Info("placement of pods known", "control_plane", d.cfg.XDSAddress, "pods", d.table.Len())
	case <-ctx.Done():
	}
	return nil
}

// followRoots keeps the roots file equal to the bundle.
func (d *Daemon) followRoots(ctx context.Context) error {
	for {
		changed := d.issuer.Changed()
		if err := d.writeRoots(); err != nil {
			d.log.Error("trust bundle not written", "file", d.cfg.RootsFile, "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(drain):
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// writeRoots replaces the roots file in one step, if it differs.
func (d *Daemon) writeRoots() error {
	path := d.cfg.RootsFile
	if path == "" {
		return nil
	}
	want := d.issuer.Bundle().PEM()
	if have, err := os.ReadFile(path); err == nil && string(have) == string(want) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("roots file: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return fmt.Errorf("roots file: %w", err)
	}
	_, err = tmp.Write(want)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("roots file: %w", err)
	}
	return nil
}
