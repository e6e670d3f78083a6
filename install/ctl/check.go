package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/ambit-mesh/ambit/install/apply"
	"github.com/ambit-mesh/ambit/install/apply/live"
	"github.com/ambit-mesh/ambit/install/charts"
	"github.com/ambit-mesh/ambit/install/check"
	"github.com/ambit-mesh/ambit/install/cluster"
	"github.com/ambit-mesh/ambit/install/render"
	"github.com/ambit-mesh/ambit/install/table"
)

// checkPatience bounds all questions of a check together.
const checkPatience = 30 * time.Second

func (a *app) check() *cobra.Command {
	var f format
	var v valueFlags
	cmd := &cobra.Command{
		Use: "check", Short: "Check whether a cluster is fit for a mesh, and whether its mesh is well", Args: none,
		Example: "  ambitctl check\n  ambitctl check --set cni.redirection=ebpf",
		Long: `check looks at everything that keeps a mesh from working, and says of each thing that is wrong what mends it.

Before an installation: versions, rights, nodes and their kernels, the CNI, clocks, the Gateway API, other meshes, and
NetworkPolicies that would keep tunnels out. After it also the mesh's own parts, every pod that should be in the mesh and
is not, certificates of the authority, versions of proxies, and what is refused of the configuration.

With --profile, --values and --set, as install and upgrade have them, the cluster is judged for a mesh of these values.

Exit codes: 0 nothing has failed; 79 something has; 1 the cluster cannot be asked.`,
	}
	a.outputFlag(cmd, &f)
	v.add(a, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		// What no mesh could be given needs no cluster to be refused.
		if _, err := v.values(strings.NewReader(""), nil); err != nil {
			return err
		}
		client, err := a.kube()
		if err != nil {
			return err
		}
		ctx, cancel := patience(cmd.Context(), checkPatience)
		defer cancel()
		cmd.SetContext(ctx) // what asks by the command is bounded, too
		facts, err := a.facts(ctx, cmd, client, &v)
		if err != nil {
			return err
		}
		list := check.Judge(facts)
		if f.structured() {
			if err := a.data(f, list); err != nil {
				return err
			}
		} else {
			a.printFindings(list)
		}
		if n := check.Failures(list); n > 0 {
			return fmt.Errorf("%w: %d", errIssues, n)
		}
		return nil
	}
	return cmd
}

// facts gathers what the API server and the mesh's parts know.
func (a *app) facts(ctx context.Context, cmd *cobra.Command, client *apply.Client, v *valueFlags) (check.Facts, error) {
	facts, err := client.Look(ctx, a.namespace, a.env.Now)
	if err != nil {
		return facts, err
	}
	record, err := a.installed(ctx, client)
	if err != nil {
		return facts, err
	}
	if facts.Redirection, err = v.redirection(cmd.InOrStdin(), record); err != nil {
		return facts, err
	}
	if record == nil {
		facts.Denied, err = client.Denied(ctx, a.namespace)
		return facts, err
	}
	facts.Mesh, err = a.meshFacts(ctx, cmd, client, record)
	return facts, err
}

// redirection is the way to redirect that the flags ask for, or else what is installed. Helm's values are not known.
func (v *valueFlags) redirection(in io.Reader, record *apply.Record) (string, error) {
	if record != nil && record.Profile == apply.HelmProfile {
		record = nil
	}
	values, err := v.values(in, record)
	if err != nil {
		return "", err
	}
	return values.Text(charts.CNI, "redirection"), nil
}

// installed is what ambitctl installed, or Helm.
func (a *app) installed(ctx context.Context, client *apply.Client) (*apply.Record, error) {
	record, err := client.Record(ctx, a.namespace)
	if record != nil || err != nil {
		return record, err
	}
	return client.HelmRecord(ctx, a.namespace)
}

// meshFacts asks the parts of a mesh. One that does not answer is a fact, too.
func (a *app) meshFacts(ctx context.Context, cmd *cobra.Command, client *apply.Client, record *apply.Record) (*check.Mesh, error) {
	m := &check.Mesh{Version: record.Version, Profile: record.Profile, Complete: record.Complete}
	// The values say their profile themselves; Helm's are not known, and all parts are looked for then.
	values, err := render.NewValues("", render.Installed(record.Values))
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for chart, part := range map[string][2]string{
		charts.Control: {"ambitd", "Deployment"}, charts.CNI: {"ambit-cni-node", "DaemonSet"}, charts.Ztunnel: {"ztunnel", "DaemonSet"},
	} {
		if values.Enabled(chart) {
			names[part[0]] = part[1]
		}
	}
	if m.Parts, err = client.Parts(ctx, a.namespace, names); err != nil {
		return nil, err
	}
	if record.Profile != apply.HelmProfile {
		if m.Lost, err = a.missingDefinitions(ctx, client, values); err != nil {
			return nil, err
		}
	}
	m.Root = client.Root(ctx, a.namespace)
	if a.found == nil {
		a.found = live.Open(client, a.namespace)
	}
	if err := a.askAgents(ctx, m); err != nil {
		return nil, err
	}
	a.askControl(cmd, m)
	return m, nil
}

// askControl asks the control plane what it refuses and who is connected, and the authority in it about its certificates.
func (a *app) askControl(cmd *cobra.Command, m *check.Mesh) {
	all, err := a.refusals(cmd, controlSource{})
	if err != nil {
		m.Unknown = err.Error()
		return
	}
	m.Refused = len(all.Entries)
	proxies, err := a.connected(cmd, controlSource{})
	if err != nil {
		m.Unknown = err.Error()
		return
	}
	m.Proxies = map[string]int{}
	for _, p := range proxies {
		m.Proxies[p.Version]++
	}
	data, err := a.authorityDump(cmd, caSource{})
	if err != nil {
		m.Unknown = err.Error()
		return
	}
	var d authority
	if err := json.Unmarshal(data, &d); err != nil {
		m.Unknown = fmt.Sprintf("certificate authority: %v", err)
		return
	}
	m.Certificates, m.Warned = d.own(), d.Warnings
}

// own are the certificates that are the authority's, without roots: a root that ended may be trusted on beside the next.
func (d authority) own() []check.Certificate {
	var out []check.Certificate
	add := func(kind string, list ...authorityCert) {
		for _, c := range list {
			if !slices.ContainsFunc(d.Roots, func(r authorityCert) bool { return r.Serial == c.Serial && r.Subject == c.Subject }) {
				out = append(out, check.Certificate{Kind: kind, Subject: c.Subject, NotAfter: c.NotAfter})
			}
		}
	}
	add(check.Issuer, d.Issuer)
	add(check.Intermediate, d.Intermediates...)
	add(check.Serving, d.Serving...)
	return out
}

// missingDefinitions are those that the installation brought and that are not there.
func (a *app) missingDefinitions(ctx context.Context, client *apply.Client, values *render.Values) ([]string, error) {
	if !values.Enabled(charts.Base) {
		return nil, nil
	}
	objects, err := render.Chart(charts.Base, values.Chart(charts.Base), charts.Base, render.Options{Namespace: a.namespace, Version: imageTag(a.env.Version)})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, o := range objects {
		if u := (unstructured.Unstructured{Object: o}); u.GetKind() == "CustomResourceDefinition" {
			names = append(names, u.GetName())
		}
	}
	return client.Lost(ctx, names)
}

// askAgents asks the agents of all nodes at once.
func (a *app) askAgents(ctx context.Context, m *check.Mesh) error {
	parts, err := a.found.Parts(ctx, cluster.Agent)
	if err != nil {
		return err
	}
	m.Silent = map[string]string{}
	answers := make([]check.Agent, len(parts))
	errs := make([]error, len(parts))
	var wg sync.WaitGroup
	for i, p := range parts {
		wg.Go(func() {
			errs[i] = ask(ctx, p, &answers[i])
		})
	}
	wg.Wait()
	for i, p := range parts {
		if errs[i] != nil {
			m.Silent[p.Node] = errs[i].Error()
			continue
		}
		m.Nodes = append(m.Nodes, answers[i])
	}
	return nil
}

// ask is one agent's answer.
func ask(ctx context.Context, p cluster.Part, to *check.Agent) error {
	var s struct {
		Node, Version, Redirection string
		Ready                      bool
		Pods                       struct{ Desired, Captured, Taken int }
		Proxies                    int
		Plugin, PluginWarning      string
		Waiting                    map[string]string
	}
	if !p.Ready && p.Trouble != "" {
		return errors.New(p.Trouble)
	}
	if err := askJSON(ctx, p.Endpoint, "/status", nil, &s); err != nil {
		return err
	}
	*to = check.Agent{
		Node: s.Node, Version: s.Version, Redirection: s.Redirection, Ready: s.Ready, Desired: s.Pods.Desired, Captured: s.Pods.Captured,
		Taken: s.Pods.Taken, Proxies: s.Proxies, Plugin: s.Plugin, PluginWarning: s.PluginWarning, Waiting: s.Waiting,
	}
	return nil
}

// printFindings writes a line each, and the fix below what needs one.
func (a *app) printFindings(list []check.Finding) {
	colour := table.Wanted(a.env.Out, a.env.Getenv)
	signs := map[check.State]struct {
		sign   string
		colour table.Colour
	}{check.OK: {"ok", table.Green}, check.Warning: {"warning", table.Yellow}, check.Failed: {"FAILED", table.Red}}
	for _, f := range list {
		s := signs[f.State]
		sign := fmt.Sprintf("%-7s", s.sign)
		if colour {
			sign = s.colour.Wrap(sign)
		}
		fmt.Fprintf(a.env.Out, "%s  %s\n", sign, f.Text)
		if f.Fix != "" && f.State != check.OK {
			fmt.Fprintf(a.env.Out, "         mend: %s\n", f.Fix)
		}
	}
}
