package ctl

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/install/gateway"
	"github.com/ambit-mesh/ambit/install/table"
)

// pcStats prints what Envoy counts.
func (a *app) pcStats() *cobra.Command {
	var kind, filter string
	cmd := a.pc("envoy-stats", []string{"es"}, "Print what Envoy and the agent beside it count", false, func(ctx context.Context, s gatewaySource, args []string, f format) error {
		path := map[string]string{"prometheus": "/stats/prometheus", "envoy": "/stats"}[kind]
		if path == "" {
			return usagef("--type %q: prometheus or envoy", kind)
		}
		if f.structured() && kind == "prometheus" {
			return usagef("-o %s is for --type envoy", f)
		}
		i, err := a.instanceFor(ctx, s, args)
		if err != nil {
			return err
		}
		if f.structured() {
			path += "?format=json"
		}
		body, err := i.endpoint.Get(ctx, path)
		if err != nil {
			return err
		}
		defer body.Close()
		if f.structured() {
			return a.copyJSON(f, body)
		}
		text, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, filter) {
				fmt.Fprint(a.env.Out, line)
			}
		}
		return nil
	})
	cmd.Flags().StringVar(&kind, "type", "prometheus", "prometheus, as scraped, or envoy, by Envoy's own names")
	cmd.Flags().StringVar(&filter, "filter", "", "only lines that contain this")
	return cmd
}

// pcRootCompare compares the roots that two proxies verify their peers with.
func (a *app) pcRootCompare() *cobra.Command {
	return &cobra.Command{Use: "rootca-compare GATEWAY|POD GATEWAY|POD", Aliases: []string{"rc"}, Short: "Compare the roots that two waypoints or gateways trust", Args: func(_ *cobra.Command, args []string) error {
		if len(args) != 2 {
			return usagef("name two waypoints, gateways, or pods of theirs")
		}
		return nil
	}, RunE: func(cmd *cobra.Command, args []string) error {
		var roots [2][]gateway.Secret
		t := &table.Table{Head: []string{"PROXY", "ROOT", "NOT AFTER"}}
		for i, name := range args {
			d, err := a.dump(cmd.Context(), gatewaySource{}, []string{name})
			if err != nil {
				return err
			}
			for _, c := range d.Secrets(a.env.Now()) {
				if c.Type == "CA" {
					roots[i] = append(roots[i], c)
					t.Add(name, c.Serial, c.NotAfter.UTC().Format("2006-01-02T15:04:05Z"))
				}
			}
		}
		if err := a.table(t); err != nil {
			return err
		}
		for _, one := range roots[0] {
			for _, other := range roots[1] {
				// Serial numbers alone are an issuer's own, and may be 1.
				if one.Serial == other.Serial && one.NotBefore.Equal(other.NotBefore) && one.NotAfter.Equal(other.NotAfter) {
					fmt.Fprintf(a.env.Out, "Both trust root %s: they can speak to each other.\n", one.Serial)
					return nil
				}
			}
		}
		fmt.Fprintln(a.env.Out, "They have no root in common: neither accepts the other's certificate.")
		return errIssues
	}}
}
