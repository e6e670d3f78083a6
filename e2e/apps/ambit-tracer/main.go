// Command ambit-tracer is a collector of OpenTelemetry traces and logs that is small enough to try things out with: it
// takes them over OTLP (gRPC), keeps the newest in memory, and shows each trace as a tree.
//
// It knows no mesh. serve runs until it is told to end and waits for what it started. Start reading at store.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	logsv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{Use: "ambit-tracer", Short: "A small collector of OpenTelemetry traces and logs", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(serve(), show())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "ambit-tracer:", err)
		os.Exit(1) //nolint:gocritic // the process ends here, and stop with it
	}
}

func serve() *cobra.Command {
	var otlp, web string
	c := &cobra.Command{Use: "serve", Short: "Collect until told to end", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), otlp, web) }}
	c.Flags().StringVar(&otlp, "otlp", ":4317", "address for OTLP over gRPC")
	c.Flags().StringVar(&web, "http", ":8080", "address for readers: /traces, /logs, /ready")
	return c
}

func show() *cobra.Command {
	var from string
	var spans int
	var timeout time.Duration
	c := &cobra.Command{Use: "show (traces|logs)", Short: "Show what was collected", Args: cobra.ExactArgs(1), ValidArgs: []string{"traces", "logs"},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return fetch(ctx, fmt.Sprintf("http://%s/%s?spans=%d", from, args[0], spans), cmd.OutOrStdout())
		}}
	c.Flags().StringVar(&from, "from", "127.0.0.1:8080", "the collector")
	c.Flags().IntVar(&spans, "spans", 1, "only traces with at least so many spans; wait for one until the timeout")
	c.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "how long to wait")
	return c
}

// fetch asks until there is something to show.
func fetch(ctx context.Context, url string, out io.Writer) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
		_ = resp.Body.Close()
		if err != nil {
			return err
		}
		if resp.StatusCode == http.StatusOK {
			_, err = out.Write(body)
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.New("nothing was collected")
		}
	}
}

// run serves both sides until ctx ends or one of them cannot go on.
func run(ctx context.Context, otlp, web string) error {
	var s store
	collector := grpc.NewServer()
	tracev1.RegisterTraceServiceServer(collector, traces{store: &s})
	logsv1.RegisterLogsServiceServer(collector, logs{store: &s})
	readers := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second}
	in, err := net.Listen("tcp", otlp)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	out, err := net.Listen("tcp", web)
	if err != nil {
		_ = in.Close()
		return fmt.Errorf("listen: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var errs [2]error
	wg.Go(func() { defer cancel(); errs[0] = collector.Serve(in) })
	wg.Go(func() {
		defer cancel()
		if err := readers.Serve(out); !errors.Is(err, http.ErrServerClosed) {
			errs[1] = err
		}
	})
	<-ctx.Done()
	collector.Stop()
	_ = readers.Close()
	wg.Wait()
	return errors.Join(errs[:]...)
}
