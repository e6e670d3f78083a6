// Command kube is all of Kubernetes in one file: kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy,
// kubelet, kubeadm and kubectl. Which of them it is it learns from the name it was started by, or from its first argument
// when that name is kube.
//
// One file because the programs share nearly all of their code: the file is a quarter of their sum, and every container
// image of a node can be the same layer. The module is outside the workspace, so that Kubernetes' dependencies stay out of
// the mesh's.
package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // the kubelet's configuration may ask for JSON logs
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics of the clients and of the build
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// programs maps a name to what runs it and gives its exit code.
var programs = map[string]func() int{
	"kube-apiserver":          command(apiserver.NewAPIServerCommand),
	"kube-controller-manager": command(controllers.NewControllerManagerCommand),
	"kube-scheduler":          command(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kube-proxy":              command(proxy.NewProxyCommand),
	"kubelet":                 command(newKubelet),
	"kubectl":                 command(func() *cobra.Command { return cmd.NewDefaultKubectlCommand() }),
	"kubeadm":                 runKubeadm, // exits with kubeadm's own codes
}

// command defers the making of a command to the program that was asked for: making one registers flags and metrics.
func command(build func() *cobra.Command) func() int {
	return func() int { return cli.Run(build()) }
}

func main() {
	run, err := chosen()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kube:", err)
		os.Exit(2)
	}
	os.Exit(run())
}

func chosen() (func() int, error) {
	if run, ok := programs[filepath.Base(os.Args[0])]; ok {
		return run, nil
	}
	names := strings.Join(slices.Sorted(maps.Keys(programs)), ", ")
	if len(os.Args) < 2 {
		return nil, errors.New("say which program to be: " + names)
	}
	run, ok := programs[os.Args[1]]
	if !ok {
		return nil, fmt.Errorf("%q is none of %s", os.Args[1], names)
	}
	os.Args = os.Args[1:]
	return run, nil
}
