// Command ambit-lab runs small clusters of network namespaces on this machine, with or without the mesh on them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/ambit-mesh/ambit/e2e/lab"
)

func main() {
	lab.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := newRoot().ExecuteContext(ctx)
	code := 0
	if exit := (exitError)(0); errors.As(err, &exit) {
		code = int(exit)
	} else if err != nil {
		fmt.Fprintf(os.Stderr, "ambit-lab: %v\n", err)
		code = 1
	}
	stop()
	os.Exit(code) //nolint:gocritic // stop has run
}

// exitError passes on the exit status of a command run in a pod.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }
