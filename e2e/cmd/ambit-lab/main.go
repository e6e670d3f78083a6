// Command ambit-lab runs small clusters of network namespaces on this machine, with or without the mesh on them.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/ambit-mesh/ambit/e2e/lab"
	"github.com/spf13/cobra"
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
		// Advice is in quotation marks, and shall work as it is typed.
		text := strings.ReplaceAll(err.Error(), `"ambit-lab `, `"`+calledAs()+" ")
		fmt.Fprintf(os.Stderr, "%s: %s\n", calledAs(), text)
		if code = 1; isUsage(err) {
			code = exitUsage
		}
	}
	stop()
	os.Exit(code) //nolint:gocritic // stop has run
}

// envCommand says what people typed when another program became this one.
const envCommand = "AMBIT_COMMAND"

// calledAs is what people know this program as.
func calledAs() string { return cmp.Or(os.Getenv(envCommand), "ambit-lab") }

// exitError passes on the exit status of a command run in a pod.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// exitUsage is the exit status of a command line that makes no sense, as ambitctl has it.
const exitUsage = 64

// usageError is about the command line rather than about a lab.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// isUsage also knows the two errors that cobra makes outside of the functions it can be given.
func isUsage(err error) bool {
	var u usageError
	return errors.As(err, &u) || strings.HasPrefix(err.Error(), "unknown command ") || strings.HasPrefix(err.Error(), "required flag(s) ")
}

// asUsage makes wrong flags and arguments of a command, and of those below it, usage errors.
func asUsage(c *cobra.Command) {
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usagef("%s: %w; usage: %s", c.Name(), err, c.UseLine())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		asUsage(sub)
	}
}
