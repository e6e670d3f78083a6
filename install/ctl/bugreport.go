package ctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ambit-mesh/ambit/install/bugreport"
	"github.com/ambit-mesh/ambit/install/table"
)

// reportFlags say what a report is to contain.
type reportFlags struct {
	output     string
	namespaces []string
	since      time.Duration
	timeout    time.Duration
	maxFile    int64
	dryRun     bool
}

func (a *app) bugReport() *cobra.Command {
	var f reportFlags
	cmd := &cobra.Command{Use: "bug-report", Short: "Gather what is needed to find out what is wrong, in one file", Args: none,
		Long: `Gather what is needed to find out what is wrong, in one file: versions, objects of the mesh, logs and configuration of all
its parts, Events, and what ambitctl's own commands say about it.

Contents of Secrets, values of environment variables, private keys, tokens and passwords are left out, and of pods that are not
the mesh's own only what the mesh looks at. Look through the file all the same before you hand it on: it names your services.

What cannot be had is named in the file errors.txt inside, and the rest is gathered without it. With -n only objects and
waypoints of those namespaces are in it, besides the mesh's own parts.`,
		Example: `  ambitctl bug-report
  ambitctl bug-report -n shop -n payments --since 2h --output ticket-1234.tar.gz`}
	cmd.Flags().StringVar(&f.output, "output", "", "file to write (default ambit-bug-report-TIME.tar.gz in this folder)")
	cmd.Flags().StringArrayVarP(&f.namespaces, "namespace", "n", nil, "only objects of this namespace; may be repeated (default all)")
	cmd.Flags().DurationVar(&f.since, "since", 0, "how far back logs go (default all that is kept)")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 10*time.Minute, "when to stop gathering")
	cmd.Flags().Int64Var(&f.maxFile, "max-file-mib", 32, "how long a single file may get; of logs the end is kept, of others the start")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "only list what would be gathered")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if f.maxFile < 1 {
			return usagef("--max-file-mib %d: at least 1", f.maxFile)
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
		defer cancel()
		m, err := a.mesh()
		if err != nil {
			return err
		}
		fmt.Fprintf(a.env.Err, "Looking for what there is in %s ...\n", m)
		g := &gatherer{app: a, mesh: m, flags: f, given: a.given(cmd.Root().PersistentFlags())}
		items := g.items(ctx)
		if f.dryRun {
			for _, it := range items {
				fmt.Fprintln(a.env.Out, it.Path)
			}
			return nil
		}
		return a.writeReport(ctx, f, items)
	}
	return cmd
}

// given repeats the flags that say which mesh is meant.
func (a *app) given(flags *pflag.FlagSet) []string {
	var out []string
	flags.Visit(func(f *pflag.Flag) {
		if list, ok := f.Value.(pflag.SliceValue); ok {
			for _, v := range list.GetSlice() {
				out = append(out, "--"+f.Name+"="+v)
			}
			return
		}
		out = append(out, "--"+f.Name+"="+f.Value.String())
	})
	return out
}

// writeReport writes the file beside its place first: half a report must not look like one.
func (a *app) writeReport(ctx context.Context, f reportFlags, items []bugreport.Item) (err error) {
	now := a.env.Now()
	name := "ambit-bug-report-" + now.UTC().Format("20060102-150405")
	if f.output == "" {
		f.output = name + ".tar.gz"
	}
	tmp, err := os.CreateTemp(filepath.Dir(f.output), ".ambit-bug-report-*")
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	defer func() {
		tmp.Close()
		os.Remove(tmp.Name())
	}()
	fancy := table.Wanted(a.env.Err, a.env.Getenv)
	result, err := bugreport.Write(ctx, tmp, items, bugreport.Options{
		Root: name, Now: now, ItemBytes: f.maxFile << 20,
		Progress: func(done, all int, path string) {
			switch {
			case fancy:
				fmt.Fprintf(a.env.Err, "\r\033[K%3d%%  %s", done*100/all, path)
			case done%50 == 0:
				fmt.Fprintf(a.env.Err, "%3d%%  %d of %d files\n", done*100/all, done, all)
			}
		},
	})
	if fancy {
		fmt.Fprint(a.env.Err, "\r\033[K")
	}
	if errors.Is(err, context.DeadlineExceeded) {
		fmt.Fprintf(a.env.Err, "ambitctl: stopped after %s; what was gathered so far is in the report\n", f.timeout)
	} else if err != nil {
		return err
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := os.Rename(tmp.Name(), f.output); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if n := len(result.Failed); n > 0 {
		fmt.Fprintf(a.env.Err, "%s could not be had, or not whole:\n", count(n, "file", "files"))
		for _, text := range result.Failed[:min(n, 10)] {
			fmt.Fprintln(a.env.Err, "  "+text)
		}
		if n > 10 {
			fmt.Fprintf(a.env.Err, "  ... and %d more; %s in the report has all\n", n-10, bugreport.ErrorsFile)
		}
	}
	size := int64(0)
	if st, err := os.Stat(f.output); err == nil {
		size = st.Size()
	}
	fmt.Fprintf(a.env.Out, "%s: %s, %.1f MiB. Secrets are left out; look through it before you hand it on.\n", f.output, count(result.Files, "file", "files"), float64(size)/(1<<20))
	return nil
}

// says is an item with what a command of ambitctl's prints.
func (g *gatherer) says(path string, args ...string) bugreport.Item {
	return bugreport.Item{Path: path, Get: func(ctx context.Context, to io.Writer) error {
		var out, errs bytes.Buffer
		env := g.env
		env.Out, env.Err = &out, &errs
		env.Mesh = g.mesh
		fmt.Fprintf(to, "$ ambitctl %s\n", strings.Join(args, " "))
		code := Execute(ctx, append(slices.Clone(g.given), args...), env)
		_, err := to.Write(append(out.Bytes(), errs.Bytes()...))
		if err == nil && code != exitOK && code != exitIssues {
			err = fmt.Errorf("ambitctl %s: exit code %d: %s", strings.Join(args, " "), code, bytes.TrimSpace(errs.Bytes()))
		}
		return err
	}}
}
