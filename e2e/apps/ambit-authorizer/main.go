// Command ambit-authorizer decides about requests in place of a policy, as an external authorizer that is small enough to try
// CUSTOM policies out with: it allows what carries the header x-ext-authz: allow, asked over HTTP or over gRPC
// (envoy.service.auth.v3).
//
// It knows no mesh. run serves both until it is told to end and waits for what it started. Start reading at decide.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// The headers of Istio's sample authorizer, samples/extauthz/cmd/extauthz/main.go.
const (
	headerAsk    = "x-ext-authz"
	headerResult = "x-ext-authz-check-result"
	headerBy     = "x-ext-authz-checked-by"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{Use: "ambit-authorizer", Short: "A small external authorizer", SilenceUsage: true, SilenceErrors: true}
	var web, rpc string
	serve := &cobra.Command{Use: "serve", Short: "Decide until told to end", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), web, rpc) }}
	serve.Flags().StringVar(&web, "http", ":8000", "address for checks over HTTP")
	serve.Flags().StringVar(&rpc, "grpc", ":9000", "address for checks over gRPC")
	root.AddCommand(serve)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "ambit-authorizer:", err)
		os.Exit(1) //nolint:gocritic // the process ends here, and stop with it
	}
}

// decide is the whole of its wisdom.
func decide(by, method, path, asked string) (allowed bool) {
	allowed = asked == "allow"
	slog.Info("asked", "by", by, "method", method, "path", path, "header", asked, "allowed", allowed)
	return allowed
}

// checkHTTP decides about the request it is sent: any status but 200 refuses, and is what the client gets.
func checkHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(headerBy, "http")
	if !decide("http", r.Method, r.URL.Path, r.Header.Get(headerAsk)) {
		w.Header().Set(headerResult, "denied")
		http.Error(w, "denied by ambit-authorizer: it wants the header "+headerAsk+": allow", http.StatusForbidden)
		return
	}
	w.Header().Set(headerResult, "allowed")
}

type checker struct {
	authv3.UnimplementedAuthorizationServer
}

// Check decides about a request that is described to it.
func (checker) Check(_ context.Context, req *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	r := req.GetAttributes().GetRequest().GetHttp()
	if decide("grpc", r.GetMethod(), r.GetPath(), r.GetHeaders()[headerAsk]) {
		return &authv3.CheckResponse{Status: &status.Status{Code: int32(codes.OK)}, HttpResponse: &authv3.CheckResponse_OkResponse{
			OkResponse: &authv3.OkHttpResponse{Headers: headers("allowed")},
		}}, nil
	}
	return &authv3.CheckResponse{Status: &status.Status{Code: int32(codes.PermissionDenied)}, HttpResponse: &authv3.CheckResponse_DeniedResponse{
		DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode_Forbidden}, Headers: headers("denied"),
			Body: "denied by ambit-authorizer: it wants the header " + headerAsk + ": allow\n",
		},
	}}, nil
}

func headers(result string) []*corev3.HeaderValueOption {
	option := func(key, value string) *corev3.HeaderValueOption {
		return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: key, Value: value}, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD}
	}
	return []*corev3.HeaderValueOption{option(headerBy, "grpc"), option(headerResult, result)}
}

// run serves both until ctx ends or one of them cannot go on.
func run(ctx context.Context, web, rpc string) error {
	out, err := net.Listen("tcp", web)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	in, err := net.Listen("tcp", rpc)
	if err != nil {
		return errors.Join(fmt.Errorf("listen: %w", err), out.Close())
	}
	s := &http.Server{Handler: http.HandlerFunc(checkHTTP), ReadHeaderTimeout: 5 * time.Second}
	g := grpc.NewServer()
	authv3.RegisterAuthorizationServer(g, checker{})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var errs [2]error
	wg.Go(func() {
		defer cancel()
		if err := s.Serve(out); !errors.Is(err, http.ErrServerClosed) {
			errs[0] = err
		}
	})
	wg.Go(func() { defer cancel(); errs[1] = g.Serve(in) })
	<-ctx.Done()
	_ = s.Close()
	g.Stop()
	wg.Wait()
	return cmp.Or(errs[0], errs[1])
}
