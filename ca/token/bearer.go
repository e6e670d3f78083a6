package token

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/metadata"
)

// ErrNoToken says that a request carries no bearer token at all.
var ErrNoToken = errors.New("no bearer token in the authorization header")

// FromIncoming takes the bearer token out of an incoming gRPC request. RFC 6750 §2.1.
func FromIncoming(ctx context.Context) (string, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	switch len(values) {
	case 0:
		return "", ErrNoToken
	case 1:
	default:
		return "", fmt.Errorf("%w: %d authorization headers, want one", ErrInvalid, len(values))
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", ErrNoToken
	}
	return strings.TrimSpace(token), nil
}
