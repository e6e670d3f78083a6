// Package server answers CreateCertificate: it finds out who asks, decides which identity that caller may have, and has
// the issuer sign it.
//
// It knows authentication, impersonation and the codes of the wire. It does not know how signing works (ca/issuer) nor
// where pods run (a Placement does). It starts no goroutines; gRPC's call it. Start reading at CreateCertificate.
package server

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ambit-mesh/ambit/api/auth"
	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ca/issuer"
)

// Signer certifies keys; *issuer.Issuer is one.
type Signer interface {
	Sign(id identity.ID, pub crypto.PublicKey, ttl time.Duration) (chain []string, leaf *x509.Certificate, err error)
	TrustDomain() string
}

// Placement knows where pods run. It may wait, within the context, for news it expects to arrive.
type Placement interface {
	// Node returns the node a caller's pod runs on. It refuses a pod it knows to be gone, or to be another's.
	Node(ctx context.Context, caller identity.ID, pod Pod) (string, error)
	// Runs reports whether a pod of the service account, not failed, is on the node. An error means it cannot tell.
	Runs(ctx context.Context, node, namespace, serviceAccount string) (bool, error)
}

// Config of a Server. Zero fields take the defaults named beside them.
type Config struct {
	Signer Signer
	// Authenticators are asked in order; the first that knows the caller decides.
	Authenticators []Authenticator
	// TrustedNodeAccounts may ask for the identities of pods on their own node, as namespace/name. Istio's
	// CA_TRUSTED_NODE_ACCOUNTS.
	TrustedNodeAccounts []string // nobody
	// Placement is what impersonation is checked against. Without one nobody is impersonated.
	Placement Placement
	// InFlight bounds the requests being signed at once; more of them wait.
	InFlight   int                   // 64
	Logger     *slog.Logger          // discard
	Registerer prometheus.Registerer // none
}

// Server implements auth.IstioCertificateServiceServer.
type Server struct {
	auth.UnimplementedIstioCertificateServiceServer
	cfg     Config
	slots   chan struct{}
	metrics *metrics
}

// New checks cfg and starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Signer == nil || len(cfg.Authenticators) == 0 {
		return nil, errors.New("certificate server: needs a signer and at least one authenticator")
	}
	if cfg.InFlight <= 0 {
		cfg.InFlight = 64
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	for _, account := range cfg.TrustedNodeAccounts {
		if _, err := parseAccount(account, mesh.DefaultTrustDomain); err != nil {
			return nil, fmt.Errorf("trusted node account: %w", err)
		}
	}
	return &Server{cfg: cfg, slots: make(chan struct{}, cfg.InFlight), metrics: newMetrics(cfg.Registerer)}, nil
}

// metadataImpersonate is the key of the identity a caller wants instead of its own. Istio security/pkg/server/ca.
const metadataImpersonate = "ImpersonatedIdentity"

// CreateCertificate signs the request's key for the caller, or for the identity the caller may impersonate.
func (s *Server) CreateCertificate(ctx context.Context, req *auth.IstioCertificateRequest) (*auth.IstioCertificateResponse, error) {
	start := time.Now()
	resp, who, err := s.create(ctx, req)
	s.metrics.answered(status.Code(err), time.Since(start))
	if err != nil {
		s.cfg.Logger.Warn("certificate refused", "caller", who.caller.String(), "peer", peerAddr(ctx), "identity", who.wanted, "code", status.Code(err).String(), "err", status.Convert(err).Message())
		return nil, err
	}
	s.cfg.Logger.Debug("certificate issued", "caller", who.caller.String(), "identity", who.wanted, "dur", time.Since(start))
	return resp, nil
}

// subjects is who asked for whom, for the log.
type subjects struct {
	caller identity.ID
	wanted string
}

func (s *Server) create(ctx context.Context, req *auth.IstioCertificateRequest) (*auth.IstioCertificateResponse, subjects, error) {
	var who subjects
	caller, err := s.authenticate(ctx)
	if status.Code(err) == codes.Unavailable {
		return nil, who, err // nobody could be asked about the caller, who shall come again
	}
	if err != nil {
		return nil, who, status.Errorf(codes.Unauthenticated, "request authenticate failure: %v", err)
	}
	who.caller, who.wanted = caller.ID, caller.ID.String()
	if td := s.cfg.Signer.TrustDomain(); caller.ID.TrustDomain != td {
		// Possible with a plugged-in root that other meshes share.
		return nil, who, status.Errorf(codes.Unauthenticated, "request authenticate failure: %s is not of this authority's trust domain %s", caller.ID, td)
	}
	id := caller.ID
	if wanted := req.GetMetadata().GetFields()[metadataImpersonate].GetStringValue(); wanted != "" {
		who.wanted = wanted
		if id, err = s.impersonate(ctx, caller, wanted); err != nil {
			return nil, who, status.Errorf(codes.Unauthenticated, "request impersonation authentication failure: %v", err)
		}
	}
	// Only now, because who waits for the placement of a pod must not keep others from being signed.
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, who, status.FromContextError(ctx.Err()).Err()
	}
	pub, err := issuer.ParseCSR([]byte(req.GetCsr()))
	if err != nil {
		return nil, who, status.Errorf(codes.InvalidArgument, "CSR signing error (%v)", err)
	}
	ttl, err := lifetime(req.GetValidityDuration())
	if err != nil {
		return nil, who, status.Errorf(codes.InvalidArgument, "CSR signing error (%v)", err)
	}
	chain, _, err := s.cfg.Signer.Sign(id, pub, ttl)
	switch {
	case errors.Is(err, issuer.ErrTTL):
		return nil, who, status.Errorf(codes.InvalidArgument, "CSR signing error (%v)", err)
	case err != nil:
		return nil, who, status.Errorf(codes.Internal, "CSR signing error (%v)", err)
	}
	return &auth.IstioCertificateResponse{CertChain: chain}, who, nil
}

// lifetime turns seconds into a duration without overflowing.
func lifetime(seconds int64) (time.Duration, error) {
	const most = int64(100 * 365 * 24 * time.Hour / time.Second)
	if seconds > most {
		return 0, fmt.Errorf("%w: %d seconds", issuer.ErrTTL, seconds)
	}
	return time.Duration(max(0, seconds)) * time.Second, nil
}

// impersonate decides whether caller may have the identity wanted. Everything that cannot be established refuses.
// Istio security/pkg/server/ca node_auth.go authenticateImpersonation.
func (s *Server) impersonate(ctx context.Context, caller Caller, wanted string) (identity.ID, error) {
	id, err := identity.Parse(wanted)
	if err != nil {
		return identity.ID{}, err
	}
	if id == caller.ID {
		return id, nil // its own identity needs nobody's leave
	}
	account := caller.ID.Namespace + "/" + caller.ID.ServiceAccount
	if !slices.Contains(s.cfg.TrustedNodeAccounts, account) {
		return identity.ID{}, fmt.Errorf("service account %s is not a trusted node account", account)
	}
	// Istio compares namespace and service account only; a certificate of a foreign trust domain is worth refusing all the same.
	if id.TrustDomain != s.cfg.Signer.TrustDomain() {
		return identity.ID{}, fmt.Errorf("%s is not of this authority's trust domain %s", id, s.cfg.Signer.TrustDomain())
	}
	if caller.Pod.Name == "" || caller.Pod.UID == "" {
		return identity.ID{}, fmt.Errorf("the credential of %s is not bound to a pod (a bound service account token is needed)", account)
	}
	if s.cfg.Placement == nil {
		return identity.ID{}, errors.New("this authority does not know which pods run where (no control plane is configured)")
	}
	node, err := s.cfg.Placement.Node(ctx, caller.ID, caller.Pod)
	if err != nil {
		return identity.ID{}, fmt.Errorf("calling pod %s/%s: %w", caller.ID.Namespace, caller.Pod.Name, err)
	}
	if node == "" {
		return identity.ID{}, fmt.Errorf("calling pod %s/%s is on no known node", caller.ID.Namespace, caller.Pod.Name)
	}
	runs, err := s.cfg.Placement.Runs(ctx, node, id.Namespace, id.ServiceAccount)
	if err != nil {
		return identity.ID{}, err
	}
	if !runs {
		return identity.ID{}, fmt.Errorf("no pod of service account %s/%s runs on node %s", id.Namespace, id.ServiceAccount, node)
	}
	return id, nil
}
