package serve

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ca/token"
)

// nodeTypes are the proxies that may ask. Istio ambient wire contract, Node.id.
var nodeTypes = map[string]bool{"sidecar": true, "router": true, "waypoint": true, "ztunnel": true, "agentgateway": true}

// admit turns strangers away before anything they send is read: a first request may be large.
func (s *Server) admit(ctx context.Context) error {
	if s.open() {
		return nil
	}
	if _, _, err := s.caller(ctx); err != nil {
		return unknown(err)
	}
	return nil
}

// open says whether everybody is let in.
func (s *Server) open() bool { return s.cfg.Tokens == nil && s.cfg.Review == nil }

// unknown is the answer to somebody who cannot be told apart. One whom nobody could ask about shall come again.
func unknown(err error) error {
	if status.Code(err) == codes.Unavailable {
		return err
	}
	return status.Error(codes.Unauthenticated, err.Error())
}

// claims is whose token it is.
func (s *Server) claims(ctx context.Context, raw string) (token.Claims, error) {
	if s.cfg.Review != nil {
		return s.cfg.Review(ctx, raw)
	}
	return s.cfg.Tokens.Verify(raw, time.Now())
}

// authorize decides on a stream's first request: the caller must be who its node says it is.
func (s *Server) authorize(ctx context.Context, node *corev3.Node) error {
	kind, rest, _ := strings.Cut(node.GetId(), "~")
	if !nodeTypes[kind] || strings.Count(rest, "~") != 2 {
		return status.Errorf(codes.InvalidArgument, "node id %q is not TYPE~IP~NAME.NAMESPACE~DOMAIN", node.GetId())
	}
	if s.open() {
		return nil
	}
	ns, sa, err := s.caller(ctx)
	if err != nil {
		return unknown(err)
	}
	fields := node.GetMetadata().GetFields()
	if got := fields["NAMESPACE"].GetStringValue(); got != ns {
		return status.Errorf(codes.PermissionDenied, "node metadata NAMESPACE is %q, but the caller is in namespace %q", got, ns)
	}
	if got := fields["SERVICE_ACCOUNT"].GetStringValue(); got != "" && got != sa {
		return status.Errorf(codes.PermissionDenied, "node metadata SERVICE_ACCOUNT is %q, but the caller is %q", got, sa)
	}
	return nil
}

// authorizeScope decides who may read what belongs to a Gateway. Without tokens nobody is known, and everybody may.
func (s *Server) authorizeScope(ctx context.Context, gateway string) error {
	if s.open() || s.cfg.MayReadGateway == nil {
		return nil
	}
	ns, sa, err := s.caller(ctx)
	if err != nil {
		return unknown(err)
	}
	if err := s.cfg.MayReadGateway(gateway, ns, sa); err != nil {
		return status.Error(codes.PermissionDenied, err.Error())
	}
	return nil
}

// caller is who is at the other end: the bearer of a good token, else the owner of a client certificate that leads to the mesh's roots.
func (s *Server) caller(ctx context.Context) (namespace, account string, err error) {
	raw, err := token.FromIncoming(ctx)
	if err == nil {
		c, err := s.claims(ctx, raw)
		if err != nil {
			return "", "", err
		}
		return c.Namespace, c.ServiceAccount, nil
	}
	if !errors.Is(err, token.ErrNoToken) {
		return "", "", err
	}
	p, _ := peer.FromContext(ctx)
	if p == nil {
		return "", "", err
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return "", "", fmt.Errorf("%w, nor a client certificate", err)
	}
	if err := s.tls.verify(info.State.PeerCertificates, time.Now()); err != nil {
		return "", "", fmt.Errorf("client certificate: %w", err)
	}
	id, err := identity.FromCertificate(info.State.PeerCertificates[0])
	if err != nil {
		return "", "", err
	}
	if s.cfg.TrustDomain != "" && id.TrustDomain != s.cfg.TrustDomain {
		return "", "", fmt.Errorf("client certificate is of trust domain %q, this is %q", id.TrustDomain, s.cfg.TrustDomain)
	}
	return id.Namespace, id.ServiceAccount, nil
}
