package ctl

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/install/table"
)

// client is one proxy connected to the control plane, as that sees it.
type client struct {
	NodeID    string `json:"nodeId"`
	Peer      string `json:"peer"`
	Connected string `json:"connected"`
	Cluster   string `json:"cluster,omitempty"`
	Server    string `json:"server,omitempty"`
	Version   string `json:"version,omitempty"`
	Types     []struct {
		TypeURL      string `json:"typeUrl"`
		Wildcard     bool   `json:"wildcard"`
		Subscribed   int    `json:"subscribed"`
		SentVersion  string `json:"sentVersion"`
		AckedVersion string `json:"ackedVersion"`
		NACK         string `json:"nack,omitempty"`
		NACKTime     string `json:"nackTime,omitempty"`
	} `json:"types"`
}

// name is the third part of the node id: pod.namespace. Istio ambient wire contract, Node.id.
func (c client) name() string {
	if parts := strings.Split(c.NodeID, "~"); len(parts) == 4 {
		return parts[2]
	}
	return c.NodeID
}

// shortTypes are the names istioctl gives to resource types, and ours for those of waypoints.
var shortTypes = map[string]string{
	mesh.TypeAddress: "WDS", mesh.TypeWorkload: "WDS-WORKLOAD", mesh.TypeAuthorization: "WADS",
	mesh.TypeWaypointGateway: "GATEWAY", mesh.TypeWaypointVirtualHost: "HOSTS", mesh.TypeWaypointService: "SERVICES",
	mesh.TypeWaypointDestination: "DESTINATIONS", mesh.TypeWaypointSecret: "SECRETS",
}

func shortType(url string) string {
	if s, ok := shortTypes[url]; ok {
		return s
	}
	return url[strings.LastIndexAny(url, "./")+1:]
}

func (a *app) proxyStatus() *cobra.Command {
	var s controlSource
	var f format
	var verbose int
	cmd := &cobra.Command{Use: "proxy-status [PROXY]", Aliases: []string{"ps"}, Short: "List the proxies connected to the control plane, and whether they are up to date", Args: atMostOne,
		Long: `List the proxies connected to the control plane, and whether they are up to date.

With -v 1 there is a column for each kind of resource: SYNCED, STALE (sent, not acknowledged yet), NACKED (refused by the
proxy; -o json tells why), NOT SENT, or IGNORED (not asked for). Node proxies have WDS (workloads and services) and WADS
(policies); waypoints and gateways have GATEWAY, HOSTS, SERVICES, DESTINATIONS and SECRETS besides WDS.

With the name of a waypoint or gateway, or of one of its pods, what the control plane has for it is compared with what the
proxy holds. The exit code is 79 when they differ for longer than a moment.`,
		Example: "  ambitctl proxy-status -v 1\n  ambitctl proxy-status waypoint.bookinfo"}
	a.controlFlags(cmd, &s)
	a.outputFlag(cmd, &f)
	cmd.Flags().IntVarP(&verbose, "verbosity", "v", 0, "1 shows the state of each kind of resource")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		all, err := a.connected(cmd, s)
		if err != nil {
			return err
		}
		if len(args) == 1 {
			pod := args[0]
			i, err := a.gatewayNamed(cmd.Context(), s, pod)
			if err == nil {
				pod = i.String()
			}
			all = slices.DeleteFunc(all, func(c client) bool {
				name, _, _ := strings.Cut(c.name(), ".")
				return c.name() != pod && name != pod && c.NodeID != pod
			})
			if err == nil && !f.structured() {
				return a.compare(cmd, s, i, all, verbose)
			}
			if len(all) == 0 {
				return fmt.Errorf("no proxy called %q is connected; see \"ambitctl proxy-status\"", args[0])
			}
		}
		slices.SortFunc(all, func(x, y client) int { return cmp.Or(cmp.Compare(x.name(), y.name()), cmp.Compare(x.Peer, y.Peer)) })
		if f.structured() {
			return a.data(f, all)
		}
		if len(all) == 0 {
			fmt.Fprintln(a.env.Out, "No proxy is connected.")
			return nil
		}
		return a.clients(all, verbose)
	}
	return cmd
}

// connected lists the proxies that are connected to any replica of the control plane: each knows its own.
func (a *app) connected(cmd *cobra.Command, s controlSource) (all []client, err error) {
	if s.file != "" {
		err = a.ask(cmd, s, "/debug/clients", &all)
		return all, err
	}
	err = each(a, cmd.Context(), s, "/debug/clients", func(list []client) { all = append(all, list...) })
	return all, err
}

func (a *app) clients(all []client, verbose int) error {
	if verbose > 0 {
		return a.table(statesTable(all))
	}
	return a.table(clientsTable(all))
}

func clientsTable(all []client) *table.Table {
	t := &table.Table{Head: []string{"NAME", "CLUSTER", "ISTIOD", "VERSION", "SUBSCRIBED TYPES"}}
	for _, c := range all {
		var types []string
		for _, ty := range c.Types {
			types = append(types, shortType(ty.TypeURL))
		}
		slices.Sort(types)
		t.Add(c.name(), cmp.Or(c.Cluster, mesh.DefaultClusterID), cmp.Or(c.Server, "ambitd"), c.Version, fmt.Sprintf("%d (%s)", len(types), strings.Join(types, ",")))
	}
	return t
}

func statesTable(all []client) *table.Table {
	columns := map[string]bool{}
	states := make([]map[string]string, len(all))
	for i, c := range all {
		states[i] = map[string]string{}
		for _, ty := range c.Types {
			name := shortType(ty.TypeURL)
			columns[name] = true
			switch {
			case ty.NACK != "" && ty.SentVersion != ty.AckedVersion:
				states[i][name] = "NACKED"
			case ty.SentVersion == "":
				states[i][name] = "NOT SENT"
			case ty.SentVersion != ty.AckedVersion:
				states[i][name] = "STALE"
			default:
				states[i][name] = "SYNCED"
			}
		}
	}
	types := slices.Sorted(maps.Keys(columns))
	t := &table.Table{Head: slices.Concat([]string{"NAME", "CLUSTER"}, types, []string{"ISTIOD", "VERSION"})}
	for i, c := range all {
		row := []string{c.name(), cmp.Or(c.Cluster, mesh.DefaultClusterID)}
		for _, ty := range types {
			row = append(row, cmp.Or(states[i][ty], "IGNORED"))
		}
		t.Add(append(row, cmp.Or(c.Server, "ambitd"), c.Version)...)
	}
	return t
}
