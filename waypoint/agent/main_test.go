package agent

import (
	"context"
	"net/http"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/ca/identity"
)

func TestMain(m *testing.M) {
	if config := os.Getenv(childVariable); config != "" {
		os.Exit(child(config))
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	}),
		// Connections of test clients, which end a moment after the test.
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// waitFor makes an authority answer only once c is closed.
func waitFor(c <-chan struct{}) func(context.Context, identity.ID) error {
	return func(ctx context.Context, _ identity.ID) error {
		select {
		case <-c:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
