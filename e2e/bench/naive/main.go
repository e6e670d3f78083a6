// Command naive is the yardstick of the data plane's bench: a node proxy as one would write it in an afternoon on
// net/http, x/net/http2 and crypto/tls. It takes pods from the CNI agent and certificates from the CA like the real one,
// so that both run under the same redirection and the same handshakes.
//
// It knows no policy, no services and no control plane: every outbound connection goes to port 15008 of the address the
// application dialled. It cannot half-close either: an x/net/http2 server ends both directions when a handler returns.
// Nobody should run it for anything but comparison. Start reading at run; proxy.go is the traffic.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/ca/client"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/inpod"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "naive:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	ca := client.New(client.Config{
		Address: os.Getenv("CA_ADDRESS"), ServerName: os.Getenv("ALT_CA_HOSTNAME"),
		RootCA: client.RootFile(os.Getenv("CA_ROOT_CA")), Token: client.TokenFile(os.Getenv("AUTH_TOKEN")),
		Headers: map[string]string{"clusterid": os.Getenv("CLUSTER_ID")}, Logger: log,
		Self: identity.ID{
			TrustDomain: mesh.DefaultTrustDomain, Namespace: os.Getenv("POD_NAMESPACE"), ServiceAccount: os.Getenv("SERVICE_ACCOUNT"),
		},
	})
	defer ca.Close()
	n := &node{certs: client.NewManager(ca, client.Options{Logger: log}), pods: map[string]*pod{}, log: log}
	agent := inpod.NewClient(inpod.Config{Socket: os.Getenv("INPOD_UDS"), Logger: log}, n)

	ln, err := net.Listen("tcp", fmt.Sprintf(":%d", mesh.PortReadiness))
	if err != nil {
		return err
	}
	ready := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if b := agent.Blockers(); len(b) > 0 {
			http.Error(w, fmt.Sprint(b), http.StatusInternalServerError)
		}
	})}
	var parts sync.WaitGroup
	defer parts.Wait()
	defer n.stopAll()
	parts.Go(func() { ready.Serve(ln) })
	defer ready.Close()
	parts.Go(func() { n.certs.Run(ctx) })
	return agent.Run(ctx)
}
