package ctl

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/install/gateway"
	"github.com/ambit-mesh/ambit/install/table"
)

// pcAll shows every table of Envoy's own configuration, or the whole dump as data.
func (a *app) pcAll() *cobra.Command {
	return a.pc("all", []string{"a"}, "Show everything Envoy has; -o json is its config_dump", true, func(ctx context.Context, s gatewaySource, args []string, f format) error {
		d, err := a.dump(ctx, s, args)
		if err != nil {
			return err
		}
		if f.structured() {
			return a.data(f, d.Raw)
		}
		every := func(gateway.Cluster) bool { return true }
		for i, t := range []*table.Table{clusterTable(d, every), listenerTable(d), routeTable(d, ""), secretTable(d, a.env.Now()), extensionTable(d)} {
			if i > 0 {
				fmt.Fprintln(a.env.Out)
			}
			if err := a.table(t); err != nil {
				return err
			}
		}
		return nil
	})
}

func clusterTable(d *gateway.Dump, want func(gateway.Cluster) bool) *table.Table {
	t := &table.Table{Head: []string{"SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"}}
	for _, c := range d.Clusters() {
		if want(c) {
			t.Add(c.FQDN, c.Port, c.Subset, c.Direction, c.Type, c.Rule)
		}
	}
	return t
}

func listenerTable(d *gateway.Dump) *table.Table {
	t := &table.Table{Head: []string{"LISTENER", "ADDRESS", "CHAINS"}}
	for _, l := range d.Listeners() {
		t.Add(l.Name, l.Address, strings.Join(l.Chains, ", "))
	}
	return t
}

func routeTable(d *gateway.Dump, name string) *table.Table {
	t := &table.Table{Head: []string{"NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"}}
	for _, h := range d.VirtualHosts() {
		if strings.Contains(h.Config, name) {
			t.Add(h.Config, h.Name, h.Domains, h.Match, h.Route)
		}
	}
	return t
}

func secretTable(d *gateway.Dump, now time.Time) *table.Table {
	t := &table.Table{Head: []string{"RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE", "IDENTITY"}}
	for _, c := range d.Secrets(now) {
		t.Add(c.Name, c.Type, c.Status, fmt.Sprint(c.Valid), c.Serial, c.NotAfter.UTC().Format(time.RFC3339), c.NotBefore.UTC().Format(time.RFC3339), strings.Join(c.Identities, ","))
	}
	return t
}

func extensionTable(d *gateway.Dump) *table.Table {
	t := &table.Table{Head: []string{"ECDS NAME", "TYPE"}}
	for _, e := range d.Extensions() {
		t.Add(e.Name, e.Type)
	}
	return t
}
