package ctl

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/install/table"
)

// format is the value of -o.
type format string

var formats = []string{"table", "short", "json", "yaml"}

// String, Set and Type implement pflag.Value.
func (f *format) String() string { return string(*f) }

// Set refuses what cannot be printed.
func (f *format) Set(s string) error {
	if !slices.Contains(formats, s) {
		return fmt.Errorf("want one of %s", strings.Join(formats, ", "))
	}
	*f = format(s)
	return nil
}

// Type names the value in help.
func (f *format) Type() string { return "format" }

func (a *app) outputFlag(cmd *cobra.Command, f *format) {
	*f = "table"
	cmd.Flags().VarP(f, "output", "o", "table, short (the same), json or yaml")
	a.complete(cmd, "output", func(*app) []string { return formats })
}

// structured reports whether f wants data rather than a table.
func (f format) structured() bool { return f == "json" || f == "yaml" }

// data prints v as JSON or YAML.
func (a *app) data(f format, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	text = append(text, '\n')
	if f == "yaml" {
		if text, err = yaml.JSONToYAML(text); err != nil {
			return fmt.Errorf("encode the answer: %w", err)
		}
	}
	_, err = a.env.Out.Write(text)
	return err
}

func (a *app) table(t *table.Table) error { return t.Write(a.env.Out, a.paint()) }
