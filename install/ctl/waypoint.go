package ctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/install/cluster"
)

const (
	kindGateway      = "Gateway"
	gatewayAPI       = "gateway.networking.k8s.io/v1"
	defaultWaypoint  = "waypoint"
	noWaypoint       = "none" // as a label's value it means that there is none
	listenerMesh     = "mesh"
	protocolHBONE    = "HBONE"
	waypointPatience = 90 * time.Second
)

// trafficTypes are the values of the label that says which traffic a waypoint takes.
var trafficTypes = []string{"service", "workload", "all", "none"}

func (a *app) cluster() (cluster.Cluster, error) {
	if a.env.Cluster != nil {
		return a.env.Cluster, nil
	}
	return a.mesh()
}

// clusterToChange is where objects are changed: only where that is beyond doubt.
func (a *app) clusterToChange() (cluster.Cluster, error) {
	if a.env.Cluster != nil {
		return a.env.Cluster, nil
	}
	return a.meshToChange()
}

// waypointFlags are those of one waypoint.
type waypointFlags struct {
	namespace, name, traffic, revision, account string
}

func (f *waypointFlags) add(a *app, cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.name, "name", "", "name of the waypoint (default \"waypoint\", or the service account's with \"-waypoint\")")
	cmd.Flags().StringVar(&f.traffic, "for", "", "which traffic it takes: service, workload, all or none (default service)")
	cmd.Flags().StringVarP(&f.revision, "revision", "r", "", "revision of the control plane that is to run it: one of its control.revisions")
	cmd.Flags().StringVar(&f.account, "service-account", "", "make it the waypoint of the workloads of this service account")
	a.complete(cmd, "for", func(*app) []string { return trafficTypes })
}

// check settles defaults and says what is wrong.
func (f *waypointFlags) check() error {
	if f.name == "" && f.account != "" {
		// Not the account's own name: that of the waypoint is also the account that the waypoint runs as.
		f.name = f.account + "-" + defaultWaypoint
	}
	f.name = cmp.Or(f.name, defaultWaypoint)
	if f.account != "" && f.traffic == "" {
		f.traffic = "workload"
	}
	switch {
	case f.name == f.account:
		return usagef("--name %s is the service account's: the waypoint would run as what it is there to guard", f.name)
	case f.name == noWaypoint:
		return usagef("a waypoint cannot be called %q: as the value of label %s that means no waypoint", noWaypoint, mesh.LabelUseWaypoint)
	case f.traffic != "" && !slices.Contains(trafficTypes, f.traffic):
		return usagef("--for %q: one of %s", f.traffic, strings.Join(trafficTypes, ", "))
	}
	return nil
}

// gateway is the Gateway that stands for the waypoint.
func (f *waypointFlags) gateway() cluster.Object {
	labels := map[string]any{}
	if f.traffic != "" {
		labels[mesh.LabelWaypointFor] = f.traffic
	}
	if f.revision != "" {
		labels[mesh.LabelRevision] = f.revision
	}
	meta := map[string]any{"name": f.name}
	if f.namespace != "" {
		meta["namespace"] = f.namespace
	}
	if len(labels) > 0 {
		meta["labels"] = labels
	}
	if f.account != "" {
		meta["annotations"] = map[string]any{mesh.AnnotationForAccount: f.account}
	}
	return cluster.Object{
		"apiVersion": gatewayAPI, "kind": kindGateway, "metadata": meta,
		"spec": map[string]any{
			"gatewayClassName": mesh.GatewayClassWaypoint,
			"listeners":        []any{map[string]any{"name": listenerMesh, "port": int64(mesh.PortHBONE), "protocol": protocolHBONE}},
		},
	}
}

func (a *app) waypoint() *cobra.Command {
	cmd := parent(&cobra.Command{
		Use: "waypoint", Short: "Set up and look at waypoints, the mesh's proxies for HTTP",
		Example: `  ambitctl waypoint apply -n bookinfo --enroll-namespace --wait
  ambitctl waypoint list -A
  ambitctl waypoint delete -n bookinfo waypoint`,
	})
	cmd.AddCommand(a.waypointApply(), a.waypointGenerate(), a.waypointList(), a.waypointStatus(), a.waypointDelete())
	return cmd
}

func namespaceFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVarP(to, "namespace", "n", "", "namespace (default that of the kubeconfig's context, else \"default\")")
}

// inNamespace is the namespace that was asked for, else the mesh's default.
func (a *app) inNamespace(asked string) string {
	if asked == "" && a.found != nil {
		return a.found.DefaultNamespace()
	}
	return cmp.Or(asked, "default")
}

func (a *app) waypointGenerate() *cobra.Command {
	var f waypointFlags
	cmd := &cobra.Command{Use: "generate", Short: "Print a waypoint as YAML, and change nothing", Args: none}
	f.add(a, cmd)
	namespaceFlag(cmd, &f.namespace)
	cmd.RunE = func(*cobra.Command, []string) error {
		if err := f.check(); err != nil {
			return err
		}
		return a.data("yaml", f.gateway())
	}
	return cmd
}

func (a *app) waypointApply() *cobra.Command {
	var f waypointFlags
	var enrol, overwrite, wait bool
	var patience time.Duration
	cmd := &cobra.Command{
		Use: "apply", Short: "Make a waypoint in a namespace, or change it", Args: none,
		Long: `Make a waypoint in a namespace, or change it.

A waypoint takes the traffic of those that ask for it with label istio.io/use-waypoint: a namespace (--enroll-namespace sets
its label), a service, or a pod.`,
	}
	f.add(a, cmd)
	namespaceFlag(cmd, &f.namespace)
	cmd.Flags().BoolVar(&enrol, "enroll-namespace", false, "label the namespace so that what is in it uses the waypoint")
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "label the namespace even if it uses another waypoint")
	cmd.Flags().BoolVarP(&wait, "wait", "w", false, "wait until the waypoint is ready")
	cmd.Flags().DurationVar(&patience, "waypoint-timeout", waypointPatience, "how long to wait")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := f.check(); err != nil {
			return err
		}
		c, err := a.clusterToChange()
		if err != nil {
			return err
		}
		f.namespace = a.inNamespace(f.namespace)
		ctx := cmd.Context()
		ns, err := c.Get(ctx, "Namespace", "", f.namespace)
		if errors.Is(err, cluster.ErrNotFound) {
			return fmt.Errorf("there is no namespace %q: apply it first", f.namespace)
		}
		if err != nil {
			return err
		}
		if err := f.known(ctx, c); err != nil {
			return err
		}
		if err := c.Apply(ctx, f.gateway()); err != nil {
			return fmt.Errorf("apply waypoint %s/%s: %w", f.namespace, f.name, err)
		}
		fmt.Fprintf(a.env.Out, "✅ waypoint %s/%s applied\n", f.namespace, f.name)
		// Only what is there is asked for: nobody shall wait for a waypoint that is not ready.
		if wait {
			if err := a.awaitWaypoints(ctx, c, f.namespace, []string{f.name}, patience); err != nil {
				return err
			}
			fmt.Fprintf(a.env.Out, "✅ waypoint %s/%s is ready!\n", f.namespace, f.name)
		}
		if enrol {
			return a.enrolNamespace(ctx, c, ns, f.name, overwrite)
		}
		return nil
	}
	return cmd
}

// known refuses to make something else out of a Gateway that is no waypoint.
func (f *waypointFlags) known(ctx context.Context, c cluster.Cluster) error {
	g, err := c.Get(ctx, kindGateway, f.namespace, f.name)
	if errors.Is(err, cluster.ErrNotFound) {
		return nil
	}
	if err == nil && !isWaypoint(g) {
		err = fmt.Errorf("gateway %s/%s is of class %s: choose another --name", f.namespace, f.name, g.Text("spec", "gatewayClassName"))
	}
	return err
}

// enrolNamespace labels the namespace. An existing label is somebody's decision.
func (a *app) enrolNamespace(ctx context.Context, c cluster.Cluster, ns cluster.Object, name string, overwrite bool) error {
	if old, ok := ns.Label(mesh.LabelUseWaypoint); ok && old != name && !overwrite {
		fmt.Fprintf(a.env.Err, "⚠️  namespace %s has label \"%s: %s\" and keeps it; --overwrite changes it\n", ns.Name(), mesh.LabelUseWaypoint, old)
		return nil
	}
	if mode, _ := ns.Label(mesh.LabelDataplaneMode); mode != mesh.DataplaneModeAmbient {
		fmt.Fprintf(a.env.Err, "⚠️  namespace %s has no label \"%s: %s\": what runs in it is not in the mesh, and its own calls do not use waypoints\n", ns.Name(), mesh.LabelDataplaneMode, mesh.DataplaneModeAmbient)
	}
	// A label for another namespace would now lead to a waypoint that is not meant.
	if err := c.Label(ctx, "Namespace", "", ns.Name(), map[string]string{mesh.LabelUseWaypoint: name}, mesh.LabelUseWaypointNS); err != nil {
		return fmt.Errorf("label namespace %s: %w", ns.Name(), err)
	}
	fmt.Fprintf(a.env.Out, "✅ namespace %s labeled with \"%s: %s\"\n", ns.Name(), mesh.LabelUseWaypoint, name)
	return nil
}

// isWaypoint tells waypoints from other Gateways.
func isWaypoint(g cluster.Object) bool {
	switch g.Text("spec", "gatewayClassName") {
	case mesh.GatewayClassWaypoint:
		return true
	case mesh.GatewayClassIngress, mesh.GatewayClassEastWest:
		return false
	}
	return slices.ContainsFunc(g.Items("spec", "listeners"), func(l cluster.Object) bool { return l.Text("protocol") == protocolHBONE })
}

// condition is a condition of a Gateway as it is now.
func condition(g cluster.Object, kind string) (c cluster.Object, current bool) {
	for _, c := range g.Items("status", "conditions") {
		if c.Text("type") == kind {
			return c, c.Number("observedGeneration") >= g.Number("metadata", "generation")
		}
	}
	return nil, false
}

func programmed(g cluster.Object) bool {
	c, current := condition(g, "Programmed")
	return current && c.Text("status") == "True"
}

// awaitWaypoints waits until the waypoints are programmed; no names mean all of the namespace.
func (a *app) awaitWaypoints(ctx context.Context, c cluster.Cluster, namespace string, names []string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	why := ""
	err := c.Watch(ctx, kindGateway, namespace, func(list []cluster.Object) bool {
		why = ""
		for _, g := range list {
			if isWaypoint(g) && (len(names) == 0 || slices.Contains(names, g.Name())) && !programmed(g) {
				why = fmt.Sprintf("waypoint %s/%s is not ready: %s", g.Namespace(), g.Name(), reason(g))
			}
		}
		return why == ""
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s, after %s; see \"ambitctl waypoint status -n %s\"", cmp.Or(why, "the waypoint is not ready"), patience, namespace)
	}
	return err
}

// reason is what its conditions say, the most basic first.
func reason(g cluster.Object) string {
	for _, kind := range []string{"Accepted", "Programmed"} {
		c, current := condition(g, kind)
		switch {
		case c == nil || !current:
			if rev, ok := g.Label(mesh.LabelRevision); ok {
				return fmt.Sprintf("the control plane has not looked at it yet; label %s is %q, which has to be among its control.revisions", mesh.LabelRevision, rev)
			}
			return "the control plane has not looked at it yet"
		case c.Text("status") != "True":
			return c.Text("reason") + ": " + c.Text("message")
		}
	}
	return ""
}
