package ctl

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/install/apply"
	"github.com/ambit-mesh/ambit/install/charts"
	"github.com/ambit-mesh/ambit/install/render"
)

func (a *app) manifest() *cobra.Command {
	cmd := parent(&cobra.Command{Use: "manifest", Short: "Print what installing would apply"})
	cmd.AddCommand(a.manifestGenerate())
	return cmd
}

func (a *app) manifestGenerate() *cobra.Command {
	var v valueFlags
	var components []string
	var plain bool
	cmd := &cobra.Command{
		Use: "generate", Short: "Print the objects of a mesh as YAML", Args: none,
		Long: `generate prints all objects of a mesh in the order in which they are to be applied. It asks no cluster. They are those
that Helm renders from the charts, after the mesh's namespace.`,
		Example: `  ambitctl manifest generate --profile minimal > ambit.yaml
  kubectl apply --server-side -f ambit.yaml
  ambitctl manifest generate --component ztunnel --set global.tag=1.2.0 | kubectl diff -f -`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			values, err := v.values(cmd.InOrStdin(), nil)
			if err != nil {
				return err
			}
			for _, c := range components {
				if !slices.Contains(charts.Names(), c) {
					return usagef("there is no component %q: use %s", c, strings.Join(charts.Names(), ", "))
				}
			}
			steps, err := a.steps(values, apply.Version{})
			if err != nil {
				return err
			}
			var objects []render.Object
			if len(components) == 0 && !plain {
				objects = append(objects, render.Namespace(values, a.namespace))
			}
			for _, s := range steps {
				if len(components) == 0 || slices.Contains(components, s.Component) {
					objects = append(objects, s.Objects...)
				}
			}
			text, err := render.YAML(objects)
			if err != nil {
				return err
			}
			_, err = a.env.Out.Write(text)
			if err != nil {
				return fmt.Errorf("write: %w", err)
			}
			return nil
		},
	}
	v.add(a, cmd)
	cmd.Flags().StringSliceVar(&components, "component", nil, "only these: "+strings.Join(charts.Names(), ", "))
	cmd.Flags().BoolVar(&plain, "no-namespace", false, "leave the namespace out")
	a.complete(cmd, "component", func(*app) []string { return charts.Names() })
	return cmd
}
