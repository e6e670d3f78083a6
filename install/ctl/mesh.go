package ctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ambit-mesh/ambit/api/labfile"
	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/install/apply"
	"github.com/ambit-mesh/ambit/install/apply/live"
	"github.com/ambit-mesh/ambit/install/cluster"
)

// whichMesh is what the help of ambitctl says about the choice.
const whichMesh = `Which mesh is meant is decided in this order, and the first that applies is it:
  1. --lab NAME
  2. --kubeconfig FILE, --context NAME, or another of kubectl's flags that name a cluster
  3. $AMBIT_LAB
  4. the lab that is running on this machine
  5. the cluster of the current context, as kubectl finds it ($KUBECONFIG, ~/.kube/config, a pod's service account)
If 4 decides and there is a current context as well, a line on standard error says so, and a command that would change
something refuses until one of 1 to 3 says which mesh is meant.`

// meshFlags are the flags that say which mesh is meant.
func (a *app) meshFlags(root *cobra.Command) {
	own := pflag.NewFlagSet("mesh", pflag.ContinueOnError)
	own.StringVar(&a.lab, "lab", "", "a lab on this machine (default $AMBIT_LAB)")
	own.StringVarP(&a.namespace, "mesh-namespace", "i", mesh.SystemNamespace, "namespace in which the mesh's own parts run")
	root.PersistentFlags().AddFlagSet(own)
	kubectl := pflag.NewFlagSet("kubectl", pflag.ContinueOnError)
	a.flags.Add(kubectl)
	kubectl.VisitAll(func(f *pflag.Flag) {
		if f.Name != "namespace" { // each command says what it does with a namespace
			root.PersistentFlags().AddFlag(f)
		}
	})
	a.kubectl = kubectl
	root.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "istioNamespace" {
			name = "mesh-namespace"
		}
		return pflag.NormalizedName(name)
	})
	a.complete(root, "lab", labNames)
}

// clusterNamed reports whether the command line names a cluster.
func (a *app) clusterNamed() bool {
	return slices.ContainsFunc([]string{"kubeconfig", "context", "cluster", "server"}, func(name string) bool {
		f := a.kubectl.Lookup(name)
		return f != nil && f.Changed
	})
}

// mesh is the mesh that is meant.
func (a *app) mesh() (cluster.Mesh, error) {
	if a.found == nil {
		found, rival, err := a.choose()
		if err != nil {
			return nil, err
		}
		a.found, a.rival = found, rival
		if rival != "" {
			fmt.Fprintf(a.env.Err, "ambitctl: looking at %s, because it is running here; --context %s looks at that cluster\n", found, rival)
		}
	}
	return a.found, nil
}

// meshToChange is the mesh that is meant, if that is beyond doubt.
func (a *app) meshToChange() (cluster.Mesh, error) {
	if a.found == nil {
		found, rival, err := a.choose()
		if err != nil {
			return nil, err
		}
		a.found, a.rival = found, rival
	}
	if a.rival != "" {
		return nil, usagef("which mesh? %s is running here, and the current context of the kubeconfig is %s: say --%s, or --context %s",
			a.found, a.rival, a.found, a.rival)
	}
	return a.found, nil
}

// choose follows the order of whichMesh. The rival is the context of another mesh that may have been meant.
func (a *app) choose() (found cluster.Mesh, rival string, err error) {
	if a.env.Mesh != nil {
		return a.env.Mesh, "", nil
	}
	named := a.clusterNamed()
	if a.lab != "" && named {
		return nil, "", usagef("--lab names one mesh, and the kubeconfig another: leave one of them out")
	}
	name := a.lab
	if name == "" && !named {
		name = a.env.Getenv("AMBIT_LAB")
	}
	if !named {
		lab, err := labfile.Load(name)
		switch {
		case err == nil:
			if name == "" {
				rival = a.flags.CurrentContext()
			}
			return cluster.Lab(lab), rival, nil
		case name != "" || !errors.Is(err, labfile.ErrNotFound):
			return nil, "", err
		}
	}
	c, err := a.flags.Connect()
	if errors.Is(err, apply.ErrNoCluster) && !named {
		return nil, "", errors.New("nothing to ask: no lab is running on this machine, and no kubeconfig names a cluster; start one with \"ambitctl lab up\", or give --kubeconfig FILE or a file to read")
	}
	if err != nil {
		return nil, "", err
	}
	return live.Open(c, a.namespace), "", nil
}

// close ends what the command line opened.
func (a *app) close() {
	if c, ok := a.found.(interface{ Close() }); ok && a.env.Mesh == nil {
		c.Close()
	}
}

// parts lists the mesh's parts of a kind, at least one.
func (a *app) parts(ctx context.Context, kind cluster.Kind) ([]cluster.Part, error) {
	m, err := a.mesh()
	if err != nil {
		return nil, err
	}
	list, err := m.Parts(ctx, kind)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s runs no %s; see %q, or start one with %q", m, kind, m.Words().Health, m.Words().Start)
	}
	return list, nil
}

// podsWith lists pods that have a label.
func podsWith(ctx context.Context, m cluster.Cluster, namespace, label string) ([]cluster.Object, error) {
	if l, ok := m.(interface {
		Labelled(ctx context.Context, kind, namespace, label string) ([]cluster.Object, error)
	}); ok {
		return l.Labelled(ctx, "Pod", namespace, label)
	}
	all, err := m.List(ctx, "Pod", namespace)
	return slices.DeleteFunc(all, func(o cluster.Object) bool { _, ok := o.Label(label); return !ok }), err
}

// words are the commands of the mesh that is meant, for messages.
func (a *app) words() cluster.Words {
	if a.found == nil {
		return cluster.Words{Logs: func(namespace, pod string) string { return "kubectl logs -n " + namespace + " " + pod }, Pods: "kubectl get pods -A", Health: "ambitctl check", Start: "ambitctl install"}
	}
	return a.found.Words()
}

func labNames(*app) []string {
	labs, err := labfile.List()
	if err != nil {
		return nil
	}
	var out []string
	for _, l := range labs {
		out = append(out, l.Name)
	}
	return out
}

func nodeNames(a *app) []string {
	list, err := a.parts(context.Background(), cluster.NodeProxy)
	if err != nil {
		return nil
	}
	var out []string
	for _, p := range list {
		out = append(out, p.Node)
	}
	return slices.Compact(slices.Sorted(slices.Values(out)))
}

// nodesOf names the nodes of parts, for messages.
func nodesOf(list []cluster.Part) string {
	var names []string
	for _, p := range list {
		if !slices.Contains(names, p.Node) {
			names = append(names, p.Node)
		}
	}
	return strings.Join(names, ", ")
}

// kube is the cluster that is meant, for what is done to clusters only: a lab that runs here is not asked about.
func (a *app) kube() (*apply.Client, error) {
	if a.lab != "" {
		return nil, usagef("this is for clusters, and --lab %s is none: leave it out", a.lab)
	}
	return a.flags.Connect()
}
