// Command ambit-cni-agent runs on each node: it captures the traffic of pods in the mesh and hands their network
// namespaces to the node proxy. Settings come from the environment, in Istio's names, and from flags.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/ambit-mesh/ambit/cni/chain"
	"github.com/ambit-mesh/ambit/cni/daemon"
	"github.com/ambit-mesh/ambit/cni/file"
	"github.com/ambit-mesh/ambit/cni/kube"
	"github.com/ambit-mesh/ambit/cni/sandbox"
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
	flags.BoolVar(&cfg.InCluster, "in-cluster", cfg.InCluster, "take pods from the API server of the cluster the agent runs in (AMBIT_IN_CLUSTER)")
	flags.StringVar(&cfg.Kubeconfig, "kubeconfig", cfg.Kubeconfig, "take pods from the API server this file names")
	flags.StringVar(&cfg.ProcDir, "proc", cfg.ProcDir, "a /proc that shows all processes of the node (AMBIT_PROC_DIR)")
	flags.StringVar(&cfg.DaemonSet, "daemonset", cfg.DaemonSet, "the DaemonSet the agent is of; when it is deleted, the agent that ends takes the mesh off the node (AMBIT_DAEMONSET)")
	flags.StringVar(&cfg.Chain.ConfDir, "cni-conf-dir", cfg.Chain.ConfDir, "the node's folder of CNI configurations; empty: the plugin is not installed (MOUNTED_CNI_NET_DIR)")
	flags.StringVar(&cfg.Chain.BinDir, "cni-bin-dir", cfg.Chain.BinDir, "the node's folder of CNI plugins (MOUNTED_CNI_BIN_DIR)")
	flags.StringVar(&cfg.Chain.Program, "cni-plugin", cfg.Chain.Program, "the plugin's program; default: ambit-cni beside this one or in "+imageDir+" (AMBIT_CNI_PLUGIN)")
	flags.StringVar(&cfg.HostNetns, "host-netns", cfg.HostNetns, "path of the node's network namespace; default: that of process 1 in a cluster, else the agent's own (AMBIT_HOST_NETNS)")
	flags.StringVar(&cfg.ProxySocket, "ztunnel-socket", cfg.ProxySocket, "socket node proxies connect to (ZTUNNEL_UDS_ADDRESS)")
	flags.StringVar(&cfg.RunDir, "run-dir", cfg.RunDir, "folder of pluginevent.sock (CNI_AGENT_RUN_DIR)")
	flags.StringVar(&cfg.ReadyAddr, "ready-address", cfg.ReadyAddr, "where /readyz and /healthz are served; empty: nowhere")
	flags.StringVar(&cfg.MonitoringAddr, "monitoring-address", cfg.MonitoringAddr, "where /metrics is served; empty: nowhere (MONITORING_PORT)")
	flags.StringVar(&cfg.AdminAddr, "admin-address", cfg.AdminAddr, "loopback address that serves all of these, /pods and /status; empty: none (AMBIT_ADMIN_ADDRESS)")
	flags.StringVar(&cfg.AdminSocket, "admin-socket", cfg.AdminSocket, "unix socket that serves the same; empty: none (AMBIT_ADMIN_SOCKET)")
	flags.StringVar(&cfg.Backend, "redirection", cfg.Backend, "auto, nftables, iptables or ebpf (AMBIT_REDIRECTION, NATIVE_NFTABLES)")
	flags.StringVar(&cfg.BPF.Dir, "bpf-dir", cfg.BPF.Dir, "folder of this agent's programs in a BPF file system (AMBIT_BPF_DIR)")
	flags.StringVar(&cfg.BPF.Cgroup, "cgroup-root", cfg.BPF.Cgroup, "root of control groups v2, where BPF programs hang; default: where it is mounted (AMBIT_CGROUP_ROOT)")
	flags.DurationVar(&cfg.Resync, "resync", cfg.Resync, "how often rules are read back and repaired; 0: never")
	flags.DurationVar(&cfg.LeaveLimit, "leave-limit", cfg.LeaveLimit, "how long a pod that leaves the mesh keeps its connections through the proxy; 0: they are cut (AMBIT_LEAVE_LIMIT)")
	flags.TextVar(&cfg.LogLevel, "log-level", cfg.LogLevel, "debug, info, warn or error (LOG_LEVEL)")
	flags.BoolVar(&cfg.LogJSON, "log-json", cfg.LogJSON, "log in JSON (LOG_FORMAT=json)")
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
	log := slog.New(handler(os.Stderr, cfg))
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	cfg.Version = version
	parts, err := assemble(&cfg, log, registry)
	if err != nil {
		return err
	}
	agent, err := daemon.New(cfg, parts, log, registry)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return agent.Run(ctx)
}

// handler writes the log as it is asked for.
func handler(to io.Writer, cfg daemon.Config) slog.Handler {
	options := &slog.HandlerOptions{Level: cfg.LogLevel}
	if cfg.LogJSON {
		return slog.NewJSONHandler(to, options)
	}
	return slog.NewTextHandler(to, options)
}

// assemble chooses where pods come from, and what belongs to that.
func assemble(cfg *daemon.Config, log *slog.Logger, registry *prometheus.Registry) (daemon.Parts, error) {
	if err := cfg.Validate(); err != nil {
		return daemon.Parts{}, err
	}
	if !cfg.OnCluster() {
		return daemon.Parts{Source: file.New(cfg.PodsDir, cfg.Node, log)}, nil
	}
	cluster, err := kube.Connect(kube.Access{InCluster: cfg.InCluster, Kubeconfig: cfg.Kubeconfig}, log)
	if err != nil {
		return daemon.Parts{}, err
	}
	if cfg.HostNetns == "" {
		cfg.HostNetns = filepath.Join(cfg.ProcDir, "1/ns/net")
	}
	source := kube.NewSource(cluster, cfg.Node)
	parts := daemon.Parts{Source: source, Sandboxes: sandbox.NewFinder(cfg.ProcDir)}
	if cfg.PodNamespace != "" {
		source.FollowOwn(cfg.PodNamespace, cfg.DaemonSet)
		parts.Successor = func(ctx context.Context) (stays, sure bool, why string) {
			return source.Successor(ctx, cfg.PodNamespace, cfg.DaemonSet)
		}
	}
	if cfg.Chain.ConfDir == "" {
		return parts, nil
	}
	if cfg.Chain.Program == "" {
		var err error
		if cfg.Chain.Program, err = findProgram(); err != nil {
			return parts, err
		}
	}
	tokens := kube.NewTokens(cluster, cfg.PodNamespace, cfg.Chain.Account, cfg.Node)
	install, err := cfg.Keeper(func() ([]byte, error) { return kubeconfig(*cfg, cluster, tokens) })
	if err != nil {
		return parts, err
	}
	if have, err := os.ReadFile(install.Kubeconfig); err == nil && cfg.Chain.Account != "" {
		tokens.Adopt(chain.KubeconfigToken(have))
	}
	parts.Installer = chain.New(install, log, registry)
	return parts, nil
}

// imageDir is where the image has the plugin.
const imageDir = "/opt/cni/bin"

// findProgram looks for the plugin beside the agent, and where the image has it.
func findProgram() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the plugin's program: %w: set --cni-plugin", err)
	}
	for _, dir := range []string{filepath.Dir(self), imageDir} {
		path := filepath.Join(dir, chain.Type)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("the plugin's program %s is neither beside %s nor in %s: set --cni-plugin", chain.Type, self, imageDir)
}

// kubeconfig is for the plugin: the agent's own way to the API server, as another account. Without one, and with an error that
// says why while no token of it is to be had, it is as the agent's, which lasts as long as the agent.
func kubeconfig(cfg daemon.Config, cluster *kube.Cluster, tokens *kube.Tokens) ([]byte, error) {
	c, err := cluster.Credentials()
	if err != nil {
		return nil, err
	}
	var wanting error
	if cfg.Chain.Account != "" {
		var token string
		if token, wanting = tokens.Token(context.Background()); wanting == nil {
			c.Token = token
		} else {
			wanting = fmt.Errorf("it asks as this agent does, which ends with the agent's pod: %w", wanting)
		}
	}
	if cfg.Chain.CAFile != "" {
		if c.CA, err = os.ReadFile(cfg.Chain.CAFile); err != nil {
			return nil, fmt.Errorf("KUBE_CA_FILE: %w", err)
		}
	}
	data, err := chain.Kubeconfig(c.Server, c.CA, c.Token, c.Insecure || cfg.Chain.SkipVerify)
	return data, errors.Join(wanting, err)
}
