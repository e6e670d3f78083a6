// Command ambit-kind makes a Kubernetes cluster to try Ambit on, and takes it away again.
//
// It needs neither a container registry nor a Docker that is there already: what it goes by is decided in package way, said
// before anything happens, and the same for every subcommand. Each subcommand is a function here; the work is in the packages.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/ambit-mesh/ambit/tools/kind/steps"
)

const usage = `ambit-kind makes a Kubernetes cluster to try Ambit on, and takes it away again.

  ambit-kind prepare            build what a cluster is made of, and make none
  ambit-kind create             make the cluster, or use the one that is there
  ambit-kind load FILE…         put the images of archives on its nodes
  ambit-kind gateway-api DIR    apply the Gateway API's kinds from a folder, unless the cluster has them
  ambit-kind run -- COMMAND…    run a command with KUBECONFIG, DOCKER_HOST and PATH for it
  ambit-kind inside -- COMMAND… the same where nodes and pods have addresses that can be reached
  ambit-kind env                print these variables for a shell
  ambit-kind list               list the clusters made here
  ambit-kind delete [--all]     delete it, and the Docker daemon with the last one

Which cluster: NAME (ambit) of our own, unless KUBECONFIG names the file of one that is there already.
KIND_IMAGE=kindest/node:… takes a published node image and your Docker; otherwise KUBERNETES says which release nodes are built
of: 1.33, 1.36 or 1.29. IP_FAMILY is ipv4, ipv6 or dual; WORKERS is 2.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "ambit-kind:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 || args[0] == "help" || args[0] == "--help" || args[0] == "-h" {
		fmt.Print(usage)
		return nil
	}
	verb, rest := args[0], args[1:]
	if verb == "forward" { // what Engine.Forward starts
		return forward(ctx, rest)
	}
	set := flag.NewFlagSet(verb, flag.ContinueOnError)
	set.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	ask := set.Bool("ask", false, "ask before a given cluster is used, when there is a terminal")
	all := set.Bool("all", false, "delete: all clusters made here")
	if err := set.Parse(rest); err != nil {
		return errors.New("see ambit-kind help")
	}
	t, err := newTool(steps.New(os.Stderr))
	if err != nil {
		return err
	}
	switch verb {
	case "prepare":
		return t.prepare(ctx)
	case "create":
		return t.create(ctx, *ask)
	case "load":
		return t.load(ctx, set.Args())
	case "gateway-api":
		return t.gatewayAPI(ctx, set.Args())
	case "run":
		return t.run(set.Args(), false)
	case "inside":
		return t.run(set.Args(), true)
	case "env":
		return t.env()
	case "list":
		return t.list(ctx)
	case "delete":
		return t.delete(ctx, *all)
	}
	return fmt.Errorf("there is no subcommand %q; see ambit-kind help", verb)
}
