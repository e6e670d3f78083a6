package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ca/token"
)

// Caller is who makes a request.
type Caller struct {
	ID identity.ID
	// Pod is what the credential is bound to; empty for one that is not.
	Pod Pod
}

// Pod is a pod as a credential names it.
type Pod struct {
	Name, UID string
	// Node is the node the credential names, possibly "".
	Node string
}

// Authenticator finds out who calls. It returns ErrNoCredential when the request carries nothing it could judge.
type Authenticator interface {
	Authenticate(ctx context.Context) (Caller, error)
}

// ErrNoCredential says that a request does not carry the kind of credential an Authenticator looks for.
var ErrNoCredential = errors.New("no credential")

// authenticate asks one authenticator after the other. A bad credential of one kind does not spoil a good one of another:
// a proxy whose certificate expired still has its token.
func (s *Server) authenticate(ctx context.Context) (Caller, error) {
	var refused []error
	for _, a := range s.cfg.Authenticators {
		caller, err := a.Authenticate(ctx)
		switch {
		case err == nil:
			return caller, nil
		case !errors.Is(err, ErrNoCredential):
			refused = append(refused, err)
		}
	}
	if len(refused) == 0 {
		return Caller{}, errors.New("the request carries neither a bearer token nor a client certificate")
	}
	return Caller{}, errors.Join(refused...)
}

// TokenAuthenticator knows callers by signed token.
type TokenAuthenticator struct {
	Verifier *token.Verifier
	// TrustDomain is that of every caller: tokens do not name one.
	TrustDomain string
}

// Authenticate implements Authenticator.
func (a TokenAuthenticator) Authenticate(ctx context.Context) (Caller, error) {
	raw, err := token.FromIncoming(ctx)
	if errors.Is(err, token.ErrNoToken) {
		return Caller{}, ErrNoCredential
	}
	if err != nil {
		return Caller{}, err
	}
	c, err := a.Verifier.Verify(raw, time.Now())
	if err != nil {
		return Caller{}, err
	}
	caller := Caller{
		ID:  identity.ID{TrustDomain: a.TrustDomain, Namespace: c.Namespace, ServiceAccount: c.ServiceAccount},
		Pod: Pod{Name: c.PodName, UID: c.PodUID, Node: c.Node},
	}
	if err := caller.ID.Validate(); err != nil {
		return Caller{}, fmt.Errorf("token: %w", err)
	}
	return caller, nil
}

// CertificateAuthenticator knows callers by the client certificate of their connection, which it verifies itself: the
// listener need not.
type CertificateAuthenticator struct {
	// Bundle is what client certificates must lead to.
	Bundle func() *certs.Bundle
}

// Authenticate implements Authenticator.
func (a CertificateAuthenticator) Authenticate(ctx context.Context) (Caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Caller{}, ErrNoCredential
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return Caller{}, ErrNoCredential
	}
	if err := a.Bundle().Verify(info.State.PeerCertificates, x509.ExtKeyUsageClientAuth, time.Now()); err != nil {
		return Caller{}, fmt.Errorf("client %w", err)
	}
	id, err := certs.PeerID(info.State)
	if err != nil {
		return Caller{}, fmt.Errorf("client certificate: %w", err)
	}
	return Caller{ID: id}, nil
}

// parseAccount reads namespace/name.
func parseAccount(s, trustDomain string) (identity.ID, error) {
	ns, sa, ok := strings.Cut(s, "/")
	id := identity.ID{TrustDomain: trustDomain, Namespace: ns, ServiceAccount: sa}
	if err := id.Validate(); !ok || err != nil {
		return identity.ID{}, fmt.Errorf("%q: want <namespace>/<service account>", s)
	}
	return id, nil
}

func peerAddr(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}
