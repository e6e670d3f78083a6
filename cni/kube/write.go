package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/cni/enroll"
)

// component is who Events are from.
const component = "ambit-cni"

func expired(err error) bool { return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) }

// Annotate sets the pod's redirection annotation, or removes it if value is empty, by a merge patch of pods/status as Istio's
// agent does (istio/istio cni/pkg/util/podutil.go AnnotateEnrolledPod). A pod that is gone, or is another one of the same name
// by now, is no error: there is nothing left to say about it.
func (s *Source) Annotate(ctx context.Context, p enroll.Pod, value string) error {
	var set any // null takes the annotation away
	if value != "" {
		set = value
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		// The UID cannot be changed: for another pod of that name the API server refuses the patch.
		"uid": p.UID, "annotations": map[string]any{mesh.AnnotationRedirection: set},
	}})
	if err != nil {
		return fmt.Errorf("annotate pod %s: %w", p.Key(), err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err = s.cluster.core.Patch(types.MergePatchType).Namespace(p.Namespace).Resource("pods").Name(p.Name).SubResource("status").Body(patch).Do(ctx).Error()
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return fmt.Errorf("annotate pod %s: %w", p.Key(), err)
}

// note is what an Event of a pod is about; its text may change.
type note struct{ uid, reason string }

type said struct {
	name  string
	count int32
}

// notes are the Events made so far, so that one that is repeated is counted instead.
type notes struct {
	mu   sync.Mutex
	said map[note]*said // guarded by mu
}

func (n *notes) forget(uid string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for k := range n.said {
		if k.uid == uid {
			delete(n.said, k)
		}
	}
}

// next returns the Event's name and how often it is said with this time.
func (n *notes) next(p enroll.Pod, reason string, now time.Time) said {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := note{p.UID, reason}
	if n.said[k] == nil {
		n.said[k] = &said{name: fmt.Sprintf("%s.%x", p.Name, now.UnixNano())}
	}
	n.said[k].count++
	return *n.said[k]
}

// messageMost is what the API server takes of an Event's message.
const messageMost = 1000

// Tell makes an Event of the pod, where `kubectl describe` shows it. Reason is one word of the agent's; a warning is what
// somebody should mend.
func (s *Source) Tell(ctx context.Context, p enroll.Pod, warning bool, reason, text string) error {
	now := time.Now()
	n := s.notes.next(p, reason, now)
	if len(text) > messageMost {
		text = text[:messageMost]
	}
	kind := corev1.EventTypeNormal
	if warning {
		kind = corev1.EventTypeWarning
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	events := func(verb string) error {
		at := metav1.NewTime(now)
		if verb == "PATCH" {
			patch, err := json.Marshal(map[string]any{"count": n.count, "lastTimestamp": at, "message": text})
			if err != nil {
				return err
			}
			return s.cluster.core.Patch(types.MergePatchType).Namespace(p.Namespace).Resource("events").Name(n.name).Body(patch).Do(ctx).Error()
		}
		return s.cluster.core.Post().Namespace(p.Namespace).Resource("events").Body(&corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Name: n.name, Namespace: p.Namespace},
			InvolvedObject: corev1.ObjectReference{
				APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: types.UID(p.UID),
			},
			Type: kind, Reason: reason, Message: text, Count: n.count, FirstTimestamp: at, LastTimestamp: at,
			Source: corev1.EventSource{Component: component, Host: s.node}, ReportingController: component, ReportingInstance: s.node,
		}).Do(ctx).Error()
	}
	var err error
	if n.count > 1 {
		err = events("PATCH")
	}
	if n.count == 1 || apierrors.IsNotFound(err) {
		err = events("POST")
	}
	if err != nil {
		return fmt.Errorf("event of pod %s: %w", p.Key(), err)
	}
	return nil
}
