//go:build kube136

package main

import (
	"context"

	"github.com/spf13/cobra"
	kubeadm "k8s.io/kubernetes/cmd/kubeadm/app"
	kubeadmerrors "k8s.io/kubernetes/cmd/kubeadm/app/util/errors"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// What releases from 1.36 on want otherwise; old.go has the others.

func newKubelet() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }

func runKubeadm() int {
	kubeadmerrors.HandleError(kubeadm.Run())
	return 0
}
