// Package ctl is the ambitctl command line: a tree of commands that ask the mesh's daemons and print what they say.
//
// It knows flags, exit codes and columns. It does not know the daemons' insides: what it shows comes over their admin
// endpoints, or from files. Nothing runs beyond Execute. Start reading at Execute, then ztunnel.go.
package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ambit-mesh/ambit/install/apply"
	"github.com/ambit-mesh/ambit/install/cluster"
	"github.com/ambit-mesh/ambit/install/dump"
	"github.com/ambit-mesh/ambit/install/table"
)

// Env is what the command line touches of its process.
type Env struct {
	In       io.Reader
	Out, Err io.Writer
	Getenv   func(string) string
	Now      func() time.Time
	// SelfDir is the folder of the ambitctl binary: other commands of the mesh lie beside it.
	SelfDir string
	// Exec replaces the process; it returns only when that fails.
	Exec func(path string, argv, env []string) error
	// Environ is the environment for what Exec starts.
	Environ []string
	// Version of ambitctl.
	Version string
	// Cluster keeps the mesh's objects, and Mesh is the mesh; nil means the one that is asked for.
	Cluster cluster.Cluster
	Mesh    cluster.Mesh
}

// Exit codes. Istio ambient wire contract, istioctl.
const (
	exitOK     = 0
	exitError  = 1
	exitUsage  = 64
	exitData   = 65
	exitIssues = 79
)

var (
	// errUsage marks a command line that cannot be understood.
	errUsage = errors.New("wrong usage")
	// errData marks input that is not what it should be.
	errData = errors.New("not an answer")
	// errIssues marks a question that was answered, with things to mend in the answer.
	errIssues = errors.New("issues were found")
)

func usagef(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errUsage}, args...)...)
}

// Execute runs one command line and returns the exit code.
func Execute(ctx context.Context, args []string, env Env) int {
	a := &app{env: env}
	defer a.close()
	root := a.root()
	root.SetArgs(args)
	root.SetOut(env.Out)
	root.SetErr(env.Err)
	// It remembers where to write, and would show its help for a shell that it does not know.
	root.InitDefaultCompletionCmd()
	if c, _, err := root.Find([]string{"completion"}); err == nil {
		parent(c)
	}
	cmd, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errIssues):
		return exitIssues
	}
	fmt.Fprintf(env.Err, "ambitctl: %s\n", strings.TrimPrefix(err.Error(), errUsage.Error()+": "))
	switch {
	case errors.Is(err, errUsage), strings.HasPrefix(err.Error(), "unknown command"):
		fmt.Fprintf(env.Err, "run %q for help\n", cmd.CommandPath()+" --help")
		return exitUsage
	case errors.Is(err, dump.ErrFormat), errors.Is(err, errData):
		return exitData
	}
	return exitError
}

// app holds what all commands share.
type app struct {
	env Env
	// lab, flags and namespace say which mesh is meant, and where its own parts run.
	lab       string
	flags     apply.Flags
	kubectl   *pflag.FlagSet
	namespace string
	// found is the mesh that is meant, and rival the context of another that may have been; see choose.
	found cluster.Mesh
	rival string
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "ambitctl",
		Short: "Look into an Ambit mesh",
		Long: `ambitctl looks into an Ambit mesh, on Kubernetes or in a lab on this machine: what each node proxy knows and does,
what the control plane refused of its configuration, and who is connected.

` + whichMesh + `

Any program called ambitctl-NAME or ambit-NAME, beside ambitctl or on PATH, runs as "ambitctl NAME".`,
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return a.plugin(args[0], args[1:])
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = false
	root.Flags().SetInterspersed(false) // flags after a plugin's name are the plugin's
	a.meshFlags(root)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errUsage, err) })
	root.AddGroup(&cobra.Group{ID: "set", Title: "Install:"}, &cobra.Group{ID: "look", Title: "Look:"}, &cobra.Group{ID: "run", Title: "Run:"})
	for _, c := range []*cobra.Command{a.check(), a.install(), a.status(), a.upgrade(), a.uninstall(), a.manifest()} {
		c.GroupID = "set"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{a.analyze(), a.explain(), a.enrolment(), a.ztunnelConfig(), a.proxyConfig(), a.config(), a.ca(), a.proxyStatus(), a.dashboard(), a.bugReport(), a.version()} {
		c.GroupID = "look"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{a.waypoint(), a.labCommand()} {
		c.GroupID = "run"
		root.AddCommand(c)
	}
	return root
}

// complete offers values for a flag.
func (a *app) complete(cmd *cobra.Command, flag string, values func(a *app) []string) {
	// The only error is a flag that does not exist, which the first test run shows.
	_ = cmd.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values(a), cobra.ShellCompDirectiveNoFileComp
	})
}

// none and one check positional arguments, as a matter of usage.
func none(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no argument, got %q", cmd.CommandPath(), args[0])
	}
	return nil
}

func atMostOne(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("%s takes one argument at most, got %d", cmd.CommandPath(), len(args))
	}
	return nil
}

// parent makes a command that only holds others: an unknown one is an error, none shows help.
func parent(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		text := ""
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			text = "; did you mean " + strings.Join(near, " or ") + "?"
		}
		return usagef("unknown command %q for %q%s", args[0], cmd.CommandPath(), text)
	}
	cmd.SuggestionsMinimumDistance = 2
	return cmd
}

// paint colours what needs attention, if the output is a terminal.
func (a *app) paint() func(column, cell string) string {
	if !table.Wanted(a.env.Out, a.env.Getenv) {
		return nil
	}
	return func(_, cell string) string {
		word, _, _ := strings.Cut(cell, ":")
		switch word {
		case "refused", "Unavailable", "NACKED", "false":
			return table.Red.Wrap(cell)
		case "warning", "Initializing", "STALE", "Expired":
			return table.Yellow.Wrap(cell)
		case "Available", "SYNCED", "true":
			return table.Green.Wrap(cell)
		}
		return cell
	}
}
