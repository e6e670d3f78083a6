// Command ztunnel is the node proxy. It is configured by its environment, with the variables of Istio's ztunnel.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/ambit-mesh/ambit/ztunnel/daemon"
)

var version = "dev"

const usage = `ztunnel carries the TCP connections of the pods of one node over mutual TLS, and enforces L4 policy.

Usage:
  ztunnel [proxy ztunnel]   run; the words are accepted for Istio's pod templates
  ztunnel version

It is configured by its environment. The variables one usually sets:
  NODE_NAME          the node it serves (required)
  XDS_ADDRESS        the control plane, https://HOST:PORT; http:// is plaintext
  CA_ADDRESS         the certificate authority; the same as XDS_ADDRESS unless set
  XDS_ROOT_CA        PEM file with the roots of the control plane's certificate (CA_ROOT_CA for the authority's)
  AUTH_TOKEN         file with the bearer token
  INPOD_UDS          the CNI agent's socket (/var/run/ztunnel/ztunnel.sock)
  CLUSTER_ID, NETWORK, TRUST_DOMAIN
  PROXY_MODE         shared, or dedicated to the one pod it runs in (PROXY_WORKLOAD_INFO=NAMESPACE/POD/SERVICEACCOUNT)
  RUST_LOG           log level: debug, info, warn, error; LOG_FORMAT=json for JSON
  AMBIT_ADMIN_SOCKET unix socket for the admin interface, besides localhost:15000

Signals: SIGTERM and SIGINT drain and stop.
`

func main() {
	switch strings.Join(os.Args[1:], " ") {
	case "", "proxy ztunnel", "proxy":
	case "version", "--version":
		fmt.Println("ztunnel", version)
		return
	case "help", "-h", "--help":
		fmt.Print(usage)
		return
	default:
		fmt.Fprintf(os.Stderr, "ztunnel: unknown arguments %q\n\n%s", os.Args[1:], usage)
		os.Exit(64)
	}
	cfg, err := daemon.FromEnv(os.Environ())
	if err != nil {
		fmt.Fprintf(os.Stderr, "ztunnel: cannot start:\n%v\nztunnel --help lists the variables\n", err)
		os.Exit(64)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := daemon.Run(ctx, cfg, version); err != nil {
		fmt.Fprintln(os.Stderr, "ztunnel:", err)
		os.Exit(1)
	}
}
