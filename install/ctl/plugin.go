package ctl

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// find looks for the program of a command: beside ambitctl first, so that a build finds its own, then on PATH.
func (a *app) find(name string) (string, bool) {
	if strings.ContainsAny(name, "/\\") || strings.HasPrefix(name, "-") || strings.HasPrefix(name, ".") {
		return "", false
	}
	for _, program := range []string{"ambitctl-" + name, "ambit-" + name} {
		if path := filepath.Join(a.env.SelfDir, program); a.env.SelfDir != "" && executable(path) {
			return path, true
		}
	}
	for _, program := range []string{"ambitctl-" + name, "ambit-" + name} {
		for _, dir := range filepath.SplitList(a.env.Getenv("PATH")) {
			if path := filepath.Join(dir, program); filepath.IsAbs(path) && executable(path) {
				return path, true
			}
		}
	}
	return "", false
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// elsewhere are commands that people know from Istio, and what does their work here. A program of that name goes first.
var elsewhere = map[string]string{
	"admin":                "\"ambitctl config\", \"ca\" and \"proxy-status\" ask the control plane; its log level is LOG_LEVEL of the Deployment ambitd",
	"apply":                "it is called \"ambitctl install\"",
	"authz":                "\"ambitctl explain\" says which policies decide about a request, \"ambitctl ztunnel-config policies\" lists those of a node",
	"create-remote-secret": "this version knows one cluster",
	"describe":             "see \"ambitctl explain\", \"ambitctl enrolment\" and \"ambitctl config status\"",
	"experimental":         "what is an experiment there is an ordinary command here, or is not: see \"ambitctl --help\"",
	"kube-inject":          "there are no sidecars: label the namespace istio.io/dataplane-mode=ambient",
	"metrics":              "see \"ambitctl dashboard\" and \"ambitctl proxy-config envoy-stats\"",
	"precheck":             "it is called \"ambitctl check\"",
	"remote-clusters":      "this version knows one cluster",
	"tag":                  "this version has no revisions to tag",
	"validate":             "it is called \"ambitctl analyze FILE\"",
	"verify-install":       "it is called \"ambitctl check\"",
	"x":                    "what is an experiment there is an ordinary command here, or is not: see \"ambitctl --help\"",
}

// plugin becomes the program of a command. Its terminal, signals and exit code are then its own.
func (a *app) plugin(name string, args []string) error {
	path, ok := a.find(name)
	if !ok && elsewhere[name] != "" {
		return usagef("there is no command %q: %s", name, elsewhere[name])
	}
	if !ok {
		return usagef("unknown command %q: there is no program ambitctl-%s or ambit-%s beside ambitctl or on PATH", name, name, name)
	}
	env := append(slices.Clone(a.env.Environ), "AMBIT_COMMAND=ambitctl "+name)
	if a.lab != "" {
		env = append(env, "AMBIT_LAB="+a.lab)
	}
	if err := a.env.Exec(path, append([]string{path}, args...), env); err != nil {
		return fmt.Errorf("run %s: %w", path, err)
	}
	return nil
}

// labCommand is the one plugin that always shows in help.
func (a *app) labCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "lab", Short: "Run a mesh of network namespaces on this machine: up, apply, get, exec, capture, fail, down …",
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if _, ok := a.find("lab"); !ok {
				return fmt.Errorf("the program ambit-lab is neither beside ambitctl nor on PATH; build it with \"make build\", or install it next to ambitctl")
			}
			return a.plugin("lab", args)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			return a.completeWith("lab", append(args, toComplete))
		},
	}
	cmd.SetHelpFunc(func(*cobra.Command, []string) {
		if err := a.plugin("lab", []string{"--help"}); err != nil {
			fmt.Fprintf(a.env.Err, "ambitctl: %v\n", err)
		}
	})
	return cmd
}

// completeWith asks a plugin that is a cobra program itself for completions.
func (a *app) completeWith(name string, args []string) ([]string, cobra.ShellCompDirective) {
	path, ok := a.find(name)
	if !ok {
		return nil, cobra.ShellCompDirectiveError
	}
	out, err := exec.Command(path, append([]string{cobra.ShellCompRequestCmd}, args...)...).Output()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	last := lines[len(lines)-1]
	directive, err := strconv.Atoi(strings.TrimPrefix(last, ":"))
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return lines[:len(lines)-1], cobra.ShellCompDirective(directive)
}
