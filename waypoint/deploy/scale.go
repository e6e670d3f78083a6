package deploy

import (
	"cmp"
	"maps"
)

// stabilizeSeconds is how long load must have been low before pods are taken away. Long-lived tunnels end with their pod, so
// going down is slow on purpose.
const stabilizeSeconds = 300

// autoscaler is rendered when the configuration or an overlay asks for one.
func (r renderer) autoscaler() Object {
	var a Autoscaling
	if r.c.Autoscaling != nil {
		a = *r.c.Autoscaling
	}
	least := cmp.Or(a.Min, 1)
	return Object{"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": r.meta(), "spec": Object{
		"scaleTargetRef": Object{"apiVersion": "apps/v1", "kind": "Deployment", "name": r.g.ServiceName()},
		"minReplicas":    int64(least), "maxReplicas": int64(max(cmp.Or(a.Max, 5), least)),
		"metrics": []any{Object{"type": "Resource", "resource": Object{
			"name": "cpu", "target": Object{"type": "Utilization", "averageUtilization": int64(cmp.Or(a.CPUPercent, 80))},
		}}},
		"behavior": Object{"scaleDown": Object{
			"stabilizationWindowSeconds": int64(stabilizeSeconds),
			"policies":                   []any{Object{"type": "Pods", "value": int64(1), "periodSeconds": int64(60)}},
		}},
	}}
}

// fixed reports whether an overlay says how many pods there are. An autoscaler beside it would be set back all the time.
func fixed(overlays []Overlay) bool {
	for _, o := range overlays {
		if at(o.Documents[keyDeployment], []string{"spec"})["replicas"] != nil {
			return true
		}
	}
	return false
}

// budget is rendered when the configuration or an overlay asks for one. It lets one pod go at a time, and so never keeps a
// node from being drained, however few pods there are.
func (r renderer) budget() Object {
	return Object{"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": r.meta(), "spec": Object{
		"maxUnavailable": int64(1), "selector": Object{"matchLabels": anyMap(r.g.Selector())},
	}}
}

// several reports whether documents ask for more than one pod, at times at least: a budget for one alone protects nothing.
func several(deployment, autoscaler Object) bool {
	n := at(deployment, []string{"spec"})["replicas"]
	if autoscaler != nil {
		n = at(autoscaler, []string{"spec"})["maxReplicas"]
	}
	switch n := n.(type) {
	case int64:
		return n > 1
	case float64:
		return n > 1
	}
	return false
}

// either leaves out of a budget the one of its two numbers that a patch replaces by the other: Kubernetes takes only one.
func either(budget, patch Object) Object {
	spec := at(patch, []string{"spec"})
	for this, other := range map[string]string{"minAvailable": "maxUnavailable", "maxUnavailable": "minAvailable"} {
		if spec[this] != nil && spec[other] == nil {
			out, rest := maps.Clone(budget), maps.Clone(at(budget, []string{"spec"}))
			delete(rest, other)
			out["spec"] = rest
			return out
		}
	}
	return budget
}
