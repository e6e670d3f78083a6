// Command ambit-echo-advanced is the application of Gateway API's mesh conformance tests: a server, and as "client" a client.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/e2e/apps/echo/advanced"
	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := server()
	root.AddCommand(client())
	// The tests call the program "client" by that name.
	if filepath.Base(os.Args[0]) == "client" {
		root.SetArgs(append([]string{"client"}, os.Args[1:]...))
	}
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "ambit-echo-advanced:", err)
		os.Exit(1) //nolint:gocritic // the process ends here, and stop with it
	}
}

func server() *cobra.Command {
	var s advanced.Server
	c := &cobra.Command{
		Use: "ambit-echo-advanced", Short: "Serve what Gateway API's mesh conformance tests ask for", Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.Run(cmd.Context()) },
	}
	f := c.Flags()
	f.IntSliceVar(&s.HTTP, "port", []int{8080}, "ports of HTTP")
	f.IntSliceVar(&s.TLS, "tls", nil, "those of the HTTP ports that have TLS")
	f.IntSliceVar(&s.GRPC, "grpc", []int{7070}, "ports of gRPC")
	f.IntSliceVar(&s.TCP, "tcp", []int{9090}, "ports that send back what they get")
	f.StringVar(&s.Certificate, "crt", "", "file with the certificate; one is made up if there is none")
	f.StringVar(&s.Key, "key", "", "file with its key")
	f.StringVar(&s.Version, "version", "", "part of every answer")
	return c
}

func client() *cobra.Command {
	var headers []string
	var call advanced.Call
	c := &cobra.Command{Use: "client URL", Short: "Make requests and show what came back", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			call.URL, call.Header = args[0], http.Header{}
			for _, line := range headers {
				k, v, ok := strings.Cut(line, ":")
				if !ok {
					return fmt.Errorf("header %q: NAME:VALUE", line)
				}
				call.Header.Add(k, strings.TrimSpace(v))
			}
			return call.Do(cmd.Context(), os.Stdout)
		}}
	f := c.Flags()
	f.StringVar(&call.Method, "method", "GET", "method")
	f.StringArrayVarP(&headers, "header", "H", nil, "header, as NAME:VALUE")
	f.IntVar(&call.Count, "count", 1, "how many requests")
	f.DurationVar(&call.Timeout, "timeout", 5*time.Second, "for each request")
	return c
}
