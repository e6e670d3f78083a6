package ctl

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/install/apply"
)

func (a *app) uninstall() *cobra.Command {
	var purge, dry bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "uninstall", Short: "Take a mesh away from a cluster", Args: none,
		Long: `uninstall first lets all pods leave the mesh, while it still carries their traffic: their rules are taken out, none is
restarted. Then goes what runs for waypoints and gateways, then the mesh's own parts.

Users' objects stay: Gateways, policies, labels, and the definitions of their kinds. The authority's key stays as well,
so that a mesh that is installed again has the same identities. --purge deletes definitions and with them all objects of
these kinds, the key, and the namespace. Definitions of the Gateway API are never touched.`,
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
				meshes, err := i.Client.Meshes(ctx)
				if err != nil {
					return err
				}
				if len(meshes) > 0 {
					return fmt.Errorf("no mesh is installed in namespace %s, but in %v: name it with --mesh-namespace", a.namespace, meshes)
				}
				fmt.Fprintf(a.env.Err, "no mesh is recorded in namespace %s: looking for what one may have left\n", a.namespace)
			}
			if err := i.Uninstall(ctx, purge); err != nil {
				return err
			}
			if dry {
				_, err = fmt.Fprintln(a.env.Out, "nothing was changed")
				return err
			}
			_, err = fmt.Fprintf(a.env.Out, "Ambit is gone from %s\n", a.namespace)
			return err
		},
	}
	cmd.Flags().BoolVar(&purge, "purge", false, "delete definitions with all objects of their kinds, the authority's key, and the namespace too")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would be done, and change nothing")
	cmd.Flags().DurationVar(&timeout, "timeout", apply.Patience, "how long it may take")
	return cmd
}
