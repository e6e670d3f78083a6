package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ambit-mesh/ambit/api/labfile"
	"github.com/ambit-mesh/ambit/e2e/lab"
	"github.com/ambit-mesh/ambit/e2e/mesh"
	"github.com/spf13/cobra"
)

const defaultName = "demo"

func (a *app) up() *cobra.Command {
	var nodes int
	var dir string
	var ipv6, plain bool
	var hosts map[string]string
	var ztunnel string
	var peer mesh.Options
	var timeout time.Duration
	c := &cobra.Command{
		Use: "up [NAME]", Short: "Start a lab with the mesh on every node", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			name := defaultName
			if a.name != "" {
				name = a.name
			}
			if len(args) == 1 {
				name = args[0]
			}
			// What can be seen to be wrong is said before anything is built.
			if nodes < 1 {
				return usagef("--nodes %d: a lab needs at least one", nodes)
			}
			if !slices.Contains([]string{"", "auto", "nftables", "iptables", "ebpf"}, peer.Redirection) {
				return usagef("--redirection %q: auto, nftables, iptables or ebpf", peer.Redirection)
			}
			if dir != "" && dir != "-" {
				if _, err := os.Stat(dir); err != nil {
					return fmt.Errorf("--file: %w", err)
				}
			}
			path, err := binaries()
			if err != nil {
				return err
			}
			peer.Ztunnel = strings.Fields(ztunnel)
			p := newProgress()
			l, err := lab.Up(ctx, lab.Spec{Name: name, Nodes: nodes, DualStack: ipv6, Path: path, Names: outside(hosts)})
			if err != nil {
				return err
			}
			p.say("lab %q: %d nodes are wired", name, len(l.Nodes))
			if !plain {
				if err := startMesh(ctx, l, peer, p); err != nil {
					return fmt.Errorf("%w\nthe lab stays up for you to look: ambit-lab status --lab %s; ambit-lab down %s", err, name, name)
				}
			}
			if dir != "" {
				a.name = name
				if err := a.applyFiles(ctx, l, []string{dir}, "default", true); err != nil {
					return err
				}
			}
			p.say("lab %q is up", name)
			return nil
		},
	}
	c.Flags().IntVar(&nodes, "nodes", 3, "how many nodes")
	c.Flags().StringVarP(&dir, "file", "f", "", "YAML file or folder to apply")
	c.Flags().BoolVar(&ipv6, "ipv6", false, "IPv6 addresses beside IPv4")
	c.Flags().StringToStringVar(&hosts, "host", nil, "names of the outside world, as NAME=ADDRESS; 172.30.0.2 is the control host")
	c.Flags().StringVar(&ztunnel, "ztunnel", "", "another node proxy, with its arguments, as in \"/opt/ztunnel proxy ztunnel\"")
	c.Flags().StringArrayVar(&peer.ZtunnelEnv, "ztunnel-env", nil, "NAME=VALUE for every node proxy, over what the lab sets")
	c.Flags().StringArrayVar(&peer.ControlArgs, "control-arg", nil, "argument for the control plane, as in --control-arg=--network-policies")
	c.Flags().StringVar(&peer.Redirection, "redirection", "", "how pods' traffic is captured: auto, nftables, iptables or ebpf")
	c.Flags().BoolVar(&plain, "plain", false, "without the mesh")
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "give up after this long")
	return c
}

func outside(hosts map[string]string) map[string][]string {
	names := map[string][]string{}
	for name, addr := range hosts {
		names[name] = []string{addr}
	}
	return names
}

func startMesh(ctx context.Context, l *lab.Lab, o mesh.Options, p *progress) error {
	daemons, err := mesh.Start(ctx, l, o, p.waiting)
	if err != nil {
		return err
	}
	p.say("the mesh is ready: %d daemons", len(daemons))
	return nil
}

func (a *app) down() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "down [NAME]", Short: "Remove a lab, whatever state it is in", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			names, err := lab.Names()
			if err != nil {
				return err
			}
			want := a.name
			if len(args) == 1 {
				want = args[0]
			}
			switch {
			case all:
			case want != "":
				names = []string{want}
			case len(names) == 0:
				fmt.Println("no lab is running")
				return nil
			case len(names) > 1:
				return fmt.Errorf("several labs are there (%s): name one, or say --all", strings.Join(names, ", "))
			}
			var errs []error
			for _, name := range names {
				err := lab.Clean(name)
				if err == nil {
					fmt.Printf("lab %q is gone\n", name)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "all labs")
	return c
}

func (a *app) list() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List labs", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			names, err := lab.Names()
			if err != nil {
				return err
			}
			w := table("NAME", "NODES", "PODS", "STATE", "FOLDER")
			for _, name := range names {
				nodes, pods, state := "-", "-", "crashed: ambit-lab down "+name
				if l, err := lab.Open(name); err == nil {
					nodes = fmt.Sprint(len(l.Nodes))
					list, err := l.Get(cmd.Context(), "pod", "", "")
					switch {
					case err == nil:
						pods, state = fmt.Sprint(len(list)), "running"
					case os.Geteuid() != 0:
						state = "only root can tell"
					}
				}
				row(w, name, nodes, pods, state, labfile.Dir(name))
			}
			return w.Flush()
		},
	}
}

func (a *app) status() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show daemons, faults, and what the lab cannot do as asked", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := a.open()
			if err != nil {
				return err
			}
			st, err := l.Status(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Printf("lab %s: folder %s, configuration in %s\n\n", l.Name, l.Dir, l.ConfigDir)
			w := table("DAEMON", "HOST", "STATE", "READY", "PID", "RESTARTS", "LOG", "NOTE")
			for _, d := range st.Daemons {
				note := d.NotReady
				if d.State != "running" {
					note = d.LastExit
				}
				row(w, d.Name, d.Host, d.State, fmt.Sprint(d.Ready), fmt.Sprint(d.Pid), fmt.Sprint(d.Restarts), d.Log, note)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			for _, f := range st.Faults {
				fmt.Printf("broken on purpose: %s %s (ambit-lab heal)\n", f.Kind, f.Host)
			}
			for _, p := range st.Problems {
				fmt.Printf("problem: %s: %s\n", p.Object, p.Problem)
			}
			return nil
		},
	}
}

func table(columns ...string) *tabwriter.Writer {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 3, ' ', 0)
	row(w, columns...)
	return w
}

func row(w *tabwriter.Writer, cells ...string) {
	// Errors of a tabwriter come back from Flush.
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}
