package ctl

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/install/gateway"
	"github.com/ambit-mesh/ambit/install/table"
)

// problems asks a proxy what it could not put into force.
func (i instance) problems(ctx context.Context) ([]gateway.Problem, error) {
	body, err := i.endpoint.Get(ctx, "/problems")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return gateway.ReadProblems(body)
}

func (a *app) pcProblems() *cobra.Command {
	cmd := a.pc("problems", []string{"problem"}, "List what the proxy was told and could not put into force", false, func(ctx context.Context, s gatewaySource, args []string, f format) error {
		i, err := a.instanceFor(ctx, s, args)
		if err != nil {
			return err
		}
		all, err := i.problems(ctx)
		if err != nil {
			return err
		}
		if f.structured() {
			return a.data(f, all)
		}
		if len(all) == 0 {
			_, err := fmt.Fprintln(a.env.Out, "Everything is in force as it was written.")
			return err
		}
		t := &table.Table{Head: []string{"OBJECT", "FOUND BY", "PROBLEM"}}
		for _, p := range all {
			text := p.Text
			if p.Kept {
				text += " (the version before stays in force)"
			}
			t.Add(p.Object(), p.Source, text)
		}
		return a.table(t)
	})
	cmd.Long = `List what the proxy was told and could not put into force as it was written.

"ambitctl config refused" is what the control plane finds wrong with documents. This is what turns out later: an expression
Envoy has no word for, a feature that means nothing on a port of this kind, something Envoy refused.`
	return cmd
}
