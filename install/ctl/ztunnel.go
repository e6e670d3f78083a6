package ctl

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/install/dump"
	"github.com/ambit-mesh/ambit/install/table"
)

func (a *app) ztunnelConfig() *cobra.Command {
	cmd := parent(&cobra.Command{
		Use: "ztunnel-config", Aliases: []string{"zc"}, Short: "Show what a node proxy knows, holds and does",
		Long: `Show what a node proxy knows, holds and does.

Without --node or a name, what every proxy knows (workloads, services, policies) comes from the first one that answers;
what is each proxy's own (certificates, connections, log levels) comes from all of them. A name is that of a node, or of a
pod, which stands for the proxy of its node: [pod/]NAME[.NAMESPACE].`,
	})
	cmd.AddCommand(a.zcAll(), a.zcWorkload(), a.zcService(), a.zcPolicy(), a.zcCertificate(), a.zcConnections(), a.zcLog())
	return cmd
}

// view is a command that shows one kind of element.
type view[T any] struct {
	cmd    *cobra.Command
	source proxySource
	format format
	// shared elements are the same in every proxy.
	shared bool
	items  func(*dump.Dump) []dump.Item[T]
	keep   func(T) bool
	table  func(answers []answer, items [][]dump.Item[T]) *table.Table
	// print, if set, may print in a way of its own, and says whether it did.
	print func(items [][]dump.Item[T]) (bool, error)
}

// bind makes v.cmd run v.
func bind[T any](a *app, v *view[T]) *cobra.Command {
	v.cmd.Args = atMostOne
	a.proxyFlags(v.cmd, &v.source, true)
	a.outputFlag(v.cmd, &v.format)
	v.cmd.RunE = func(cmd *cobra.Command, args []string) error {
		all, err := a.proxies(cmd.Context(), v.source, args)
		if err != nil {
			return err
		}
		var answers []answer
		if v.shared {
			p, d, err := a.first(cmd.Context(), all)
			if err != nil {
				return err
			}
			answers = []answer{{p.node, d}}
		} else if answers, err = a.every(cmd.Context(), all); err != nil {
			return err
		}
		return v.show(a, answers)
	}
	return v.cmd
}

func (v *view[T]) show(a *app, answers []answer) error {
	var items [][]dump.Item[T]
	flat := []any{}
	for _, ans := range answers {
		kept := slices.DeleteFunc(slices.Clone(v.items(ans.Dump)), func(i dump.Item[T]) bool { return v.keep != nil && !v.keep(i.Value) })
		items = append(items, kept)
		for _, i := range kept {
			flat = append(flat, tag(i.Raw, ans.node, !v.shared && len(answers) > 1))
		}
	}
	if v.print != nil {
		if done, err := v.print(items); done {
			return err
		}
	}
	if v.format.structured() {
		return a.data(v.format, flat)
	}
	return a.table(v.table(answers, items))
}

// tag adds the node to an element when elements of several nodes are mixed.
func tag(raw json.RawMessage, node string, add bool) any {
	if !add {
		return raw
	}
	var m map[string]json.RawMessage
	if json.Unmarshal(raw, &m) != nil {
		return raw
	}
	m["node"], _ = json.Marshal(node)
	return m
}

// nodeColumn puts the node in front when there are several.
func nodeColumn(answers []answer, head ...string) (t *table.Table, add func(node string, cells ...string)) {
	t = &table.Table{Head: head}
	if len(answers) < 2 {
		return t, func(_ string, cells ...string) { t.Add(cells...) }
	}
	t.Head = append([]string{"NODE"}, head...)
	return t, func(node string, cells ...string) { t.Add(append([]string{node}, cells...)...) }
}

func (a *app) zcWorkload() *cobra.Command {
	var address, namespace, node string
	cmd := &cobra.Command{Use: "workload [NODE|POD]", Aliases: []string{"w", "workloads"}, Short: "List the workloads a proxy knows"}
	cmd.Flags().StringVar(&address, "address", "", "only the workload with this address")
	cmd.Flags().StringVar(&namespace, "workload-namespace", "", "only workloads of this namespace")
	cmd.Flags().StringVar(&node, "workload-node", "", "only workloads on this node")
	return bind(a, &view[dump.Workload]{cmd: cmd, shared: true,
		items: func(d *dump.Dump) []dump.Item[dump.Workload] { return d.Workloads },
		keep: func(w dump.Workload) bool {
			return (address == "" || slices.Contains(w.IPs, address)) && (namespace == "" || w.Namespace == namespace) && (node == "" || w.Node == node)
		},
		table: workloadTable})
}

func workloadTable(answers []answer, items [][]dump.Item[dump.Workload]) *table.Table {
	t := &table.Table{Head: []string{"NAMESPACE", "POD NAME", "ADDRESS", "NODE", "WAYPOINT", "PROTOCOL"}}
	for n, ans := range answers {
		names := ans.Names()
		for _, i := range items[n] {
			w := i.Value
			t.Add(w.Namespace, w.Name, strings.Join(w.IPs, ","), w.Node, names.Gateway(w.Waypoint), w.Protocol)
		}
	}
	return t
}

func (a *app) zcService() *cobra.Command {
	var namespace string
	cmd := &cobra.Command{Use: "service [NODE|POD]", Aliases: []string{"s", "svc", "services"}, Short: "List the services a proxy knows"}
	cmd.Flags().StringVar(&namespace, "service-namespace", "", "only services of this namespace")
	return bind(a, &view[dump.Service]{cmd: cmd, shared: true,
		items: func(d *dump.Dump) []dump.Item[dump.Service] { return d.Services },
		keep:  func(s dump.Service) bool { return namespace == "" || s.Namespace == namespace },
		table: serviceTable})
}

func serviceTable(answers []answer, items [][]dump.Item[dump.Service]) *table.Table {
	t := &table.Table{Head: []string{"NAMESPACE", "SERVICE NAME", "SERVICE VIP", "WAYPOINT", "ENDPOINTS"}}
	for n, ans := range answers {
		names, unhealthy := ans.Names(), ans.Unhealthy()
		for _, i := range items[n] {
			s := i.Value
			var vips []string
			for _, v := range s.VIPs {
				vips = append(vips, dump.Address(v))
			}
			for _, v := range s.CIDRs {
				vips = append(vips, dump.Address(v))
			}
			healthy := 0
			for uid := range s.Endpoints {
				if !unhealthy[uid] {
					healthy++
				}
			}
			t.Add(s.Namespace, s.Name, strings.Join(vips, ","), names.Gateway(s.Waypoint), fmt.Sprintf("%d/%d", healthy, len(s.Endpoints)))
		}
	}
	return t
}

func (a *app) zcPolicy() *cobra.Command {
	var namespace string
	cmd := &cobra.Command{Use: "policy [NODE|POD]", Aliases: []string{"p", "pol", "policies"}, Short: "List the authorization policies a proxy enforces"}
	cmd.Flags().StringVar(&namespace, "policy-namespace", "", "only policies of this namespace")
	return bind(a, &view[dump.Policy]{cmd: cmd, shared: true,
		items: func(d *dump.Dump) []dump.Item[dump.Policy] { return d.Policies },
		keep:  func(p dump.Policy) bool { return namespace == "" || p.Namespace == namespace },
		table: policyTable})
}

func policyTable(_ []answer, items [][]dump.Item[dump.Policy]) *table.Table {
	t := &table.Table{Head: []string{"NAMESPACE", "POLICY NAME", "ACTION", "SCOPE"}}
	for _, group := range items {
		for _, i := range group {
			action := i.Value.Action
			if i.Value.DryRun {
				action += " (dry run)"
			}
			t.Add(i.Value.Namespace, i.Value.Name, action, i.Value.Scope)
		}
	}
	return t
}

func (a *app) zcCertificate() *cobra.Command {
	cmd := &cobra.Command{Use: "certificate [NODE|POD]", Aliases: []string{"cert", "certs", "certificates"}, Short: "List the certificates a proxy holds"}
	var identity string
	var chain, roots bool
	cmd.Flags().StringVar(&identity, "identity", "", "only certificates whose identity ends with this, as \"sa/web\"")
	cmd.Flags().BoolVar(&chain, "pem", false, "print the certificate and its intermediates as PEM")
	cmd.Flags().BoolVar(&roots, "pem-roots", false, "print the roots that peers are verified with as PEM")
	cmd.MarkFlagsMutuallyExclusive("pem", "pem-roots")
	return bind(a, &view[dump.Certificate]{cmd: cmd,
		items: func(d *dump.Dump) []dump.Item[dump.Certificate] { return d.Certificates },
		keep:  func(c dump.Certificate) bool { return strings.HasSuffix(c.Identity, identity) },
		print: func(items [][]dump.Item[dump.Certificate]) (bool, error) {
			if !chain && !roots {
				return false, nil
			}
			return true, a.printPEM(items, roots)
		},
		table: func(answers []answer, items [][]dump.Item[dump.Certificate]) *table.Table {
			return certificateTable(answers, items, a.env.Now())
		}})
}

func certificateTable(answers []answer, items [][]dump.Item[dump.Certificate], now time.Time) *table.Table {
	t, add := nodeColumn(answers, "CERTIFICATE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE")
	for n, ans := range answers {
		for _, i := range items[n] {
			c := i.Value
			if len(c.Chain)+len(c.Roots) == 0 {
				add(ans.node, c.Identity, "Leaf", c.State, "false")
				continue
			}
			row := func(kind string, x dump.X509) {
				add(ans.node, c.Identity, kind, c.State, fmt.Sprint(valid(x, now)), x.SerialNumber, x.Expires, x.ValidFrom)
			}
			for depth, x := range c.Chain {
				kind := "Leaf"
				if depth > 0 {
					kind = "Intermediate"
				}
				row(kind, x)
			}
			for _, x := range c.Roots {
				row("Root", x)
			}
		}
	}
	return t
}

// printPEM writes each certificate once, however many proxies have it.
func (a *app) printPEM(items [][]dump.Item[dump.Certificate], roots bool) error {
	seen := map[string]bool{}
	for _, i := range slices.Concat(items...) {
		list := i.Value.Chain
		if roots {
			list = i.Value.Roots
		}
		for _, x := range list {
			if seen[x.PEM] {
				continue
			}
			seen[x.PEM] = true
			text, err := base64.StdEncoding.DecodeString(x.PEM)
			if err != nil {
				return fmt.Errorf("certificate of %s: %w: %w", i.Value.Identity, errData, err)
			}
			fmt.Fprint(a.env.Out, strings.TrimSpace(string(text)), "\n")
		}
	}
	if len(seen) == 0 {
		return errors.New("no certificate to print; see \"ambitctl ztunnel-config certificate\"")
	}
	return nil
}

func valid(x dump.X509, now time.Time) bool {
	from, err1 := time.Parse(time.RFC3339, x.ValidFrom)
	until, err2 := time.Parse(time.RFC3339, x.Expires)
	return err1 == nil && err2 == nil && !now.Before(from) && !now.After(until)
}

func (a *app) zcConnections() *cobra.Command {
	var namespace, direction string
	var raw bool
	cmd := &cobra.Command{Use: "connections [NODE|POD]", Aliases: []string{"cons"}, Short: "List the open connections of a proxy's pods"}
	cmd.Flags().StringVar(&namespace, "workload-namespace", "", "only connections of pods of this namespace")
	cmd.Flags().StringVar(&direction, "direction", "", "only inbound or outbound ones")
	cmd.Flags().BoolVar(&raw, "raw", false, "addresses instead of names")
	a.complete(cmd, "direction", func(*app) []string { return []string{"inbound", "outbound"} })
	cmd.PreRunE = func(*cobra.Command, []string) error {
		direction = strings.ToLower(direction)
		if direction != "" && direction != "inbound" && direction != "outbound" {
			return usagef("--direction is inbound or outbound, not %q", direction)
		}
		return nil
	}
	v := &view[dump.Pod]{cmd: cmd,
		items: func(d *dump.Dump) []dump.Item[dump.Pod] { return podItems(d, direction) },
		keep:  func(p dump.Pod) bool { return namespace == "" || p.Info.Namespace == namespace },
	}
	v.table = func(answers []answer, items [][]dump.Item[dump.Pod]) *table.Table {
		return connectionTable(answers, items, raw)
	}
	return bind(a, v)
}

// podItems are the pods of d by name, without connections of the other direction.
func podItems(d *dump.Dump, direction string) []dump.Item[dump.Pod] {
	var out []dump.Item[dump.Pod]
	for _, uid := range slices.Sorted(maps.Keys(d.Pods)) {
		p := d.Pods[uid]
		switch direction {
		case "inbound":
			p.Connections.Outbound = nil
		case "outbound":
			p.Connections.Inbound = nil
		}
		raw, err := json.Marshal(p)
		if err != nil {
			continue
		}
		out = append(out, dump.Item[dump.Pod]{Value: p, Raw: raw})
	}
	slices.SortStableFunc(out, func(a, b dump.Item[dump.Pod]) int {
		return strings.Compare(a.Value.Info.Namespace+"\x00"+a.Value.Info.Name, b.Value.Info.Namespace+"\x00"+b.Value.Info.Name)
	})
	return out
}

func connectionTable(answers []answer, items [][]dump.Item[dump.Pod], raw bool) *table.Table {
	t, add := nodeColumn(answers, "WORKLOAD", "DIRECTION", "LOCAL", "REMOTE", "REMOTE TARGET", "PROTOCOL")
	for n, ans := range answers {
		names := ans.Names()
		name := names.Socket
		if raw {
			name = func(s string) string { return s }
		}
		for _, i := range items[n] {
			p := i.Value
			who := p.Info.Name + "." + p.Info.Namespace
			for _, c := range p.Connections.Inbound {
				add(ans.node, who, "Inbound", name(c.OriginalDst), name(c.Src), "", c.Protocol)
			}
			for _, c := range p.Connections.Outbound {
				add(ans.node, who, "Outbound", name(c.Src), name(c.ActualDst), name(c.OriginalDst), c.Protocol)
			}
		}
	}
	return t
}
