package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab"
	"github.com/spf13/cobra"
)

// app holds the flags all commands share.
type app struct {
	name, namespace string
}

func newRoot() *cobra.Command {
	a := &app{}
	root := &cobra.Command{
		Use:   "ambit-lab",
		Short: "A small cluster of network namespaces on this machine, with the mesh on it",
		Long: `ambit-lab starts labs: clusters whose nodes and pods are network namespaces of this machine.
Ordinary Kubernetes YAML runs on them; containers run programs of this machine instead of images.
Nothing is connected to the machine's own network, and "ambit-lab down" leaves nothing behind.

  ambit-lab up                          three nodes with the mesh on them
  ambit-lab apply -f app.yaml           run something
  ambit-lab label namespace default istio.io/dataplane-mode=ambient
  ambit-lab get pods -A
  ambit-lab exec POD -- curl http://web/
  ambit-lab down`,
		SilenceUsage: true, SilenceErrors: true,
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: calledAs()},
	}
	root.PersistentFlags().StringVar(&a.name, "lab", os.Getenv("AMBIT_LAB"), "which lab, when several are running (default $AMBIT_LAB)")
	root.AddCommand(a.up(), a.down(), a.list(), a.status(), a.apply(), a.remove(), a.get(), a.label(), a.scale(), a.rollout(),
		a.exec(), a.logs(), a.capture(), a.fail(), a.heal(), a.wait())
	root.InitDefaultCompletionCmd()
	if c, _, err := root.Find([]string{"completion"}); err == nil {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("there is no completion for %q: bash, fish, powershell or zsh", args[0])
			}
			return c.Help()
		}
	}
	asUsage(root)
	return root
}

func (a *app) open() (*lab.Lab, error) { return lab.Open(a.name) }

// namespaced adds -n to a command.
func (a *app) namespaced(c *cobra.Command) *cobra.Command {
	c.Flags().StringVarP(&a.namespace, "namespace", "n", "default", "namespace")
	return c
}

// binaries is the folder of this program: the mesh's others lie beside it, and pods find them through PATH.
func binaries() ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own binary: %w", err)
	}
	return []string{filepath.Dir(self)}, nil
}

// progress tells on standard error what a longer step is doing, one line per piece of news.
type progress struct {
	began time.Time
}

func newProgress() *progress { return &progress{began: time.Now()} }

func (p *progress) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%5.1fs  %s\n", time.Since(p.began).Seconds(), fmt.Sprintf(format, args...))
}

// waiting tells what is waited for, but not within the first second, when it is mostly over before it can be read.
func (p *progress) waiting(what string) {
	if time.Since(p.began) > time.Second {
		p.say("waiting: %s", what)
	}
}
