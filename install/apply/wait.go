package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
)

// isNoMatch reports whether the server does not have the kind. The errors of package meta are not made to be found within others.
func isNoMatch(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if meta.IsNoMatchError(err) {
			return true
		}
	}
	return false
}

// A Rollout is how far a Deployment or DaemonSet is.
type Rollout struct {
	Kind, Namespace, Name string
	// Want is how many pods there should be, Updated how many are of the newest version, Ready how many of all serve.
	Want, Updated, Ready int
	// Settled says that the controller has seen the newest version, and that nothing older is left.
	Settled bool
	// Images of the newest version.
	Images []string
	// Trouble is what pods say that do not start.
	Trouble []string
}

// Done reports whether everything is as it should be.
func (r Rollout) Done() bool { return r.Settled && r.Updated >= r.Want && r.Ready >= r.Want }

func (r Rollout) String() string {
	s := fmt.Sprintf("%s %s: %d of %d pods ready", strings.ToLower(r.Kind), r.Name, min(r.Ready, r.Updated), r.Want)
	if len(r.Trouble) > 0 {
		s += " (" + strings.Join(r.Trouble, "; ") + ")"
	}
	return s
}

// Rollout looks at a Deployment or DaemonSet.
func (c *Client) Rollout(ctx context.Context, kind, namespace, name string) (Rollout, error) {
	r := Rollout{Kind: kind, Namespace: namespace, Name: name}
	var selector *metav1.LabelSelector
	switch kind {
	case "Deployment":
		d, err := c.Core.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return r, explain(err)
		}
		r.deployment(d)
		selector = d.Spec.Selector
	case "DaemonSet":
		d, err := c.Core.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return r, explain(err)
		}
		r.daemonSet(d)
		selector = d.Spec.Selector
	default:
		return r, fmt.Errorf("a %s has no pods to wait for", kind)
	}
	if r.Done() {
		return r, nil
	}
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return r, err
	}
	r.Trouble, err = c.trouble(ctx, namespace, s)
	return r, err
}

func (r *Rollout) deployment(d *appsv1.Deployment) {
	r.Want = 1
	if d.Spec.Replicas != nil {
		r.Want = int(*d.Spec.Replicas)
	}
	st := d.Status
	r.Updated, r.Ready = int(st.UpdatedReplicas), int(st.AvailableReplicas)
	r.Settled = st.ObservedGeneration >= d.Generation && st.Replicas == st.UpdatedReplicas
	r.images(d.Spec.Template.Spec)
}

func (r *Rollout) daemonSet(d *appsv1.DaemonSet) {
	st := d.Status
	r.Want, r.Updated, r.Ready = int(st.DesiredNumberScheduled), int(st.UpdatedNumberScheduled), int(st.NumberAvailable)
	r.Settled = st.ObservedGeneration >= d.Generation
	r.images(d.Spec.Template.Spec)
}

func (r *Rollout) images(spec corev1.PodSpec) {
	for _, c := range spec.Containers {
		r.Images = append(r.Images, c.Image)
	}
}

// maxTrouble is how many pods are named.
const maxTrouble = 3

// trouble says what keeps pods from being ready.
func (c *Client) trouble(ctx context.Context, namespace string, s labels.Selector) ([]string, error) {
	list, err := c.Core.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: s.String(), Limit: 500})
	if err != nil {
		return nil, explain(err)
	}
	var out []string
	for _, p := range list.Items {
		if why := troubleOf(&p); why != "" && len(out) < maxTrouble {
			where := p.Name
			if p.Spec.NodeName != "" {
				where += " on " + p.Spec.NodeName
			}
			out = append(out, where+": "+why)
		}
	}
	slices.Sort(out)
	return out, nil
}

// troubleOf says what keeps a pod from being ready, "" if nothing does or it is only on its way.
func troubleOf(p *corev1.Pod) string {
	for _, cs := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if w := cs.State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
			if t := cs.LastTerminationState.Terminated; t != nil {
				return fmt.Sprintf("%s, ended with code %d: %s", w.Reason, t.ExitCode, lastLine(t.Message))
			}
			return w.Reason + ": " + firstLine(w.Message)
		}
		if t := cs.State.Terminated; t != nil && t.ExitCode != 0 {
			return fmt.Sprintf("ended with code %d: %s", t.ExitCode, lastLine(t.Message))
		}
	}
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionFalse {
			return "not scheduled: " + firstLine(cond.Message)
		}
	}
	return ""
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return shorten(s)
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return shorten(s[strings.LastIndexByte(s, '\n')+1:])
}

// maxText is how much of what others say is shown.
const maxText = 200

func shorten(s string) string {
	if len(s) > maxText {
		return s[:maxText] + "…"
	}
	return s
}

// Wait waits until all Deployments and DaemonSets among the objects run in the version that was applied. It tells of progress
// whenever there is some.
func (i *Installer) Wait(ctx context.Context, steps ...Step) error {
	type target struct{ kind, namespace, name string }
	var targets []target
	for _, s := range steps {
		for _, o := range s.Objects {
			u := unstructured.Unstructured{Object: o}
			if k := u.GetKind(); k == "Deployment" || k == "DaemonSet" {
				targets = append(targets, target{k, u.GetNamespace(), u.GetName()})
			}
		}
	}
	start := time.Now()
	said := map[string]bool{}
	text := ""
	err := i.until(ctx, func() (string, error) {
		var open, ready []string
		for _, t := range targets {
			r, err := i.Client.Rollout(ctx, t.kind, t.namespace, t.name)
			if err != nil {
				// A restarting API server is no reason to give up; a lost right is.
				if errors.Is(err, ErrForbidden) {
					return "", err
				}
				open = append(open, fmt.Sprintf("%s %s: %v", strings.ToLower(t.kind), t.name, err))
				continue
			}
			if !r.Done() {
				open = append(open, r.String())
				continue
			}
			ready = append(ready, fmt.Sprintf("%s: %d of %d pods ready", t.name, r.Want, r.Want))
		}
		if text = strings.Join(open, "\n"); text == "" {
			i.tell("%s, after %s", strings.Join(ready, "; "), time.Since(start).Round(100*time.Millisecond))
		}
		for _, line := range open {
			if !said[line] {
				i.tell("  waiting for %s", line)
			}
			said[line] = true
		}
		return text, nil
	})
	if err != nil && text != "" {
		return fmt.Errorf("%w\nsee \"kubectl -n %s get pods\" and \"kubectl -n %s describe pods\"", err, i.Namespace, i.Namespace)
	}
	return err
}
