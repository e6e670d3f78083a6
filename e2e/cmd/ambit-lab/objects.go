package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab"
	"github.com/ambit-mesh/ambit/e2e/lab/resource"
	"github.com/ambit-mesh/ambit/e2e/lab/wire"
	"github.com/ambit-mesh/ambit/e2e/mesh"
	"github.com/spf13/cobra"
)

func (a *app) apply() *cobra.Command {
	var files []string
	var wait bool
	c := &cobra.Command{
		Use: "apply -f FILE", Short: "Apply Kubernetes YAML from files, folders or standard input (-)", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := a.open()
			if err != nil {
				return err
			}
			return a.applyFiles(cmd.Context(), l, files, a.namespace, wait)
		},
	}
	c.Flags().StringSliceVarP(&files, "file", "f", nil, "file, folder, or - for standard input")
	c.Flags().BoolVar(&wait, "wait", false, "wait until all pods are ready")
	_ = c.MarkFlagRequired("file")
	return a.namespaced(c)
}

func (a *app) applyFiles(ctx context.Context, l *lab.Lab, paths []string, namespace string, wait bool) error {
	var applied []wire.Result
	err := eachFile(paths, func(name string, data []byte) error {
		results, err := l.Apply(ctx, data, namespace)
		printResults(results)
		applied = append(applied, results...)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	err = errors.Join(err, objections(ctx, l, applied))
	if err != nil || !wait {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return l.Settled(ctx, "", "", "", newProgress().waiting)
}

// objections tells what the control plane has against what was applied; refusals are an error.
func objections(ctx context.Context, l *lab.Lab, applied []wire.Result) error {
	list, err := mesh.Objections(ctx, l, applied)
	if err != nil {
		// What was applied is stored all the same, and is read when the control plane is back.
		fmt.Fprintf(os.Stderr, "warning: what was applied is stored, but the control plane did not say whether it takes it; see \"ambit-lab status\", later \"ambitctl config refused\": %v\n", err)
		return nil
	}
	var errs []error
	for _, r := range list {
		if r.Refused() {
			errs = append(errs, fmt.Errorf("the control plane refuses %s", r))
		} else {
			fmt.Fprintf(os.Stderr, "warning: %s\n", r)
		}
	}
	return errors.Join(errs...)
}

func printResults(results []wire.Result) {
	for _, r := range results {
		if r.Error == "" {
			k := resource.Key{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}
			fmt.Printf("%s %s\n", k, r.Action)
		}
	}
}

// eachFile reads YAML files in the order of their names. Later files are read even if an earlier one is refused.
func eachFile(paths []string, fn func(name string, data []byte) error) error {
	var errs []error
	for _, path := range paths {
		if path == "-" {
			data, err := io.ReadAll(os.Stdin)
			if err != nil {
				return fmt.Errorf("read standard input: %w", err)
			}
			errs = append(errs, fn("standard input", data))
			continue
		}
		err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			ext := filepath.Ext(name)
			if d.IsDir() || name != path && !slices.Contains([]string{".yaml", ".yml", ".json"}, ext) {
				return nil
			}
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			errs = append(errs, fn(name, data))
			return nil
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("read YAML: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (a *app) remove() *cobra.Command {
	var files []string
	grace := -1
	c := &cobra.Command{
		Use: "delete (-f FILE | KIND NAME)", Short: "Delete objects; pods end gracefully", Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.open()
			if err != nil {
				return err
			}
			if len(files) > 0 {
				return eachFile(files, func(name string, data []byte) error {
					results, err := l.Delete(cmd.Context(), data, a.namespace)
					printResults(results)
					if err != nil {
						return fmt.Errorf("%s: %w", name, err)
					}
					return nil
				})
			}
			if len(args) != 2 {
				return usagef("say what to delete: -f FILE, or a kind and a name")
			}
			if err := l.DeleteObject(cmd.Context(), args[0], a.namespace, args[1], grace); err != nil {
				return err
			}
			if resource.IsKind(args[0], "Namespace") {
				if err := gone(cmd.Context(), l, args[1]); err != nil {
					return err
				}
			}
			fmt.Printf("%s %s deleted\n", args[0], args[1])
			return nil
		},
	}
	c.Flags().StringSliceVarP(&files, "file", "f", nil, "file, folder, or - for standard input")
	c.Flags().IntVar(&grace, "grace-period", -1, "seconds a pod has to end; -1 means its own number")
	return a.namespaced(c)
}

// gone waits until a namespace has ended with everything in it.
func gone(ctx context.Context, l *lab.Lab, namespace string) error {
	p := newProgress()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for last := -1; ; {
		list, err := l.Get(ctx, "Namespace", "", namespace)
		if err != nil || len(list) == 0 {
			return err
		}
		pods, err := l.Get(ctx, "Pod", namespace, "")
		if err != nil {
			return err
		}
		if len(pods) != last && len(pods) > 0 {
			last = len(pods)
			p.waiting(fmt.Sprintf("%d pods of namespace %s are ending", last, namespace))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("namespace %s is still ending: %w", namespace, ctx.Err())
		}
	}
}

func (a *app) label() *cobra.Command {
	c := &cobra.Command{
		Use: "label KIND NAME KEY=VALUE… KEY-…", Short: "Set labels, and remove those with a dash at the end", Args: cobra.MinimumNArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.open()
			if err != nil {
				return err
			}
			set := map[string]string{}
			var remove []string
			for _, arg := range args[2:] {
				if k, v, ok := strings.Cut(arg, "="); ok {
					set[k] = v
				} else if k, ok := strings.CutSuffix(arg, "-"); ok {
					remove = append(remove, k)
				} else {
					return usagef("%q: KEY=VALUE sets a label, KEY- removes it", arg)
				}
			}
			o, err := a.one(cmd.Context(), l, args[0], args[1])
			if err != nil {
				return err
			}
			if err := l.Label(cmd.Context(), o.Kind(), o.Namespace(), o.Name(), set, remove...); err != nil {
				return err
			}
			fmt.Printf("%s labelled\n", o.Key())
			return objections(cmd.Context(), l, []wire.Result{{Kind: o.Kind(), Namespace: o.Namespace(), Name: o.Name()}})
		},
	}
	// kubectl wants to be told; fingers that know it need not unlearn it.
	c.Flags().Bool("overwrite", true, "accepted as kubectl's; labels are always replaced")
	return a.namespaced(c)
}

// one finds the one object that a kind and a name mean.
func (a *app) one(ctx context.Context, l *lab.Lab, kind, name string) (resource.Object, error) {
	if k, n, ok := strings.Cut(name, "/"); ok && kind == "" {
		kind, name = k, n
	}
	list, err := l.Get(ctx, kind, a.namespace, name)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("there is no %s %q in namespace %q", kind, name, a.namespace)
	}
	return list[0], nil
}

func (a *app) scale() *cobra.Command {
	c := &cobra.Command{
		Use: "scale KIND NAME REPLICAS", Short: "Change the number of replicas", Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.open()
			if err != nil {
				return err
			}
			n, err := strconv.Atoi(args[2])
			if err != nil {
				return usagef("replicas: %q is not a number", args[2])
			}
			o, err := a.one(cmd.Context(), l, args[0], args[1])
			if err != nil {
				return err
			}
			if err := l.Scale(cmd.Context(), o.Kind(), o.Namespace(), o.Name(), n); err != nil {
				return err
			}
			fmt.Printf("%s scaled to %d\n", o.Key(), n)
			return nil
		},
	}
	return a.namespaced(c)
}

func (a *app) rollout() *cobra.Command {
	c := &cobra.Command{
		Use: "rollout", Short: "Replace pods or node proxies, or wait until that is done",
		Example: "  ambit-lab rollout restart deployment web\n  ambit-lab rollout restart ztunnel node1",
	}
	sub := func(use, short string, fn func(context.Context, *lab.Lab, resource.Object) error) *cobra.Command {
		return a.namespaced(&cobra.Command{Use: use + " KIND NAME", Short: short, Args: cobra.ExactArgs(2),
			RunE: func(cmd *cobra.Command, args []string) error {
				l, err := a.open()
				if err != nil {
					return err
				}
				if args[0] == "ztunnel" && use == "restart" {
					return rollZtunnel(cmd.Context(), l, args[1])
				}
				o, err := a.one(cmd.Context(), l, args[0], args[1])
				if err != nil {
					return err
				}
				return fn(cmd.Context(), l, o)
			}})
	}
	status := func(ctx context.Context, l *lab.Lab, o resource.Object) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		if err := l.Settled(ctx, o.Kind(), o.Namespace(), o.Name(), newProgress().waiting); err != nil {
			return err
		}
		fmt.Printf("%s is complete\n", o.Key())
		return nil
	}
	c.AddCommand(
		sub("restart", "Replace all pods, one safe step at a time", func(ctx context.Context, l *lab.Lab, o resource.Object) error {
			if err := l.Restart(ctx, o.Kind(), o.Namespace(), o.Name()); err != nil {
				return err
			}
			return status(ctx, l, o)
		}),
		sub("status", "Wait until all pods are of the current template and ready", status),
	)
	return c
}

func (a *app) wait() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use: "wait", Args: cobra.NoArgs,
		Short: "Wait until daemons and pods are ready, pods are in the mesh or out of it as labelled, and policies in force",
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := a.open()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			p := newProgress()
			whole, control, err := intact(ctx, l)
			if err != nil {
				return err
			}
			if err := l.DaemonsReady(ctx, p.waiting, whole...); err != nil {
				return err
			}
			if err := l.Settled(ctx, "", "", "", p.waiting); err != nil {
				return err
			}
			if err := l.Enrolled(ctx, p.waiting); err != nil || !control {
				return err
			}
			return mesh.Synced(ctx, l, p.waiting)
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "give up after this long")
	return c
}

// intact lists the daemons that are not broken on purpose, which it would be vain to wait for, and says whether the
// control plane is among them.
func intact(ctx context.Context, l *lab.Lab) (names []string, control bool, err error) {
	st, err := l.Status(ctx)
	if err != nil {
		return nil, false, err
	}
	for _, d := range st.Daemons {
		broken := slices.ContainsFunc(st.Faults, func(f lab.Fault) bool {
			return (f.Kind == d.Kind || f.Kind == "node") && (f.Host == d.Host || f.Host == "")
		})
		if !broken {
			names = append(names, d.Name)
			control = control || d.Kind == "control"
		}
	}
	return names, control, nil
}
