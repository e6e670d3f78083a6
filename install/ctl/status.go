package ctl

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/install/check"
	"github.com/ambit-mesh/ambit/install/table"
)

// meshStatus is what -o json prints.
type meshStatus struct {
	Version   string       `json:"version"`
	Profile   string       `json:"profile"`
	Namespace string       `json:"namespace"`
	Complete  bool         `json:"complete"`
	Parts     []partStatus `json:"parts"`
	// PodsWanted belong to the mesh, PodsIn are in it.
	PodsWanted int `json:"podsWanted"`
	PodsIn     int `json:"podsIn"`
	// Refused counts documents; -1 means that the control plane does not answer.
	Refused int `json:"refused"`
}

type partStatus struct {
	Name     string   `json:"name"`
	Versions []string `json:"versions"`
	Ready    int      `json:"ready"`
	Wanted   int      `json:"wanted"`
	Status   string   `json:"status"`
}

func (a *app) status() *cobra.Command {
	var f format
	cmd := &cobra.Command{Use: "status", Short: "Show the mesh of a cluster: parts, versions, pods", Args: none,
		Long: `status shows the mesh's parts and what runs for Gateways, how many of the pods that belong to the mesh are in it, and how
many documents the control plane refuses. "ambitctl check" says more about what is wrong.`}
	a.outputFlag(cmd, &f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := a.kube()
		if err != nil {
			return err
		}
		ctx, cancel := patience(cmd.Context(), checkPatience)
		defer cancel()
		record, err := a.installed(ctx, client)
		if err != nil {
			return err
		}
		if record == nil {
			return fmt.Errorf("no mesh is installed in namespace %s: \"ambitctl install\" does it, --mesh-namespace names another", a.namespace)
		}
		m, err := a.meshFacts(ctx, cmd, client, record)
		if err != nil {
			return err
		}
		s := statusOf(a.namespace, m)
		if f.structured() {
			return a.data(f, s)
		}
		return a.printStatus(s, m)
	}
	return cmd
}

func statusOf(namespace string, m *check.Mesh) meshStatus {
	s := meshStatus{Version: m.Version, Profile: m.Profile, Namespace: namespace, Complete: m.Complete, Refused: m.Refused}
	if m.Unknown != "" {
		s.Refused = -1
	}
	for _, p := range m.Parts {
		state := "ready"
		switch {
		case p.Missing:
			state = "missing"
		case p.Have < p.Want:
			state = "not ready"
		case !p.Settled:
			state = "rolling out"
		}
		if len(p.Trouble) > 0 {
			state += ": " + strings.Join(p.Trouble, "; ")
		}
		s.Parts = append(s.Parts, partStatus{Name: p.Title(), Versions: tags(p.Images), Ready: p.Have, Wanted: p.Want, Status: state})
	}
	for _, n := range m.Nodes {
		s.PodsWanted += n.Desired
		s.PodsIn += min(n.Captured, n.Taken)
	}
	return s
}

// tags are the versions of images.
func tags(images []string) []string {
	var out []string
	for _, i := range images {
		i = i[strings.LastIndexByte(i, '/')+1:]
		if _, tag, ok := strings.Cut(i, ":"); ok && !slices.Contains(out, tag) {
			out = append(out, tag)
		}
	}
	return out
}

func (a *app) printStatus(s meshStatus, m *check.Mesh) error {
	fmt.Fprintf(a.env.Out, "Ambit %s in namespace %s, profile %s\n\n", s.Version, s.Namespace, s.Profile)
	t := &table.Table{Head: []string{"PART", "VERSION", "READY", "STATUS"}}
	for _, p := range s.Parts {
		t.Add(p.Name, strings.Join(p.Versions, ","), fmt.Sprintf("%d/%d", p.Ready, p.Wanted), p.Status)
	}
	if err := a.table(t); err != nil {
		return err
	}
	fmt.Fprintf(a.env.Out, "\n%d of %d pods that belong to the mesh are in it", s.PodsIn, s.PodsWanted)
	if len(m.Silent) > 0 {
		fmt.Fprintf(a.env.Out, ", as far as is known: agents of %s do not answer", count(len(m.Silent), "node", "nodes"))
	}
	fmt.Fprintln(a.env.Out)
	switch {
	case s.Refused < 0:
		fmt.Fprintf(a.env.Out, "the control plane does not answer: %s\n", m.Unknown)
	case s.Refused > 0:
		fmt.Fprintf(a.env.Out, "%s refused or without effect: see \"ambitctl config refused\"\n", count(s.Refused, "document is", "documents are"))
	default:
		fmt.Fprintln(a.env.Out, "nothing is refused of the configuration")
	}
	if !s.Complete {
		fmt.Fprintln(a.env.Out, "the installation was broken off: \"ambitctl upgrade\" goes on")
	}
	return nil
}
