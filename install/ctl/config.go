package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/install/admin"
	"github.com/ambit-mesh/ambit/install/cluster"
	"github.com/ambit-mesh/ambit/install/table"
)

// controlSource says which control plane is asked.
type controlSource struct {
	file    string
	address string
}

func (a *app) controlFlags(cmd *cobra.Command, s *controlSource) {
	cmd.Flags().StringVar(&s.address, "control-address", "", "the control plane's admin endpoint itself: host:port or unix:PATH")
	cmd.Flags().StringVarP(&s.file, "file", "f", "", "a saved answer to read instead of asking")
}

// ask decodes the control plane's answer at path into to.
func (a *app) ask(cmd *cobra.Command, s controlSource, path string, to any) error {
	var in io.ReadCloser
	var err error
	what := s.file
	if s.file != "" {
		in, err = os.Open(s.file)
	} else {
		var list []admin.Endpoint
		if list, err = a.control(cmd.Context(), s); err != nil {
			return err
		}
		// All replicas know the same; the first that answers tells it.
		var errs []error
		for _, e := range list {
			what = e.What
			if in, err = e.Get(cmd.Context(), path); err == nil {
				break
			}
			errs = append(errs, err)
		}
		if in == nil {
			return errors.Join(errs...)
		}
	}
	if err != nil {
		return err
	}
	defer in.Close()
	return decode(in, what, path, to)
}

// control lists the control plane's replicas, those that are ready first.
func (a *app) control(ctx context.Context, s controlSource) ([]admin.Endpoint, error) {
	if s.address != "" {
		return []admin.Endpoint{{What: "control plane", Address: s.address}}, nil
	}
	list, err := a.parts(ctx, cluster.Control)
	if err != nil {
		return nil, err
	}
	var out []admin.Endpoint
	for _, p := range list {
		out = append(out, p.Endpoint)
	}
	return out, nil
}

// each hands on the answers of all replicas. One that does not answer is only told about, unless it is all of them.
func each[T any](a *app, ctx context.Context, s controlSource, path string, to func(T)) error {
	replicas, err := a.control(ctx, s)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range replicas {
		var one T
		if err := askJSON(ctx, e, path, nil, &one); err != nil {
			errs = append(errs, err)
			continue
		}
		to(one)
	}
	if len(errs) == len(replicas) {
		return errors.Join(errs...)
	}
	for _, err := range errs {
		fmt.Fprintf(a.env.Err, "ambitctl: %v\n", err)
	}
	return nil
}

func decode(in io.Reader, what, path string, to any) error {
	if err := json.NewDecoder(in).Decode(to); err != nil {
		return fmt.Errorf("%s: %w to %s: %w", what, errData, path, err)
	}
	return nil
}

func (a *app) config() *cobra.Command {
	cmd := parent(&cobra.Command{Use: "config", Short: "Show what the control plane makes of the configuration"})
	cmd.AddCommand(a.configRefused(), a.configStatus())
	return cmd
}

// refusals is the control plane's answer about what is wrong.
type refusals struct {
	Entries []refusal      `json:"entries"`
	Objects []objectReport `json:"objects,omitempty"`
	// Settings are what the control plane was started with.
	Settings struct {
		TrustDomain, ClusterID, ClusterDomain, RootNamespace string
		NetworkPolicies, DryRunPolicies                      bool
		Revisions                                            []string
		ServiceEntryVisibility                               string
	} `json:"settings"`
}

type refusal struct {
	Severity  string `json:"severity"`
	Code      string `json:"code,omitempty"`
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"`
	Kind      string `json:"kind,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	Field     string `json:"field,omitempty"`
	Problem   string `json:"problem"`
	Fix       string `json:"fix,omitempty"`
	Kept      bool   `json:"kept,omitempty"`
	Since     string `json:"since,omitempty"`
}

type objectReport struct {
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	Conditions []struct {
		Type    string `json:"type"`
		Status  bool   `json:"status"`
		Reason  string `json:"reason"`
		Message string `json:"message"`
	} `json:"conditions,omitempty"`
}

// refusals asks every replica of the control plane: about documents all say the same, about proxies each knows its own.
func (a *app) refusals(cmd *cobra.Command, s controlSource) (all refusals, err error) {
	if s.file != "" {
		err = a.ask(cmd, s, "/debug/refusals", &all)
		return all, err
	}
	err = each(a, cmd.Context(), s, "/debug/refusals", func(one refusals) {
		all.Settings = one.Settings
		if len(one.Objects) > len(all.Objects) {
			all.Objects = one.Objects
		}
		for _, e := range one.Entries {
			if !slices.ContainsFunc(all.Entries, e.same) {
				all.Entries = append(all.Entries, e)
			}
		}
	})
	return all, err
}

// same reports whether two replicas say the same; each saw it at a time of its own.
func (e refusal) same(o refusal) bool {
	e.Since, o.Since = "", ""
	return e == o
}

func (a *app) configRefused() *cobra.Command {
	var s controlSource
	var f format
	var namespace string
	var fail bool
	cmd := &cobra.Command{Use: "refused", Short: "List what was refused of the configuration, and why", Args: none,
		Long: `List what was refused of the configuration and what is in force but probably does not do what its author meant: file, line,
object, field, what is wrong, and how to mend it. A refused document is left out alone; where an earlier good version of an
object was seen, that one stays in force. What waypoints and gateways cannot carry out is listed, too.`}
	a.controlFlags(cmd, &s)
	a.outputFlag(cmd, &f)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "only objects of this namespace (default all)")
	allFlag(cmd, &namespace)
	cmd.Flags().BoolVar(&fail, "fail", false, "exit with code 79 when something is refused")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all, err := a.refusals(cmd, s)
		if err != nil {
			return err
		}
		if s == (controlSource{}) {
			all.Entries = append(all.Entries, a.proxyProblems(cmd.Context())...)
		}
		entries, refused := []refusal{}, 0
		for _, e := range all.Entries {
			if namespace != "" && e.Namespace != namespace {
				continue
			}
			entries = append(entries, e)
			if e.Severity == "refused" {
				refused++
			}
		}
		if f.structured() {
			if err := a.data(f, entries); err != nil {
				return err
			}
		} else {
			a.printRefusals(entries)
		}
		if fail && refused > 0 {
			return errIssues
		}
		return nil
	}
	return cmd
}

// printRefusals writes each entry as a compiler would: where, what, how to mend it. Columns would bury the sentences.
func (a *app) printRefusals(entries []refusal) {
	if len(entries) == 0 {
		fmt.Fprintln(a.env.Out, "Nothing is refused.")
		return
	}
	paint := a.paint()
	for _, e := range entries {
		severity := e.Severity
		if paint != nil {
			severity = paint("", severity)
		}
		if e.Code != "" {
			severity += " [" + e.Code + "]"
		}
		fmt.Fprintf(a.env.Out, "%s: %s\n", severity, strings.Join(e.where(), ": "))
		fmt.Fprintf(a.env.Out, "  %s\n", e.Problem)
		if e.Fix != "" {
			fmt.Fprintf(a.env.Out, "  fix: %s\n", e.Fix)
		}
		if e.Kept {
			fmt.Fprintln(a.env.Out, "  the earlier version stays in force")
		}
	}
}

// where lists what is known of the place: file and line, object, field.
func (e refusal) where() []string {
	var parts []string
	if e.File != "" {
		if e.Line > 0 {
			parts = append(parts, fmt.Sprintf("%s:%d", e.File, e.Line))
		} else {
			parts = append(parts, e.File)
		}
	}
	name := e.Name
	if e.Namespace != "" && name != "" {
		name = e.Namespace + "/" + name
	}
	if object := strings.TrimSpace(e.Kind + " " + name); object != "" {
		parts = append(parts, object)
	}
	if e.Field != "" {
		parts = append(parts, e.Field)
	}
	if len(parts) == 0 {
		return []string{"configuration"}
	}
	return parts
}

func (a *app) configStatus() *cobra.Command {
	var s controlSource
	var f format
	var namespace string
	cmd := &cobra.Command{Use: "status", Short: "List the conditions the control plane gives to objects", Args: none}
	a.controlFlags(cmd, &s)
	a.outputFlag(cmd, &f)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "only objects of this namespace (default all)")
	allFlag(cmd, &namespace)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all, err := a.refusals(cmd, s)
		if err != nil {
			return err
		}
		objects := []objectReport{}
		t := &table.Table{Head: []string{"KIND", "NAMESPACE", "NAME", "CONDITION", "STATUS", "REASON", "MESSAGE"}}
		for _, o := range all.Objects {
			if namespace != "" && o.Namespace != namespace {
				continue
			}
			objects = append(objects, o)
			for _, c := range o.Conditions {
				t.Add(o.Kind, o.Namespace, o.Name, c.Type, fmt.Sprint(c.Status), c.Reason, c.Message)
			}
		}
		if f.structured() {
			return a.data(f, objects)
		}
		if len(t.Rows) == 0 {
			fmt.Fprintln(a.env.Out, "No object has a condition.")
			return nil
		}
		return a.table(t)
	}
	return cmd
}
