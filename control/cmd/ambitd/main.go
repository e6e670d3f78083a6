// Command ambitd is the control plane: it reads what the mesh is to be and tells the node proxies.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/control/daemon"
)

// version is set by the build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "ambitd:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	cfg, envErr := daemon.Default().FromEnv(os.Getenv)
	cmd := &cobra.Command{
		Use:   "ambitd (--config-dir DIR --tls-dir DIR --token-keys FILE | --in-cluster | --kubeconfig FILE)",
		Short: "the mesh's control plane",
		Long: `ambitd reads a folder of ordinary Kubernetes YAML (pods, services, policies, gateways …), works out what every
node proxy has to know, and serves it over delta xDS. The folder is watched; a change reaches the proxies at once.
A document with a mistake is refused alone, and what was good before stays in force: see /debug/refusals.

Or it reads a cluster's API server, with --in-cluster or --kubeconfig. Then tokens are the cluster's own, and without
--tls-dir ambitd is the certificate authority, too, on the same port: with the key in Secret cacerts of the root
namespace, else in istio-ca-secret, which it makes. One of several replicas writes: status, what runs for Gateways,
ConfigMaps istio-ca-root-cert and istio-ca-crl in every namespace, and Events.

Clients prove who they are with a bearer token (a service account's JWT for audience istio-ca) or a client certificate.
Certificate and key files are read again when they change.

What most flags say can also stand in the environment: AMBIT_CONFIG_DIR, AMBIT_LISTEN, AMBIT_TLS_DIR, AMBIT_PLAINTEXT,
AMBIT_TOKEN_KEYS, AMBIT_ADMIN_SOCKET, AMBIT_ADMIN_ADDRESS, TRUST_DOMAIN, CLUSTER_ID, NETWORK, ROOT_NAMESPACE,
CLUSTER_DOMAIN, AMBIT_IN_CLUSTER, AMBIT_KUBECONFIG, AMBIT_MONITORING, AMBIT_GATEWAY_IMAGE, AMBIT_GATEWAY_OVERLAYS,
AMBIT_UNTAINT_FOR, AMBIT_CRL_CONFIG_MAP, CA_TRUSTED_NODE_ACCOUNTS, AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY,
PILOT_AUTO_ALLOW_WAYPOINT_POLICY, PILOT_ENABLE_IP_AUTOALLOCATE, AMBIT_NETWORK_POLICIES, REVISION,
AMBIT_SERVICE_ENTRY_VISIBILITY, AMBIT_JWKS_ALLOW_HTTP and AMBIT_JWKS_ALLOW_PRIVATE. Flags win.`,
		Example: `  # as a lab runs it
  ambitd --config-dir mesh/ --tls-dir tls/ --token-keys keys.jwks --admin-socket /run/ambit/control.sock

  # as a cluster runs it
  ambitd --in-cluster --monitoring-address :15014

  # on one machine, for a look
  ambitd --config-dir mesh/ --listen= --plaintext 127.0.0.1:15010
  curl localhost:8080/debug/refusals`,
		Version:       version,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if envErr != nil {
				return envErr
			}
			opts := &slog.HandlerOptions{Level: cfg.LogLevel}
			var h slog.Handler = slog.NewTextHandler(os.Stderr, opts)
			if cfg.LogJSON {
				h = slog.NewJSONHandler(os.Stderr, opts)
			}
			cfg.Version = version
			d, err := daemon.New(cfg, slog.New(h))
			if err != nil {
				return err
			}
			return d.Run(cmd.Context())
		},
	}
	flags(cmd, &cfg)
	return cmd
}

func flags(cmd *cobra.Command, cfg *daemon.Config) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&cfg.ConfigDir, "config-dir", cfg.ConfigDir, "folder of YAML that describes the mesh")
	f.BoolVar(&cfg.InCluster, "in-cluster", cfg.InCluster, "read the cluster this pod runs in instead of a folder")
	f.StringVar(&cfg.Kubeconfig, "kubeconfig", cfg.Kubeconfig, "read the cluster of a kubeconfig instead of a folder")
	f.StringVar(&cfg.KubeContext, "kube-context", cfg.KubeContext, "context of the kubeconfig, of --kubeconfig or where kubectl finds it")
	f.StringSliceVar(&cfg.TrustedNodeAccounts, "trusted-node-accounts", cfg.TrustedNodeAccounts, "accounts, as NAMESPACE/NAME, that get certificates for the pods on their node; in a cluster")
	f.StringVar(&cfg.GatewayImage, "gateway-image", cfg.GatewayImage, "image that runs for Gateways; in a cluster")
	f.StringVar(&cfg.GatewayPullPolicy, "gateway-pull-policy", cfg.GatewayPullPolicy, "Always, IfNotPresent (if empty) or Never, for that image; in a cluster")
	f.StringSliceVar(&cfg.GatewayPullSecrets, "gateway-pull-secrets", cfg.GatewayPullSecrets, "Secrets of the Gateways' namespaces with credentials for its registry; in a cluster")
	f.StringVar(&cfg.GatewayXDS, "gateway-xds-address", cfg.GatewayXDS, "where what runs for Gateways finds the control plane, as https://HOST:PORT; without it at its Service")
	f.StringVar(&cfg.GatewayCA, "gateway-ca-address", cfg.GatewayCA, "the same for the authority; without it where the control plane is")
	f.StringVar(&cfg.GatewayLogLevel, "gateway-log-level", cfg.GatewayLogLevel, "how much what runs for Gateways logs: debug, info, warn or error")
	f.BoolVar(&cfg.GatewayLogJSON, "gateway-log-json", cfg.GatewayLogJSON, "and in JSON")
	f.IntVar(&cfg.Waypoints.MinReplicas, "waypoint-min-replicas", cfg.Waypoints.MinReplicas, "how many pods the autoscaler of a waypoint begins with; 0 for 1")
	f.IntVar(&cfg.Waypoints.MaxReplicas, "waypoint-max-replicas", cfg.Waypoints.MaxReplicas, "how many it may come to; 0 for no autoscaler")
	f.IntVar(&cfg.Waypoints.CPU, "waypoint-cpu", cfg.Waypoints.CPU, "percentage of the CPU request that it aims at; 0 for 80")
	f.BoolVar(&cfg.Waypoints.Budget, "waypoint-budget", cfg.Waypoints.Budget, "let only one pod of a waypoint with several be evicted at a time")
	f.StringSliceVar(&cfg.Revisions, "revisions", cfg.Revisions, "the control plane's revision, and tags of it: Gateways whose label istio.io/rev, else their namespace's, is another one are left to others")
	f.StringVar(&cfg.GatewayOverlays, "gateway-overlays", cfg.GatewayOverlays, "what the ConfigMap a Gateway names in parametersRef may change of what runs for it: confined (replicas, resources, placement …) or any; in a cluster")
	f.StringSliceVar(&cfg.GatewayNamespaces, "gateway-namespaces", cfg.GatewayNamespaces, "namespaces in which Gateways are run, where the rights for more are missing; empty for all; in a cluster")
	f.StringSliceVar(&cfg.SecretNamespaces, "secret-namespaces", cfg.SecretNamespaces, "namespaces whose Secrets are read, for Gateways' TLS, where the rights for more are missing; empty for all; in a cluster")
	f.StringVar(&cfg.UntaintFor, "untaint-for", cfg.UntaintFor, "label selector of the CNI agent's pods, whose nodes lose the taint cni.istio.io/not-ready when they are ready; in a cluster")
	f.StringVar(&cfg.CRLConfigMap, "crl-config-map", cfg.CRLConfigMap, "ConfigMap of the own namespace whose key ca-crl.pem has revocation lists, beside those of Secret cacerts; in a cluster")
	f.StringSliceVar(&cfg.ServingNames, "serving-name", cfg.ServingNames, "further names of the control plane's certificate; in a cluster")
	f.StringVar(&cfg.StateDir, "state-dir", cfg.StateDir, "private folder for the last good versions of policies; without it a restart forgets them")
	f.StringVar(&cfg.GatewaysFolder, "gateways-folder", cfg.GatewaysFolder, "folder within --config-dir for the objects that run Gateways; without it none are made")
	f.StringVar(&cfg.Listen, "listen", cfg.Listen, "address for node proxies over TLS; empty for none")
	f.StringVar(&cfg.TLSDir, "tls-dir", cfg.TLSDir, "folder with tls.crt, tls.key and, to accept client certificates, root-cert.pem")
	f.StringVar(&cfg.TokenKeys, "token-keys", cfg.TokenKeys, "public keys of bearer tokens, JWKS or PEM; without it everyone is served")
	f.StringVar(&cfg.Plaintext, "plaintext", cfg.Plaintext, "address without TLS: loopback HOST:PORT or unix:PATH")
	f.BoolVar(&cfg.PlaintextAnywhere, "plaintext-anywhere", cfg.PlaintextAnywhere, "let --plaintext be reached from other machines")
	f.StringVar(&cfg.AdminSocket, "admin-socket", cfg.AdminSocket, "unix socket for operators, readable by its owner only; keep it in a private folder")
	f.StringVar(&cfg.AdminAddress, "admin-address", cfg.AdminAddress, "loopback address for operators; empty for none")
	f.StringVar(&cfg.MonitoringAddress, "monitoring-address", cfg.MonitoringAddress, "address for probes and Prometheus, which serves nothing else; empty for none")
	f.StringVar(&cfg.TrustDomain, "trust-domain", cfg.TrustDomain, "trust domain of the mesh's identities")
	f.StringVar(&cfg.ClusterID, "cluster-id", cfg.ClusterID, "name of this cluster")
	f.StringVar(&cfg.Network, "network", cfg.Network, "network of everything that does not say otherwise")
	f.StringVar(&cfg.RootNamespace, "root-namespace", cfg.RootNamespace, "namespace of what is about the whole mesh: policies, Telemetry, the ConfigMap istio")
	f.StringVar(&cfg.ClusterDomain, "cluster-domain", cfg.ClusterDomain, "DNS domain of Services")
	f.DurationVar(&cfg.Window, "window", cfg.Window, "how long changes after a push are collected, at most 50ms")
	f.BoolVar(&cfg.DryRunPolicies, "dry-run-policies", cfg.DryRunPolicies, "accept policies annotated istio.io/dry-run")
	f.BoolVar(&cfg.NetworkPolicies, "network-policies", cfg.NetworkPolicies, "have node proxies enforce Kubernetes NetworkPolicies for what comes in")
	f.BoolVar(&cfg.AllowWaypoints, "allow-waypoints", cfg.AllowWaypoints, "let waypoints through the ALLOW policies of what is behind them")
	f.BoolVar(&cfg.KeysHTTP, "jwks-http", cfg.KeysHTTP, "fetch key sets of RequestAuthentications over plain HTTP too")
	f.BoolVar(&cfg.KeysPrivate, "jwks-private", cfg.KeysPrivate, "fetch key sets from private addresses too")
	f.DurationVar(&cfg.KeysRefresh, "jwks-refresh", cfg.KeysRefresh, "how often key sets are fetched again")
	f.StringVar(&cfg.ServiceEntryVisibility, "service-entry-visibility", cfg.ServiceEntryVisibility, "who sees ServiceEntries: public (every namespace, also if empty) or namespace (their own alone)")
	f.BoolVar(&cfg.AutoAllocate, "auto-allocate", cfg.AutoAllocate, "give ServiceEntries without addresses some")
	f.TextVar(&cfg.LogLevel, "log-level", cfg.LogLevel, "debug, info, warn or error")
	f.BoolVar(&cfg.LogJSON, "log-json", cfg.LogJSON, "log in JSON")
}
