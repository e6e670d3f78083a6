package ctl

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const upgradePatience = 15 * time.Minute

func (a *app) upgrade() *cobra.Command {
	var v valueFlags
	var dry, force bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "upgrade", Short: "Bring a mesh to the version of this ambitctl", Args: none,
		Long: `upgrade keeps the values that the mesh was installed with, lays those given now over them, and replaces one component after
the other, each only when the one before it runs: definitions, the control plane, the agents, the node proxies. Waypoints
and gateways follow by themselves. Connections that are open stay open while their node proxy is replaced, as long as its
terminationGracePeriodSeconds.

Versions go up by one minor at a time, or down by one.`,
		Example: `  ambitctl upgrade --dry-run
  ambitctl upgrade --set ztunnel.terminationGracePeriodSeconds=600`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i, err := a.installer(dry)
			if err != nil {
				return err
			}
			ctx, cancel := patience(cmd.Context(), timeout)
			defer cancel()
			record, err := i.Client.Record(ctx, a.namespace)
			if err != nil {
				return err
			}
			if record == nil {
				return fmt.Errorf("no mesh is installed in namespace %s: use \"ambitctl install\", or name another with --mesh-namespace", a.namespace)
			}
			if err := step(record.Version, a.env.Version); err != nil && !force {
				return fmt.Errorf("%w; --force does it all the same", err)
			}
			values, err := v.values(cmd.InOrStdin(), record)
			if err != nil {
				return err
			}
			server, err := a.preflight(ctx, i, values, force)
			if err != nil {
				return err
			}
			steps, err := a.steps(values, server)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.env.Err, "from %s to %s\n", record.Version, a.env.Version)
			if err := a.roll(ctx, i, values, steps, true, true); err != nil {
				return fmt.Errorf("%w\nwhat is upgraded works with what is not; run \"ambitctl upgrade\" again, with other values if these were wrong, or the ambitctl of version %s to go back", err, record.Version)
			}
			if dry {
				_, err = fmt.Fprintln(a.env.Out, "nothing was changed")
				return err
			}
			_, err = fmt.Fprintf(a.env.Out, "Ambit in %s is of version %s\n", a.namespace, a.env.Version)
			return err
		},
	}
	v.add(a, cmd)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "let the API server check everything, and change nothing")
	cmd.Flags().BoolVar(&force, "force", false, "skip versions, and go on although something speaks against it")
	cmd.Flags().DurationVar(&timeout, "timeout", upgradePatience, "how long it may take")
	return cmd
}

// step refuses an upgrade over versions that were never tried with each other. Versions between releases say nothing about
// that, and are let through.
func step(from, to string) error {
	f, ok1 := release(from)
	t, ok2 := release(to)
	if !ok1 || !ok2 {
		return nil
	}
	switch {
	case f[0] != t[0]:
		return fmt.Errorf("from %s to %s is another major version: install it beside in a cluster of its own", from, to)
	case t[1] > f[1]+1:
		return fmt.Errorf("from %s to %s skips minor versions: go to %d.%d first", from, to, f[0], f[1]+1)
	case t[1] < f[1]-1:
		return fmt.Errorf("from %s back to %s skips minor versions: go to %d.%d first", from, to, f[0], f[1]-1)
	}
	return nil
}

// release reads v1.2.3, also with something after it.
func release(s string) ([2]int, bool) {
	parts := strings.SplitN(strings.TrimPrefix(s, "v"), ".", 3)
	if len(parts) < 3 {
		return [2]int{}, false
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return [2]int{major, minor}, err1 == nil && err2 == nil
}
