package ctl

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/api/labfile"
)

// versions is what -o json prints.
type versions struct {
	Client    versionInfo    `json:"clientVersion"`
	DataPlane map[string]int `json:"dataPlaneVersion,omitempty"` // proxies by version
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
	cmd.Flags().BoolVar(&remote, "remote", true, "ask the proxies of the lab as well, if one is running")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v := versions{Client: versionInfo{a.env.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}}
		if short && !f.structured() {
			fmt.Fprintln(a.env.Out, v.Client.Version)
			return nil
		}
		if remote && !short {
			v.DataPlane = a.proxyVersions(cmd.Context())
		}
		if f.structured() {
			return a.data(f, v)
		}
		fmt.Fprintf(a.env.Out, "client version: %s\n", v.Client.Version)
		if len(v.DataPlane) > 0 {
			var parts []string
			for _, name := range slices.Sorted(maps.Keys(v.DataPlane)) {
				parts = append(parts, fmt.Sprintf("%s (%s)", name, count(v.DataPlane[name], "proxy", "proxies")))
			}
			fmt.Fprintf(a.env.Out, "data plane version: %s\n", strings.Join(parts, ", "))
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

// proxyVersions asks the proxies of the lab, if there is one; who does not answer is not counted.
func (a *app) proxyVersions(ctx context.Context) map[string]int {
	lab, err := labfile.Load(a.lab)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, remotePatience)
	defer cancel()
	out := map[string]int{}
	for _, p := range labProxies(lab) {
		if d, err := p.open(ctx); err == nil && d.Version.Version != "" {
			out[d.Version.Version]++
		}
	}
	return out
}
