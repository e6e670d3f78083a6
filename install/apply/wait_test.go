package apply

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestRolloutDone(t *testing.T) {
	two := int32(2)
	deployment := func(generation int64, st appsv1.DeploymentStatus) Rollout {
		var r Rollout
		r.deployment(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Generation: generation}, Spec: appsv1.DeploymentSpec{Replicas: &two}, Status: st})
		return r
	}
	daemonSet := func(generation int64, st appsv1.DaemonSetStatus) Rollout {
		var r Rollout
		r.daemonSet(&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Generation: generation}, Status: st})
		return r
	}
	for name, c := range map[string]struct {
		r    Rollout
		done bool
	}{
		"done":                {deployment(3, appsv1.DeploymentStatus{ObservedGeneration: 3, Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 2}), true},
		"not seen yet":        {deployment(4, appsv1.DeploymentStatus{ObservedGeneration: 3, Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 2}), false},
		"an old one is left":  {deployment(3, appsv1.DeploymentStatus{ObservedGeneration: 3, Replicas: 3, UpdatedReplicas: 2, AvailableReplicas: 3}), false},
		"old ones are ready":  {deployment(3, appsv1.DeploymentStatus{ObservedGeneration: 3, Replicas: 2, UpdatedReplicas: 1, AvailableReplicas: 2}), false},
		"every node":          {daemonSet(1, appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 3, NumberAvailable: 3}), true},
		"one node is missing": {daemonSet(1, appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 3, NumberAvailable: 2}), false},
		"one node is old":     {daemonSet(1, appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 2, NumberAvailable: 3}), false},
		"no nodes":            {daemonSet(1, appsv1.DaemonSetStatus{ObservedGeneration: 1}), true},
		"nobody looked yet":   {daemonSet(1, appsv1.DaemonSetStatus{}), false},
	} {
		if got := c.r.Done(); got != c.done {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestTrouble(t *testing.T) {
	for want, p := range map[string]corev1.PodStatus{
		"ErrImagePull: no such image": {ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "no such image\nand more"}}}}},
		"CrashLoopBackOff, ended with code 1: last words": {ContainerStatuses: []corev1.ContainerStatus{{
			State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Message: "first\nlast words\n"}},
		}}},
		"not scheduled: no room": {Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "no room"}}},
		"":                       {ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}}}},
	} {
		if got := troubleOf(&corev1.Pod{Status: p}); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := shorten(strings.Repeat("x", 500)); len(got) > maxText+5 {
		t.Errorf("%d bytes", len(got))
	}
}

func TestPlatform(t *testing.T) {
	for want, n := range map[string]corev1.Node{
		"k3s":      {Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "v1.33.1+k3s1"}}},
		"k3d":      {ObjectMeta: metav1.ObjectMeta{Name: "k3d-x-server-0"}, Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "v1.33.1+k3s1"}}},
		"gke":      {Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "v1.33.1-gke.100"}}},
		"microk8s": {ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"microk8s.io/cluster": "true"}}},
		"minikube": {ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"minikube.k8s.io/name": "minikube"}}},
		"":         {Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "v1.33.1"}}},
	} {
		if got := platformOf(&n); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
