// Command ambit-ca is the mesh's stand-alone certificate authority.
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

	"github.com/ambit-mesh/ambit/ca/daemon"
)

const usage = `ambit-ca issues workload certificates (istio.v1.auth CreateCertificate).

usage:
  ambit-ca [flags]           run the authority; -h lists the flags
  ambit-ca token-key [flags] make a key that signs tokens, and the public half that verifies them
  ambit-ca token [flags]     mint a token shaped like a bound Kubernetes service account token
`

func main() {
	os.Exit(run(os.Args[1:]))
}

// run returns the exit code: 0 done, 1 failed, 64 wrong usage.
func run(args []string) int {
	var err error
	command := ""
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		command, args = args[0], args[1:]
	}
	switch command {
	case "":
		err = serve(args)
	case "token":
		err = mintToken(args)
	case "token-key":
		err = makeKey(args)
	case "help":
		fmt.Print(usage)
	default:
		err = fmt.Errorf("%w: unknown command %q\n%s", errUsage, command, usage)
	}
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, "ambit-ca:", err)
		return 64
	}
	fmt.Fprintln(os.Stderr, "ambit-ca:", err)
	return 1
}

// serve runs the daemon until SIGINT or SIGTERM; a second signal ends it at once.
func serve(args []string) error {
	cfg, log, err := daemonFlags(args)
	if err != nil {
		return err
	}
	slog.SetDefault(log)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	d, err := daemon.New(cfg, log)
	if err != nil {
		return err
	}
	return d.Run(ctx)
}
