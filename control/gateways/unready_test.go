package gateways

import (
	"strings"
	"testing"
)

// TestUnready: the status of a Gateway tells what its pod cannot.
func TestUnready(t *testing.T) {
	pod := func(container Object) Object {
		return Object{"status": Object{"containerStatuses": []any{container}}}
	}
	for _, c := range []struct {
		pod  Object
		want string
	}{
		{Object{}, "has not started yet"},
		{Object{"status": Object{"conditions": []any{Object{"type": "PodScheduled", "status": "False", "message": "no node is large enough"}}}}, "has no node: no node is large enough"},
		{pod(Object{"state": Object{"running": Object{}}}), "runs but is not ready; its log says what it waits for"},
		{pod(Object{"state": Object{"waiting": Object{"reason": "ImagePullBackOff"}}}), "ImagePullBackOff"},
		{pod(Object{"state": Object{"waiting": Object{"reason": "CreateContainerError", "message": "no such program"}}}), "CreateContainerError: no such program"},
		{pod(Object{
			"state":     Object{"waiting": Object{"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
			"lastState": Object{"terminated": Object{"message": "starting\nambit-waypoint: no Envoy 1.40.0\n"}},
		}), "ended: ambit-waypoint: no Envoy 1.40.0"},
		{pod(Object{"lastState": Object{"terminated": Object{"message": strings.Repeat("x", 5000)}}}), "ended: " + strings.Repeat("x", maxWords)},
	} {
		if got := unready(c.pod); got != c.want {
			t.Errorf("%v: %q, want %q", c.pod, got, c.want)
		}
	}
}
