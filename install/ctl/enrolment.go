package ctl

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/install/admin"
	"github.com/ambit-mesh/ambit/install/cluster"
	"github.com/ambit-mesh/ambit/install/table"
)

// enrolled is what a node's agent tells of one of its pods.
type enrolled struct {
	Node         string `json:"node"`
	Pod          string `json:"pod"`
	Enrolled     bool   `json:"enrolled"`
	Captured     bool   `json:"captured"`
	TakenByProxy bool   `json:"takenByProxy"`
	Reason       string `json:"reason"`
}

// state is one word for it.
func (e enrolled) state() string {
	switch {
	case e.Enrolled && e.Captured && e.TakenByProxy:
		return "in"
	case e.Enrolled:
		return "joining"
	case e.Captured:
		return "leaving"
	}
	return "out"
}

func (a *app) enrolment() *cobra.Command {
	var f format
	var namespace, node, address string
	cmd := &cobra.Command{Use: "enrolment", Aliases: []string{"enrollment"}, Short: "List pods and why each is in the mesh or not", Args: none,
		Long: `List pods and why each is in the mesh or not, as the agents of their nodes see it.

in       its traffic is captured, and the node proxy has taken it
joining  it belongs to the mesh, but is not captured yet, or no proxy has taken it: it has no network until then
leaving  it does not belong to the mesh any more; peers are given a moment to learn of it, and connections through the proxy
         time to end
out      the mesh leaves it alone`}
	a.outputFlag(cmd, &f)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "only pods of this namespace (default all)")
	allFlag(cmd, &namespace)
	cmd.Flags().StringVar(&node, "node", "", "only pods of this node")
	cmd.Flags().StringVar(&address, "agent-address", "", "an agent's admin endpoint itself: host:port or unix:PATH")
	a.complete(cmd, "node", nodeNames)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		agents := []agent{{endpoint: admin.Endpoint{What: "agent", Address: address}}}
		if address == "" {
			var err error
			if agents, err = a.agents(cmd.Context(), node); err != nil {
				return err
			}
		}
		all := []enrolled{}
		for _, g := range agents {
			list, err := g.pods(cmd)
			if err != nil {
				return err
			}
			for _, e := range list {
				if ns, _, _ := strings.Cut(e.Pod, "/"); namespace == "" || ns == namespace {
					all = append(all, e)
				}
			}
		}
		slices.SortFunc(all, func(x, y enrolled) int { return cmp.Compare(x.Pod, y.Pod) })
		if f.structured() {
			return a.data(f, all)
		}
		t := &table.Table{Head: []string{"NAMESPACE", "POD NAME", "NODE", "MESH", "WHY"}}
		for _, e := range all {
			ns, name, _ := strings.Cut(e.Pod, "/")
			t.Add(ns, name, e.Node, e.state(), e.Reason)
		}
		return a.table(t)
	}
	return cmd
}

// agent is the CNI agent of a node.
type agent struct {
	node     string
	endpoint admin.Endpoint
}

// agents lists the agents of all nodes, or of one.
func (a *app) agents(ctx context.Context, node string) ([]agent, error) {
	list, err := a.parts(ctx, cluster.Agent)
	if err != nil {
		return nil, err
	}
	var out []agent
	for _, p := range list {
		if node == "" || node == p.Node {
			out = append(out, agent{p.Node, p.Endpoint})
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s has no node %q; it has %s", a.found, node, nodesOf(list))
	}
	return out, nil
}

func (g agent) pods(cmd *cobra.Command) ([]enrolled, error) {
	in, err := g.endpoint.Get(cmd.Context(), "/pods")
	if err != nil {
		return nil, err
	}
	defer in.Close()
	var list []enrolled
	if err := json.NewDecoder(in).Decode(&list); err != nil {
		return nil, fmt.Errorf("%s: %w to /pods: %w", g.endpoint.What, errData, err)
	}
	for i := range list {
		list[i].Node = g.node
	}
	return list, nil
}

// allFlag takes -A, as kubectl's users write it, where all namespaces are the default.
func allFlag(cmd *cobra.Command, namespace *string) {
	all := cmd.Flags().BoolP("all-namespaces", "A", false, "all namespaces, which is the default")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if *all && *namespace != "" {
			return usagef("-A means all namespaces: leave out -n %s", *namespace)
		}
		return nil
	}
}
