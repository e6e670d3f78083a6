package ctl

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/install/apply"
	"github.com/ambit-mesh/ambit/install/charts"
	"github.com/ambit-mesh/ambit/install/check"
	"github.com/ambit-mesh/ambit/install/render"
)

const installPatience = 5 * time.Minute

func (a *app) install() *cobra.Command {
	var v valueFlags
	var dry, wait, force bool
	var gateway string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "install", Short: "Install a mesh into a cluster", Args: none,
		Long: `install puts the mesh into the namespace ambit-system (--mesh-namespace): definitions of its kinds, then the control
plane, then the agents and proxies of the nodes, and waits for each of them.

Running it again puts right what was changed by hand, and takes away what the values no longer ask for. Pods join when
their namespace is labelled istio.io/dataplane-mode=ambient; none is restarted.`,
		Example: `  ambitctl check && ambitctl install
  ambitctl install --profile minimal --set cni.redirection=iptables
  ambitctl install -f values.yaml --dry-run`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			values, err := v.values(cmd.InOrStdin(), nil)
			if err != nil {
				return err
			}
			// What no cluster could be given needs none to be refused.
			if _, err := a.steps(values, apply.Version{}); err != nil {
				return err
			}
			i, err := a.installer(dry)
			if err != nil {
				return err
			}
			ctx, cancel := patience(cmd.Context(), timeout)
			defer cancel()
			server, err := a.preflight(ctx, i, values, force)
			if err != nil {
				return err
			}
			steps, err := a.steps(values, server)
			if err != nil {
				return err
			}
			if gateway != "" {
				if gateway == "standard" {
					gateway = check.GatewayManifest(check.Version{Major: server.Major, Minor: server.Minor})
				}
				if err := i.GatewayAPI(ctx, gateway); err != nil {
					return err
				}
			}
			if err := a.roll(ctx, i, values, steps, wait, false); err != nil {
				return err
			}
			if dry {
				_, err = fmt.Fprintln(a.env.Out, "nothing was changed")
				return err
			}
			fmt.Fprintf(a.env.Out, "Ambit %s is installed in %s\n\n", a.env.Version, a.namespace)
			_, err = fmt.Fprint(a.env.Out, `next:
  kubectl label namespace default istio.io/dataplane-mode=ambient   takes pods of a namespace in
  ambitctl status                                                   shows the mesh
`)
			return err
		},
	}
	v.add(a, cmd)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "let the API server check everything, and change nothing")
	cmd.Flags().BoolVar(&force, "force", false, "install although something speaks against it")
	cmd.Flags().StringVar(&gateway, "gateway-api", "", "apply the Gateway API's definitions too, as far as they are missing: a file, an https URL, or \"standard\" for the release that fits the API server")
	cmd.Flags().BoolVar(&wait, "wait", true, "wait until everything runs")
	cmd.Flags().DurationVar(&timeout, "timeout", installPatience, "how long it may take")
	return cmd
}

// fatal are the checks without which an installation is not begun.
var fatal = []string{"api-server", "rights", "other-meshes", "namespace"}

// preflight refuses what could not work, before anything is changed, and warns of the rest. It fills in the platform.
func (a *app) preflight(ctx context.Context, i *apply.Installer, v *render.Values, force bool) (apply.Version, error) {
	version, err := i.Client.ServerVersion(ctx)
	if err != nil {
		return version, err
	}
	meshes, err := i.Client.Meshes(ctx)
	if err != nil {
		return version, err
	}
	for _, m := range meshes {
		if m != a.namespace {
			return version, fmt.Errorf("a mesh is installed in namespace %s already, and one cluster has one: change that with --mesh-namespace %s, or take it away with \"ambitctl uninstall --mesh-namespace %s\"", m, m, m)
		}
	}
	facts, err := i.Client.Look(ctx, a.namespace, a.env.Now)
	if err != nil {
		return version, err
	}
	if facts.Denied, err = i.Client.Denied(ctx, a.namespace); err != nil {
		return version, err
	}
	facts.Redirection = v.Text(charts.CNI, "redirection")
	var refused []string
	for _, f := range check.Judge(facts) {
		switch {
		case f.State == check.OK:
		case f.State == check.Failed && slices.Contains(fatal, f.Check):
			refused = append(refused, f.Text+"\n  mend: "+f.Fix)
		default:
			i.Tell("warning: %s\n  mend: %s", f.Text, f.Fix)
		}
	}
	if len(refused) > 0 && !force {
		return version, fmt.Errorf("nothing was changed, because\n%s\n--force goes on all the same", strings.Join(refused, "\n"))
	}
	if !v.Says("global", "platform") {
		platform, err := i.Client.Platform(ctx)
		if err != nil {
			return version, err
		}
		if platform != "" {
			i.Tell("platform: %s (found; --set global.platform= says otherwise)", platform)
			v.SetPlatform(platform)
		}
	}
	return version, nil
}

// roll applies the steps in their order: definitions, the control plane, then the nodes. An upgrade waits for each component,
// so that a node never runs something its control plane does not know.
func (a *app) roll(ctx context.Context, i *apply.Installer, v *render.Values, steps []apply.Step, wait, upgrade bool) error {
	values, err := given(v)
	if err != nil {
		return err
	}
	record := apply.Record{Version: a.env.Version, Profile: v.Profile, Values: values, At: a.env.Now()}
	if err := i.Apply(ctx, apply.Step{Component: "namespace", Objects: []apply.Object{render.Namespace(v, a.namespace)}}); err != nil {
		return err
	}
	if err := i.Write(ctx, record); err != nil {
		return err
	}
	wait = wait && !i.Dry
	groups := [][]string{{charts.Base}, {charts.Control}, {charts.CNI, charts.Ztunnel}}
	if upgrade {
		groups = [][]string{{charts.Base}, {charts.Control}, {charts.CNI}, {charts.Ztunnel}}
	}
	for _, group := range groups {
		var done []apply.Step
		for _, name := range group {
			s := find(steps, name)
			if len(s.Objects) == 0 {
				continue
			}
			if err := i.Apply(ctx, s); err != nil {
				return err
			}
			done = append(done, s)
		}
		if wait && group[0] != charts.Base && len(done) > 0 {
			if err := i.Wait(ctx, done...); err != nil {
				return err
			}
		}
	}
	var all []apply.Object
	for _, s := range rest(steps) {
		if err := i.Apply(ctx, s); err != nil {
			return err
		}
	}
	for _, s := range steps {
		all = append(all, s.Objects...)
	}
	if err := i.Prune(ctx, all); err != nil {
		return err
	}
	record.Complete = true
	return i.Write(ctx, record)
}
