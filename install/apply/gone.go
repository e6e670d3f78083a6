package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// gone waits until no pod of the mesh's namespace matches. Pods of a node that is down end when it is back, or is deleted: they are
// told of and passed over, and their programs may run on.
func (i *Installer) gone(ctx context.Context, selector string) (over int, err error) {
	passed := map[string]bool{}
	err = i.until(ctx, func() (string, error) {
		list, err := i.Client.Core.CoreV1().Pods(i.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			if errors.Is(explain(err), ErrForbidden) {
				return "", explain(err)
			}
			return err.Error(), nil
		}
		var open []string
		for _, p := range list.Items {
			why := i.unreachable(ctx, &p)
			if why == "" {
				open = append(open, p.Name+" on node "+p.Spec.NodeName)
			} else if !passed[p.Name] {
				passed[p.Name] = true
				i.tell("warning: pod %s is passed over, because %s", p.Name, why)
			}
		}
		return ending(open, selector), nil
	})
	return len(passed), err
}

// unreachable says why nobody on a pod's node ends it, "" if somebody may. It asks only about pods whose time to end is over.
func (i *Installer) unreachable(ctx context.Context, p *corev1.Pod) string {
	if p.Spec.NodeName == "" || p.DeletionTimestamp == nil || time.Now().Before(p.DeletionTimestamp.Time) {
		return ""
	}
	node, err := i.Client.Core.CoreV1().Nodes().Get(ctx, p.Spec.NodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return fmt.Sprintf("there is no node %s any more", p.Spec.NodeName)
	}
	if err != nil {
		return ""
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return fmt.Sprintf("node %s is not ready (%s): its pods may keep the mesh's rules until it is restarted; if it does not come back, \"kubectl delete node %s\"", node.Name, firstLine(c.Message), node.Name)
		}
	}
	return ""
}

// ending names pods that are still there.
func ending(open []string, selector string) string {
	if len(open) == 0 {
		return ""
	}
	slices.Sort(open)
	named := strings.Join(open[:min(len(open), maxTrouble)], ", ")
	if len(open) > maxTrouble {
		named += " …"
	}
	return fmt.Sprintf("%d pods (%s) are still ending: %s", len(open), selector, named)
}
