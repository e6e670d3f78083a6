package ctl

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/install/cluster"
)

// versions is what -o json prints.
type versions struct {
	Client versionInfo `json:"clientVersion"`
	// ControlPlane counts instances by version, DataPlane proxies.
	ControlPlane map[string]int `json:"controlPlaneVersion,omitempty"`
	DataPlane    map[string]int `json:"dataPlaneVersion,omitempty"`
}

type versionInfo struct {
	Version   string `json:"version"`
	GoVersion string `json:"golangVersion"`
	Platform  string `json:"platform"`
}

// remotePatience bounds the questions to proxies: a version is asked for in a hurry.
const remotePatience = 3 * time.Second

func (a *app) version() *cobra.Command {
	var f format
	var short, remote bool
	cmd := &cobra.Command{Use: "version", Short: "Print the versions of ambitctl and of the mesh it looks at", Args: none}
	a.outputFlag(cmd, &f)
	cmd.Flags().BoolVar(&short, "short", false, "nothing but the version of ambitctl")
	cmd.Flags().BoolVar(&remote, "remote", true, "ask the mesh as well, if there is one")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v := versions{Client: versionInfo{a.env.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}}
		if short && !f.structured() {
			fmt.Fprintln(a.env.Out, v.Client.Version)
			return nil
		}
		if remote && !short {
			a.remoteVersions(cmd.Context(), &v)
		}
		if f.structured() {
			return a.data(f, v)
		}
		fmt.Fprintf(a.env.Out, "client version: %s\n", v.Client.Version)
		if len(v.ControlPlane) > 0 {
			fmt.Fprintf(a.env.Out, "control plane version: %s\n", counted(v.ControlPlane, "instance", "instances"))
		}
		if len(v.DataPlane) > 0 {
			fmt.Fprintf(a.env.Out, "data plane version: %s\n", counted(v.DataPlane, "proxy", "proxies"))
		}
		return nil
	}
	return cmd
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// remoteVersions asks the control plane who is connected, and what each of them is; and itself. Who does not answer is not
// counted.
func (a *app) remoteVersions(ctx context.Context, v *versions) {
	m, _, err := a.choose()
	if err != nil {
		return
	}
	a.found = m
	ctx, cancel := context.WithTimeout(ctx, remotePatience)
	defer cancel()
	v.ControlPlane, v.DataPlane = map[string]int{}, map[string]int{}
	parts, err := m.Parts(ctx, cluster.Control)
	if err != nil {
		return
	}
	for _, p := range parts {
		var own struct{ Version string }
		if err := askJSON(ctx, p.Endpoint, "/version", nil, &own); err == nil && own.Version != "" {
			v.ControlPlane[own.Version]++
		}
		var list []client
		if askJSON(ctx, p.Endpoint, "/debug/clients", nil, &list) != nil {
			continue
		}
		for _, c := range list {
			v.DataPlane[cmp.Or(c.Version, "unknown")]++
		}
	}
}

func counted(versions map[string]int, one, many string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(versions)) {
		parts = append(parts, fmt.Sprintf("%s (%s)", name, count(versions[name], one, many)))
	}
	return strings.Join(parts, ", ")
}
