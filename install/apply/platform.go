package apply

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Platform is what runs the cluster, as far as that decides where the CNI keeps its things: one of the values of
// global.platform, "" for the usual places.
func (c *Client) Platform(ctx context.Context) (string, error) {
	groups, err := c.Core.Discovery().ServerGroups()
	if err != nil {
		return "", explain(err)
	}
	for _, g := range groups.Groups {
		if g.Name == "config.openshift.io" {
			return "openshift", nil
		}
	}
	nodes, err := c.Core.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return "", explain(err)
	}
	for _, n := range nodes.Items {
		return platformOf(&n), nil
	}
	return "", nil
}

func platformOf(n *corev1.Node) string {
	kubelet := n.Status.NodeInfo.KubeletVersion
	_, minikube := n.Labels["minikube.k8s.io/name"]
	_, microk8s := n.Labels["microk8s.io/cluster"]
	switch {
	case strings.Contains(kubelet, "+k3s") && strings.HasPrefix(n.Name, "k3d-"):
		return "k3d"
	case strings.Contains(kubelet, "+k3s"):
		return "k3s"
	case strings.Contains(kubelet, "-gke."):
		return "gke"
	case microk8s:
		return "microk8s"
	case minikube:
		return "minikube"
	}
	return ""
}
