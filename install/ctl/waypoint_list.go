package ctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/install/cluster"
	"github.com/ambit-mesh/ambit/install/table"
)

// scope is which waypoints a command is about.
type scope struct {
	namespace string
	all       bool
}

func (s *scope) add(cmd *cobra.Command) {
	namespaceFlag(cmd, &s.namespace)
	cmd.Flags().BoolVarP(&s.all, "all-namespaces", "A", false, "all namespaces")
}

func (s scope) in() string {
	if s.all {
		return ""
	}
	return s.namespace
}

// waypoints lists the waypoints of a namespace, or of all.
func waypoints(ctx context.Context, c cluster.Cluster, namespace string) ([]cluster.Object, error) {
	all, err := c.List(ctx, kindGateway, namespace)
	if err != nil {
		return nil, err
	}
	var list []cluster.Object
	for _, g := range all {
		if isWaypoint(g) {
			list = append(list, g)
		}
	}
	return list, nil
}

// columns puts the namespace first when there are several.
func (s scope) columns(names ...string) []string {
	if s.all {
		return append([]string{"NAMESPACE"}, names...)
	}
	return names
}

func (s scope) row(g cluster.Object, cells ...string) []string {
	if s.all {
		return append([]string{g.Namespace()}, cells...)
	}
	return cells
}

func (a *app) waypointList() *cobra.Command {
	var s scope
	var f format
	cmd := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List waypoints", Args: none}
	s.add(cmd)
	a.outputFlag(cmd, &f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.cluster()
		if err != nil {
			return err
		}
		s.namespace = a.inNamespace(s.namespace)
		list, err := waypoints(cmd.Context(), c, s.in())
		if err != nil {
			return err
		}
		if f.structured() {
			return a.data(f, orEmpty(list))
		}
		if len(list) == 0 {
			fmt.Fprintln(a.env.Out, "No waypoints found.")
			return nil
		}
		t := &table.Table{Head: s.columns("NAME", "REVISION", "TRAFFIC TYPE", "PROGRAMMED")}
		for _, g := range list {
			revision, _ := g.Label(mesh.LabelRevision)
			traffic, _ := g.Label(mesh.LabelWaypointFor)
			state := "Unknown"
			if p, current := condition(g, "Programmed"); current {
				state = p.Text("status")
			}
			t.Add(s.row(g, g.Name(), cmp.Or(revision, mesh.DefaultRevision), cmp.Or(traffic, "service"), state)...)
		}
		return a.table(t)
	}
	return cmd
}

func orEmpty(list []cluster.Object) []cluster.Object {
	if list == nil {
		return []cluster.Object{}
	}
	return list
}

func (a *app) waypointStatus() *cobra.Command {
	var s scope
	var f format
	var wait bool
	var patience time.Duration
	cmd := &cobra.Command{Use: "status", Short: "Show how waypoints are, once they are ready", Args: none}
	s.add(cmd)
	a.outputFlag(cmd, &f)
	cmd.Flags().BoolVarP(&wait, "wait", "w", true, "wait until the waypoints are ready")
	cmd.Flags().DurationVar(&patience, "waypoint-timeout", waypointPatience, "how long to wait")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.cluster()
		if err != nil {
			return err
		}
		s.namespace = a.inNamespace(s.namespace)
		var late error
		if wait {
			late = a.awaitWaypoints(cmd.Context(), c, s.in(), nil, patience)
		}
		list, err := waypoints(cmd.Context(), c, s.in())
		if err != nil {
			return errors.Join(late, err)
		}
		if f.structured() {
			return errors.Join(late, a.data(f, orEmpty(list)))
		}
		if len(list) == 0 {
			fmt.Fprintln(a.env.Out, "No waypoints found.")
			return late
		}
		t := &table.Table{Head: s.columns("NAME", "STATUS", "TYPE", "REASON", "MESSAGE")}
		for _, g := range list {
			conditions := g.Items("status", "conditions")
			if len(conditions) == 0 {
				t.Add(s.row(g, g.Name(), "Unknown", "-", "-", "the control plane has not looked at it yet")...)
			}
			for _, c := range conditions {
				t.Add(s.row(g, g.Name(), c.Text("status"), c.Text("type"), c.Text("reason"), c.Text("message"))...)
			}
		}
		return errors.Join(late, a.table(t))
	}
	return cmd
}

func (a *app) waypointDelete() *cobra.Command {
	var namespace, revision, name string
	var all bool
	cmd := &cobra.Command{
		Use: "delete [NAME]...", Short: "Delete waypoints", Example: `  ambitctl waypoint delete -n bookinfo waypoint
  ambitctl waypoint delete -n bookinfo --all`,
	}
	namespaceFlag(cmd, &namespace)
	cmd.Flags().BoolVar(&all, "all", false, "all waypoints of the namespace")
	cmd.Flags().StringVarP(&revision, "revision", "r", "", "with --all, only those of this revision")
	cmd.Flags().StringVar(&name, "name", "", "name of the waypoint (default \"waypoint\")")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if all && (len(args) > 0 || name != "") {
			return usagef("--all means every waypoint: leave out names")
		}
		if revision != "" && !all {
			return usagef("--revision narrows --all: say --all, or leave it out")
		}
		if len(args) == 0 {
			args = []string{cmp.Or(name, defaultWaypoint)}
		}
		c, err := a.clusterToChange()
		if err != nil {
			return err
		}
		namespace = a.inNamespace(namespace)
		ctx := cmd.Context()
		list, err := waypoints(ctx, c, namespace)
		if err != nil {
			return err
		}
		if all {
			args = nil
			for _, g := range list {
				if rev, _ := g.Label(mesh.LabelRevision); revision == "" || rev == revision {
					args = append(args, g.Name())
				}
			}
			if len(args) == 0 {
				fmt.Fprintln(a.env.Out, "No waypoints found.")
				return nil
			}
		}
		var errs []error
		for _, n := range args {
			errs = append(errs, a.deleteWaypoint(ctx, c, list, namespace, n))
		}
		return errors.Join(errs...)
	}
	return cmd
}

func (a *app) deleteWaypoint(ctx context.Context, c cluster.Cluster, list []cluster.Object, namespace, name string) error {
	known := false
	for _, g := range list {
		known = known || g.Name() == name
	}
	if !known {
		return fmt.Errorf("there is no waypoint %s/%s", namespace, name)
	}
	if err := c.Delete(ctx, kindGateway, namespace, name); err != nil && !errors.Is(err, cluster.ErrNotFound) {
		return fmt.Errorf("delete waypoint %s/%s: %w", namespace, name, err)
	}
	fmt.Fprintf(a.env.Out, "waypoint %s/%s deleted\n", namespace, name)
	ns, err := c.Get(ctx, "Namespace", "", namespace)
	if err != nil {
		return nil //nolint:nilerr // only a hint would follow
	}
	if v, _ := ns.Label(mesh.LabelUseWaypoint); v == name {
		fmt.Fprintf(a.env.Err, "⚠️  namespace %s still has label \"%s: %s\"\n", namespace, mesh.LabelUseWaypoint, name)
	}
	return nil
}
