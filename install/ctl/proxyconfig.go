package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/install/gateway"
	"github.com/ambit-mesh/ambit/install/table"
)

func (a *app) proxyConfig() *cobra.Command {
	cmd := parent(&cobra.Command{
		Use: "proxy-config", Aliases: []string{"pc"}, Short: "Show what a waypoint or gateway was told, and what its Envoy made of it",
		Long: `Show what a waypoint or gateway was told, and what its Envoy made of it.

route is the place to start: it reads as services, then routes, then backends, with the policies that are asked first and the
object each rule comes from. problems is what of it the proxy could not put into force. The others show Envoy's own
configuration. A proxy is named as the Gateway or one of its
pods, NAME or NAME.NAMESPACE; without a name there must be only one Gateway.`,
		Example: `  ambitctl proxy-config route waypoint.bookinfo
  ambitctl proxy-config endpoint --port 9080
  ambitctl proxy-config log waypoint.bookinfo --level debug`,
	})
	cmd.AddCommand(a.pcRoute(), a.pcCluster(), a.pcListener(), a.pcEndpoint(), a.pcSecret(), a.pcECDS(),
		a.pcPart("bootstrap", "b", "Show how Envoy was started", "BootstrapConfigDump"), a.pcAll(), a.pcProblems(), a.pcLog(), a.pcStats(), a.pcRootCompare())
	return cmd
}

// pc makes a command about one proxy.
func (a *app) pc(use string, aliases []string, short string, files bool, run func(ctx context.Context, s gatewaySource, args []string, f format) error) *cobra.Command {
	var s gatewaySource
	var f format
	cmd := &cobra.Command{Use: use + " [GATEWAY|POD]", Aliases: aliases, Short: short, Args: atMostOne}
	s.add(cmd, files)
	a.outputFlag(cmd, &f)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return run(cmd.Context(), s, args, f) }
	return cmd
}

// dump reads a config_dump from a file or a proxy.
func (a *app) dump(ctx context.Context, s gatewaySource, args []string) (*gateway.Dump, error) {
	if s.file != "" {
		f, err := os.Open(s.file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		d, err := gateway.ReadDump(f)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", errData, s.file, err)
		}
		return d, nil
	}
	i, err := a.instanceFor(ctx, s, args)
	if err != nil {
		return nil, err
	}
	body, err := i.endpoint.Get(ctx, "/config_dump?include_eds")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return gateway.ReadDump(body)
}

func (a *app) pcRoute() *cobra.Command {
	var name string
	var envoy bool
	cmd := a.pc("route", []string{"r", "routes"}, "Show services, their routes and backends", true, func(ctx context.Context, s gatewaySource, args []string, f format) error {
		if envoy || s.file != "" {
			d, err := a.dump(ctx, s, args)
			if err != nil {
				return err
			}
			if f.structured() {
				return a.data(f, d.Part("RoutesConfigDump"))
			}
			return a.table(routeTable(d, name))
		}
		i, err := a.instanceFor(ctx, s, args)
		if err != nil {
			return err
		}
		facts, err := i.facts(ctx)
		if err != nil {
			return err
		}
		routes := facts.Routes(func(service string) bool { return strings.Contains(service, name) })
		if f.structured() {
			return a.data(f, routes)
		}
		t := &table.Table{Head: []string{"SERVICE", "PORT", "MATCH", "TO", "FROM", "POLICIES"}}
		last := ""
		for _, r := range routes {
			service, port, policies := r.Service, fmt.Sprint(r.Port), r.Policies
			// A service is named once, its routes stand below.
			if key := service + port; key == last {
				service, port, policies = `"`, `"`, `"`
			} else {
				last = key
			}
			t.Add(service, port, r.Match, r.Action, r.From, policies)
		}
		if err := a.table(t); err != nil {
			return err
		}
		if problems, err := i.problems(ctx); err == nil && len(problems) > 0 {
			fmt.Fprintf(a.env.Err, "\nnot everything is in force as it was written: see \"ambitctl proxy-config problems %s\"\n", strings.Join(args, " "))
		}
		return nil
	})
	cmd.Flags().StringVar(&name, "name", "", "only services (with --envoy: route configurations) whose name contains this")
	cmd.Flags().BoolVar(&envoy, "envoy", false, "as Envoy has them")
	return cmd
}

func (a *app) pcCluster() *cobra.Command {
	var fqdn, subset, direction, port string
	cmd := a.pc("cluster", []string{"c", "clusters"}, "List Envoy's clusters", true, func(ctx context.Context, s gatewaySource, args []string, f format) error {
		d, err := a.dump(ctx, s, args)
		if err != nil {
			return err
		}
		if f.structured() {
			return a.data(f, d.Part("ClustersConfigDump"))
		}
		return a.table(clusterTable(d, func(c gateway.Cluster) bool {
			return strings.Contains(c.FQDN, fqdn) && (subset == "" || c.Subset == subset) && (direction == "" || c.Direction == direction) && (port == "" || c.Port == port)
		}))
	})
	cmd.Flags().StringVar(&fqdn, "fqdn", "", "only services whose name contains this")
	cmd.Flags().StringVar(&port, "port", "", "only this port")
	cmd.Flags().StringVar(&subset, "subset", "", "only this subset")
	cmd.Flags().StringVar(&direction, "direction", "", "only inbound-vip or outbound")
	return cmd
}

func (a *app) pcListener() *cobra.Command {
	return a.pc("listener", []string{"l", "listeners"}, "List Envoy's listeners", true, func(ctx context.Context, s gatewaySource, args []string, f format) error {
		d, err := a.dump(ctx, s, args)
		if err != nil {
			return err
		}
		if f.structured() {
			return a.data(f, d.Part("ListenersConfigDump"))
		}
		return a.table(listenerTable(d))
	})
}

func (a *app) pcEndpoint() *cobra.Command {
	var cluster, address, status, port string
	cmd := a.pc("endpoint", []string{"ep", "endpoints", "eds"}, "List the endpoints Envoy sends to, and how they fare", false, func(ctx context.Context, s gatewaySource, args []string, f format) error {
		i, err := a.instanceFor(ctx, s, args)
		if err != nil {
			return err
		}
		body, err := i.endpoint.Get(ctx, "/clusters?format=json")
		if err != nil {
			return err
		}
		defer body.Close()
		if f.structured() {
			return a.copyJSON(f, body)
		}
		all, err := gateway.ReadEndpoints(body)
		if err != nil {
			return err
		}
		t := &table.Table{Head: []string{"ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"}}
		for _, e := range all {
			if strings.Contains(e.Cluster, cluster) && strings.Contains(e.Address, address) && (status == "" || strings.EqualFold(e.Status, status)) &&
				(port == "" || strings.HasSuffix(e.Address, ":"+port)) {
				t.Add(e.Address, e.Status, e.Outlier, e.Cluster)
			}
		}
		return a.table(t)
	})
	cmd.Flags().StringVar(&cluster, "cluster", "", "only clusters whose name contains this")
	cmd.Flags().StringVar(&address, "address", "", "only addresses that contain this")
	cmd.Flags().StringVar(&status, "status", "", "only healthy, unhealthy, draining ...")
	cmd.Flags().StringVar(&port, "port", "", "only this port")
	return cmd
}

func (a *app) pcSecret() *cobra.Command {
	return a.pc("secret", []string{"s", "secrets"}, "List the certificates Envoy holds", true, func(ctx context.Context, s gatewaySource, args []string, f format) error {
		d, err := a.dump(ctx, s, args)
		if err != nil {
			return err
		}
		if f.structured() {
			return a.data(f, d.Secrets(a.env.Now()))
		}
		return a.table(secretTable(d, a.env.Now()))
	})
}

func (a *app) pcECDS() *cobra.Command {
	return a.pc("ecds", []string{"ec"}, "List filter configurations delivered by themselves", true, func(ctx context.Context, s gatewaySource, args []string, f format) error {
		d, err := a.dump(ctx, s, args)
		if err != nil {
			return err
		}
		if f.structured() {
			return a.data(f, d.Part("EcdsConfigDump"))
		}
		return a.table(extensionTable(d))
	})
}

// pcPart prints a part of the dump as data.
func (a *app) pcPart(use, alias, short, part string) *cobra.Command {
	return a.pc(use, []string{alias}, short, true, func(ctx context.Context, s gatewaySource, args []string, f format) error {
		d, err := a.dump(ctx, s, args)
		if err != nil {
			return err
		}
		if !f.structured() {
			f = "json"
		}
		return a.data(f, d.Part(part))
	})
}

// copyJSON prints an answer that is JSON already.
func (a *app) copyJSON(f format, body io.Reader) error {
	raw, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	if f == "yaml" {
		if raw, err = yaml.JSONToYAML(raw); err != nil {
			return fmt.Errorf("%w: %w", errData, err)
		}
	} else if !json.Valid(raw) {
		return fmt.Errorf("%w: the proxy did not answer with JSON", errData)
	}
	_, err = a.env.Out.Write(raw)
	return err
}
