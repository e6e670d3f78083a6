// Command ambit-cni-agent runs on each node: it captures the traffic of pods in the mesh and hands their network
// namespaces to the node proxy. Settings come from the environment, in Istio's names, and from flags.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/ambit-mesh/ambit/cni/daemon"
	"github.com/ambit-mesh/ambit/cni/file"
)

// version is set when the program is built.
var version = "dev"

func main() {
	err := run(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "ambit-cni-agent:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	cfg, err := daemon.Default().FromEnv(os.Getenv)
	if err != nil {
		return err
	}
	flags := flag.NewFlagSet("ambit-cni-agent", flag.ContinueOnError)
	flags.StringVar(&cfg.Node, "node", cfg.Node, "name of this node (NODE_NAME)")
	flags.StringVar(&cfg.PodsDir, "pods-dir", cfg.PodsDir, "folder of Kubernetes YAML with the node's Pods and their Namespaces (AMBIT_PODS_DIR)")
	flags.StringVar(&cfg.HostNetns, "host-netns", cfg.HostNetns, "path of the node's network namespace; default: the agent's own (AMBIT_HOST_NETNS)")
	flags.StringVar(&cfg.ProxySocket, "ztunnel-socket", cfg.ProxySocket, "socket node proxies connect to (ZTUNNEL_UDS_ADDRESS)")
	flags.StringVar(&cfg.RunDir, "run-dir", cfg.RunDir, "folder of pluginevent.sock (CNI_AGENT_RUN_DIR)")
	flags.StringVar(&cfg.ReadyAddr, "ready-address", cfg.ReadyAddr, "where /readyz and /healthz are served; empty: nowhere")
	flags.StringVar(&cfg.MonitoringAddr, "monitoring-address", cfg.MonitoringAddr, "where /metrics is served; empty: nowhere (MONITORING_PORT)")
	flags.StringVar(&cfg.AdminSocket, "admin-socket", cfg.AdminSocket, "unix socket that serves all of these and /pods; empty: none (AMBIT_ADMIN_SOCKET)")
	flags.StringVar(&cfg.Backend, "redirection", cfg.Backend, "auto, nftables, iptables or ebpf (AMBIT_REDIRECTION, NATIVE_NFTABLES)")
	flags.StringVar(&cfg.BPF.Dir, "bpf-dir", cfg.BPF.Dir, "folder of this agent's programs in a BPF file system (AMBIT_BPF_DIR)")
	flags.StringVar(&cfg.BPF.Cgroup, "cgroup-root", cfg.BPF.Cgroup, "root of control groups v2, where BPF programs hang; default: where it is mounted (AMBIT_CGROUP_ROOT)")
	flags.DurationVar(&cfg.Resync, "resync", cfg.Resync, "how often rules are read back and repaired; 0: never")
	flags.TextVar(&cfg.LogLevel, "log-level", cfg.LogLevel, "debug, info, warn or error (LOG_LEVEL)")
	showVersion := flags.Bool("version", false, "print the version and end")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *showVersion {
		fmt.Println(version)
		return nil
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: cfg.LogLevel}))
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	agent, err := daemon.New(cfg, file.New(cfg.PodsDir, cfg.Node, log), log, registry)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return agent.Run(ctx)
}
