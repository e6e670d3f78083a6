package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/install/apply"
	"github.com/ambit-mesh/ambit/install/charts"
	"github.com/ambit-mesh/ambit/install/render"
)

// valueFlags say what a mesh is to be like.
type valueFlags struct {
	profile    string
	files      []string
	sets       []string
	components []string
}

func (v *valueFlags) add(a *app, cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&v.profile, "profile", "", "ambient (default), minimal or demo")
	f.StringArrayVarP(&v.files, "values", "f", nil, "file of values (- is standard input); several are laid over each other")
	f.StringArrayVarP(&v.sets, "set", "s", nil, "one value, as in --set control.replicaCount=3; goes over files")
	a.complete(cmd, "profile", func(*app) []string { return render.Profiles() })
}

// sources reads what the flags name.
func (v *valueFlags) sources(in io.Reader) ([]render.Source, error) {
	var out []render.Source
	for _, name := range v.files {
		var data []byte
		var err error
		if name == "-" {
			data, err = io.ReadAll(in)
		} else {
			data, err = os.ReadFile(name)
		}
		if err != nil {
			return nil, fmt.Errorf("values: %w", err)
		}
		out = append(out, render.Source{Name: name, File: data})
	}
	for _, s := range v.sets {
		if s == "" {
			return nil, usagef("--set \"\": write KEY=VALUE, as in --set control.replicaCount=3")
		}
		out = append(out, render.Source{Name: "--set", Set: s})
	}
	return out, nil
}

// values are the flags' values, over those of a mesh that is there already.
func (v *valueFlags) values(in io.Reader, before *apply.Record) (*render.Values, error) {
	sources, err := v.sources(in)
	if err != nil {
		return nil, err
	}
	profile := v.profile
	if before != nil {
		if profile == "" {
			profile = before.Profile
		}
		sources = append([]render.Source{render.Installed(before.Values)}, sources...)
	}
	values, err := render.NewValues(profile, sources...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	return values, nil
}

// steps renders a mesh for an API server, or for a recent one.
func (a *app) steps(v *render.Values, server apply.Version) ([]apply.Step, error) {
	components, err := render.Render(v, render.Options{Namespace: a.namespace, Version: imageTag(a.env.Version), KubeMinor: server.Minor})
	if err != nil {
		return nil, err
	}
	var out []apply.Step
	for _, c := range components {
		out = append(out, apply.Step{Component: c.Name, Objects: c.Objects})
	}
	return out, nil
}

// imageTag is the tag of the images of a version of the programs.
func imageTag(version string) string {
	out := []byte(version)
	for i, c := range out {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '.':
		default:
			out[i] = '-'
		}
	}
	return string(out)
}

// installer is what the commands that change a cluster work with. Its lines go to standard error, where progress belongs.
func (a *app) installer(dry bool) (*apply.Installer, error) {
	if a.lab != "" {
		return nil, usagef("a lab comes with its mesh: installing is for clusters")
	}
	client, err := a.flags.Connect()
	if errors.Is(err, apply.ErrNoCluster) {
		return nil, fmt.Errorf("%w; for a mesh on this machine without a cluster see \"ambitctl lab up\"", err)
	}
	if err != nil {
		return nil, err
	}
	return &apply.Installer{Client: client, Namespace: a.namespace, Dry: dry, Tell: func(format string, args ...any) {
		fmt.Fprintf(a.env.Err, format+"\n", args...)
	}}, nil
}

// patience bounds a command by its --timeout, and says so when it runs out.
func patience(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done within %s (--timeout)", limit))
}

// given prints the profile and the values that were given, to be kept.
func given(v *render.Values) (string, error) {
	m := v.Given()
	m["profile"] = v.Profile
	data, err := yaml.Marshal(m)
	return string(data), err
}

// find is the step of a component; an empty one has nothing to do.
func find(steps []apply.Step, component string) apply.Step {
	for _, s := range steps {
		if s.Component == component {
			return s
		}
	}
	return apply.Step{Component: component}
}

// rest are the steps that are no part of the usual order.
func rest(steps []apply.Step) []apply.Step {
	var out []apply.Step
	for _, s := range steps {
		switch s.Component {
		case charts.Base, charts.Control, charts.CNI, charts.Ztunnel:
		default:
			out = append(out, s)
		}
	}
	return out
}
